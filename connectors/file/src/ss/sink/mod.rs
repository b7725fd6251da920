//! The sink to a `.ss` file.
//!
//! ```text
//!   write ──► Encoding (bytes, sequences) ──► out ──► one block on its way (blocking pool) ──► file
//!   flush     all of it is in the file; sequences told
//!   prepare   synced; token: name, length, hash of the last bytes
//!   commit    length published (exactly_once), file named at the end
//! ```
//!
//! A block that could not be written comes back and is written again with the next call, so that an error loses nothing
//! and repeats nothing.

mod begin;
mod encode;
mod output;
mod plan;
mod token;

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use millstream_core::{Batch, Epoch, Error, ErrorKind, Last, Outcomes, Result, Sink, Timestamp, Token, WriteId};
use tokio::task::JoinHandle;

pub(super) use plan::plan;

use self::{
    encode::{Encoded, Encoding, Sequences},
    output::{Output, Target},
    token::SsToken,
};
use super::options::Fsync;
use crate::error::{blocking, stopped};

/// Bytes that are handed to the disk at once: large enough to make the call cheap, small enough to stay in the cache.
const BLOCK_BYTES: usize = 256 << 10;

/// Writes a `.ss` file.
pub(super) struct SsSink {
    target: Arc<Target>,
    output: Option<Arc<Mutex<Output>>>,
    encoding: Option<Encoding>,
    /// A block on its way to the file.
    flight: Option<JoinHandle<(Vec<u8>, Result<()>)>>,
    /// A block that could not be written; it comes before all others.
    failed: Vec<u8>,
    /// Memory of the block before.
    spare: Vec<u8>,
    next_id: WriteId,
    rejected: Vec<(WriteId, u32, Error)>,
    sequences: Vec<(WriteId, Sequences)>,
}

impl SsSink {
    fn new(target: Arc<Target>) -> Self {
        SsSink {
            target,
            output: None,
            encoding: None,
            flight: None,
            failed: Vec::new(),
            spare: Vec::new(),
            next_id: 0,
            rejected: Vec::new(),
            sequences: Vec::new(),
        }
    }

    fn closed() -> Error {
        Error::new(ErrorKind::Closed, "the sink is not open")
    }

    /// Runs blocking work on the file. If the caller goes away, the work is still done, under the lock.
    async fn with_output<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Output) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let output = self.output.clone().ok_or_else(Self::closed)?;
        blocking(move || work(&mut output.lock().unwrap_or_else(PoisonError::into_inner))).await
    }

    /// Waits for the block on its way. Cancel-safe: until it is done the handle stays in `self`.
    async fn land(&mut self) -> Result<()> {
        let Some(flight) = &mut self.flight else { return Ok(()) };
        let landed = flight.await;
        self.flight = None;
        match landed {
            Ok((mut bytes, Ok(()))) => {
                bytes.clear();
                self.spare = bytes;
                Ok(())
            }
            Ok((bytes, Err(error))) => {
                self.failed = bytes;
                Err(error)
            }
            Err(cause) => {
                // The bytes are lost with it: only the checkpoint knows where to go on.
                (self.encoding, self.output) = (None, None);
                Err(stopped(cause))
            }
        }
    }

    /// Sends what is encoded on its way. No other block may be.
    fn take_off(&mut self) -> Result<()> {
        let (Some(encoding), Some(output)) = (&mut self.encoding, &self.output) else { return Err(Self::closed()) };
        let mut bytes = std::mem::take(&mut self.failed);
        if bytes.is_empty() {
            bytes = std::mem::replace(&mut encoding.out, std::mem::take(&mut self.spare));
        } else {
            bytes.append(&mut encoding.out);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let output = output.clone();
        self.flight = Some(tokio::task::spawn_blocking(move || {
            let put = output.lock().unwrap_or_else(PoisonError::into_inner).put(&bytes);
            (bytes, put)
        }));
        Ok(())
    }

    /// Writes all that is encoded.
    async fn drain(&mut self) -> Result<()> {
        self.land().await?;
        self.take_off()?;
        self.land().await
    }

    /// Begins a file after one that was done.
    async fn begin(&mut self) -> Result<()> {
        if self.encoding.is_none() {
            let writer = self.with_output(|output| {
                // The one before was finished by another run, so what is there is gone on with.
                output.begin()
            });
            let writer = writer.await?;
            self.encoding = Some(Encoding::new(writer, self.target.stream.as_deref(), self.target.shard));
        }
        Ok(())
    }
}

#[async_trait]
impl Sink for SsSink {
    async fn open(&mut self, resume: &[(Epoch, Token)]) -> Result<()> {
        if let Some(flight) = self.flight.take() {
            // Whatever it came to: the file is cut to the checkpoint.
            let _ = flight.await;
        }
        (self.output, self.encoding) = (None, None);
        self.failed.clear();
        self.rejected.clear();
        self.sequences.clear();
        let (target, resume) = (self.target.clone(), resume.to_vec());
        let (output, writer) = blocking(move || Output::open(&target, &resume)).await?;
        self.output = Some(Arc::new(Mutex::new(output)));
        let (stream, shard) = (self.target.stream.as_deref(), self.target.shard);
        self.encoding = writer.map(|writer| Encoding::new(writer, stream, shard));
        Ok(())
    }

