//! `.ss` stream files: many streams with sequences, times and checksums in one file, for any number of readers.
//!
//! | | source | sink |
//! |---|---|---|
//! | position | the offset behind the last record, in our checkpoint | the length that counts, in our checkpoint |
//! | ack | nothing to acknowledge | a write has reached the file when `flush` returns, the disk when `prepare` does |
//! | ordering | as in the file: total over all streams | as given; each stream and shard counts from 1 |
//! | a crash repeats | what was read after the checkpoint | nothing: what was written after the checkpoint is cut off |
//!
//! ```text
//!   x.ss                the file
//!   x.ss.part           while `existing: replace` writes; gets the name at the end
//!   .x.ss.lock          held by the one writer
//!   .x.ss.committed     `exactly_once`: readers of ours stop at the length in it; foreign ones may see bytes that
//!                       recovery cuts
//!   .x.ss.position.NAME where a reader called NAME stands: see [`SavedPosition`]
//! ```
//!
//! The bytes themselves are the business of [`millstream_codec::ss`].

mod inspect;
mod options;
mod saved;
mod sink;
mod source;
mod url;
mod view;

use millstream_core::{PlanContext, Result, SinkPlan, SourcePlan};
use serde_json::Value;

pub use self::{
    inspect::{Info, StreamInfo, info, repair, verify},
    options::{Fsync, SsCodec, SsSinkOptions, SsSourceOptions, ValueForm},
    saved::{SavedPosition, saved_position},
};
pub(crate) use self::url::{sink_from_url, source_from_url};

/// Whether options of the component `file` mean a `.ss` file: by `codec: ss`, or without a codec by the path's ending.
pub(crate) fn is_meant(options: &Value) -> bool {
    match options.get("codec") {
        None | Some(Value::Null) => options.get("path").and_then(Value::as_str).is_some_and(is_name),
        Some(Value::String(codec)) => codec == "ss",
        Some(codec) => codec.get("ss").is_some(),
    }
}

/// Whether a path or a part of it is called like a stream file.
fn is_name(name: &str) -> bool {
    name.len() > ".ss".len() && name.ends_with(".ss") && !name.ends_with("/.ss")
}

/// Plans a source of a `.ss` file.
pub(crate) fn plan_source(options: &Value, context: &PlanContext) -> Result<Box<dyn SourcePlan>> {
    source::plan(options, context)
}

/// Plans a sink to a `.ss` file.
pub(crate) fn plan_sink(options: &Value, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
    sink::plan(options, context)
}
