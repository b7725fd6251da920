//! Move and process streams of records.
//!
//! Two ways in:
//!
//! - a [`Pipeline`]: sources, steps and sinks that run until the sources end or you drain them, with checkpoints, retries,
//!   dead letters and exactly-once where the sinks can;
//! - [`connect`]: a [`Streamer`](client::Streamer) that reads and writes streams without a pipeline.
//!
//! A pipeline is made of [`Stream`]s. What a source reads is bytes ([`Raw`]), until a step makes values of a type of yours out
//! of them; from there the compiler checks that what one step gives is what the next one takes.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use millstream::prelude::*;
//!
//! #[derive(Clone, serde::Serialize, serde::Deserialize)]
//! struct Order {
//!     customer: String,
//!     total: f64,
//! }
//!
//! # async fn charge(order: Order) -> Result<Order> { Ok(order) }
//! # async fn insert(orders: &[Order]) -> Result<()> { Ok(()) }
//! # async fn example() -> Result<()> {
//! let pipeline = Pipeline::new("orders");
//! let orders = pipeline.source("kafka://b1/orders").json::<Order>();
//! let (big, small) = orders.filter(|order| order.total > 0.0).branch(|order| order.total > 1000.0);
//! // Orders of a customer one after the other, those of different customers beside each other.
//! big.partition_by(|order| order.customer.clone())
//!     .map_async(charge)
//!     .concurrency(4)
//!     .in_flight(100)
//!     .timeout(Duration::from_secs(5))
//!     .name("charge")
//!     .to_json()
//!     .sink("file:charged.ndjson");
//! small
//!     .batch(Batching::count(100).linger(Duration::from_secs(1)))
//!     .handle(|orders| async move { insert(&orders).await })
//!     .name("insert")
//!     .drop();
//! let summary = pipeline.run().await?;
//! println!("{} charged", summary.stages["charge"].records_out);
//! # Ok(())
//! # }
//! ```

mod batch;
#[cfg(doctest)]
mod book;
mod buffered;
mod classified;
mod collect;
mod collector;
mod connect;
mod draft;
mod failure;
mod fold;
mod group;
mod home;
mod kept;
mod made;
mod pipeline;
mod raw;
mod sink;
mod steps;
mod stream;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(test)]
mod tests;
mod typed;
mod work;

/// The guide's blocks are programs.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/client.md")]
mod guide {}

pub use batch::{BatchOf, BatchWorker, Batched, Batching, Trigger};
pub use buffered::{BufferTask, Buffered};
pub use collect::Collected;
pub use collector::{Collector, CollectorOptions, Pushed, Receipt};
pub use connect::connect;
pub use failure::Failure;
pub use group::{BufferStatus, Group, GroupHandle, GroupStatus, GroupSummary, Member};
pub use home::Home;
pub use millstream_buffer as buffer;
pub use millstream_bundle::{admin, key_reader, registry, systems};
pub use millstream_client as client;
pub use millstream_core as core;
pub use millstream_core::{
    Class, DeadLetter, Delivery, Error, ErrorKind, Record, RecordRef, Result, SeekTo, ShardKey, Size, Span, Timestamp,
};
pub use millstream_observe as observe;
pub use millstream_runtime as runtime;
pub use millstream_runtime::{
    DeadLetterSpec, Ended, ErrorRule, Handle, Match, RateLimit, Retry, Running, Status, Summary, Then,
};
pub use millstream_state as state;
pub use pipeline::Pipeline;
pub use sink::End;
pub use steps::{Emit, Value};
pub use stream::{Raw, Stream, at};
pub use typed::{Data, RecordOf, ToBytes, Typed};
pub use work::{Answer, Outcomes, Prepared, Worker};

/// What most programs use.
pub mod prelude {
    pub use crate::{
        BatchOf, BatchWorker, Batching, Class, Data, Delivery, Emit, Error, ErrorKind, ErrorRule, Outcomes, Pipeline,
        Raw, Record, RecordRef, Result, Retry, Stream, Summary, Then, Value, Worker,
    };
}
