//! Records that wait for another try. They are saved with the epoch, so that barriers need not wait for them.
//!
//! Later records of a parked key park behind it; all others go on.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use millstream_core::{
    Batch, BatchBuilder, Body, Change, Error, ErrorKind, Form, Record, Result, Timestamp, group,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{dispatch::worker_of, pace::Gate, spec::Dispatch};

/// The parked records of one stage.
#[derive(Debug)]
pub(crate) struct Parked {
    gate: Arc<Gate>,
    /// Ids of this worker lie from here on.
    first_id: u64,
    next_id: u64,
    records: BTreeMap<u64, Waiting>,
    /// The records that are to be tried next: one of each key, and all without a key.
    due: BTreeSet<(Instant, u64)>,
    /// The ids in `due`.
    scheduled: HashSet<u64>,
    keys: HashMap<Bytes, VecDeque<u64>>,
    changed: BTreeSet<u64>,
}

/// A parked record as it is tried again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Waiting {
    pub(crate) record: Record,
    /// Which step of the stage it waits before.
    pub(crate) step: usize,
    /// At which input of it.
    #[serde(default)]
    pub(crate) port: usize,
    /// How often it has failed; 0 for one that only waits, behind another or for its turn.
    pub(crate) attempts: u32,
    /// When it is to be tried again, on the wall clock: survives restarts.
    due_at: Timestamp,
}

impl Parked {
    /// Of the worker of this number.
    pub(crate) fn new(gate: Arc<Gate>, worker: usize) -> Self {
        let first_id = ((worker as u64) << WORKER_BITS) + (1 << 32);
        Parked {
            gate,
            first_id,
            next_id: first_id,
            records: BTreeMap::new(),
            due: BTreeSet::new(),
            scheduled: HashSet::new(),
            keys: HashMap::new(),
            changed: BTreeSet::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether records of this key wait, so that a later one must wait behind them.
    pub(crate) fn holds(&self, key: Option<&[u8]>) -> bool {
        key.is_some_and(|key| self.keys.contains_key(key))
    }

    /// Parks a record that failed, to be tried again after `delay`. It goes before the others of its key.
    pub(crate) fn failed(&mut self, mut record: Record, step: usize, attempts: u32, delay: Duration) {
        record.attempts = attempts;
        self.insert(Waiting { record, step, port: 0, attempts, due_at: after(delay) }, delay, true);
    }

    /// Parks a record behind those of its key.
    pub(crate) fn behind(&mut self, record: Record, step: usize, port: usize) {
        let attempts = record.attempts;
        self.insert(Waiting { record, step, port, attempts, due_at: after(Duration::ZERO) }, Duration::ZERO, false);
    }

    /// When the next record is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Takes the next record that is due, if any. Those behind it stay until [`Parked::settled`].
    pub(crate) fn take(&mut self, now: Instant) -> Option<Waiting> {
        let (at, id) = self.due.first().copied().filter(|(at, _)| *at <= now)?;
        self.due.remove(&(at, id));
        self.scheduled.remove(&id);
        self.remove(id)
    }

    /// A record of this key that was taken did not come back: the next one of the key is due.
    pub(crate) fn settled(&mut self, key: Option<&[u8]>) {
        let Some(key) = key else { return };
        let Some(queue) = self.keys.get_mut(key) else { return };
        match queue.front().copied() {
            // The one in front is due already where the record came back.
            Some(next) if self.scheduled.contains(&next) => {}
            Some(next) => self.schedule(Instant::now(), next),
            None => {
                self.keys.remove(key);
            }
        }
    }

    /// What was parked and taken since the last call, for the state of the epoch.
    pub(crate) fn changes(&mut self) -> Result<Vec<Change>> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|id| self.change(id)).collect()
    }

