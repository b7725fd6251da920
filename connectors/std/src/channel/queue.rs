//! What waits between those who push and the source that reads: one lock, held for moments.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millstream_core::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Epoch, Error, ErrorKind, Lag, Result};
use tokio::sync::{Notify, oneshot};

use super::receipt::{Receipt, Told};

/// What a record counts beside its bytes.
pub(super) const RECORD_BYTES: usize = 64;

/// Pushes that wait for room are looked through for some that have been dropped when there are so many, and then at each
/// doubling.
const SWEEP_MIN: usize = 64;

/// Items on their way to a source, bounded in number and bytes.
pub(super) struct Queue<I> {
    state: Mutex<State<I>>,
    /// The queue is no longer empty, or closed.
    arrived: Notify,
    bytes_max: usize,
    /// What an item takes at least of the bytes, so that they bound the number, too.
    item_bytes_min: usize,
}

struct State<I> {
    items: VecDeque<Queued<I>>,
    /// Bytes that are taken: by the items, and by pushes that have been given room and have not come yet.
    used: usize,
    /// Number of the item that was accepted last; the first is 1.
    last: u64,
    /// Pushes that wait for room, in order.
    asking: VecDeque<Asking<I>>,
    sweep_at: usize,
    /// Who waits for an epoch, in the order of the items.
    receipts: VecDeque<Waiting>,
    closed: bool,
    over: bool,
    /// Sequence of item 1.
    first: Option<u64>,
}

/// An item and how many bytes it has.
pub(super) struct Sized<I> {
    pub(super) item: I,
    pub(super) bytes: usize,
}

struct Queued<I> {
    sized: Sized<I>,
    /// Somebody waits for its epoch.
    awaited: bool,
}

struct Asking<I> {
    bytes: usize,
    answer: oneshot::Sender<Granted<I>>,
}

/// Somebody waits for the epoch of these items.
struct Waiting {
    first: u64,
    last: u64,
    answer: oneshot::Sender<Told>,
}

/// What a source takes at once.
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

/// Room that was given to a push which had waited for it; goes back if the push is dropped.
struct Granted<I> {
    queue: Arc<Queue<I>>,
    bytes: usize,
}

impl<I> Drop for Granted<I> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let mut state = self.queue.lock();
            state.used -= self.bytes;
            self.queue.give_room(state);
        }
    }
}

impl<I> Queue<I> {
    pub(super) fn new(records_max: usize, bytes_max: usize) -> Arc<Self> {
        let bytes_max = bytes_max.max(1);
        let state = State {
            items: VecDeque::new(),
            used: 0,
            last: 0,
            asking: VecDeque::new(),
            sweep_at: SWEEP_MIN,
            receipts: VecDeque::new(),
            closed: false,
            over: false,
            first: None,
        };
        let item_bytes_min = bytes_max.div_ceil(records_max.max(1));
        Arc::new(Queue { state: Mutex::new(state), arrived: Notify::new(), bytes_max, item_bytes_min })
    }

    fn lock(&self) -> MutexGuard<'_, State<I>> {
        // No user code runs under the lock, so nothing in it is half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn room_of(&self, bytes: usize) -> usize {
        bytes.max(self.item_bytes_min)
    }

    /// What these items take of the bytes.
    pub(super) fn room_of_all(&self, items: &[Sized<I>]) -> usize {
        items.iter().fold(0, |sum, item| sum.saturating_add(self.room_of(item.bytes)))
    }

    /// Puts one item in if there is room; else gives it back.
    pub(super) fn try_push(&self, item: Sized<I>, awaited: bool) -> Result<Option<Receipt>, (Error, I)> {
        let state = self.lock();
        let room = self.room_of(item.bytes);
        match state.open() {
            Err(error) => Err((error, item.item)),
            Ok(()) if !self.fits(&state, room) => Err((full(), item.item)),
            Ok(()) => Ok(self.accept(state, room, [item], awaited)),
        }
    }

    /// Puts items in when there is room for all of them; in turn with others who wait for room. Dropped before its end it has
    /// put in nothing: there is nothing to wait for behind that.
    pub(super) async fn push(
        self: &Arc<Self>,
        items: impl IntoIterator<Item = Sized<I>>,
        room: usize,
        awaited: bool,
    ) -> Result<Option<Receipt>> {
        let granted = {
            let mut state = self.lock();
            state.open()?;
            if self.fits(&state, room) {
                return Ok(self.accept(state, room, items, awaited));
            }
            state.ask(room)
        };
        // Whoever drops the question says why.
        let Ok(mut granted) = granted.await else {
            self.lock().open()?;
            return Err(closed("the channel was closed while there was no room"));
        };
        let mut state = self.lock();
        if let Err(error) = state.open() {
            // Giving the room back needs the lock.
            drop(state);
            return Err(error);
        }
        state.used -= std::mem::take(&mut granted.bytes);
        Ok(self.accept(state, room, items, awaited))
    }

    /// Whether so many bytes may be taken now, and nobody who asked before waits. What is larger than all the room goes in
    /// alone.
    fn fits(&self, state: &State<I>, room: usize) -> bool {
        state.asking.is_empty() && self.fits_by_itself(state, room)
    }

    fn fits_by_itself(&self, state: &State<I>, room: usize) -> bool {
        state.used == 0 || state.used.saturating_add(room) <= self.bytes_max
    }

    fn accept(
        &self,
        mut state: MutexGuard<'_, State<I>>,
        room: usize,
        items: impl IntoIterator<Item = Sized<I>>,
        awaited: bool,
    ) -> Option<Receipt> {
        let (first, was_empty) = (state.last + 1, state.items.is_empty());
        state.items.extend(items.into_iter().map(|sized| Queued { sized, awaited }));
        state.used += room;
        state.last = state.read_before(was_empty, first) + state.items.len() as u64;
        let last = state.last;
        let receipt = awaited.then(|| {
            // An allocation for each push that waits: what tells its task must outlive either side.
            let (answer, told) = oneshot::channel();
            state.receipts.push_back(Waiting { first, last, answer });
            Receipt::new(told)
        });
        drop(state);
        if was_empty {
            self.arrived.notify_one();
        }
        receipt
    }
}