    async fn write(&mut self, batch: Batch) -> Result<WriteId> {
        self.begin().await?;
        // Before anything of the batch is taken, so that an error leaves nothing of it behind.
        if !self.failed.is_empty() {
            self.take_off()?;
            self.land().await?;
        }
        if self.encoding.as_ref().is_some_and(|encoding| encoding.out.len() >= BLOCK_BYTES) {
            self.land().await?;
            self.take_off()?;
        }
        let encoding = self.encoding.as_mut().ok_or_else(Self::closed)?;
        let batch = batch.into_bytes();
        let now_ms = u64::try_from(Timestamp::now().as_millis()).unwrap_or(0);
        let Encoded { sequences, rejected } = encoding.encode(&batch, now_ms);
        let full = encoding.out.len() >= BLOCK_BYTES;
        let id = self.next_id;
        self.next_id += 1;
        self.rejected.extend(rejected.into_iter().map(|(row, error)| (id, row, error)));
        self.sequences.push((id, sequences));
        if full && self.flight.is_none() {
            self.take_off()?;
        }
        Ok(id)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        if self.encoding.is_some() {
            self.drain().await?;
            if self.target.fsync == Fsync::Flush {
                self.with_output(Output::sync).await?;
            }
        }
        let wide = |sequences: &Sequences| sequences.iter().map(u128::from).collect();
        let sequences = std::mem::take(&mut self.sequences);
        Ok(Outcomes {
            rejected: std::mem::take(&mut self.rejected),
            sequences: sequences.iter().map(|(id, sequences)| (*id, wide(sequences))).collect(),
        })
    }

    async fn prepare(&mut self, _: Epoch, last: Last) -> Result<Option<Token>> {
        self.begin().await?;
        let done = last == Last::Finished;
        if let Some(encoding) = self.encoding.as_mut().filter(|encoding| done && !encoding.ended) {
            encoding.ended = true;
            if self.target.end_of_stream {
                let now_ms = u64::try_from(Timestamp::now().as_millis()).unwrap_or(0);
                encoding.writer.end(now_ms, &mut encoding.out)?;
            }
        }
        self.drain().await?;
        let token = self.with_output(move |output| output.prepare(done)).await?;
        token.as_ref().map(Token::new).transpose()
    }

    async fn commit(&mut self, token: &Token) -> Result<()> {
        let token: SsToken = token.read()?;
        self.with_output(move |output| output.commit(&token)).await
    }

    async fn close(&mut self) -> Result<()> {
        let drained = if self.encoding.is_some() { self.drain().await } else { Ok(()) };
        if let Some(encoding) = &mut self.encoding {
            encoding.dropped.report();
        }
        self.encoding = None;
        if self.output.is_some() {
            self.with_output(|output| {
                output.close();
                Ok(())
            })
            .await?;
        }
        self.output = None;
        drained
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use millstream_core::{BatchBuilder, Form, PlanContext, ShardKey};
    use serde_json::json;

    use super::*;

    fn batch(values: &[&[u8]]) -> Batch {
        let mut builder = BatchBuilder::new();
        for (at, value) in values.iter().enumerate() {
            builder.push_value(&ShardKey::new("s", 0), at as u128, None, Form::Bytes, None, Some(value));
        }
        builder.finish()
    }

    /// A disk that fails for a while: what was accepted is written later, once.
    #[tokio::test]
    async fn a_failed_write_is_made_again_and_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.ss");
        let target = plan::target(&json!({"path": path}), &PlanContext::default()).unwrap();
        let mut sink = SsSink::new(Arc::new(target));
        sink.open(&[]).await.unwrap();
        let output = sink.output.clone().unwrap();
        let swap = |file: File| output.lock().unwrap().swap(file).unwrap();
        let big = vec![b'b'; BLOCK_BYTES];
        sink.write(batch(&[b"1", b"2"])).await.unwrap();
        sink.flush().await.unwrap();
        // A handle that cannot be written to stands for a disk that has no room.
        let good = swap(File::open(&path).unwrap());
        sink.write(batch(&[b"3", &big])).await.unwrap();
        assert!(sink.flush().await.is_err());
        assert!(sink.write(batch(&[b"not accepted"])).await.is_err());
        assert!(sink.write(batch(&[b"not accepted"])).await.is_err());
        assert!(sink.prepare(1, Last::No).await.is_err());
        swap(good);
        let id = sink.write(batch(&[b"4"])).await.unwrap();
        let outcomes = sink.flush().await.unwrap();
        assert_eq!(outcomes.sequences.last(), Some(&(id, vec![5])));
        sink.prepare(1, Last::No).await.unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let report = millstream_codec::ss::verify(&bytes[..]).unwrap();
        assert!(report.whole() && report.torn.is_none());
        assert_eq!((report.messages, report.payload_bytes), (5, 4 + big.len() as u64));
    }
}