    /// Parks what the checkpoint holds, as far as it is `mine`, by record and id.
    pub(crate) fn restore(&mut self, state: Vec<Change>, mine: impl Fn(&Record, u64) -> bool) -> Result<()> {
        for change in state {
            let damaged = || Error::new(ErrorKind::Corrupt, "cannot read a parked record from the saved state");
            let id = <[u8; 8]>::try_from(&*change.key).map(u64::from_be_bytes).map_err(|_| damaged())?;
            let Some(value) = change.value else { continue };
            let waiting: Waiting = rmp_serde::from_slice(&value).map_err(|cause| damaged().caused_by(cause))?;
            // Another worker may have parked it: no id may be given twice.
            if id >> WORKER_BITS == self.first_id >> WORKER_BITS {
                self.next_id = self.next_id.max(id + ID_GAP);
            }
            if !mine(&waiting.record, id) {
                continue;
            }
            self.gate.park(&waiting.record.origin, size(&waiting.record));
            self.records.insert(id, waiting);
        }
        self.adopt();
        let mut fronts = Vec::new();
        // In the order of their ids, which is their order.
        for (&id, waiting) in &self.records {
            let front = match &waiting.record.key {
                Some(key) => {
                    let queue = self.keys.entry(key.clone()).or_default();
                    queue.push_back(id);
                    queue.len() == 1
                }
                None => true,
            };
            if front {
                let wait = (waiting.due_at.0 - Timestamp::now().0).max(0) as u64;
                fronts.push((Instant::now() + Duration::from_nanos(wait), id));
            }
        }
        fronts.into_iter().for_each(|(at, id)| self.schedule(at, id));
        Ok(())
    }

    /// What another worker has parked is given ids of this one, in its order, so that what parks behind it gets a later one.
    fn adopt(&mut self) {
        let mine = self.first_id >> WORKER_BITS;
        let foreign: Vec<u64> = self.records.keys().copied().filter(|id| id >> WORKER_BITS != mine).collect();
        for id in foreign {
            if let Some(waiting) = self.records.remove(&id) {
                self.records.insert(self.next_id, waiting);
                self.changed.extend([id, self.next_id]);
                self.next_id += ID_GAP;
            }
        }
    }

    fn schedule(&mut self, at: Instant, id: u64) {
        self.due.insert((at, id));
        self.scheduled.insert(id);
    }

    fn insert(&mut self, waiting: Waiting, delay: Duration, front: bool) {
        let (due, record) = (Instant::now() + delay, &waiting.record);
        self.gate.park(&record.origin, size(&record));
        if self.records.is_empty() {
            self.next_id = self.first_id;
        }
        // A failed record keeps its place before the others of its key by taking an id below theirs.
        let ahead = record.key.as_ref().and_then(|key| self.keys.get(key)).and_then(|queue| queue.front().copied());
        let id = match ahead {
            Some(first) if front => first - 1,
            _ => self.next_id,
        };
        self.next_id = self.next_id.max(id + ID_GAP);
        let mut next = true;
        if let Some(key) = &record.key {
            let queue = self.keys.entry(key.clone()).or_default();
            if front {
                queue.push_front(id)
            } else {
                queue.push_back(id)
            }
            next = queue.front() == Some(&id) && front || queue.len() == 1;
        }
        if next {
            self.schedule(due, id);
        }
        self.records.insert(id, waiting);
        self.changed.insert(id);
    }

    fn remove(&mut self, id: u64) -> Option<Waiting> {
        let waiting = self.records.remove(&id)?;
        self.gate.unpark(&waiting.record.origin, size(&waiting.record));
        if let Some(queue) = waiting.record.key.as_ref().and_then(|key| self.keys.get_mut(key)) {
            queue.retain(|other| *other != id);
        }
        self.changed.insert(id);
        Some(waiting)
    }

    fn change(&self, id: u64) -> Result<Change> {
        let key = Bytes::copy_from_slice(&id.to_be_bytes());
        let value = match self.records.get(&id) {
            Some(waiting) => Some(
                rmp_serde::to_vec_named(waiting)
                    .map(Bytes::from)
                    .map_err(|cause| Error::new(ErrorKind::Bug, "cannot save a parked record").caused_by(cause))?,
            ),
            None => None,
        };
        Ok(Change { group: group(&key), key, value })
    }
}

/// The worker that parked a record stands above so many bits of its id.
const WORKER_BITS: u32 = 48;

/// Which of `workers` has a parked record: as it would come to them, and where it may come to any, by its id.
pub(crate) fn owner(record: &Record, id: u64, dispatch: Dispatch, workers: usize) -> usize {
    match &record.key {
        Some(key) if dispatch == Dispatch::Key => worker_of(group(key), workers),
        _ => (id >> WORKER_BITS) as usize % workers,
    }
}

