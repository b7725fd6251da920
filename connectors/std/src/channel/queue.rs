//! What waits between those who push and the source that reads: one lock, held for moments.

use std::{collections::VecDeque, sync::Arc};

use millstream_core::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Epoch, Error, ErrorKind, Lag, Result};
use tokio::sync::Notify;

use super::{
    receipt::{Answer, Told},
    room::{Asking, Granted, Room},
};
use crate::locks::{Mutex, MutexGuard, PoisonError};

/// Items on their way to a source, bounded in number and bytes.
pub(super) struct Queue<I> {
    state: Mutex<State<I>>,
    /// Tells the source that the queue is no longer empty, or closed.
    arrived: Notify,
    room: Room,
}

pub(super) struct State<I> {
    items: VecDeque<Queued<I>>,
    /// What is taken of the room: by the items, and by pushes that have been given some and have not come yet.
    pub(super) used: Room,
    /// Number of the item that was accepted last; the first is 1.
    last: u64,
    /// Pushes that wait for room.
    pub(super) asking: Asking<I>,
    /// Who waits for an epoch, in the order of the items.
    receipts: VecDeque<Waiting>,
    closed: bool,
    over: bool,
    /// Sequence of item 1.
    base: Option<u64>,
}

/// An item, and how many bytes it has.
pub(super) struct Weighed<I> {
    pub(super) item: I,
    pub(super) bytes: usize,
}

impl<I> Weighed<I> {
    fn room(&self) -> Room {
        Room { records: 1, bytes: self.bytes }
    }
}

/// What these items take of the room.
pub(super) fn room_of<I>(items: &[Weighed<I>]) -> Room {
    items.iter().fold(Room::default(), |sum, item| sum.plus(item.room()))
}

struct Queued<I> {
    weighed: Weighed<I>,
    /// Somebody waits for its epoch.
    awaited: bool,
}

/// Somebody waits for the epoch of these items.
struct Waiting {
    first: u64,
    last: u64,
    answer: Answer,
}

/// What a source is given.
pub(super) enum Taken<I> {
    Items {
        /// Sequence of the first.
        sequence: u64,
        items: Vec<I>,
        /// Somebody waits for the epoch of one of them.
        awaited: bool,
    },
    /// Nothing for now.
    Nothing,
    /// Nothing any more.
    End,
}

impl<I> State<I> {
    /// Items that the source has been given.
    fn read(&self) -> u64 {
        self.last - self.items.len() as u64
    }

    /// Whether pushes are taken, or why not.
    fn open(&self) -> Result<()> {
        match (self.closed, self.over) {
            (true, _) => Err(closed("cannot push: the channel was closed")),
            (false, true) => Err(closed("cannot push: the pipeline is over")),
            (false, false) => Ok(()),
        }
    }
}

