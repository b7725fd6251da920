//! SeaStreamer's stdio backend as a producer, a relay and a consumer.

use std::{
    io::{BufRead as _, BufReader, BufWriter, Write as _, stdin, stdout},
    time::Duration,
};

use anyhow::{Context as _, Result};
use sea_streamer_stdio::{StdioConsumer, StdioStreamer};
use sea_streamer_types::{
    Buffer as _, Consumer as _, Message as _, Producer as _, SharedMessage, StreamKey, Streamer as _, StreamerUri,
};

/// Lines sent before a receipt is waited for: what is sent waits in memory without a bound.
const WAVE: u64 = 4_096;

/// The next record; an error where none comes any more.
async fn next(consumer: &StdioConsumer) -> Result<SharedMessage> {
    let next = tokio::time::timeout(Duration::from_secs(10), consumer.next()).await;
    Ok(next.context("records were lost")??)
}

fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

/// Lines of standard input to the stream `a`.
pub(crate) fn produce() -> Result<()> {
    block_on(async {
        let streamer = StdioStreamer::connect(StreamerUri::zero(), Default::default()).await?;
        let producer = streamer.create_producer(StreamKey::new("a")?, Default::default()).await?;
        let mut input = BufReader::with_capacity(64 << 10, stdin());
        let (mut line, mut sent) = (String::new(), 0);
        while input.read_line(&mut line)? > 0 {
            let receipt = producer.send(line.trim_end_matches('\n'))?;
            sent += 1;
            if sent % WAVE == 0 {
                receipt.await?;
            }
            line.clear();
        }
        Ok(producer.end().await?)
    })
}

/// So many records of the stream `a` to the stream `b`: its consumers do not see the end of standard input.
pub(crate) fn relay(records: u64) -> Result<()> {
    block_on(async {
        let streamer = StdioStreamer::connect(StreamerUri::zero(), Default::default()).await?;
        let consumer = streamer.create_consumer(&[StreamKey::new("a")?], Default::default()).await?;
        let producer = streamer.create_producer(StreamKey::new("b")?, Default::default()).await?;
        for sent in 1..=records {
            let receipt = producer.send(next(&consumer).await?.message())?;
            if sent % WAVE == 0 {
                receipt.await?;
            }
        }
        Ok(producer.end().await?)
    })
}

/// Payloads of so many records of the stream `b` to standard output.
pub(crate) fn consume(records: u64) -> Result<()> {
    block_on(async {
        let streamer = StdioStreamer::connect(StreamerUri::zero(), Default::default()).await?;
        let consumer = streamer.create_consumer(&[StreamKey::new("b")?], Default::default()).await?;
        let mut output = BufWriter::with_capacity(64 << 10, stdout());
        for _ in 0..records {
            output.write_all(next(&consumer).await?.message().as_bytes())?;
            output.write_all(b"\n")?;
        }
        Ok(output.flush()?)
    })
}
