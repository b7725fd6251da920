//! Reading a stream.
//!
//! ```text
//!   Source ─► task (on the streamer's thread) ─► shelf: parts per consumer ─► Consumer::next
//!                ▲   seek, assign, commit            │ log: whose, done?
//!                └───────────────────────────────────┘
//! ```

mod feed;
mod log;
mod members;
mod part;
mod shards;
mod shelf;
mod stream;
mod task;

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use millstream_core::{Batch, Error, ErrorKind, Record, Result, SeekTo, ShardKey, Timestamp};

pub(crate) use feed::{Feed, FeedPlan};
pub use stream::RecordStream;
pub(crate) use task::Keeping;

use self::{
    part::{Given, Part},
    shelf::Taken,
    task::Command,
};
use crate::{Ack, Retrying};

/// Reads records of one or several streams.
///
/// All futures are cancel-safe: dropped before their end they have handed out nothing, so nothing is lost or repeated.
/// They need no runtime around them; the source runs on the streamer's thread, which lives as long as the consumer does.
///
/// **Errors.** A record that cannot be decoded is an error of its own, and the next call goes on behind it. An error that
/// can pass is waited out ([`Retry`](crate::Retry)), which [`Consumer::state`] shows. Any other ends the consumer: every
/// further call gives it again.
///
/// **What a crash repeats.** In [`RealTime`](crate::Mode::RealTime) nothing is kept. In the other modes every record that
/// is not committed comes again: at least once. Where sequences say which record is which (files, logs), a commit is exact
/// to the record, in any order of acknowledgement; elsewhere it is exact to the batch that the source has read.
///
/// **Dropping it** commits what is done, in the background; the record that was handed out last is not, unless it was
/// acknowledged by hand. [`Consumer::close`] counts it as done, waits, and says whether that worked.
#[derive(Debug)]
pub struct Consumer {
    lanes: Vec<Lane>,
    /// The lane that is asked first.
    turn: usize,
    current: Option<(usize, Part)>,
    /// Handed out and not yet counted as done: lane, entry and rows.
    last: Option<(usize, u64, Vec<u32>)>,
    ack: Ack,
    shared: bool,
}

/// One source that the consumer reads, alone or with others.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) feed: std::sync::Arc<Feed>,
    pub(crate) member: u32,
    /// How often shards had gone when it was looked at last.
    pub(crate) turn: u64,
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.feed.shelf.remove(self.member);
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.put_back();
    }
}

/// How a consumer stands.
#[derive(Clone, Debug)]
pub enum ConsumerState {
    /// The source is being opened for the first time.
    Opening,
    /// All is well.
    Reading,
    /// Too much is handed out and not acknowledged; reading goes on when some of it is.
    AwaitingAcks,
    /// An error is being waited out.
    Retrying(Retrying),
    /// There are no more records.
    Ended,
    /// An error has ended it.
    Failed(Error),
}

impl Consumer {
    pub(crate) fn new(lanes: Vec<Lane>, ack: Ack, shared: bool) -> Self {
        Consumer { lanes, turn: 0, current: None, last: None, ack, shared }
    }

    /// The next record; `None` at the end of the stream. Waits for as long as it takes. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Record>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The records that are there, at least one, as they lie in memory; `None` at the end of the stream. Cancel-safe.
    pub async fn next_batch(&mut self) -> Result<Option<Batch>> {
        poll_fn(|cx| self.poll_given(cx, Part::records)).await
    }

