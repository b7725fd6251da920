//! The writing end: a truncating sink.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use millstream_core::{
    Batch, Epoch, Error, ErrorKind, Last, Outcomes, Result, Sink, SinkCapabilities, SinkPlan, Size, Timestamp, Token,
    Way, WriteId,
};
use serde::{Deserialize, Serialize};

use crate::{
    block,
    buffer::{Buffer, Inner},
    disk::{Disk, Op},
    format::{Id, Mark},
    options::WhenFull,
};

/// Blocks are handed to the disk when there are so many bytes of them, except by `flush`.
const HAND_OVER_BYTES: usize = 256 << 10;

/// The writing end of a buffer, as planned.
///
/// * **Way**: truncating. The token is the log's identity and length; `open` cuts to it, `prepare` syncs, `commit` publishes.
/// * **When full**: `block` waits inside of `write`, and only while there is something that the reader can deliver; records
///   for which there is no room are rejected with [`ErrorKind::Full`] where the spec says `dead_letter` or `drop_newest`.
/// * **Errors**: a log that the token does not fit is `StateMismatch`, a full disk `Unavailable` with nothing of the batch
///   written, a second process `Locked`.
/// * **Cancel safety**: what is handed to the disk goes on in the background; call `open` again after dropping a call.
#[derive(Clone, Debug)]
pub struct BufferSink(Buffer);

impl BufferSink {
    /// The writing end of `buffer`.
    pub fn new(buffer: &Buffer) -> Self {
        BufferSink(buffer.clone())
    }
}

impl SinkPlan for BufferSink {
    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities {
            way: Way::Truncating,
            record_bytes_max: Some(self.0.0.spec.record_bytes_max()),
            ..SinkCapabilities::WHOLE
        }
    }

    fn describe(&self) -> String {
        let spec = &self.0.0.spec;
        format!("a buffer of {} on disk, when full: {}", spec.disk, spec.when_full)
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Writer {
            inner: self.0.0.clone(),
            opened: 0,
            id: Id([0; 16]),
            end: Mark::default(),
            segment: 0,
            pending: Vec::new(),
            pending_bytes: 0,
            backlog: false,
            first_at: None,
            epochs: VecDeque::new(),
            next: 0,
            rejected: Vec::new(),
        }))
    }
}

/// What the checkpoint keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    buffer: String,
    offset: u64,
    records: u64,
    finished: bool,
}

struct Writer {
    inner: Arc<Inner>,
    /// Which `open` of the buffer this is.
    opened: u64,
    id: Id,
    /// Behind everything that was accepted.
    end: Mark,
    /// Where the segment starts that is written.
    segment: u64,
    /// Accepted and not handed over.
    pending: Vec<Op>,
    pending_bytes: usize,
    /// The log has not been able to write all that it got.
    backlog: bool,
    /// When the first block since the last `prepare` was written.
    first_at: Option<Timestamp>,
    /// What was prepared and does not count yet: its end, and when its first block was written.
    epochs: VecDeque<(u64, Option<Timestamp>)>,
    next: WriteId,
    rejected: Vec<(WriteId, u32, Error)>,
}

/// How a writer stood before a batch.
struct Before {
    end: Mark,
    segment: u64,
    pending_bytes: usize,
    first_at: Option<Timestamp>,
    ops: usize,
    /// Bytes in the last of them.
    tail: usize,
    rejected: usize,
}

#[async_trait]
impl Sink for Writer {
    async fn open(&mut self, resume: &[(Epoch, Token)]) -> Result<()> {
        let saved: Option<Saved> = resume.last().map(|(_, token)| token.read()).transpose()?;
        self.pending.clear();
        self.rejected.clear();
        self.epochs.clear();
        (self.pending_bytes, self.backlog, self.first_at) = (0, false, None);
        let work = move |inner: &Inner, disk: &mut Disk| {
            let mark = match saved {
                Some(saved) => {
                    inner.same(&saved.buffer, disk.id())?;
                    Some(Mark { offset: saved.offset, records: saved.records })
                }
                None => None,
            };
            let opened = inner.opened.fetch_add(1, Ordering::AcqRel) + 1;
            disk.cut(mark)?;
            inner.view.send_modify(|view| {
                (view.end, view.published, view.finished) = (disk.end(), disk.published, false);
                // One that was dropped in the middle of its wait has not said so.
                view.waiting_since = None;
                view.oldest_at = view.oldest_at.or_else(|| disk.written_at(view.delivered.offset));
            });
            Ok((opened, disk.id(), disk.published, disk.newest().offset))
        };
        (self.opened, self.id, self.end, self.segment) = self.inner.run(work).await?;
        Ok(())
    }

    async fn write(&mut self, batch: Batch) -> Result<WriteId> {
        // Before anything of the batch is taken, so that an error leaves nothing of it behind.
        if self.backlog || self.pending_bytes >= HAND_OVER_BYTES {
            self.hand_over(|_, disk| disk.drain()).await?;
        }
        let batch = batch.into_bytes();
        let before = self.before();
        if let Err(error) = self.take(&batch).await {
            self.take_back(before);
            return Err(error);
        }
        self.next += 1;
        Ok(self.next - 1)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        if self.backlog || !self.pending.is_empty() {
            self.hand_over(|_, disk| disk.drain()).await?;
        }
        Ok(Outcomes { rejected: std::mem::take(&mut self.rejected), ..Outcomes::default() })
    }

    async fn prepare(&mut self, _: Epoch, last: Last) -> Result<Option<Token>> {
        self.hand_over(|_, disk| {
            disk.drain()?;
            disk.sync()
        })
        .await?;
        self.epochs.push_back((self.end.offset, self.first_at.take()));
        let saved = Saved {
            buffer: self.id.to_string(),
            offset: self.end.offset,
            records: self.end.records,
            finished: last == Last::Finished,
        };
        Token::new(&saved).map(Some)
    }

