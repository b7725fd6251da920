//! What the reading task and the consumers share: records that wait, and how things stand. Each wakes the other.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
};

use millstream_core::{Error, Result, ShardKey};
use tokio::sync::Notify;

use super::{
    log::Log,
    members::{Inner, MEMBER_FIRST, Room},
    part::Part,
};
use crate::{ConsumerOptions, ConsumerState, Retrying};

/// Records that wait for the consumers of one source.
#[derive(Debug)]
pub(crate) struct Shelf {
    inner: Mutex<Inner>,
    /// Tells the reading task that something has changed that it waits for.
    pub(crate) changed: Notify,
    /// How often shards have gone. Looked at for each record, without the lock: it changes as good as never.
    turns: AtomicU64,
}

#[derive(Clone, Debug)]
pub(crate) enum Phase {
    Opening,
    Reading,
    Retrying(Retrying),
    Ended,
    Failed(Error),
}

/// What a member gets.
#[derive(Debug)]
pub(crate) enum Taken {
    Part(Box<Part>),
    Pending,
    Ended,
    Failed(Error),
}

impl Shelf {
    /// An empty shelf with its first member.
    pub(crate) fn new(options: &ConsumerOptions, on_demand: bool) -> (Self, u32) {
        let inner = Mutex::new(Inner::new(options, on_demand));
        (Shelf { inner, changed: Notify::new(), turns: AtomicU64::new(0) }, MEMBER_FIRST)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics while it holds the lock; if it did, the records would still be whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether to read on; if not, the task is told when that may have changed.
    pub(crate) fn room(&self) -> bool {
        let mut inner = self.lock();
        inner.task_waits = inner.room() != Room::Yes;
        !inner.task_waits
    }

    /// How often shards have gone.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Acquire)
    }

    /// Nothing of these shards is handed out any more.
    pub(crate) fn leave(&self, shards: &[ShardKey]) {
        let mut inner = self.lock();
        inner.drop_waiting(shards);
        let turn = self.turns() + 1;
        inner.gone.extend(shards.iter().map(|shard| (shard.clone(), turn)));
        self.turns.store(turn, Ordering::Release);
    }

    /// A member takes note of the shards that have gone: what it has taken of them, and not handed out, it drops.
    pub(crate) fn note_turn(&self, member: u32, part: Option<&mut Part>) -> u64 {
        let mut inner = self.lock();
        let turn = self.turns();
        if let Some(part) = part {
            let taken = std::mem::replace(&mut part.turn, turn);
            part.keep_only(|shard| inner.gone.get(shard).is_none_or(|gone| *gone <= taken), |_, _, _| {});
        }
        if let Some(of) = inner.members.iter_mut().find(|of| of.id == member) {
            of.turn = turn;
        }
        self.changed.notify_one();
        turn
    }

    /// Waits until what was handed out is done, as far as consumers tell by asking for more: then it is not repeated.
    pub(crate) async fn hands_are_free(&self) {
        while !self.turn_is_known() {
            self.changed.notified().await;
        }
    }

    /// Whether all members have taken note of the shards that have gone, or wait with nothing in their hands.
    fn turn_is_known(&self) -> bool {
        let turn = self.turns();
        self.lock().members.iter().all(|member| member.turn >= turn || member.waker.is_some())
    }

    /// How things stand, for people.
    pub(crate) fn state(&self, member: u32) -> ConsumerState {
        let inner = self.lock();
        match &inner.phase {
            Phase::Opening => ConsumerState::Opening,
            Phase::Retrying(retrying) => ConsumerState::Retrying(retrying.clone()),
            Phase::Failed(error) => ConsumerState::Failed(error.clone()),
            Phase::Ended if inner.parts(member) == 0 => ConsumerState::Ended,
            Phase::Ended => ConsumerState::Reading,
            Phase::Reading => match inner.room() {
                Room::Unacked => ConsumerState::AwaitingAcks,
                _ => ConsumerState::Reading,
            },
        }
    }