    /// [`Consumer::next`] for those who poll.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Record>>> {
        self.poll_given(cx, Part::record)
    }

    fn poll_given<T>(
        &mut self,
        cx: &mut Context<'_>,
        give: impl Fn(&mut Part) -> Option<Given<T>>,
    ) -> Poll<Result<Option<T>>> {
        self.settle_last();
        self.note_turns();
        loop {
            if let Some((lane, part)) = &mut self.current {
                if let Some(Given { what, rows }) = give(part) {
                    if part.entry != 0 {
                        let last = (*lane, part.entry, rows);
                        match what {
                            // Nobody can acknowledge a record that could not be read.
                            Err(_) => self.lanes[last.0].feed.shelf.done(last.1, &last.2),
                            Ok(_) if self.ack == Ack::Auto => self.last = Some(last),
                            Ok(_) => {}
                        }
                    }
                    return Poll::Ready(what.map(Some));
                }
                self.current = None;
            }
            match self.poll_part(cx) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Poll::Ready(Ok(None)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Fetches the next part, of each lane in turn; `false` when all have ended.
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool>> {
        let lanes = self.lanes.len();
        let mut ended = 0;
        for lane in (0..lanes).map(|i| (self.turn + i) % lanes) {
            let Lane { feed, member, .. } = &self.lanes[lane];
            match feed.shelf.take(*member, cx.waker()) {
                Taken::Part(part) => {
                    self.turn = lane + 1;
                    self.current = Some((lane, *part));
                    return Poll::Ready(Ok(true));
                }
                Taken::Failed(error) => return Poll::Ready(Err(error)),
                Taken::Ended => ended += 1,
                Taken::Pending => {}
            }
        }
        if ended == lanes { Poll::Ready(Ok(false)) } else { Poll::Pending }
    }

    /// Drops what was taken of shards that have gone since.
    fn note_turns(&mut self) {
        for (i, lane) in self.lanes.iter_mut().enumerate() {
            if lane.feed.shelf.turns() != lane.turn {
                let part = self.current.as_mut().filter(|(of, _)| *of == i).map(|(_, part)| part);
                lane.turn = lane.feed.shelf.note_turn(lane.member, part);
            }
        }
    }

    /// What was handed out last is done.
    fn settle_last(&mut self) {
        if let Some((lane, entry, rows)) = self.last.take() {
            self.lanes[lane].feed.shelf.done(entry, &rows);
        }
    }

    /// The records as a stream that owns the consumer. It ends behind an error that ends the consumer.
    pub fn into_stream(self) -> RecordStream {
        RecordStream::new(self)
    }

    /// Waits until the source is open and stands where it begins: what is written from then on is read.
    ///
    /// # Errors
    /// The error that has ended the consumer. An error that can pass is waited out.
    pub async fn opened(&self) -> Result<()> {
        for lane in &self.lanes {
            lane.feed.opened(lane.member).await?;
        }
        Ok(())
    }

    /// Goes to the first record whose time is `time` or later, in all shards that are read.
    ///
    /// When it returns, no record that was read before is handed out any more. Dropped before its end, it is done or not
    /// done, whole.
    ///
    /// # Errors
    /// Then the consumer stands where it stood. [`ErrorKind::Unsupported`]: the source cannot, or it belongs to a group.
    pub async fn seek(&mut self, time: Timestamp) -> Result<()> {
        self.rewind(SeekTo::Time(time)).await
    }

    /// Goes to the beginning, the end, or the first record whose sequence is [`SeekTo::At`] or later; else as [`Consumer::seek`].
    pub async fn rewind(&mut self, to: SeekTo) -> Result<()> {
        let lane = self.own("seek")?;
        self.put_back();
        self.lanes[lane].feed.ask(|reply| Command::Seek(to, reply)).await?;
        // Where it has gone, nothing was handed out.
        self.last = None;
        Ok(())
    }

    /// Reads these shards too; if nothing was assigned or unassigned before, only these.
    ///
    /// A shard that was put aside goes on where it was, if the source can seek; else with what comes next. Cancel-safe as
    /// [`Consumer::seek`].
    ///
    /// # Errors
    /// Then the shards before the one that failed are assigned. [`ErrorKind::Unsupported`]: it belongs to a group.
    pub async fn assign(&mut self, shards: &[ShardKey]) -> Result<()> {
        let lane = self.own("choose its shards")?;
        self.put_back();
        self.lanes[lane].feed.ask(|reply| Command::Assign(shards.to_vec(), reply)).await
    }

    /// Reads these shards no more. When it returns, no record of them is handed out; a commit keeps their place.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`]: it belongs to a group.
    pub async fn unassign(&mut self, shards: &[ShardKey]) -> Result<()> {
        let lane = self.own("choose its shards")?;
        self.put_back();
        self.lanes[lane].feed.ask(|reply| Command::Unassign(shards.to_vec(), reply)).await
    }

    /// The shards that the source reads, as far as it tells, whether assigned or not.
    pub fn shards(&self) -> Vec<ShardKey> {
        self.lanes.iter().flat_map(|lane| lane.feed.shelf.lock().shards.clone()).collect()
    }

    /// The only lane, if nobody else reads it.
    fn own(&self, what: &str) -> Result<usize> {
        match self.lanes.as_slice() {
            [_] if !self.shared => Ok(0),
            _ => Err(Error::new(ErrorKind::Unsupported, format!("a member of a group cannot {what} for the others"))
                .hint("use a resumable or real-time consumer")),
        }
    }

    /// Nothing that was taken and not handed out stays here.
    fn put_back(&mut self) {
        if let Some((lane, part)) = self.current.take() {
            let Lane { feed, member, .. } = &self.lanes[lane];
            feed.shelf.put_back(*member, part);
        }
    }

    /// The record is done. In any order; with [`Ack::Auto`](crate::Ack::Auto) and in real time it changes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]: the record was not handed out by this consumer, has been acknowledged before, or was read
    /// before a seek.
    pub fn ack(&self, record: &Record) -> Result<()> {
        if self.ack == Ack::Auto {
            return Ok(());
        }
        let mut tracked = false;
        for Lane { feed, member, .. } in &self.lanes {
            let mut inner = feed.shelf.lock();
            let Some(log) = &mut inner.log else { continue };
            tracked = true;
            let was_dirty = log.dirty();
            if log.ack(*member, record) {
                feed.shelf.after_ack(&mut inner, was_dirty);
                return Ok(());
            }
        }
        if !tracked {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, format!("{} does not wait to be acknowledged here", record.id())))
    }

    /// Makes durable that all that is done is done; when it returns, a consumer that is killed goes on behind it.
    ///
    /// With [`Ack::Auto`](crate::Ack::Auto), what has been handed out so far counts as done. Waits until the source is open. Cancel-safe:
    /// dropped before its end it may be done or not.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`]: nothing is kept, in real time or for want of a place.
    pub async fn commit(&mut self) -> Result<()> {
        self.settle_last();
        for lane in &self.lanes {
            let error = match &lane.feed.keeping {
                Keeping::Nothing => Error::new(ErrorKind::Unsupported, "a real-time consumer keeps no position")
                    .hint("use `ConsumerOptions::resumable(name)`"),
                Keeping::Members => {
                    Error::new(ErrorKind::Unsupported, "the group has no place to keep its position in")
                        .hint("give `positions`, such as `PositionFiles::within(folder)`")
                }
                _ => continue,
            };
            return Err(error);
        }
        for lane in &self.lanes {
            lane.feed.ask(Command::Commit).await?;
        }
        Ok(())
    }

    /// Ends the consumer: what was handed out counts as done (with [`Ack::Auto`](crate::Ack::Auto)) and is committed, the source is closed.
    ///
    /// # Errors
    /// What could not be committed comes again.
    pub async fn close(mut self) -> Result<()> {
        self.settle_last();
        self.put_back();
        let mut result = Ok(());
        for lane in std::mem::take(&mut self.lanes) {
            let closed = lane.feed.closed.clone();
            let keeps = matches!(lane.feed.keeping, Keeping::Source | Keeping::Saved(..));
            let committed = match lane.feed.is_open() && keeps {
                true => lane.feed.ask(Command::Commit).await,
                false => Ok(()),
            };
            let feed = lane.feed.clone();
            drop(lane);
            let last = std::sync::Arc::into_inner(feed).is_some();
            result = result.and(committed);
            if last {
                result = result.and(feed::finished(closed).await);
            }
        }
        result
    }

    /// How it stands; of several sources the one that is worst off.
    pub fn state(&self) -> ConsumerState {
        let rank = |state: &ConsumerState| match state {
            ConsumerState::Failed(_) => 5,
            ConsumerState::Retrying(_) => 4,
            ConsumerState::AwaitingAcks => 3,
            ConsumerState::Opening => 2,
            ConsumerState::Reading => 1,
            ConsumerState::Ended => 0,
        };
        let states = self.lanes.iter().map(|lane| lane.feed.shelf.state(lane.member));
        let handing_out = self.current.as_ref().is_some_and(|(_, part)| part.left() > 0);
        match states.max_by_key(rank).unwrap_or(ConsumerState::Ended) {
            ConsumerState::Ended if handing_out => ConsumerState::Reading,
            state => state,
        }
    }
}
