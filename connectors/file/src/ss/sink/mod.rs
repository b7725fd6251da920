//! The sink to a `.ss` file.
//!
//! ```text
//!   write ──► Encoding (bytes, sequences, turns of files) ──► one block on its way (blocking pool) ──► files
//!   flush     all of it is in the files; sequences told
//!   prepare   synced; token: names, lengths, hashes of the last bytes, sequences that go on
//!   commit    length published (exactly_once), full files named, old ones deleted
//! ```
//!
//! A block that could not be written comes back and is written again with the next call, so that an error loses nothing
//! and repeats nothing.

mod begin;
mod encode;
mod output;
mod plan;
mod token;
mod turn;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

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
use crate::{
    error::{blocking, stopped},
    sink::files::Op,
};

/// Bytes that are handed to the disk at once: large enough to make the call cheap, small enough to stay in the cache.
const BLOCK_BYTES: usize = 256 << 10;

/// A block that has come back from the disk: what of it is still to be written, memory, and how it went.
type Landed = (VecDeque<Op>, Vec<u8>, Result<()>);

/// Writes `.ss` files.
pub(super) struct SsSink {
    target: Arc<Target>,
    output: Option<Arc<Mutex<Output>>>,
    encoding: Option<Encoding>,
    /// A block on its way to the file.
    flight: Option<JoinHandle<Landed>>,
    /// What could not be written; it comes before all else.
    failed: VecDeque<Op>,
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
            failed: VecDeque::new(),
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
            Ok((left, spare, result)) => {
                (self.failed, self.spare) = (left, spare);
                result
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
        let mut queue = std::mem::take(&mut self.failed);
        queue.extend(encoding.take(&mut self.spare));
        if queue.is_empty() {
            return Ok(());
        }
        let output = output.clone();
        self.flight = Some(tokio::task::spawn_blocking(move || {
            let (spare, result) = output.lock().unwrap_or_else(PoisonError::into_inner).work(&mut queue);
            (queue, spare, result)
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
            // The one before was finished by another run, so what is there is gone on with.
            let begun = self.with_output(Output::begin).await?;
            self.encoding = Some(Encoding::new(begun, self.target.clone()));
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
        let (output, begun) = blocking(move || Output::open(&target, &resume)).await?;
        self.output = Some(Arc::new(Mutex::new(output)));
        self.encoding = begun.map(|begun| Encoding::new(begun, self.target.clone()));
        Ok(())
    }

    async fn write(&mut self, batch: Batch) -> Result<WriteId> {
        self.begin().await?;
        // Before anything of the batch is taken, so that an error leaves nothing of it behind.
        if !self.failed.is_empty() {
            self.take_off()?;
            self.land().await?;
        }
        if self.encoding.as_ref().is_some_and(|encoding| encoding.pending() >= BLOCK_BYTES) {
            self.land().await?;
            self.take_off()?;
        }
        let encoding = self.encoding.as_mut().ok_or_else(Self::closed)?;
        let batch = batch.into_bytes();
        let Encoded { sequences, rejected } = encoding.encode(&batch, Timestamp::now())?;
        let full = encoding.pending() >= BLOCK_BYTES;
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
                self.with_output(|output| output.files.sync()).await?;
            }
        }
        let wide = |sequences: &Sequences| sequences.iter().map(u128::from).collect();
        let sequences = std::mem::take(&mut self.sequences);
        Ok(Outcomes {
            rejected: std::mem::take(&mut self.rejected),
            sequences: sequences.iter().map(|(id, sequences)| (*id, wide(sequences))).collect(),
            ..Outcomes::default()
        })
    }

    async fn prepare(&mut self, _: Epoch, last: Last) -> Result<Option<Token>> {
        self.begin().await?;
        let mut carried = BTreeMap::new();
        if let Some(encoding) = &mut self.encoding {
            // Its time is over; it need not wait for the next record.
            encoding.turn(Timestamp::now())?;
            if last == Last::Finished && !encoding.ended {
                encoding.end()?;
            }
            carried = encoding.carried(last);
        }
        self.drain().await?;
        self.with_output(move |output| output.prepare(last, carried)).await
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
                output.files.close();
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
        let swap = |file: File| output.lock().unwrap().files.part.as_mut().unwrap().swap(file);
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
