//! The sources `stdin` and `stdio`.

use millstream_codec::log::{BROADCAST, Headers};
use millstream_core::{Component, Error, ErrorKind, PlanContext, Planner, Result, SourcePlan, parse_options};
use serde_json::Value;

use super::{Reading, StdinOptions, Stdio, StdioSourceOptions, url};

/// The stream of verbatim lines.
const STDIN_STREAM: &str = "stdin";

pub(crate) const STDIN: Component = Component {
    name: "stdin",
    summary: "Standard input: each line a record, verbatim, or any other codec.",
    schema: || schemars::schema_for!(StdinOptions),
    planner: Planner::Source(plan_stdin),
    schemes: &[],
    from_url: None,
    example: "stdin: { codec: ndjson }",
};

pub(crate) const STDIO_SOURCE: Component = Component {
    name: "stdio",
    summary: "Standard input in the stdio line protocol: `[time | stream | sequence | shard] payload`.",
    schema: || schemars::schema_for!(StdioSourceOptions),
    planner: Planner::Source(plan_stdio),
    schemes: &["stdio"],
    from_url: Some(url::source_options),
    example: "stdio: { streams: [orders] }",
};

fn plan_stdin(options: &Value, _: &PlanContext) -> Result<Box<dyn SourcePlan>> {
    let options: StdinOptions = parse_options(options)?;
    if options.headers == Headers::Off && !options.streams.is_empty() {
        return Err(Error::new(ErrorKind::Option, "without headers there are no streams")
            .hint("add `headers: lenient`")
            .within("streams"));
    }
    let stream = if options.headers == Headers::Off { STDIN_STREAM } else { BROADCAST };
    let reading =
        Reading { headers: options.headers, codec: options.codec, stream: stream.to_owned(), loopback: false };
    Ok(stdio(reading)?.consumer(options.streams, None))
}

fn plan_stdio(options: &Value, _: &PlanContext) -> Result<Box<dyn SourcePlan>> {
    let options: StdioSourceOptions = parse_options(options)?;
    let reading = Reading { headers: options.headers, codec: options.codec, ..Reading::default() };
    Ok(stdio(reading)?.consumer(options.streams, options.group))
}

fn stdio(reading: Reading) -> Result<Stdio> {
    Stdio::new(reading).map_err(|error| error.within("codec"))
}
