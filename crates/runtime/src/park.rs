//! Records that wait for another try. They are saved with the epoch, so that barriers need not wait for them.
//!
//! Later records of a parked key park behind it; all others go on.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use bytes::Bytes;
use millstream_core::{Batch, BatchBuilder, Body, Change, Error, ErrorKind, Form, Record, Result, Timestamp, group};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{dispatch::worker_of, ending::FAR, pace::Gates, spec::Dispatch};

/// A place among the parked records of a stage: before which of its steps, and an id. What waits before a later step came
/// earlier.
type Place = (Reverse<usize>, u64);

/// The parked records of one stage.
#[derive(Debug)]
pub(crate) struct Parked {
    gates: Gates,
    /// Ids of this worker lie from here on.
    first_id: u64,
    /// The same, above those that the checkpoint holds: another worker may just be giving one of them up.
    fresh_id: u64,
    next_id: u64,
    records: BTreeMap<Place, Waiting>,
    /// The records that are to be tried next: one of each key, and all without a key.
    due: BTreeSet<(Instant, Place)>,
    /// Those in `due`, and when.
    scheduled: HashMap<Place, Instant>,
    keys: HashMap<Bytes, Line>,
    changed: BTreeSet<Place>,
}

/// The parked records of a key, in their order.
#[derive(Debug, Default)]
struct Line {
    places: BTreeSet<Place>,
    /// The first one was taken, for this step, and what becomes of it is not known.
    trying: Option<usize>,
}

