//! Reading and writing streams by URL, without a pipeline.

use millstream_bundle::{Reading, Stdio, StdioSinkOptions};
use millstream_client::{Backend, Streamer};
use millstream_core::{Result, SinkPlan, SourcePlan, Url};

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

impl Backend for StandardStreams {
    fn source(&self, streams: &[&str], group: Option<&str>) -> Result<Box<dyn SourcePlan>> {
        let asked: Vec<String> = streams.iter().map(|&stream| stream.to_owned()).collect();
        let streams = if asked.is_empty() { self.streams.clone() } else { asked };
        Ok(self.stdio.consumer(streams, group.map(str::to_owned)))
    }

    fn sink(&self, stream: &str) -> Result<Box<dyn SinkPlan>> {
        let named = Some(stream.to_owned()).filter(|stream| !stream.is_empty());
        let stream = named.or_else(|| self.streams.first().cloned());
        self.stdio.producer(&StdioSinkOptions { stream, ..StdioSinkOptions::default() })
    }

    fn describe(&self) -> String {
        "standard input and output".to_owned()
    }
}
