//! The standard streams, or any two ends of pipes, as a system of the client API.

use millstream_core::{Backend, PlanContext, Result, SinkPlan, SourcePlan};

use super::{Stdio, StdioSinkOptions};

/// All consumers and producers share one input and one output, so that none takes lines away from the others.
impl Backend for Stdio {
    fn source(&self, streams: &[&str], group: Option<&str>) -> Result<Box<dyn SourcePlan>> {
        Ok(self.consumer(streams.iter().map(|&stream| stream.to_owned()).collect(), group.map(str::to_owned)))
    }

    fn sink(&self, stream: &str, _: &PlanContext) -> Result<Box<dyn SinkPlan>> {
        let stream = Some(stream.to_owned()).filter(|stream| !stream.is_empty());
        self.producer(&StdioSinkOptions { stream, ..StdioSinkOptions::default() })
    }

    /// Records are printed with the shard of their origin.
    fn sink_by_shard(&self, stream: &str, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
        self.sink(stream, context)
    }

    fn describe(&self) -> String {
        "standard input and output".to_owned()
    }
}
