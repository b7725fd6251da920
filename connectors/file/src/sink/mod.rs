//! The sink `file`: appends to a file, replaces it, or writes one behind the other.
//!
//! ```text
//!   write ──► encoder ──► pending ──► (blocking pool) file ──► .part / temporary / the file itself
//!   flush                   all of it, compressed members closed
//!   prepare                 synced; token: names and lengths
//!   commit                  renamed, old ones deleted, length published
//! ```

pub(crate) mod files;
mod lock;
pub(crate) mod name;
mod part;
pub(crate) mod plan;
mod recover;
pub(crate) mod token;
mod writer;

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use millstream_core::{Batch, Encoder, Epoch, Error, Last, Outcomes, Result, Sink, Timestamp, Token, WriteId};

pub(crate) use plan::plan;

use self::{
    files::{Op, window},
    token::FileToken,
    writer::{Target, Writer},
};
use crate::error::blocking;

/// Records are handed to the disk in blocks of at least this size, except by `flush`.
const BLOCK_BYTES: usize = 64 << 10;

/// Writes files.
pub(crate) struct FileSink {
    target: Target,
    writer: Arc<Mutex<Writer>>,
    encoder: Box<dyn Encoder>,
    /// The header is known.
    begun: bool,
    /// Accepted and not yet handed to the writer.
    pending: Vec<Op>,
    pending_bytes: usize,
    /// The writer has not been able to write all that it got.
    backlog: bool,
    next_id: WriteId,
    rejected: Vec<(WriteId, u32, Error)>,
    file: Filling,
}

/// What is known of the file that the next record goes to.
#[derive(Clone, Copy, Debug, Default)]
struct Filling {
    /// Bytes in it, uncompressed.
    bytes: u64,
    /// It holds more than a header.
    used: bool,
    /// When its time began.
    window: Option<Timestamp>,
    /// Bytes before the first record of each file.
    header: u64,
}

impl FileSink {
    pub(crate) fn new(target: Target) -> Self {
        FileSink {
            writer: Arc::new(Mutex::new(Writer::new(target.clone()))),
            encoder: target.format.codec.encoder(),
            target,
            begun: false,
            pending: Vec::new(),
            pending_bytes: 0,
            backlog: false,
            next_id: 0,
            rejected: Vec::new(),
            file: Filling::default(),
        }
    }

