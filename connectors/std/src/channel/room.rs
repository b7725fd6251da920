//! Pushes that wait for room, and the room that they are given in turn.

use std::{collections::VecDeque, sync::Arc};

use tokio::sync::oneshot;

use super::queue::{Queue, State};
use crate::locks::MutexGuard;

/// Those who wait are looked through for some who have gone when there are so many, and again at each doubling.
const SWEEP_MIN: usize = 64;

/// An amount of room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) records: usize,
    pub(super) bytes: usize,
}

impl Room {
    pub(super) fn plus(self, other: Room) -> Room {
        let records = self.records.saturating_add(other.records);
        Room { records, bytes: self.bytes.saturating_add(other.bytes) }
    }

    pub(super) fn minus(self, other: Room) -> Room {
        let records = self.records.saturating_sub(other.records);
        Room { records, bytes: self.bytes.saturating_sub(other.bytes) }
    }

    pub(super) fn is_within(self, most: Room) -> bool {
        self.records <= most.records && self.bytes <= most.bytes
    }
}

/// Pushes that wait for room, in the order in which they asked.
pub(super) struct Asking<I> {
    waiting: VecDeque<(Room, oneshot::Sender<Granted<I>>)>,
    sweep_at: usize,
}

impl<I> Default for Asking<I> {
    fn default() -> Self {
        Asking { waiting: VecDeque::new(), sweep_at: SWEEP_MIN }
    }
}

impl<I> Asking<I> {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Queues up for room. The answer is dropped where there will be none.
    pub(super) fn ask(&mut self, room: Room) -> oneshot::Receiver<Granted<I>> {
        if self.waiting.len() >= self.sweep_at {
            // Callers that give up must not pile up behind a reader that stands still.
            self.waiting.retain(|(_, answer)| !answer.is_closed());
            self.sweep_at = SWEEP_MIN.max(2 * self.waiting.len());
        }
        let (answer, asked) = oneshot::channel();
        self.waiting.push_back((room, answer));
        asked
    }
}

/// Room that was given to a push. Goes to the next one if the push is dropped before it makes use of it.
pub(super) struct Granted<I> {
    queue: Arc<Queue<I>>,
    room: Room,
}

impl<I> Granted<I> {
    /// Gives the room that there is to those who wait, in turn.
    pub(super) fn give(queue: &Arc<Queue<I>>, mut state: MutexGuard<'_, State<I>>) {
        let mut granted = Vec::new();
        while let Some(&(room, _)) = state.asking.waiting.front() {
            let gone = state.asking.waiting.front().is_some_and(|(_, answer)| answer.is_closed());
            if !gone && !queue.fits(&state, room) {
                break;
            }
            let Some((room, answer)) = state.asking.waiting.pop_front() else { break };
            if !gone {
                state.used = state.used.plus(room);
                granted.push((answer, Granted { queue: queue.clone(), room }));
            }
        }
        drop(state);
        for (answer, room) in granted {
            // Room for somebody who has gone meanwhile comes back, and goes to the next.
            drop(answer.send(room));
        }
    }

    /// Makes use of it: the room is the caller's to account for.
    pub(super) fn taken(mut self) -> Room {
        std::mem::take(&mut self.room)
    }
}

impl<I> Drop for Granted<I> {
    fn drop(&mut self) {
        if self.room != Room::default() {
            let mut state = self.queue.lock();
            state.used = state.used.minus(self.room);
            Granted::give(&self.queue, state);
        }
    }
}
