//! The source of a `.ss` file.
//!
//! ```text
//!   file ──► Scanner (blocking pool, one block ahead) ──► items in order ──► next()
//!               ▲                                             └► the mark moves as items are handed over
//!             Watch (inotify or polling), when there is nothing more
//! ```
//!
//! A position is one offset in the file for all streams, with a hash of the bytes before it, so that another file is
//! never taken for it. A seek of some shards only, and one to a sequence or time, adds gates: the records of a shard are
//! passed over until the first that its gate lets in.

mod blocks;
mod damaged;
mod mark;
mod messages;
mod plan;
mod rows;
mod scan;
mod seek;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use async_trait::async_trait;
use millstream_core::{Error, ErrorKind, Event, Lag, Position, Result, Resume, SeekTo, ShardKey, Source};
use tokio::task::JoinHandle;

pub(super) use plan::plan;

use self::{
    mark::{Gates, Mark},
    scan::{Item, Reading, Scanner, Then, Turn},
    seek::{Begun, Standing, begin},
};
use super::view::Opened;
use crate::{
    error::{blocking, stopped},
    glob::folder_of,
    watch::Watch,
};

/// Reads a `.ss` file.
pub(super) struct SsSource {
    reading: Arc<Reading>,
    opened: Option<Arc<Opened>>,
    until: Option<u64>,
    work: Work,
    /// Read, and not yet handed over.
    ready: VecDeque<Item>,
    /// What the newest turn ended with, to be acted on when `ready` is empty.
    then: Option<Result<Then>>,
    /// Behind the last record handed over.
    mark: Mark,
    shards: Vec<ShardKey>,
    watch: Watch,
    end: u64,
    damaged: u64,
}

/// Where the blocking half is.
enum Work {
    /// Nowhere: not open, or it panicked.
    None,
    /// Here.
    Idle(Box<Scanner>),
    /// Reading.
    Busy(JoinHandle<(Box<Scanner>, Turn)>),
}

impl SsSource {
    fn new(reading: Arc<Reading>) -> Self {
        SsSource {
            reading,
            opened: None,
            until: None,
            work: Work::None,
            ready: VecDeque::new(),
            then: None,
            mark: Mark::nowhere(Gates::default()),
            shards: Vec::new(),
            watch: Watch::new(None),
            end: 0,
            damaged: 0,
        }
    }

    fn closed() -> Error {
        Error::new(ErrorKind::Closed, "the source is not open")
    }

    /// Goes on with another scanner; what the one before has read ahead is forgotten.
    fn go_on(&mut self, scanner: Scanner, mark: Mark) {
        self.ready.clear();
        // A turn under way ends by itself; it only reads.
        self.work = Work::Idle(Box::new(scanner));
        self.then = Some(Ok(Then::More));
        self.mark = mark;
    }

    fn start_turn(&mut self) {
        self.work = match std::mem::replace(&mut self.work, Work::None) {
            Work::Idle(mut scanner) => Work::Busy(tokio::task::spawn_blocking(move || {
                let turn = scanner.turn();
                (scanner, turn)
            })),
            other => other,
        };
    }

    /// Waits for the turn under way. Cancel-safe: until it is done the handle stays in `self`.
    async fn finish_turn(&mut self) -> Result<()> {
        let Work::Busy(turn) = &mut self.work else { return Err(Self::closed()) };
        let done = turn.await;
        self.work = Work::None;
        let (scanner, turn) = done.map_err(stopped)?;
        self.work = Work::Idle(scanner);
        if !turn.items.is_empty() {
            self.watch.busy();
        }
        self.opened = turn.opened;
        self.end = turn.end.max(self.mark.offset);
        self.damaged += turn.damaged;
        self.ready.extend(turn.items);
        self.then = Some(turn.then);
        Ok(())
    }

