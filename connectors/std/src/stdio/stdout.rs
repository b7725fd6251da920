//! The sinks `stdout` and `stdio`.

use std::sync::{Arc, atomic::AtomicBool};

use millstream_codec::print::Printer;
use millstream_core::{
    Codec, Component, Error, ErrorKind, PlanContext, Planner, Result, Sink, SinkCapabilities, SinkPlan, parse_options,
};
use serde_json::Value;

use super::{
    Reading, Stdio, StdioSinkOptions, StdoutOptions,
    sink::{CAPABILITIES, StdioSink, Writing},
    url,
};

pub(crate) const STDOUT: Component = Component {
    name: "stdout",
    summary: "Standard output: each value a line, or any other codec.",
    schema: || schemars::schema_for!(StdoutOptions),
    planner: Planner::Sink(plan_stdout),
    schemes: &[],
    from_url: None,
    example: "stdout: { codec: ndjson }",
};

pub(crate) const STDIO_SINK: Component = Component {
    name: "stdio",
    summary: "Standard output in the stdio line protocol: `[time | stream | sequence | shard] payload`.",
    schema: || schemars::schema_for!(StdioSinkOptions),
    planner: Planner::Sink(plan_stdio),
    schemes: &["stdio"],
    from_url: Some(url::sink_options),
    example: "stdio: { stream: orders }",
};

fn plan_stdout(options: &Value, _: &PlanContext) -> Result<Box<dyn SinkPlan>> {
    let options: StdoutOptions = parse_options(options)?;
    Stdio::new(Reading::default())?.stdout(&options)
}

fn plan_stdio(options: &Value, _: &PlanContext) -> Result<Box<dyn SinkPlan>> {
    let options: StdioSinkOptions = parse_options(options)?;
    Stdio::new(Reading::default())?.producer(&options)
}

impl Stdio {
    /// The sink `stdout` on this output.
    pub fn stdout(&self, options: &StdoutOptions) -> Result<Box<dyn SinkPlan>> {
        let way = match (&options.codec, options.format) {
            (Some(_), Some(_)) => {
                return Err(Error::new(ErrorKind::Option, "`codec` and `format` exclude each other")
                    .hint("`codec` writes values, `format` whole records")
                    .within("format"));
            }
            (codec, None) => {
                let codec = codec.clone().unwrap_or_default();
                StdoutWay::Codec(codec.plan().map_err(|error| error.within("codec"))?, Arc::default())
            }
            (None, Some(format)) => StdoutWay::Print(Printer { format, newline: options.newline, decode_json: false }),
        };
        Ok(Box::new(StdoutPlan { stdio: self.clone(), way }))
    }
}

#[derive(Debug)]
struct StdoutPlan {
    stdio: Stdio,
    way: StdoutWay,
}

#[derive(Debug)]
enum StdoutWay {
    /// And whether the preamble was written.
    Codec(Arc<dyn Codec>, Arc<AtomicBool>),
    Print(Printer),
}

impl SinkPlan for StdoutPlan {
    fn capabilities(&self) -> SinkCapabilities {
        CAPABILITIES
    }

    fn describe(&self) -> String {
        "standard output".to_owned()
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        let writing = match &self.way {
            StdoutWay::Codec(codec, begun) => Writing::Codec(codec.encoder(), begun.clone()),
            StdoutWay::Print(printer) => Writing::Printed(*printer),
        };
        Ok(Box::new(StdioSink::new(self.stdio.clone(), writing)))
    }
}