    async fn commit(&mut self, token: &Token) -> Result<()> {
        let saved: Saved = token.read()?;
        let mark = Mark { offset: saved.offset, records: saved.records };
        let mut first_at = None;
        while let Some((_, at)) = self.epochs.pop_front_if(|(end, _)| *end <= mark.offset) {
            first_at = first_at.or(at);
        }
        self.inner
            .run(move |inner, disk| {
                inner.same(&saved.buffer, disk.id())?;
                disk.publish(mark)?;
                inner.view.send_modify(|view| {
                    if view.is_delivered() {
                        view.oldest_at = first_at;
                    }
                    view.published = disk.published;
                    view.finished |= saved.finished;
                });
                Ok(())
            })
            .await
    }
}

impl Writer {
    /// Hands what is pending to the log, which then does `work`. What it cannot write it keeps.
    async fn hand_over(&mut self, work: impl FnOnce(&Inner, &mut Disk) -> Result<()> + Send + 'static) -> Result<()> {
        let pending = std::mem::take(&mut self.pending);
        (self.pending_bytes, self.backlog) = (0, true);
        let opened = self.opened;
        self.inner
            .run(move |inner, disk| {
                if inner.opened.load(Ordering::Acquire) != opened {
                    return Err(Error::new(ErrorKind::Closed, "the buffer has been opened again meanwhile"));
                }
                disk.queue.extend(pending);
                work(inner, disk)
            })
            .await?;
        self.backlog = false;
        Ok(())
    }

    async fn take(&mut self, batch: &Batch) -> Result<()> {
        let now = Timestamp::now();
        let most = self.inner.spec.block_bytes();
        for rows in block::cut(batch, most).into_iter().filter(|rows| !rows.is_empty()) {
            let (offset, mut bytes) = (self.end.offset, Vec::new());
            block::encode(batch, &rows, self.id, offset, now, &mut bytes);
            if self.make_room(bytes.len() as u64).await? {
                self.accept(bytes, rows.len() as u64, now);
            } else {
                let full = self.full();
                self.rejected.extend(rows.map(|row| (self.next, row as u32, full.clone())));
            }
        }
        Ok(())
    }

    fn before(&self) -> Before {
        let tail = match self.pending.last() {
            Some(Op::Blocks(blocks)) => blocks.len(),
            _ => 0,
        };
        let Writer { end, segment, pending_bytes, first_at, .. } = *self;
        Before { end, segment, pending_bytes, first_at, ops: self.pending.len(), tail, rejected: self.rejected.len() }
    }

    fn take_back(&mut self, before: Before) {
        self.pending.truncate(before.ops);
        if let Some(Op::Blocks(blocks)) = self.pending.last_mut() {
            blocks.truncate(before.tail);
        }
        self.rejected.truncate(before.rejected);
        (self.end, self.segment) = (before.end, before.segment);
        (self.pending_bytes, self.first_at) = (before.pending_bytes, before.first_at);
    }

    fn accept(&mut self, bytes: Vec<u8>, records: u64, now: Timestamp) {
        if self.end.offset - self.segment >= self.inner.spec.segment_bytes() {
            self.segment = self.end.offset;
            self.pending.push(Op::Segment(self.end));
        }
        self.end.offset += bytes.len() as u64;
        self.end.records += records;
        self.pending_bytes += bytes.len();
        self.first_at = self.first_at.or(Some(now));
        match self.pending.last_mut() {
            Some(Op::Blocks(blocks)) if blocks.len() + bytes.len() <= HAND_OVER_BYTES => {
                blocks.extend_from_slice(&bytes)
            }
            _ => self.pending.push(Op::Blocks(bytes)),
        }
        let end = self.end.offset;
        self.inner.view.send_if_modified(|view| {
            view.end = end;
            // Nobody waits for what does not count yet.
            false
        });
    }

    /// Whether there is room for a block, after doing what the spec says about it.
    async fn make_room(&mut self, bytes: u64) -> Result<bool> {
        let (end, most) = (self.end.offset, self.inner.spec.disk.0);
        let fits = |floor: u64| end + bytes - floor <= most;
        if fits(self.inner.view.borrow().floor.offset) {
            return Ok(true);
        }
        match self.inner.spec.when_full {
            WhenFull::DeadLetter | WhenFull::DropNewest => Ok(false),
            WhenFull::DropOldest => {
                let dropped = move |inner: &Inner, disk: &mut Disk| {
                    disk.drop_oldest(end, bytes, most)?;
                    inner.view.send_modify(|view| view.floor = disk.floor());
                    Ok(())
                };
                // What is left when nothing can be dropped is what does not count yet, of the epochs under way.
                self.inner.run(dropped).await.map(|()| true)
            }
            WhenFull::Block => {
                let mut view = self.inner.view.subscribe();
                self.inner.view.send_modify(|view| view.waiting_since = Some(Timestamp::now()));
                // When all that counts is delivered, nothing can make room but that this epoch goes on: what it writes
                // beyond the bound is bounded by the bytes of the epochs under way.
                let waited = view.wait_for(|view| fits(view.floor.offset) || view.is_delivered()).await.map(drop);
                self.inner.view.send_modify(|view| view.waiting_since = None);
                waited.map(|()| true).map_err(|_| Error::new(ErrorKind::Bug, "a buffer has gone"))
            }
        }
    }

    fn full(&self) -> Error {
        let Inner { name, spec, .. } = &*self.inner;
        Error::new(ErrorKind::Full, format!("the buffer of `{name}` is full: it holds {}", Size(spec.disk.0)))
            .hint(format!("see why `{name}` takes records more slowly than they come, or give its buffer more `disk`"))
    }
}
