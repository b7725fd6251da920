//! The reading end: a log whose position the task's checkpoint keeps.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use millstream_core::{
    Error, ErrorKind, Event, Form, Lag, Position, Read, Result, Resume, ShardKey, Source, SourceCapabilities,
    SourcePlan, Stamp,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    buffer::{Buffer, Inner, View},
    decode::{Decoded, decode},
    disk::{Disk, mismatch},
    format::{Id, Mark},
    options::WhenFull,
    reading::{OpenSegment, READ_BYTES},
    walk::gap_over,
};

/// The reading end of a buffer, as planned: a log that is followed.
///
/// * **Position**: a place between two blocks, in our checkpoint. A position that is no longer there is `StateMismatch`,
///   except where `drop_oldest` has made room.
/// * **End**: when nothing will come any more ([`Buffer::finish`], or the pipeline has finished) and all is handed out.
/// * **Damage** is `Corrupt`, with file and place; it is told when everything before it has been delivered.
/// * **Waiting** costs nothing: the writing end wakes it when more records count.
#[derive(Clone, Debug)]
pub struct BufferSource(Buffer);

impl BufferSource {
    /// The reading end of `buffer`.
    pub fn new(buffer: &Buffer) -> Self {
        BufferSource(buffer.clone())
    }
}

impl SourcePlan for BufferSource {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities { bounded: self.0.0.bounded, seek: false, seek_time: false, ..SourceCapabilities::LOG }
    }

    fn form(&self) -> Form {
        self.0.0.form
    }

    fn describe(&self) -> String {
        format!("the buffer {}", self.0.folder().display())
    }

    fn create(&self) -> Result<Box<dyn Source>> {
        let inner = self.0.0.clone();
        Ok(Box::new(Reader {
            view: inner.view.subscribe(),
            shard: ShardKey::new(inner.name.as_str(), 0),
            inner,
            id: Id([0; 16]),
            at: Mark::default(),
            committed: Mark::default(),
            ahead: Bytes::new(),
            file: None,
            dropped: 0,
            gap: None,
        }))
    }
}

/// What the checkpoint keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Saved {
    buffer: String,
    offset: u64,
    records: u64,
}

struct Reader {
    inner: Arc<Inner>,
    view: watch::Receiver<View>,
    shard: ShardKey,
    id: Id,
    /// Behind the last block that was handed out.
    at: Mark,
    committed: Mark,
    /// Bytes of the log from `at` on that have been read.
    ahead: Bytes,
    file: Option<OpenSegment>,
    /// Records that were dropped before they were read, or lost to damage that a repair has cut out.
    dropped: u64,
    /// Where the gap begins behind which nothing has been handed out yet.
    gap: Option<u64>,
}