impl<I> Queue<I> {
    pub(super) fn new(records_max: usize, bytes_max: usize) -> Arc<Self> {
        let state = State {
            items: VecDeque::new(),
            used: Room::default(),
            last: 0,
            asking: Asking::default(),
            receipts: VecDeque::new(),
            closed: false,
            over: false,
            base: None,
        };
        let room = Room { records: records_max.max(1), bytes: bytes_max.max(1) };
        Arc::new(Queue { state: Mutex::new(state), arrived: Notify::new(), room })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State<I>> {
        // No code of others runs under the lock, so nothing in it is half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether so much may be taken now. What is larger than all the room goes in alone.
    pub(super) fn fits(&self, state: &State<I>, room: Room) -> bool {
        state.used == Room::default() || state.used.plus(room).is_within(self.room)
    }

    /// Puts an item in if there is room for it, and nobody waits who asked before; else gives it back.
    pub(super) fn try_push(&self, item: Weighed<I>, answer: Option<Answer>) -> Result<(), (Error, I)> {
        let state = self.lock();
        let room = item.room();
        if let Err(error) = state.open() {
            return Err((error, item.item));
        }
        if !state.asking.is_empty() || !self.fits(&state, room) {
            let full = Error::new(ErrorKind::Full, "the channel is full");
            return Err((full.hint("wait with `push`, or try again later"), item.item));
        }
        self.accept(state, room, [item], answer);
        Ok(())
    }

    /// Puts items in, one behind the other, when there is room for all of them; in turn with others who wait. Dropped before its
    /// end it has put in nothing.
    pub(super) async fn push(
        self: &Arc<Self>,
        room: Room,
        items: impl IntoIterator<Item = Weighed<I>>,
        answer: Option<Answer>,
    ) -> Result<()> {
        let asked = {
            let mut state = self.lock();
            state.open()?;
            if state.asking.is_empty() && self.fits(&state, room) {
                self.accept(state, room, items, answer);
                return Ok(());
            }
            state.asking.ask(room)
        };
        // It stands before the lock, so that it is dropped behind it: room that is not used goes back, which needs the lock.
        let granted = asked.await.ok();
        // Nothing is awaited from here on.
        let mut state = self.lock();
        state.open()?;
        let Some(granted) = granted else {
            return Err(closed("cannot push: the pipeline was over while there was no room"));
        };
        state.used = state.used.minus(granted.taken());
        self.accept(state, room, items, answer);
        Ok(())
    }

    fn accept(
        &self,
        mut state: MutexGuard<'_, State<I>>,
        room: Room,
        items: impl IntoIterator<Item = Weighed<I>>,
        answer: Option<Answer>,
    ) {
        let awaited = answer.is_some();
        let (first, before) = (state.last + 1, state.items.len());
        state.items.extend(items.into_iter().map(|weighed| Queued { weighed, awaited }));
        state.used = state.used.plus(room);
        state.last += (state.items.len() - before) as u64;
        let last = state.last;
        state.receipts.extend(answer.map(|answer| Waiting { first, last, answer }));
        drop(state);
        if before == 0 {
            self.arrived.notify_one();
        }
    }

    /// Waits until there may be something to take. Cancel-safe.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// The next items: as many as fit into a batch. Makes room for others.
    pub(super) fn take(self: &Arc<Self>) -> Taken<I> {
        let mut state = self.lock();
        if state.items.is_empty() {
            return if state.closed { Taken::End } else { Taken::Nothing };
        }
        let sequence = state.base.unwrap_or(FIRST) + state.read();
        let mut items = Vec::with_capacity(state.items.len().min(BATCH_RECORDS_MAX));
        let (mut bytes, mut any_awaited) = (0, false);
        while items.len() < BATCH_RECORDS_MAX && bytes < BATCH_BYTES_MAX {
            let Some(Queued { weighed, awaited }) = state.items.pop_front() else { break };
            bytes = bytes.saturating_add(weighed.bytes);
            state.used = state.used.minus(weighed.room());
            any_awaited |= awaited;
            items.push(weighed.item);
        }
        Granted::give(self, state);
        Taken::Items { sequence, items, awaited: any_awaited }
    }

    /// A run begins to read; behind sequence `next - 1`, if this is the first one in this process.
    pub(super) fn open(&self, next: Option<u64>) {
        let mut state = self.lock();
        state.over = false;
        state.base.get_or_insert(next.unwrap_or(FIRST));
    }

    /// Sequence of the next item that the source will be given.
    pub(super) fn next(&self) -> u64 {
        let state = self.lock();
        state.base.unwrap_or(FIRST) + state.read()
    }

    /// What waits.
    pub(super) fn lag(&self) -> Lag {
        let state = self.lock();
        Lag { records: Some(state.items.len() as u64), bytes: None }
    }

    /// All items below this sequence count with this epoch. One pass over those who wait for it.
    pub(super) fn committed(&self, next: u64, epoch: Epoch) {
        let mut told = Vec::new();
        let mut state = self.lock();
        let upto = next.saturating_sub(state.base.unwrap_or(FIRST));
        while let Some(waiting) = state.receipts.pop_front_if(|waiting| waiting.last <= upto) {
            told.push(waiting);
        }
        drop(state);
        for waiting in told {
            // Who does not listen any more has dropped its future.
            let _ = waiting.answer.send(Told::Committed(epoch));
        }
    }

    /// No more pushes. What has been accepted is still read.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let asking = std::mem::take(&mut state.asking);
        drop(state);
        // Dropped outside of the lock: it tells tasks.
        drop(asking);
        self.arrived.notify_one();
    }

    /// The run that read is over: all who wait are told, and what they pushed and nobody has read is forgotten.
    pub(super) fn over(&self) {
        let mut state = self.lock();
        state.over = true;
        let read = state.read();
        let asking = std::mem::take(&mut state.asking);
        let receipts = std::mem::take(&mut state.receipts);
        let items = std::mem::take(&mut state.items);
        let (unread, kept): (VecDeque<_>, VecDeque<_>) = items.into_iter().partition(|item| item.awaited);
        let unread_room = unread.iter().fold(Room::default(), |sum, item| sum.plus(item.weighed.room()));
        state.used = state.used.minus(unread_room);
        state.last = read + kept.len() as u64;
        state.items = kept;
        drop(state);
        drop((asking, unread));
        for waiting in receipts {
            let told = if waiting.first > read { Told::NotRead } else { Told::Unknown };
            // Who does not listen any more has dropped its future.
            let _ = waiting.answer.send(told);
        }
    }
}

/// Sequence of the first record of a pipeline that begins anew.
const FIRST: u64 = 1;

fn closed(message: &str) -> Error {
    Error::new(ErrorKind::Closed, message)
}
