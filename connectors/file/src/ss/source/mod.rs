//! The source of `.ss` files: one, or the files of a sink that rotates one behind the other.
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

mod begin;
mod blocks;
mod damaged;
mod mark;
mod messages;
mod onward;
mod plan;
mod reading;
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
    begin::{Begun, begin},
    mark::{Gates, Mark},
    reading::{Item, Reading, Then, Turn, Until},
    scan::Scanner,
    seek::Standing,
};
use super::{series::Series, view::Opened};
use crate::{
    error::{blocking, stopped},
    glob::folder_of,
    watch::Watch,
};

/// Reads `.ss` files.
pub(super) struct SsSource {
    reading: Arc<Reading>,
    opened: Option<Arc<Opened>>,
    /// The files that are read one behind the other, as they were at the beginning.
    series: Option<Series>,
    until: Option<Until>,
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
    /// Bytes of later files.
    later: u64,
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
            series: None,
            until: None,
            work: Work::None,
            ready: VecDeque::new(),
            then: None,
            mark: Mark::nowhere(Gates::default()),
            shards: Vec::new(),
            watch: Watch::new(None),
            end: 0,
            later: 0,
            damaged: 0,
        }
    }

    fn closed() -> Error {
        Error::new(ErrorKind::Closed, "the source is not open")
    }

    /// Goes on with another scanner; what the one before has read ahead is forgotten.
    fn go_on(&mut self, scanner: Scanner, mark: Mark) {
        self.ready.clear();
        (self.opened, self.later) = (scanner.opened.clone(), scanner.later());
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
        let follows = scanner.follow;
        self.work = Work::Idle(scanner);
        if !turn.items.is_empty() {
            self.watch.busy();
        }
        if follows && !turn.folders.is_empty() {
            self.watch.set(&turn.folders);
        }
        (self.opened, self.later) = (turn.opened, turn.later);
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
            tracing::warn!(path = %self.reading.name, damaged, "places of the file could not be read");
        }
    }
}

#[async_trait]
impl Source for SsSource {
    async fn open(&mut self, resume: &Resume) -> Result<()> {
        let (reading, resume) = (self.reading.clone(), resume.clone());
        let follow = reading.follow && !resume.until_end;
        let mut watch = Watch::new(follow.then(|| reading.pattern.prefix()));
        if follow && !reading.pattern.wild() {
            watch.set(&BTreeSet::from([folder_of(reading.path()).to_owned()]));
        }
        let bell = watch.bell();
        let Begun { mut scanner, mark, shards, until, end } = blocking(move || begin(reading, &resume, bell)).await?;
        if let Some(series) = &mut scanner.series {
            if follow {
                watch.set(series.folders());
            }
            // What has happened before it was watched is not told.
            series.look_again();
        }
        (self.series, self.shards, self.until, self.end, self.watch) =
            (scanner.series.clone(), shards, until, end, watch);
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
            series: self.series.clone(),
            opened: self.opened.clone(),
            mark: self.mark.clone(),
            known: self.shards.clone(),
            until: self.until.clone(),
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
        Some(Lag { records: None, bytes: Some(self.later + self.end.saturating_sub(self.mark.offset)) })
    }

    fn size(&self) -> Option<Lag> {
        Some(Lag { records: None, bytes: Some(self.later + self.end) })
    }

    async fn close(&mut self) -> Result<()> {
        self.finish();
        self.work = Work::None;
        (self.opened, self.watch) = (None, Watch::new(None));
        self.ready.clear();
        Ok(())
    }
}