/// Ids are given with gaps, so that a record that fails again and again finds one before those that wait behind it.
const ID_GAP: u64 = 1 << 20;

/// On the wall clock.
fn after(delay: Duration) -> Timestamp {
    Timestamp(Timestamp::now().0.saturating_add(delay.as_nanos().min(i64::MAX as u128) as i64))
}

pub(crate) fn size(record: &Record) -> usize {
    let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    128 + len(&record.value) + len(&record.key) + len(&record.original)
}

/// A record of a batch as it is saved: its step must be able to read it back.
pub(crate) fn saved(batch: &Batch, row: usize) -> Result<Record> {
    let (Body::Parsed(parsed), rows) = batch.body() else { return Ok(batch.get(row).to_record()) };
    match parsed.pack(rows.get(row))? {
        Some(value) => Ok(Record { value: Some(value), form: Form::Bytes, ..batch.get(row).to_record() }),
        None => Ok(batch.slice(row, row + 1).into_bytes().get(0).to_record()),
    }
}

/// A batch of one record.
pub(crate) fn alone(record: &Record) -> Batch {
    let mut builder = BatchBuilder::new();
    builder.push(record);
    builder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parked() -> Parked {
        Parked::new(Arc::new(Gate::new(1 << 20)), 0)
    }

    fn record(key: Option<&'static str>, value: &'static str) -> Record {
        Record { key: key.map(|key| Bytes::from_static(key.as_bytes())), ..Record::new("s", value) }
    }

    fn taken(parked: &mut Parked) -> Option<(String, u32)> {
        let waiting = parked.take(Instant::now() + Duration::from_secs(3600))?;
        Some((String::from_utf8_lossy(waiting.record.value.as_ref().unwrap()).into_owned(), waiting.attempts))
    }

    #[tokio::test]
    async fn records_of_a_parked_key_wait_behind_it_in_order() {
        let mut parked = parked();
        parked.failed(record(Some("k"), "first"), 0, 1, Duration::from_secs(30));
        assert!(parked.holds(Some(b"k")) && !parked.holds(Some(b"other")) && !parked.holds(None));
        parked.behind(record(Some("k"), "second"), 0, 0);
        parked.behind(record(Some("k"), "third"), 0, 0);
        assert_eq!(taken(&mut parked), Some(("first".into(), 1)));
        assert_eq!(taken(&mut parked), None, "the second waits until the first has settled");
        // It fails again, and is still before the others.
        parked.failed(record(Some("k"), "first"), 0, 2, Duration::from_secs(30));
        parked.settled(Some(b"k"));
        assert_eq!(taken(&mut parked), Some(("first".into(), 2)));
        parked.settled(Some(b"k"));
        assert_eq!(taken(&mut parked), Some(("second".into(), 0)));
        parked.settled(Some(b"k"));
        assert_eq!(taken(&mut parked), Some(("third".into(), 0)));
        parked.settled(Some(b"k"));
        assert!(parked.is_empty() && !parked.holds(Some(b"k")));
    }

    #[tokio::test]
    async fn what_is_parked_survives_in_the_changes() {
        let mut parked = parked();
        parked.failed(record(Some("k"), "first"), 3, 1, Duration::from_secs(30));
        parked.behind(record(Some("k"), "second"), 3, 0);
        parked.failed(record(None, "free"), 3, 1, Duration::from_secs(60));
        let mut state: BTreeMap<_, _> = parked.changes().unwrap().into_iter().map(|c| (c.key.clone(), c)).collect();
        assert_eq!(taken(&mut parked).unwrap().0, "first");
        parked.settled(Some(b"k"));
        for change in parked.changes().unwrap() {
            state.insert(change.key.clone(), change);
        }
        let mut again = self::parked();
        again.restore(state.into_values().filter(|change| change.value.is_some()).collect(), |_, _| true).unwrap();
        assert_eq!(taken(&mut again), Some(("second".into(), 0)));
        assert_eq!(taken(&mut again), Some(("free".into(), 1)));
    }
}
