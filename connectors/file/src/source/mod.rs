//! The source `file`: reads files once, or follows them as they grow and rotate.
//!
//! ```text
//!   disk ──► Tailer (blocking pool, one turn ahead) ──► items in order ──► next()
//!                ▲                                          └► position moves as items are handed over
//!              Watch (inotify or polling)
//! ```

mod assembler;
mod log;
mod mark;
mod multiline;
mod plan;
mod reader;
mod rotated;
mod start;
mod tail;
mod tailer;

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;
use millstream_core::{Error, ErrorKind, Event, Lag, Position, Result, Resume, SeekTo, ShardKey, Source};
use tokio::task::JoinHandle;

pub(crate) use plan::plan;

use self::{
    assembler::Item,
    tail::Reading,
    tailer::{Begin, Tailer, Then, Turn},
};
use crate::{
    error::{blocking, stopped},
    glob::Pattern,
    watch::Watch,
};

/// Reads files.
pub(crate) struct FileSource {
    pattern: Pattern,
    reading: Arc<Reading>,
    resume: Resume,
    work: Work,
    /// Read, and not yet handed over.
    ready: VecDeque<Item>,
    /// What the newest turn ended with, to be acted on when `ready` is empty.
    then: Option<Result<Then>>,
    position: Position,
    shards: Vec<ShardKey>,
    watch: Watch,
    left: u64,
    size: u64,
}

/// Where the blocking half is.
enum Work {
    /// Nowhere: not open, or it panicked.
    None,
    /// Here.
    Idle(Box<Tailer>),
    /// Reading.
    Busy(JoinHandle<(Box<Tailer>, Turn)>),
}

impl FileSource {
    fn new(pattern: Pattern, reading: Reading) -> Self {
        FileSource {
            pattern,
            reading: Arc::new(reading),
            resume: Resume::default(),
            work: Work::None,
            ready: VecDeque::new(),
            then: None,
            position: Position::default(),
            shards: Vec::new(),
            watch: Watch::new(None),
            left: 0,
            size: 0,
        }
    }

    /// Begins at a position, with some shards elsewhere. Nothing changes if it cannot.
    async fn begin(&mut self, position: Option<Position>, start: SeekTo, moved: Vec<ShardKey>) -> Result<()> {
        let reading = if self.resume.until_end {
            // What comes later is not read, so there is nothing to follow.
            let Reading { format, complete_after, .. } = &*self.reading;
            Arc::new(Reading { format: format.clone(), follow: false, complete_after: *complete_after })
        } else {
            self.reading.clone()
        };
        let (pattern, until_end) = (self.pattern.clone(), self.resume.until_end);
        let mut watch = Watch::new(self.prefix());
        let bell = watch.bell();
        let saved = position.clone();
        let (tailer, at) = blocking(move || {
            let begin = Begin { position: position.as_ref(), start: &start, moved: &moved, until_end };
            let tailer = Tailer::open(&pattern, reading, bell, &begin)?;
            let at = tailer.position()?;
            Ok((tailer, at))
        })
        .await?;
        if self.reading.follow && !until_end {
            watch.set(&tailer.folders());
        }
        self.settle_in_flight().await;
        self.ready.clear();
        // Shards that are gone keep their place, in case they come back.
        self.position = saved.unwrap_or_default();
        self.position.0.extend(at.0);
        self.shards = tailer.shards();
        (self.left, self.size) = (tailer.left(), tailer.size());
        (self.then, self.watch, self.work) = (Some(Ok(Then::More)), watch, Work::Idle(Box::new(tailer)));
        Ok(())
    }

    /// What the names of the files that matter begin with, also when they are rotated.
    fn prefix(&self) -> Option<String> {
        let stem = self.pattern.literal()?.file_stem()?;
        Some(stem.to_str()?.to_owned())
    }

    /// Lets a turn that is under way come to its end, for its files to be closed.
    async fn settle_in_flight(&mut self) {
        if let Work::Busy(turn) = &mut self.work {
            // Its result is not wanted any more.
            let _ = turn.await;
        }
        self.work = Work::None;
    }

    fn start_turn(&mut self) {
        self.work = match std::mem::replace(&mut self.work, Work::None) {
            Work::Idle(mut tailer) => Work::Busy(tokio::task::spawn_blocking(move || {
                let turn = tailer.turn();
                (tailer, turn)
            })),
            other => other,
        };
    }

