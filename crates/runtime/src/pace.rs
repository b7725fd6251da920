//! When to cut an epoch, and when to stop reading: signals from the tasks to the coordinator and back.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use millstream_core::ShardKey;
use tokio::sync::Notify;

use crate::{
    lease::lock,
    signal::{Level, Wishes},
};

/// Tells the coordinator that there is something to commit. An idle pipeline touches none of it.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    wishes: Wishes,
    records: AtomicU64,
    bytes: AtomicU64,
    changed: Notify,
    records_max: Option<u64>,
    bytes_max: Option<u64>,
}

impl Pace {
    /// Epochs are due at once when so many records or bytes have been read since the last.
    pub(crate) fn new(records_max: Option<u64>, bytes_max: Option<u64>) -> Self {
        Pace { records_max, bytes_max, ..Pace::default() }
    }

    /// Something was read.
    pub(crate) fn read(&self, records: u64, bytes: u64) {
        if self.records_max.is_some() || self.bytes_max.is_some() {
            let records = self.records.fetch_add(records, Ordering::Relaxed) + records;
            let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
            if self.records_max.is_some_and(|most| records >= most) || self.bytes_max.is_some_and(|most| bytes >= most)
            {
                self.urge();
            }
        }
        self.touch();
    }

    /// Something has happened that an epoch must cover.
    pub(crate) fn touch(&self) {
        if self.wishes.touch() {
            self.changed.notify_one();
        }
    }

    /// An epoch is wanted at once.
    pub(crate) fn urge(&self) {
        if self.wishes.urge() {
            self.changed.notify_one();
        }
    }

    /// Waits for a `touch` or `urge` after an idle time. Cancel-safe.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether something has happened since the last cut.
    pub(crate) fn is_active(&self) -> bool {
        self.wishes.is_active()
    }

    /// Whether an epoch is wanted at once.
    pub(crate) fn is_urgent(&self) -> bool {
        self.wishes.is_urgent()
    }

    /// An epoch is cut now; what comes from here on belongs to the next.
    pub(crate) fn cut(&self) {
        self.wishes.clear();
        self.records.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }
}

/// The gates of the sources whose records come to a stage; of a source, its own.
#[derive(Clone, Debug)]
pub(crate) struct Gates(pub(crate) Arc<[Arc<Gate>]>);

impl Gates {
    /// A record of this shard is parked.
    pub(crate) fn park(&self, shard: &ShardKey, bytes: usize) {
        self.0.iter().for_each(|gate| gate.park(shard, bytes));
    }

    /// A record of this shard is parked no more.
    pub(crate) fn unpark(&self, shard: &ShardKey, bytes: usize) {
        self.0.iter().for_each(|gate| gate.unpark(shard, bytes));
    }

    /// Something else waits.
    pub(crate) fn hold(&self, bytes: usize) {
        self.0.iter().for_each(|gate| gate.hold(bytes));
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.0.iter().for_each(|gate| gate.release(bytes));
    }

    /// Whether records of one of these shards are parked.
    pub(crate) fn parks(&self, shards: &[ShardKey]) -> bool {
        self.0.iter().any(|gate| gate.parks(shards))
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.iter().all(|gate| gate.level.is_open())
    }

    /// Waits until all are open. Cancel-safe.
    pub(crate) async fn opened(&self) {
        while let Some(closed) = self.0.iter().find(|gate| !gate.level.is_open()) {
            closed.opened().await;
        }
    }
}

/// Bounds what waits inside of the stages behind a source: above the bound, it reads no more.
#[derive(Debug)]
pub(crate) struct Gate {
    level: Level,
    opened: Notify,
    /// Parked records of each shard, so that a shard is not given away too early.
    shards: Mutex<HashMap<ShardKey, usize>>,
}

impl Gate {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Gate { level: Level::new(bytes_max), opened: Notify::new(), shards: Mutex::default() }
    }

    fn park(&self, shard: &ShardKey, bytes: usize) {
        self.hold(bytes);
        *lock(&self.shards).entry(shard.clone()).or_default() += 1;
    }

    fn unpark(&self, shard: &ShardKey, bytes: usize) {
        self.release(bytes);
        let mut shards = lock(&self.shards);
        if let Some(records) = shards.get_mut(shard) {
            *records -= 1;
            if *records == 0 {
                shards.remove(shard);
            }
        }
    }

    fn parks(&self, shards: &[ShardKey]) -> bool {
        let parked = lock(&self.shards);
        shards.iter().any(|shard| parked.contains_key(shard))
    }

    fn hold(&self, bytes: usize) {
        self.level.rise(bytes);
    }

    fn release(&self, bytes: usize) {
        if self.level.fall(bytes) {
            self.opened.notify_waiters();
        }
    }

    /// Waits until there is less than the bound. Cancel-safe.
    async fn opened(&self) {
        loop {
            let opened = self.opened.notified();
            if self.level.is_open() {
                return;
            }
            opened.await;
        }
    }
}
