//! The atomic parts of [`Pace`](crate::pace::Pace) and [`Gate`](crate::pace::Gate): what decides whether somebody must be
//! woken. They stand alone so that `tests/engine/signals.rs` can run them with the atomics of a model checker.

use crate::atomics::{AtomicU8, AtomicUsize, Ordering};

const ACTIVE: u8 = 1;
const URGENT: u8 = 2;

/// What is wished of the coordinator: an epoch in due time, or at once. In one atomic, so that a wish that comes while another
/// one is being done is either done with it or wakes.
#[derive(Debug, Default)]
pub(crate) struct Wishes(AtomicU8);

impl Wishes {
    /// An epoch in due time; whether the coordinator must be woken.
    pub(crate) fn touch(&self) -> bool {
        // A plain load first: the line stays shared while the flag is up.
        self.0.load(Ordering::Relaxed) & ACTIVE == 0 && self.0.fetch_or(ACTIVE, Ordering::AcqRel) & ACTIVE == 0
    }

    /// An epoch at once; whether the coordinator must be woken.
    pub(crate) fn urge(&self) -> bool {
        self.0.fetch_or(ACTIVE | URGENT, Ordering::AcqRel) & URGENT == 0
    }

    pub(crate) fn is_active(&self) -> bool {
        self.0.load(Ordering::Acquire) & ACTIVE != 0
    }

    pub(crate) fn is_urgent(&self) -> bool {
        self.0.load(Ordering::Acquire) & URGENT != 0
    }

    /// All are done.
    pub(crate) fn clear(&self) {
        self.0.store(0, Ordering::Release);
    }
}

/// How much is held, and the bound below which it is open.
#[derive(Debug)]
pub(crate) struct Level {
    held: AtomicUsize,
    most: usize,
}

impl Level {
    pub(crate) fn new(most: usize) -> Self {
        Level { held: AtomicUsize::new(0), most }
    }

    pub(crate) fn rise(&self, by: usize) {
        self.held.fetch_add(by, Ordering::AcqRel);
    }

    /// Less is held; whether those who wait must be woken.
    pub(crate) fn fall(&self, by: usize) -> bool {
        let before = self.held.fetch_sub(by, Ordering::AcqRel);
        before >= self.most && before - by < self.most
    }

    pub(crate) fn is_open(&self) -> bool {
        self.held.load(Ordering::Acquire) < self.most
    }
}