    /// Waits for the turn under way. Cancel-safe: until it is done the handle stays in `self`.
    async fn finish_turn(&mut self) -> Result<()> {
        let Work::Busy(turn) = &mut self.work else {
            return Err(Error::new(ErrorKind::Closed, "the source is not open"));
        };
        let done = turn.await;
        self.work = Work::None;
        let (tailer, turn) = done.map_err(stopped)?;
        self.work = Work::Idle(tailer);
        self.left = turn.left;
        self.size = self.size.max(turn.left);
        if !turn.folders.is_empty() {
            self.watch.set(&turn.folders);
        }
        if !turn.items.is_empty() {
            self.watch.busy();
        }
        self.ready.extend(turn.items);
        self.then = Some(turn.then);
        Ok(())
    }

    /// Takes over what an item says of where shards stand.
    fn hand_over(&mut self, item: &mut Item) -> Result<()> {
        for (shard, mark) in std::mem::take(&mut item.marks) {
            match mark {
                Some(mark) => self.position.set(shard, &mark)?,
                None => {
                    self.position.0.remove(&shard);
                    self.shards.retain(|other| *other != shard);
                }
            }
        }
        self.shards.extend(item.added.iter().cloned());
        Ok(())
    }
}

#[async_trait]
impl Source for FileSource {
    async fn open(&mut self, resume: &Resume) -> Result<()> {
        self.resume = resume.clone();
        self.begin(resume.position.clone(), resume.start.clone(), Vec::new()).await
    }

    async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(mut item) = self.ready.pop_front() {
                self.hand_over(&mut item)?;
                if self.ready.is_empty() && matches!(self.then, Some(Ok(Then::More))) {
                    // The next block is read while this one is worked on.
                    self.start_turn();
                }
                if !item.added.is_empty() {
                    if item.read.is_some() {
                        self.ready.push_front(Item { read: item.read, ..Item::default() });
                    }
                    return Ok(Event::Added(item.added));
                }
                match item.read {
                    Some(read) => return Ok(Event::Batch(read)),
                    None => continue,
                }
            }
            if let Work::Busy(_) = self.work {
                self.finish_turn().await?;
                continue;
            }
            match self.then.take() {
                Some(Ok(Then::More)) | None => self.start_turn(),
                Some(Ok(Then::Wait(most))) => {
                    // Put back first: if we are dropped while waiting, the next call waits again.
                    self.then = Some(Ok(Then::Wait(most)));
                    self.watch.changed(most).await;
                    self.then = Some(Ok(Then::More));
                }
                Some(Ok(Then::End)) => {
                    self.then = Some(Ok(Then::End));
                    return Ok(Event::End);
                }
                Some(Err(error)) => {
                    self.then = Some(Ok(Then::More));
                    return Err(error);
                }
            }
            if let Work::None = self.work {
                return Err(Error::new(ErrorKind::Closed, "the source is not open"));
            }
        }
    }

    fn position(&self) -> Result<Position> {
        Ok(self.position.clone())
    }

    async fn seek(&mut self, to: &SeekTo, shards: Option<&[ShardKey]>) -> Result<()> {
        if *to == SeekTo::Committed {
            return Err(Error::new(ErrorKind::Unsupported, "a file does not know what was committed")
                .hint("seek to `beginning`, `end` or a record number"));
        }
        let moved = shards.map_or_else(|| self.shards.clone(), <[ShardKey]>::to_vec);
        let mut kept = self.position.clone();
        kept.0.retain(|shard, _| !moved.contains(shard));
        self.begin(Some(kept), to.clone(), moved).await
    }

    fn shards(&self) -> Vec<ShardKey> {
        self.shards.clone()
    }

    fn lag(&self) -> Option<Lag> {
        let ready: u64 = self.ready.iter().map(|item| item.bytes).sum();
        Some(Lag { records: None, bytes: Some(self.left + ready) })
    }

    fn size(&self) -> Option<Lag> {
        Some(Lag { records: None, bytes: Some(self.size) })
    }

    async fn close(&mut self) -> Result<()> {
        self.settle_in_flight().await;
        self.watch = Watch::new(None);
        self.ready.clear();
        Ok(())
    }
}