#[async_trait]
impl Source for Reader {
    async fn open(&mut self, resume: &Resume) -> Result<()> {
        let saved: Option<Saved> = match &resume.position {
            Some(position) => position.shard(&self.shard)?,
            None => None,
        };
        let work = move |inner: &Inner, disk: &mut Disk| {
            let (floor, known) = (disk.floor(), saved.is_some());
            let at = match saved {
                Some(saved) => {
                    inner.same(&saved.buffer, disk.id())?;
                    let at = Mark { offset: saved.offset, records: saved.records };
                    if at > disk.published {
                        let what = format!("{} bytes count, and {} were delivered", disk.published.offset, at.offset);
                        return Err(mismatch(&inner.folder, &what));
                    }
                    if at < floor && inner.spec.when_full != WhenFull::DropOldest {
                        let what =
                            format!("it begins at {}, and only {} bytes were delivered", floor.offset, at.offset);
                        return Err(mismatch(&inner.folder, &what));
                    }
                    at
                }
                // Nothing is known of what is under way: what an earlier task has delivered is not delivered again.
                None => disk.delivered.max(floor),
            };
            // What made room before anybody read.
            let unread = if known { 0 } else { at.records.saturating_sub(disk.delivered.records) };
            disk.deliver(at, disk.dropped + unread)?;
            inner.view.send_modify(|view| {
                (view.handed, view.delivered, view.floor) = (at, disk.delivered, disk.floor());
                view.dropped = disk.dropped;
            });
            Ok((disk.id(), at, disk.dropped))
        };
        (self.id, self.at, self.dropped) = self.inner.run(work).await?;
        (self.committed, self.ahead, self.file, self.gap) = (self.at, Bytes::new(), None, None);
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        loop {
            let view = *self.view.borrow_and_update();
            if self.at < view.floor {
                self.skip_to(view.floor);
            }
            let left = view.published.offset.saturating_sub(self.at.offset);
            if left == 0 {
                if view.finished {
                    return Ok(Event::End);
                }
                // The sender lives in `inner`.
                let _ = self.view.changed().await;
                continue;
            }
            if self.left_in_segment() == 0 {
                // The next segment, or more of this one than was known.
                (self.file, self.ahead) = (None, Bytes::new());
            }
            let more = match decode(&self.ahead, self.id, self.at.offset, left.min(self.left_in_segment())) {
                Decoded::Block(batch, header) => {
                    self.ahead = self.ahead.slice(header.total() as usize..);
                    let records = self.at.records + u64::from(header.records);
                    self.at = Mark { offset: self.at.offset + header.total(), records };
                    let at = self.at;
                    self.gap = None;
                    self.inner.view.send_if_modified(|view| {
                        view.handed = at;
                        // Who waits for the end only.
                        at.offset >= view.published.offset
                    });
                    return Ok(Event::Batch(Read::from(batch)));
                }
                Decoded::More(bytes) => bytes,
                Decoded::Gap(header) => {
                    let (offset, records) = (self.at.offset + header.total(), u64::from(header.records));
                    self.pass_gap(Mark { offset, records: self.at.records + records });
                    continue;
                }
                Decoded::Bad(why) => match self.gap_here().await? {
                    Some(end) => {
                        self.pass_gap(end);
                        continue;
                    }
                    None => return Err(self.damaged(why).await),
                },
            };
            self.fill(more, left).await?;
        }
    }

    fn position(&self) -> Result<Position> {
        let Mark { offset, records } = self.at;
        let mut position = Position::default();
        position.set(self.shard.clone(), &Saved { buffer: self.id.to_string(), offset, records })?;
        Ok(position)
    }

    async fn commit(&mut self, upto: &Position, _: Option<&Stamp>) -> Result<()> {
        let Some(saved) = upto.shard::<Saved>(&self.shard)? else { return Ok(()) };
        let (mark, dropped) = (Mark { offset: saved.offset, records: saved.records }, self.dropped);
        let passed = self.passed(mark);
        self.inner
            .run(move |inner, disk| {
                inner.same(&saved.buffer, disk.id())?;
                let oldest_at = disk.deliver(mark, dropped)?;
                inner.view.send_modify(|view| {
                    (view.delivered, view.floor, view.oldest_at) =
                        (disk.delivered.max(passed), disk.floor(), oldest_at);
                });
                Ok(())
            })
            .await?;
        self.committed = self.committed.max(mark);
        Ok(())
    }

    fn lag(&self) -> Option<Lag> {
        let published = self.view.borrow().published;
        let records = published.records.saturating_sub(self.at.records);
        let bytes = published.offset.saturating_sub(self.at.offset);
        Some(Lag { records: Some(records), bytes: Some(bytes) })
    }
}

impl Reader {
    /// The oldest segments were dropped to make room: what of them was not read is counted.
    fn skip_to(&mut self, floor: Mark) {
        let records = floor.records - self.at.records;
        tracing::warn!(sink = %self.inner.name, records, "the buffer was full: its oldest records are dropped");
        self.dropped += records;
        (self.at, self.ahead, self.file) = (floor, Bytes::new(), None);
        let dropped = self.dropped;
        self.inner.view.send_modify(|view| (view.handed, view.dropped) = (floor, dropped));
    }