/// A parked record as it is tried again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Waiting {
    pub(crate) record: Record,
    /// Which step of the stage it waits before; it is saved under the name of that step.
    #[serde(skip)]
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
    pub(crate) fn new(gates: Gates, worker: usize) -> Self {
        let first_id = ((worker as u64) << WORKER_BITS) + (1 << 32);
        Parked {
            gates,
            first_id,
            fresh_id: first_id,
            next_id: first_id,
            records: BTreeMap::new(),
            due: BTreeSet::new(),
            scheduled: HashMap::new(),
            keys: HashMap::new(),
            changed: BTreeSet::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether no key is held.
    pub(crate) fn holds_none(&self) -> bool {
        self.keys.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether records of this key wait before `step` or a later one, so that one that comes to `step` must wait behind them.
    pub(crate) fn holds(&self, key: Option<&[u8]>, step: usize) -> bool {
        let Some(line) = key.and_then(|key| self.keys.get(key)) else { return false };
        line.trying.is_some_and(|of| of >= step) || line.places.first().is_some_and(|(of, _)| of.0 >= step)
    }

    /// Parks a record that failed, to be tried again after `delay`. It goes before the others of its key.
    pub(crate) fn failed(&mut self, mut record: Record, step: usize, port: usize, attempts: u32, delay: Duration) {
        record.attempts = attempts;
        // One that is tried again at once, for ever, leaves room for others.
        let delay = delay.clamp(DELAY_MIN, FAR);
        self.insert(Waiting { record, step, port, attempts, due_at: after(delay) }, delay, true);
    }

    /// Parks a record that was taken and not begun before those of its key.
    pub(crate) fn before(&mut self, record: Record, step: usize, port: usize) {
        let attempts = record.attempts;
        self.insert(Waiting { record, step, port, attempts, due_at: after(Duration::ZERO) }, Duration::ZERO, true);
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
        let (_, place) = self.due.first().copied().filter(|(at, _)| *at <= now)?;
        self.unschedule(place);
        let waiting = self.records.remove(&place)?;
        self.gates.unpark(&waiting.record.origin, size(&waiting.record));
        if let Some(line) = waiting.record.key.as_ref().and_then(|key| self.keys.get_mut(key)) {
            line.places.remove(&place);
            line.trying = Some(waiting.step);
        }
        self.changed.insert(place);
        Some(waiting)
    }

    /// What becomes of the record of this key that was taken is known: the next one of the key is due.
    pub(crate) fn settled(&mut self, key: Option<&[u8]>) {
        let Some(key) = key else { return };
        let Some(line) = self.keys.get_mut(key) else { return };
        line.trying = None;
        match line.places.first().copied() {
            Some(next) => self.schedule_saved(next),
            None => {
                self.keys.remove(key);
            }
        }
    }

    /// What was parked and taken before each step since the last call, for the state of the epoch.
    pub(crate) fn changes(&mut self) -> Result<BTreeMap<usize, Vec<Change>>> {
        let mut changes: BTreeMap<usize, Vec<Change>> = BTreeMap::new();
        for place in std::mem::take(&mut self.changed) {
            let change = self.change(place)?;
            changes.entry(place.0.0).or_default().push(change);
        }
        Ok(changes)
    }

    /// Parks what the checkpoint holds for a step, as far as it is `mine`, by record and id; answers how many. When all steps
    /// have been restored, [`Parked::begin`] follows.
    pub(crate) fn restore(
        &mut self,
        step: usize,
        state: Vec<Change>,
        mine: impl Fn(&Record, u64) -> bool,
    ) -> Result<usize> {
        let before = self.records.len();
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
            self.gates.park(&waiting.record.origin, size(&waiting.record));
            self.records.insert((Reverse(step), id), Waiting { step, ..waiting });
        }
        Ok(self.records.len() - before)
    }

    /// All is restored: the first record of each key is due, and all without a key.
    pub(crate) fn begin(&mut self) {
        self.adopt();
        self.fresh_id = self.next_id;
        for (&place, waiting) in &self.records {
            if let Some(key) = &waiting.record.key {
                self.keys.entry(key.clone()).or_default().places.insert(place);
            }
        }
        let without_key =
            self.records.iter().filter(|(_, waiting)| waiting.record.key.is_none()).map(|(place, _)| *place);
        let fronts = self.keys.values().filter_map(|line| line.places.first().copied());
        let due: Vec<Place> = without_key.chain(fronts).collect();
        due.into_iter().for_each(|place| self.schedule_saved(place));
    }

    /// What another worker has parked is given ids of this one, in its order, so that what parks behind it gets a later one.
    fn adopt(&mut self) {
        let mine = self.first_id >> WORKER_BITS;
        let foreign: Vec<Place> = self.records.keys().copied().filter(|(_, id)| id >> WORKER_BITS != mine).collect();
        for place in foreign {
            if let Some(waiting) = self.records.remove(&place) {
                let adopted = (place.0, self.next_id);
                self.records.insert(adopted, waiting);
                self.changed.extend([place, adopted]);
                self.next_id += ID_GAP;
            }
        }
    }

    /// It is due when it was to be tried.
    fn schedule_saved(&mut self, place: Place) {
        let Some(waiting) = self.records.get(&place) else { return };
        let wait = (waiting.due_at.0 - Timestamp::now().0).max(0) as u64;
        self.schedule(Instant::now() + Duration::from_nanos(wait), place);
    }

    fn schedule(&mut self, at: Instant, place: Place) {
        self.unschedule(place);
        self.due.insert((at, place));
        self.scheduled.insert(place, at);
    }

    fn unschedule(&mut self, place: Place) {
        if let Some(at) = self.scheduled.remove(&place) {
            self.due.remove(&(at, place));
        }
    }

    fn insert(&mut self, waiting: Waiting, delay: Duration, front: bool) {
        let due = Instant::now() + delay;
        self.gates.park(&waiting.record.origin, size(&waiting.record));
        if self.records.is_empty() {
            self.next_id = self.fresh_id;
        }
        let step = Reverse(waiting.step);
        // A failed record keeps its place before the others of its key by taking an id below theirs.
        let line = waiting.record.key.as_ref().and_then(|key| self.keys.get(key));
        let ahead = line.and_then(|line| line.places.range((step, 0)..=(step, u64::MAX)).next());
        let id = match ahead {
            Some((_, first)) if front => first - 1,
            _ => self.next_id,
        };
        self.next_id = self.next_id.max(id + ID_GAP);
        let place = (step, id);
        let key = waiting.record.key.clone();
        self.records.insert(place, waiting);
        self.changed.insert(place);
        let Some(key) = key else { return self.schedule(due, place) };
        let line = self.keys.entry(key).or_default();
        let was_first = line.places.first().copied();
        line.places.insert(place);
        // Behind one that is being tried, all wait.
        if line.trying.is_none() && line.places.first() == Some(&place) {
            was_first.into_iter().for_each(|behind| self.unschedule(behind));
            self.schedule(due, place);
        }
    }

    fn change(&self, place: Place) -> Result<Change> {
        let key = Bytes::copy_from_slice(&place.1.to_be_bytes());
        let value = match self.records.get(&place) {
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

/// The least time before another try.
const DELAY_MIN: Duration = Duration::from_millis(1);

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
        None => Ok(batch.record(row)),
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
    use std::sync::Arc;

    use super::*;
    use crate::pace::Gate;

    fn gates() -> Gates {
        Gates([Arc::new(Gate::new(1 << 20))].into())
    }

    fn parked() -> Parked {
        Parked::new(gates(), 0)
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
        parked.failed(record(Some("k"), "first"), 0, 0, 1, Duration::from_secs(30));
        assert!(parked.holds(Some(b"k"), 0) && !parked.holds(Some(b"other"), 0) && !parked.holds(None, 0));
        parked.behind(record(Some("k"), "second"), 0, 0);
        parked.behind(record(Some("k"), "third"), 0, 0);
        assert_eq!(taken(&mut parked), Some(("first".into(), 1)));
        assert_eq!(taken(&mut parked), None, "the second waits until the first has settled");
        // It fails again, and is still before the others.
        parked.failed(record(Some("k"), "first"), 0, 0, 2, Duration::from_secs(30));
        parked.settled(Some(b"k"));
        assert_eq!(taken(&mut parked), Some(("first".into(), 2)));
        parked.settled(Some(b"k"));
        assert_eq!(taken(&mut parked), Some(("second".into(), 0)));
        parked.settled(Some(b"k"));
        assert_eq!(taken(&mut parked), Some(("third".into(), 0)));
        parked.settled(Some(b"k"));
        assert!(parked.is_empty() && !parked.holds(Some(b"k"), 0));
    }

    /// Applies changes as a store does.
    fn save(state: &mut BTreeMap<(usize, Bytes), Change>, parked: &mut Parked) {
        for (step, changes) in parked.changes().unwrap() {
            for change in changes {
                match change.value {
                    Some(_) => drop(state.insert((step, change.key.clone()), change)),
                    None => drop(state.remove(&(step, change.key))),
                }
            }
        }
    }

    fn restored(
        state: &BTreeMap<(usize, Bytes), Change>,
        worker: usize,
        mine: impl Fn(&Record, u64) -> bool,
    ) -> Parked {
        let mut parked = Parked::new(gates(), worker);
        let steps: BTreeSet<usize> = state.keys().map(|(step, _)| *step).collect();
        for step in steps {
            let of = state.iter().filter(|((of, _), _)| *of == step).map(|(_, change)| change.clone());
            parked.restore(step, of.collect(), &mine).unwrap();
        }
        parked.begin();
        parked
    }

    #[tokio::test]
    async fn what_is_parked_survives_in_the_changes() {
        let (mut parked, mut state) = (parked(), BTreeMap::new());
        parked.failed(record(Some("k"), "first"), 3, 0, 1, Duration::from_secs(30));
        parked.behind(record(Some("k"), "second"), 3, 0);
        parked.failed(record(None, "free"), 3, 0, 1, Duration::from_secs(60));
        save(&mut state, &mut parked);
        assert_eq!(taken(&mut parked).unwrap().0, "first");
        parked.settled(Some(b"k"));
        save(&mut state, &mut parked);
        let mut again = restored(&state, 0, |_, _| true);
        assert_eq!(taken(&mut again), Some(("second".into(), 0)));
        assert_eq!(taken(&mut again), Some(("free".into(), 1)));
    }

    #[tokio::test]
    async fn what_waits_before_a_later_step_came_earlier() {
        let (mut parked, mut state) = (parked(), BTreeMap::new());
        parked.failed(record(Some("k"), "third"), 0, 0, 1, Duration::from_millis(1));
        parked.failed(record(Some("k"), "first"), 1, 0, 1, Duration::from_secs(30));
        parked.behind(record(Some("k"), "fourth"), 0, 0);
        assert!(parked.holds(Some(b"k"), 1) && !parked.holds(Some(b"k"), 2));
        parked.behind(record(Some("k"), "second"), 1, 0);
        save(&mut state, &mut parked);
        for mut parked in [parked, restored(&state, 0, |_, _| true)] {
            for value in ["first", "second", "third", "fourth"] {
                assert_eq!(taken(&mut parked).unwrap().0, value);
                assert_eq!(taken(&mut parked), None, "behind {value}");
                parked.settled(Some(b"k"));
            }
        }
    }

    #[tokio::test]
    async fn behind_a_record_that_is_being_tried_all_wait() {
        let mut parked = parked();
        parked.failed(record(Some("k"), "first"), 0, 0, 1, Duration::from_millis(1));
        assert_eq!(taken(&mut parked).unwrap().0, "first");
        parked.behind(record(Some("k"), "second"), 0, 0);
        assert_eq!(taken(&mut parked), None);
        parked.settled(Some(b"k"));
        assert_eq!(taken(&mut parked).unwrap().0, "second");
    }

    #[tokio::test]
    async fn an_id_that_another_worker_is_giving_up_is_not_given_again() {
        let mut one = Parked::new(gates(), 1);
        one.failed(record(Some("k"), "old"), 0, 0, 1, Duration::from_secs(30));
        let mut state = BTreeMap::new();
        save(&mut state, &mut one);
        // The key moves to worker 0; worker 1 has nothing, and parks something new in the same epoch.
        let mut zero = restored(&state, 0, |_, _| true);
        let mut one = restored(&state, 1, |_, _| false);
        one.failed(record(Some("other"), "new"), 0, 0, 1, Duration::from_secs(30));
        // In whatever order the two report.
        save(&mut state, &mut one);
        save(&mut state, &mut zero);
        let values =
            state.values().map(|change| rmp_serde::from_slice::<Waiting>(change.value.as_ref().unwrap()).unwrap());
        let mut values: Vec<_> = values.map(|waiting| waiting.record.value.unwrap()).collect();
        values.sort();
        assert_eq!(values, ["new", "old"]);
    }
}
