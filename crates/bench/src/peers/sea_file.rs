//! SeaStreamer's file backend, used as its examples do: on tokio with many threads, which here share one core.

use std::{
    path::Path,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, Result, bail, ensure};
use sea_streamer_file::{AutoStreamReset, FileConnectOptions, FileConsumerOptions, FileErr, FileId, FileStreamer};
use sea_streamer_types::{
    Buffer as _, Consumer as _, Message as _, Producer as _, StreamErr, StreamKey, Streamer as _,
};

use crate::{parts::RECORD_BYTES, ss::STREAM};

/// Records sent before a receipt is waited for: what is sent waits in memory without a bound.
const WAVE: usize = 4_096;

/// Runs on the one runtime of the process: the backend keeps tasks of its own on the first that it sees.
fn block_on(work: impl Future<Output = Result<u64>>) -> Result<u64> {
    static RUNTIME: OnceLock<Option<tokio::runtime::Runtime>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().enable_all().build().ok());
    runtime.as_ref().context("cannot start a runtime")?.block_on(work)
}

/// Writes records with a producer to a new file.
pub(crate) fn write(folder: &Path, payloads: &[u8], records: u64) -> Result<u64> {
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    let path = folder.join(format!("peer-{}.ss", RUNS.fetch_add(1, Ordering::Relaxed)));
    block_on(async {
        let mut options = FileConnectOptions::default();
        options.set_create_if_not_exists(true);
        let uri = FileId::new(path.to_string_lossy()).to_streamer_uri()?;
        let streamer = FileStreamer::connect(uri, options).await?;
        let producer = streamer.create_producer(StreamKey::new(STREAM)?, Default::default()).await?;
        for (i, payload) in payloads.chunks_exact(RECORD_BYTES).cycle().take(usize::try_from(records)?).enumerate() {
            let receipt = producer.send(payload)?;
            if i % WAVE == WAVE - 1 {
                receipt.await?;
            }
        }
        producer.end().await?;
        Ok(records)
    })
}

/// Reads the first records of a file with a consumer.
pub(crate) fn read(path: &Path, records: u64) -> Result<u64> {
    block_on(async {
        let uri = FileId::new(path.to_string_lossy()).to_streamer_uri()?;
        let streamer = FileStreamer::connect(uri, FileConnectOptions::default()).await?;
        let mut options = FileConsumerOptions::default();
        options.set_auto_stream_reset(AutoStreamReset::Earliest);
        options.set_live_streaming(false);
        let consumer = streamer.create_consumer(&[StreamKey::new(STREAM)?], options).await?;
        let mut bytes = 0;
        for read in 0..records {
            match consumer.next().await {
                Ok(message) => bytes += message.message().size(),
                Err(StreamErr::Backend(FileErr::StreamEnded)) => bail!("the stream ended after {read} records"),
                Err(error) => return Err(error.into()),
            }
        }
        ensure!(bytes as u64 == records * RECORD_BYTES as u64, "{bytes} bytes were read");
        Ok(records)
    })
}