    /// Somebody wants the source to be open.
    pub(crate) fn want(&self) {
        if !std::mem::replace(&mut self.lock().wanted, true) {
            self.changed.notify_one();
        }
    }

    /// Waits until somebody wants the source to be open.
    pub(crate) async fn wanted(&self) {
        while !self.lock().wanted {
            self.changed.notified().await;
        }
    }

    /// Sets the phase; consumers look again.
    pub(crate) fn set(&self, phase: Phase) {
        let mut inner = self.lock();
        inner.phase = phase;
        inner.wake_all();
    }

    /// Rows are done.
    pub(crate) fn done(&self, entry: u64, rows: &[u32]) {
        let mut inner = self.lock();
        let Some(log) = &mut inner.log else { return };
        let was_dirty = log.dirty();
        log.done(entry, rows);
        self.after_ack(&mut inner, was_dirty);
    }

    /// Tells the task what an acknowledgement may have changed for it.
    pub(crate) fn after_ack(&self, inner: &mut Inner, was_dirty: bool) {
        if !was_dirty || inner.task_waits || inner.log.as_ref().is_some_and(Log::is_awaited) {
            inner.task_waits = false;
            self.changed.notify_one();
        }
    }

    /// The next part for a member. If there is none, `waker` is woken when that changes.
    pub(crate) fn take(&self, member: u32, waker: &Waker) -> Taken {
        let mut inner = self.lock();
        if !std::mem::replace(&mut inner.wanted, true) {
            self.changed.notify_one();
        }
        let failed = match &inner.phase {
            Phase::Failed(error) => Some(Taken::Failed(error.clone())),
            Phase::Ended => Some(Taken::Ended),
            _ => None,
        };
        let Some(of) = inner.members.iter_mut().find(|of| of.id == member) else { return Taken::Ended };
        let taken = match of.parts.pop_front() {
            Some(mut part) => {
                part.turn = self.turns();
                inner.unbuffer(part.left(), part.bytes);
                Taken::Part(Box::new(part))
            }
            None => failed.unwrap_or_else(|| {
                if !of.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
                    of.waker = Some(waker.clone());
                }
                Taken::Pending
            }),
        };
        if inner.task_waits && inner.room() == Room::Yes {
            inner.task_waits = false;
            self.changed.notify_one();
        }
        taken
    }

    /// Whether the source is open; `None`: not yet, and `waker` is woken when that changes.
    pub(crate) fn poll_opened(&self, member: u32, waker: &Waker) -> Option<Result<()>> {
        let mut inner = self.lock();
        match &inner.phase {
            Phase::Failed(error) => return Some(Err(error.clone())),
            _ if inner.open => return Some(Ok(())),
            _ => {}
        }
        let of = inner.members.iter_mut().find(|of| of.id == member)?;
        of.waker = Some(waker.clone());
        None
    }

    /// Puts back what was taken and not handed out.
    pub(crate) fn put_back(&self, member: u32, mut part: Part) {
        self.note_turn(member, Some(&mut part));
        let mut inner = self.lock();
        inner.buffered.0 += part.left();
        inner.buffered.1 += part.bytes;
        if let Some(of) = inner.members.iter_mut().find(|of| of.id == member) {
            of.parts.push_front(part);
        }
    }

    /// A consumer goes: what it holds is given to the others.
    pub(crate) fn remove(&self, member: u32) {
        let mut inner = self.lock();
        let Some(at) = inner.members.iter().position(|of| of.id == member) else { return };
        let gone = inner.members.remove(at);
        for part in &gone.parts {
            inner.unbuffer(part.left(), part.bytes);
        }
        if inner.members.is_empty() {
            inner.closed = true;
            inner.unseen = gone.parts;
            return;
        }
        let held = inner.log.as_ref().map(|log| log.held_by(member)).unwrap_or_default();
        // Newest first, because each is put before what waits.
        for (entry, rows) in held.into_iter().rev() {
            inner.deal_again(entry, rows, true);
        }
        inner.wake_all();
    }
}
