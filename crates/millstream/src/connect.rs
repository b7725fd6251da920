//! Reading and writing streams by URL, without a pipeline.

use millstream_bundle::{Reading, Stdio};
use millstream_client::{Backend, Streamer};
use millstream_core::{PlanContext, Result, SinkPlan, SourcePlan, Url};

/// Connects to a system by its URL; nothing is opened before the first consumer or producer.
///
/// ```no_run
/// use millstream::client::{ConsumerOptions, ProducerOptions};
///
/// # async fn example() -> millstream::Result<()> {
/// let file = millstream::connect("file:///data/events.ss")?;
/// let mut consumer = file.create_consumer(&["clicks"], ConsumerOptions::resumable("report"))?;
/// while let Some(record) = consumer.next().await? {
///     println!("{}", record.id());
/// }
/// consumer.close().await
/// # }
/// ```
///
/// `stdio:` takes `?loopback=true`: what is produced is also read by the consumers of the same streamer.
pub fn connect(url: &str) -> Result<Streamer> {
    let parsed = Url::parse(url)?;
    if parsed.scheme != "stdio" {
        return Streamer::connect(url, millstream_bundle::registry());
    }
    // All consumers share one reader of standard input, so that none takes lines away from the others.
    let reading = Reading { loopback: parsed.option("loopback") == Some("true"), ..Reading::default() };
    let streams = parsed.streams(0)?;
    Ok(Streamer::of(StandardStreams { stdio: Stdio::new(reading)?, streams }))
}

#[derive(Debug)]
struct StandardStreams {
    stdio: Stdio,
    /// The streams that the URL names.
    streams: Vec<String>,
}

impl StandardStreams {
    /// The stream of a producer: the one that it names, or else the first that the URL does.
    fn stream<'a>(&'a self, named: &'a str) -> &'a str {
        if named.is_empty() { self.streams.first().map_or("", String::as_str) } else { named }
    }
}

impl Backend for StandardStreams {
    fn source(&self, streams: &[&str], group: Option<&str>) -> Result<Box<dyn SourcePlan>> {
        let named: Vec<&str> = self.streams.iter().map(String::as_str).collect();
        self.stdio.source(if streams.is_empty() { &named } else { streams }, group)
    }

    fn sink(&self, stream: &str, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
        self.stdio.sink(self.stream(stream), context)
    }

    fn sink_by_shard(&self, stream: &str, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
        self.stdio.sink_by_shard(self.stream(stream), context)
    }

    fn describe(&self) -> String {
        self.stdio.describe()
    }
}