    /// Runs blocking work with the writer. If the caller goes away, the work is still done.
    fn with_writer<T: Send + 'static, F: FnOnce(&mut Writer) -> Result<T> + Send + 'static>(
        &self,
        work: F,
    ) -> impl Future<Output = Result<T>> + Send + use<T, F> {
        let writer = self.writer.clone();
        blocking(move || work(&mut writer.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Hands what is pending to the writer, which then does `work`. What it cannot write it keeps.
    async fn hand_over(&mut self, work: fn(&mut Writer) -> Result<()>) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        (self.pending_bytes, self.backlog) = (0, true);
        self.with_writer(move |writer| {
            writer.queue.extend(pending);
            work(writer)
        })
        .await?;
        self.backlog = false;
        Ok(())
    }

    /// Learns the header from the first batch.
    async fn begin(&mut self, batch: &Batch) -> Result<()> {
        let mut header = Vec::new();
        self.encoder.preamble(batch, &mut header);
        self.file.header = header.len() as u64;
        if !header.is_empty() {
            self.with_writer(move |writer| writer.set_header(header)).await?;
        }
        self.begun = true;
        Ok(())
    }

    /// Queues encoded records, with a new file wherever one is due.
    fn queue(&mut self, bytes: Vec<u8>, ends: &[usize], now: Timestamp) {
        let rotation = self.target.place.rotation.as_ref();
        let every = rotation.and_then(|rotation| rotation.every);
        let limit = rotation.filter(|_| !self.target.format.packed()).and_then(|rotation| rotation.size);
        let now = every.map(|every| window(now, every));
        if self.file.used && every.is_some() && self.file.window != now {
            self.rotate();
        }
        let (mut from, mut to) = (0, 0);
        for &end in ends {
            let first = !self.file.used && to == from;
            let base = if self.file.used { self.file.bytes } else { self.file.header };
            if !first && limit.is_some_and(|limit| base + (end - from) as u64 > limit) {
                self.push(bytes[from..to].to_vec(), now);
                self.rotate();
                from = to;
            }
            to = end;
        }
        if from == 0 {
            self.push(bytes, now);
        } else {
            self.push(bytes[from..].to_vec(), now);
        }
    }

    fn push(&mut self, bytes: Vec<u8>, window: Option<Timestamp>) {
        if bytes.is_empty() {
            return;
        }
        if !self.file.used {
            self.file = Filling { bytes: self.file.header, used: true, window, header: self.file.header };
        }
        self.file.bytes += bytes.len() as u64;
        self.pending_bytes += bytes.len();
        match self.pending.last_mut() {
            Some(Op::Data(data)) if data.len() < BLOCK_BYTES => data.extend_from_slice(&bytes),
            _ => self.pending.push(Op::Data(bytes)),
        }
    }

    fn rotate(&mut self) {
        self.pending.push(Op::Rotate);
        self.file = Filling { header: self.file.header, ..Filling::default() };
    }
}

#[async_trait]
impl Sink for FileSink {
    async fn open(&mut self, resume: &[(Epoch, Token)]) -> Result<()> {
        self.pending.clear();
        self.rejected.clear();
        (self.pending_bytes, self.backlog, self.begun) = (0, false, false);
        self.encoder = self.target.format.codec.encoder();
        let resume = resume.to_vec();
        let every = self.target.place.rotation.as_ref().and_then(|rotation| rotation.every);
        let opened = self
            .with_writer(move |writer| {
                writer.open(&resume)?;
                Ok(writer.files.part.as_ref().map(|part| (part.length, part.started_at)))
            })
            .await?;
        self.file = opened.map_or(Filling::default(), |(bytes, started_at)| Filling {
            bytes,
            used: bytes > 0,
            window: every.map(|every| window(started_at, every)),
            header: 0,
        });
        Ok(())
    }

    async fn write(&mut self, batch: Batch) -> Result<WriteId> {
        // Before anything of the batch is taken, so that an error leaves nothing of it behind.
        if self.backlog || self.pending_bytes >= BLOCK_BYTES {
            self.hand_over(Writer::drain).await?;
        }
        let batch = batch.into_bytes();
        if !self.begun && !batch.is_empty() {
            self.begin(&batch).await?;
        }
        let (mut bytes, mut ends, mut rejected) = (Vec::with_capacity(batch.size()), Vec::new(), Vec::new());
        self.encoder.encode(&batch, &mut bytes, &mut ends, &mut rejected);
        let id = self.next_id;
        self.next_id += 1;
        self.rejected.extend(rejected.into_iter().map(|(row, error)| (id, row, error)));
        self.queue(bytes, &ends, Timestamp::now());
        Ok(id)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        self.hand_over(Writer::flush).await?;
        Ok(Outcomes { rejected: std::mem::take(&mut self.rejected), ..Outcomes::default() })
    }

    async fn prepare(&mut self, _: Epoch, last: Last) -> Result<Option<Token>> {
        let every = self.target.place.rotation.as_ref().and_then(|rotation| rotation.every);
        if self.file.used && every.is_some_and(|every| self.file.window != Some(window(Timestamp::now(), every))) {
            // Its time is over; it need not wait for the next record.
            self.rotate();
        }
        let pending = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        self.with_writer(move |writer| {
            writer.queue.extend(pending);
            writer.prepare(last)
        })
        .await
        .map(Some)
    }

    async fn commit(&mut self, token: &Token) -> Result<()> {
        let token: FileToken = token.read()?;
        self.with_writer(move |writer| writer.files.commit(&token)).await
    }

    async fn close(&mut self) -> Result<()> {
        self.with_writer(|writer| {
            writer.close();
            Ok(())
        })
        .await
    }
}
