//! A streaming system as a program without a pipeline sees it.

use std::{any::Any, fmt, path::PathBuf};

use crate::{Error, ErrorKind, PlanContext, Result, SeekTo, SinkPlan, SourcePlan};

/// A streaming system: where a streamer, or a pipeline that is built in Rust, gets its sources and sinks from.
///
/// Connectors implement it for a type with their own options, so that a program that knows its system is checked by the
/// compiler; `ByUrl` of the client chooses at run time. Nothing here does I/O. One value serves all consumers and producers of a
/// streamer, so what they share, such as the hub of the standard streams, can live in it.
pub trait Backend: Any + fmt::Debug + Send + Sync {
    /// Plans a source over these streams; none: those that the backend names itself, or all.
    ///
    /// `group`: read as a member of this group, if the system shares records among members. If it does not
    /// ([`groups`](crate::SourceCapabilities::groups) is false), plan without: the client shares them.
    fn source(&self, streams: &[&str], group: Option<&str>) -> Result<Box<dyn SourcePlan>>;

    /// Plans a sink to this stream; an empty name: the one that the backend names itself, or else each record's own.
    ///
    /// The context is that of the pipeline; a producer has the default one.
    fn sink(&self, stream: &str, context: &PlanContext) -> Result<Box<dyn SinkPlan>>;

    /// The same, and each record goes to the shard that its origin names ([`ShardKey::shard`](crate::ShardKey)), whatever the
    /// backend's options say of that.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`]: the system has no shards that could be chosen.
    fn sink_by_shard(&self, stream: &str, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
        let _ = (stream, context);
        Err(no_choice(&self.describe()))
    }

    /// Where the backend's own options say to begin.
    fn start(&self) -> Option<SeekTo> {
        None
    }

    /// The file beside which positions of consumers may be kept, for streams that are files.
    fn beside(&self) -> Option<PathBuf> {
        None
    }

    /// What it is connected to, for people; secrets hidden.
    fn describe(&self) -> String;
}

/// Nobody can say where in this system a record goes.
fn no_choice(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("cannot choose the shards of {what}"))
        .hint("it has none, or chooses them itself: leave the partitioner out")
}
