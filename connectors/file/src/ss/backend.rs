//! A stream file as a system of the client API, with its options as types.

use std::path::PathBuf;

use millstream_core::{Backend, Error, ErrorKind, PlanContext, Result, SeekTo, SinkPlan, SourcePlan, parse_options};
use serde::Serialize;
use serde_json::{Value, json};

use super::{SsCodec, SsSinkOptions, SsSourceOptions, sink, source};

/// A `.ss` stream file, chosen by type.
///
/// ```
/// use millstream_file::{StreamFile, ss::Fsync};
///
/// # fn main() -> millstream_core::Result<()> {
/// let mut file = StreamFile::at("/data/events.ss")?;
/// file.source.follow = true;
/// file.sink.fsync = Fsync::Flush;
/// // Streamer::of(file)
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct StreamFile {
    /// How it is read. The streams are those of each consumer.
    pub source: SsSourceOptions,
    /// How it is written. The stream is that of each producer.
    pub sink: SsSinkOptions,
}

impl StreamFile {
    /// The file at a path, with all options as they are by default. An end of the stream is written when a producer is ended.
    ///
    /// # Errors
    /// The path is empty.
    pub fn at(path: &str) -> Result<Self> {
        let written = json!({ "path": path });
        let source: SsSourceOptions = parse_options(&written)?;
        let sink: SsSinkOptions = parse_options(&written)?;
        source.validate()?;
        sink.validate()?;
        // By type it is clear what it is, however it is called.
        let codec = Some(SsCodec::Ss);
        Ok(StreamFile {
            source: SsSourceOptions { codec, ..source },
            sink: SsSinkOptions { codec, end_of_stream: true, ..sink },
        })
    }
}

/// Options as they stand in a file.
fn written(options: &impl Serialize) -> Result<Value> {
    serde_json::to_value(options)
        .map_err(|error| Error::new(ErrorKind::Bug, "options cannot be written down").caused_by(error))
}

impl Backend for StreamFile {
    fn source(&self, streams: &[&str], _: Option<&str>) -> Result<Box<dyn SourcePlan>> {
        let mut options = self.source.clone();
        if !streams.is_empty() {
            options.streams = Some(streams.iter().map(|&stream| stream.to_owned()).collect());
        }
        source::plan(&written(&options)?, &PlanContext::default())
    }

    fn sink(&self, stream: &str, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
        let mut options = self.sink.clone();
        if !stream.is_empty() {
            options.stream = Some(stream.to_owned());
        }
        sink::plan(&written(&options)?, context)
    }

    fn sink_by_shard(&self, stream: &str, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
        let mut own = self.clone();
        own.sink.shard = None;
        own.sink(stream, context)
    }

    fn start(&self) -> Option<SeekTo> {
        self.source.start.clone()
    }

    fn beside(&self) -> Option<PathBuf> {
        Some(PathBuf::from(&self.source.path))
    }

    fn describe(&self) -> String {
        self.source.path.clone()
    }
}