    /// Skips what a repair has cut out; its records are lost.
    fn pass_gap(&mut self, end: Mark) {
        let records = end.records.saturating_sub(self.at.records);
        tracing::warn!(sink = %self.inner.name, records, bytes = end.offset - self.at.offset, "records of the buffer were lost to damage");
        self.dropped += records;
        self.gap.get_or_insert(self.at.offset);
        (self.at, self.ahead, self.file) = (end, Bytes::new(), None);
        let (dropped, passed) = (self.dropped, self.passed(self.committed));
        self.inner.view.send_modify(|view| {
            (view.handed, view.dropped) = (end, dropped);
            view.delivered = view.delivered.max(passed);
        });
    }

    /// How far all is delivered when what is before `mark` is: a gap right behind it holds up nobody, though only the next
    /// epoch brings the checkpoint over it.
    fn passed(&self, mark: Mark) -> Mark {
        if self.gap.is_some_and(|gap| gap <= mark.offset) { self.at } else { mark }
    }

    /// The end of the gap in which the position lies, if it does: a repair knows no positions but that of the control file.
    async fn gap_here(&self) -> Result<Option<Mark>> {
        let Some(file) = self.file.clone() else { return Ok(None) };
        let (id, at) = (self.id, self.at.offset);
        let found = tokio::task::spawn_blocking(move || gap_over(&file, id, at)).await;
        found.map_err(|_| Error::new(ErrorKind::Bug, "cannot read the buffer: its thread was stopped"))?
    }

    /// How many bytes lie between the position and the end of its segment, as far as that is known.
    fn left_in_segment(&self) -> u64 {
        self.file.as_ref().map_or(u64::MAX, |file| file.segment.end().saturating_sub(self.at.offset))
    }

    /// Reads ahead: at least `needed` bytes, if the segment has them. When it is dropped, nothing has happened.
    async fn fill(&mut self, needed: u64, left: u64) -> Result<()> {
        let (offset, known) = (self.at.offset, self.file.clone());
        // Within memory: a block is no longer than what a buffer takes as one record.
        let most = usize::try_from(left.min(needed.max(READ_BYTES as u64))).unwrap_or(READ_BYTES);
        let work = move |inner: &Inner| {
            let file = match known {
                Some(file) => file,
                None => match inner.with_disk(|disk| Ok(disk.find(offset)))? {
                    Some(segment) => OpenSegment::open(segment)?,
                    // Dropped this very moment.
                    None => return Ok(None),
                },
            };
            let most = most.min(usize::try_from(file.segment.end() - offset).unwrap_or(most));
            Ok(Some((file.read(offset, most)?, file)))
        };
        let inner = self.inner.clone();
        let read = tokio::task::spawn_blocking(move || work(&inner)).await;
        let read = read.map_err(|_| Error::new(ErrorKind::Bug, "cannot read the buffer: its thread was stopped"))??;
        let Some((bytes, file)) = read else {
            return match self.at < self.view.borrow().floor {
                true => Ok(()),
                false => Err(mismatch(&self.inner.folder, &format!("it has nothing at {offset}"))),
            };
        };
        if (bytes.len() as u64) < needed && bytes.len() <= self.ahead.len() {
            self.file = Some(file);
            return Err(self.damaged("a block is cut short").await);
        }
        (self.ahead, self.file) = (bytes, Some(file));
        Ok(())
    }

    /// The error for damage at the position; waits until all that is before it has been delivered.
    async fn damaged(&self, why: &str) -> Error {
        if self.committed < self.at {
            // The next call comes after the next commit.
            std::future::pending::<()>().await;
        }
        let place = self.file.as_ref().map(|file| {
            let segment = &file.segment;
            format!("{} at byte {}", segment.path.display(), segment.place(self.at.offset))
        });
        let place = place.unwrap_or_else(|| self.inner.folder.display().to_string());
        Error::new(ErrorKind::Corrupt, format!("cannot read {place}: {why}"))
            .hint("restore the file from a backup, or give up what cannot be read: `millstream buffer verify` shows it, and `millstream buffer repair` cuts it out")
    }
}
