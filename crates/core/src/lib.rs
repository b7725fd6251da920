//! The words of Millstream as types, and the contracts that everything else is built on.
//!
//! No async runtime, no I/O and no client library is used here: this crate only says what a batch, a source, a sink, a
//! store and an error are. `docs/decisions/` tells why they have these shapes.
//!
//! | read this | for |
//! |---|---|
//! | [`Batch`], [`RecordRef`], [`BatchBuilder`] | the data that flows |
//! | [`Source`], [`Sink`], [`Codec`] | what a connector implements |
//! | [`Transform`], [`Operator`] | what a step implements |
//! | [`Checkpoint`], [`Store`], [`Host`] | what makes an epoch count |
//! | [`Component`], [`Registry`], [`parse_options`] | how components are found and configured |
//! | [`Backend`], [`Partitioner`] | a system as the client API and pipelines in Rust use it |
//! | [`Error`], [`ErrorKind`] | what can go wrong, and what follows from it |

mod backend;
mod batch;
mod body;
mod builder;
mod codec;
mod column;
mod component;
mod dead_letter;
mod envelope;
mod error;
mod guard;
mod options;
mod partition;
mod position;
mod record;
mod record_ref;
mod rows;
mod secret;
mod sink;
mod source;
mod step;
mod store;
mod time;
mod url;

pub use backend::Backend;
pub use batch::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Batch};
pub use body::{Body, Forms, Parsed};
pub use builder::BatchBuilder;
pub use codec::{Codec, Decoder, Encoder, Frames};
pub use column::{Column, ColumnBuilder, Extent, Headers, HeadersBuilder};
pub use component::{Component, Delivery, PlanContext, Planner, Registry, Role, SinkPlan, SourcePlan, Step, StepPlan};
pub use dead_letter::DeadLetter;
pub use envelope::{Envelope, Sequences, Shards, Times, Told};
pub use error::{Blame, Class, Error, ErrorKind, Facts, Place, Result};
pub use guard::{each_row, panicked, try_each_record, try_map_values};
pub use options::{parse_options, suggest};
pub use partition::{Partitioned, Partitioner};
pub use position::{
    CHECKPOINT_VERSION, Checkpoint, Epoch, OnMissing, Position, SeekTo, SourceCheckpoint, Stamp, Token,
};
pub use record::{Form, Record, ShardKey};
pub use record_ref::{RecordRef, Records};
pub use rows::Rows;
pub use secret::Secret;
pub use sink::{Companion, Host, Hosted, Last, Outcomes, Share, Sink, SinkCapabilities, Way, WriteId};
pub use source::{Event, Lag, Owner, Read, Resume, Source, SourceCapabilities};
pub use step::{Failed, Operator, Output, StepCounts, Transform};
pub use store::{Change, GROUPS, Segment, Store, group, group_of_hash};
pub use time::{Size, Span, Timestamp};
pub use url::{Url, set_option};
