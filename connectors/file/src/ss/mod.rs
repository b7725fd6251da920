//! `.ss` stream files: many streams with sequences, times and checksums in one file, for any number of readers.
//!
//! | | source | sink |
//! |---|---|---|
//! | position | file and offset behind the last record, in our checkpoint | the length that counts, in our checkpoint |
//! | ack | nothing to acknowledge | a write has reached the file when `flush` returns, the disk when `prepare` does |
//! | ordering | as in the file: total over all streams | as given; each stream and shard counts from 1 |
//! | a crash repeats | what was read after the checkpoint | nothing: what was written after the checkpoint is cut off |
//!
//! ```text
//!   x.ss                the file
//!   x-START-N.ss        with `rotate`: the files, one behind the other; `x-START-N.ss.part` while it is written
//!   .x.ss.new           while `existing: replace` writes; gets the name at the end
//!   .x.ss.lock          held by the one writer
//!   .x.ss.committed     `exactly_once`: readers of ours stop at the length in it; foreign ones may see bytes that
//!                       recovery cuts; of a rotated file beside its `.part`
//!   .x.ss.position.NAME where a reader called NAME stands: see [`SavedPosition`]
//! ```
//!
//! A reader stops before a record that is not whole, and goes on when the rest is there. A damaged place is a failed record: of
//! its own stream and sequence where only its payload is wrong, else of the stream that is called as the file, with the
//! offset as sequence.
//!
//! **Rotated files** are read one behind the other by a path such as `x-*.ss`, in order of the numbers in their names, the one that
//! is written included; sequences go on from file to file. A file is left when it has its final name and is read to its end: then
//! it may be deleted. One that is deleted while it is read is read on; records that were deleted unread are told of by a warning
//! with their number, and a saved position in a file that is gone is `E_STATE_MISMATCH`.
//!
//! The bytes themselves are the business of [`millstream_codec::ss`].

mod backend;
mod inspect;
mod options;
mod saved;
mod series;
mod sink;
mod source;
mod url;
mod view;

use millstream_core::{PlanContext, Result, SinkPlan, SourcePlan, Url};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::Value;

use crate::{FileSinkOptions, FileSourceOptions};

pub use self::{
    backend::StreamFile,
    inspect::{Info, StreamInfo, info, repair, verify},
    options::{Fsync, SsCodec, SsSinkOptions, SsSourceOptions, ValueForm},
    saved::{SavedPosition, saved_position},
};

/// Whether options of the component `file` mean a `.ss` file: by `codec: ss`, or without a codec by the path's ending.
fn is_meant(options: &Value) -> bool {
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

/// Plans a source of whatever kind of file the options mean.
pub(crate) fn plan_source(options: &Value, context: &PlanContext) -> Result<Box<dyn SourcePlan>> {
    if is_meant(options) { source::plan(options, context) } else { crate::source::plan(options, context) }
}

/// Plans a sink to whatever kind of file the options mean.
pub(crate) fn plan_sink(options: &Value, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
    if is_meant(options) { sink::plan(options, context) } else { crate::sink::plan(options, context) }
}

/// The options that a URL means as a source.
pub(crate) fn source_from_url(url: &Url) -> Result<Value> {
    url::source(url).unwrap_or_else(|| crate::url::options(url))
}

/// The options that a URL means as a sink.
pub(crate) fn sink_from_url(url: &Url) -> Result<Value> {
    url::sink(url).unwrap_or_else(|| crate::url::options(url))
}

/// The options of a source: those of a text file, or those of a `.ss` file.
pub(crate) fn source_schema() -> Schema {
    either::<FileSourceOptions, SsSourceOptions>()
}

/// The options of a sink: those of a text file, or those of a `.ss` file.
pub(crate) fn sink_schema() -> Schema {
    either::<FileSinkOptions, SsSinkOptions>()
}

fn either<A: JsonSchema, B: JsonSchema>() -> Schema {
    let mut generator = SchemaGenerator::default();
    let (a, b) = (generator.subschema_for::<A>(), generator.subschema_for::<B>());
    let mut schema = schemars::json_schema!({ "anyOf": [a, b] });
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("$defs".to_owned(), Value::Object(generator.take_definitions(true)));
    }
    schema
}