    /// The next item as an event, if it is one.
    fn hand_over(&mut self, mut item: Item) -> Option<Event> {
        if !item.added.is_empty() {
            let added = std::mem::take(&mut item.added);
            self.shards.extend(added.iter().cloned());
            self.ready.push_front(item);
            return Some(Event::Added(added));
        }
        self.mark = item.mark;
        if self.ready.is_empty() && matches!(self.then, Some(Ok(Then::More))) {
            // The next block is read while this one is worked on.
            self.start_turn();
        }
        item.read.map(Event::Batch)
    }

    fn finish(&mut self) {
        if self.damaged > 0 {
            let damaged = std::mem::take(&mut self.damaged);
            tracing::warn!(path = %self.reading.path.display(), damaged, "places of the file could not be read");
        }
    }
}

#[async_trait]
impl Source for SsSource {
    async fn open(&mut self, resume: &Resume) -> Result<()> {
        let (reading, resume) = (self.reading.clone(), resume.clone());
        let mut watch = Watch::new(None);
        if reading.follow && !resume.until_end {
            let name = reading.path.file_name().and_then(|name| name.to_str());
            watch = Watch::new(name.map(str::to_owned));
            watch.set(&BTreeSet::from([folder_of(&reading.path).to_owned()]));
        }
        let begun = blocking(move || begin(reading, &resume)).await?;
        let Begun { scanner, mark, opened, shards, until, end } = begun;
        (self.opened, self.shards, self.until, self.end, self.watch) = (opened, shards, until, end, watch);
        self.damaged = 0;
        self.go_on(scanner, mark);
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                match self.hand_over(item) {
                    Some(event) => return Ok(event),
                    None => continue,
                }
            }
            match &self.work {
                Work::None => return Err(Self::closed()),
                Work::Busy(_) => {
                    self.finish_turn().await?;
                    continue;
                }
                Work::Idle(_) => {}
            }
            match self.then.take() {
                Some(Ok(Then::More)) | None => self.start_turn(),
                Some(Ok(Then::Wait)) => {
                    // Put back first: if we are dropped while waiting, the next call waits again.
                    self.then = Some(Ok(Then::Wait));
                    self.watch.changed(None).await;
                    self.then = Some(Ok(Then::More));
                }
                Some(Ok(Then::End)) => {
                    self.then = Some(Ok(Then::End));
                    self.finish();
                    return Ok(Event::End);
                }
                Some(Err(error)) => {
                    self.then = Some(Ok(Then::More));
                    return Err(error);
                }
            }
        }
    }

    fn position(&self) -> Result<Position> {
        self.mark.save(&self.reading.name)
    }

    async fn seek(&mut self, to: &SeekTo, shards: Option<&[ShardKey]>) -> Result<()> {
        if let Work::None = self.work {
            return Err(Self::closed());
        }
        if *to == SeekTo::Committed {
            return Err(Error::new(ErrorKind::Unsupported, "a file does not know what was committed")
                .hint("seek to `beginning`, `end`, a sequence number or a time"));
        }
        let standing = Standing {
            reading: self.reading.clone(),
            opened: self.opened.clone(),
            mark: self.mark.clone(),
            known: self.shards.clone(),
            until: self.until,
        };
        let (to, shards) = (to.clone(), shards.map(<[ShardKey]>::to_vec));
        let (scanner, mark) = blocking(move || standing.seek(&to, shards.as_deref())).await?;
        // Nothing is waited for from here on, so a seek is made or not.
        self.go_on(scanner, mark);
        Ok(())
    }

    fn shards(&self) -> Vec<ShardKey> {
        self.shards.clone()
    }

    fn lag(&self) -> Option<Lag> {
        Some(Lag { records: None, bytes: Some(self.end.saturating_sub(self.mark.offset)) })
    }

    fn size(&self) -> Option<Lag> {
        Some(Lag { records: None, bytes: Some(self.end) })
    }

    async fn close(&mut self) -> Result<()> {
        self.finish();
        self.work = Work::None;
        (self.opened, self.watch) = (None, Watch::new(None));
        self.ready.clear();
        Ok(())
    }
}
