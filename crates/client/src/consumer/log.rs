//! What has been read and is not committable yet: which records are whose, and which are done.
//!
//! ```text
//!   base ─► [ entry: batch, owner of each record or DONE, position behind it ] ─► [ entry ] ─► [ entry ]
//!           popped when all its records are done; `base` moves behind it
//! ```

use std::collections::{BTreeMap, VecDeque};

use millstream_core::{Batch, Error, Position, Record, ShardKey};
use serde_json::Value;

use crate::Saved;

/// The record is done, and its source has been told of it alone.
const TOLD: u32 = u32::MAX;
/// The record is done.
const DONE: u32 = u32::MAX - 1;
/// The record is passed over: its shard is not read now. It holds up nobody, and is not saved as done.
const PASSED: u32 = u32::MAX - 2;

/// Runs of sequences: first and last, ascending.
type Runs = BTreeMap<ShardKey, Vec<(u128, u128)>>;

#[derive(Debug)]
pub(crate) struct Log {
    /// Everything before it is done.
    base: Position,
    entries: VecDeque<Entry>,
    next_id: u64,
    records: usize,
    bytes: usize,
    /// Records behind the base that were done before this run; they are not handed out again.
    skip: Runs,
    /// Sequences say which record it is, so single records can be saved as done.
    exact: bool,
    /// Something has become done since [`Log::saved`].
    dirty: bool,
    /// The entry whose commit its source waits for before it gives more.
    alone: Option<u64>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    batch: Batch,
    failed: Vec<(u32, Error)>,
    owners: Vec<u32>,
    /// Records that are neither done nor passed over.
    left: usize,
    /// Where the search for the next acknowledged record begins.
    hint: usize,
    after: Position,
}

impl Log {
    pub(crate) fn new(base: Position, skip: Runs, exact: bool) -> Self {
        let (entries, dirty, alone) = (VecDeque::new(), false, None);
        Log { base, entries, next_id: 1, records: 0, bytes: 0, skip, exact, dirty, alone }
    }

    /// Forgets everything: the source stands elsewhere now.
    pub(crate) fn reset(&mut self, base: Position) {
        let next_id = self.next_id;
        *self = Log { next_id, dirty: true, ..Log::new(base, Runs::new(), self.exact) };
    }

    pub(crate) fn base(&self) -> &Position {
        &self.base
    }

    /// Whether something has become done since it was last [`saved`](Log::saved).
    pub(crate) fn dirty(&self) -> bool {
        self.dirty
    }

    /// Records and bytes that it holds.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.records, self.bytes)
    }

    /// Whether the record was done before this run.
    pub(crate) fn was_done(&self, shard: &ShardKey, sequence: u128) -> bool {
        let Some(runs) = self.skip.get(shard) else { return false };
        runs.iter().any(|(first, last)| (*first..=*last).contains(&sequence))
    }

    /// Whether no record was done before this run.
    pub(crate) fn skips_nothing(&self) -> bool {
        self.skip.is_empty()
    }

    /// Takes up a batch. `owner` says whose each record is; `None`: it was done before; `Some(None)`: it is passed over.
    pub(crate) fn push(
        &mut self,
        batch: Batch,
        failed: Vec<(u32, Error)>,
        after: Position,
        owner: impl Fn(usize) -> Option<Option<u32>>,
    ) -> u64 {
        let owners: Vec<u32> = (0..batch.len()).map(|row| owner(row).map_or(DONE, |of| of.unwrap_or(PASSED))).collect();
        let left = owners.iter().filter(|owner| **owner < PASSED).count();
        let id = self.next_id;
        self.next_id += 1;
        self.records += batch.len();
        self.bytes += batch.size();
        self.entries.push_back(Entry { id, batch, failed, owners, left, hint: 0, after });
        self.settle();
        id
    }

    fn entry(&mut self, id: u64) -> Option<&mut Entry> {
        let first = self.entries.front()?.id;
        self.entries.get_mut(usize::try_from(id.checked_sub(first)?).ok()?)
    }

    /// The source gives no more before this entry is committed.
    pub(crate) fn goes_alone(&mut self, id: u64) {
        self.alone = Some(id);
    }

    /// Whether an entry that goes alone is done, and its source has not heard of it.
    pub(crate) fn is_awaited(&self) -> bool {
        let place = |id: u64| id.checked_sub(self.entries.front()?.id).and_then(|at| usize::try_from(at).ok());
        let left = |id| place(id).and_then(|at| self.entries.get(at)).map_or(0, |entry| entry.left);
        self.alone.is_some_and(|id| left(id) == 0)
    }

    /// The source has heard of the entry that goes alone.
    pub(crate) fn heard(&mut self) {
        self.alone = None;
    }

    /// These rows of an entry are done.
    pub(crate) fn done(&mut self, id: u64, rows: &[u32]) {
        self.mark(id, rows, DONE);
    }

    /// These rows of an entry are not read now.
    pub(crate) fn pass(&mut self, id: u64, rows: &[u32]) {
        self.mark(id, rows, PASSED);
    }

    fn mark(&mut self, id: u64, rows: &[u32], mark: u32) {
        let Some(entry) = self.entry(id) else { return };
        for row in rows {
            if let Some(owner) = entry.owners.get_mut(*row as usize).filter(|owner| **owner < PASSED) {
                *owner = mark;
                entry.left -= 1;
            }
        }
        self.dirty = true;
        self.settle();
    }

    /// The record is done; `false` if it is not one that `member` holds.
    pub(crate) fn ack(&mut self, member: u32, record: &Record) -> bool {
        let is = |entry: &Entry, row: usize| {
            let candidate = entry.batch.get(row);
            entry.owners[row] == member
                && candidate.sequence() == record.sequence
                && candidate.index() == record.index
                && *candidate.origin() == record.origin
        };
        let found = self.entries.iter().find_map(|entry| {
            let rows = entry.owners.len();
            let row = (0..rows).map(|i| (entry.hint + i) % rows).find(|row| is(entry, *row))?;
            Some((entry.id, row))
        });
        let Some((id, row)) = found else { return false };
        if let Some(entry) = self.entry(id) {
            entry.hint = row + 1;
        }
        self.done(id, &[row as u32]);
        true
    }

    /// Moves the base behind entries that are done.
    fn settle(&mut self) {
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.left == 0) {
            self.records -= entry.batch.len();
            self.bytes -= entry.batch.size();
            if !self.skip.is_empty() {
                forget(&mut self.skip, &entry.batch);
            }
            self.base = entry.after;
            self.dirty = true;
        }
    }

    /// What can be saved now.
    pub(crate) fn saved(&mut self) -> Saved {
        self.dirty = false;
        let mut done = if self.exact { self.skip.clone() } else { Runs::new() };
        for (shard, sequence) in self.done_behind_base() {
            add(done.entry(shard.clone()).or_default(), sequence);
        }
        Saved::new(self.base.clone(), done)
    }

    /// What is done behind the base in one shard.
    pub(crate) fn done_of(&self, shard: &ShardKey) -> Vec<(u128, u128)> {
        let mut runs = self.skip.get(shard).cloned().filter(|_| self.exact).unwrap_or_default();
        self.done_behind_base().filter(|(of, _)| *of == shard).for_each(|(_, sequence)| add(&mut runs, sequence));
        runs
    }

    fn done_behind_base(&self) -> impl Iterator<Item = (&ShardKey, u128)> {
        let exact = self.entries.iter().filter(|_| self.exact);
        exact.flat_map(|entry| {
            let rows = entry.owners.iter().enumerate().filter(|(_, owner)| **owner == DONE);
            rows.map(|(row, _)| {
                let record = entry.batch.get(row);
                (record.origin(), record.sequence())
            })
        })
    }

    /// The records behind the base that have become done since the last call, for sources that are told of each. If telling
    /// them fails, the base tells them later.
    pub(crate) fn newly_done(&mut self) -> Vec<Batch> {
        let newly = |entry: &mut Entry| {
            let done = entry.owners.iter_mut().enumerate().filter(|(_, owner)| **owner == DONE);
            let rows: Vec<u32> = done.map(|(row, owner)| (row as u32, *owner = TOLD).0).collect();
            (!rows.is_empty()).then(|| entry.batch.select(rows))
        };
        self.entries.iter_mut().filter_map(newly).collect()
    }

    /// A later attempt must save again.
    pub(crate) fn touch(&mut self) {
        self.dirty = true;
    }

    /// The records that `member` holds: entry and rows, oldest first.
    pub(crate) fn held_by(&self, member: u32) -> Vec<(u64, Vec<u32>)> {
        let rows = |entry: &Entry| {
            let owned = entry.owners.iter().enumerate().filter(|(_, owner)| **owner == member);
            owned.map(|(row, _)| row as u32).collect::<Vec<_>>()
        };
        self.entries.iter().map(|entry| (entry.id, rows(entry))).filter(|(_, rows)| !rows.is_empty()).collect()
    }

    /// Gives rows to another member; answers with their batch.
    pub(crate) fn give(&mut self, id: u64, rows: &[u32], member: u32) -> Option<(&Batch, &[(u32, Error)])> {
        let entry = self.entry(id)?;
        rows.iter().for_each(|row| entry.owners[*row as usize] = member);
        Some((&entry.batch, &entry.failed))
    }

    /// All records that are not done, as batches, oldest first.
    pub(crate) fn not_done(&self) -> Vec<Batch> {
        let rows = |entry: &Entry| {
            let open = entry.owners.iter().enumerate().filter(|(_, owner)| **owner < PASSED);
            open.map(|(row, _)| row as u32).collect::<Vec<_>>()
        };
        self.entries.iter().filter(|entry| entry.left > 0).map(|entry| entry.batch.select(rows(entry))).collect()
    }

    /// Records of these shards belong to somebody else now, and so does what is committed of them.
    pub(crate) fn lose(&mut self, shards: &[ShardKey]) {
        let lose = |position: &mut Position| position.0.retain(|shard, _| !shards.contains(shard));
        lose(&mut self.base);
        self.skip.retain(|shard, _| !shards.contains(shard));
        for entry in &mut self.entries {
            lose(&mut entry.after);
            for row in 0..entry.owners.len() {
                if entry.owners[row] < PASSED && shards.contains(entry.batch.get(row).origin()) {
                    entry.owners[row] = PASSED;
                    entry.left -= 1;
                }
            }
        }
        self.settle();
    }

    /// A shard that was put aside is read again from where it was: what was read since says nothing of it.
    pub(crate) fn resume(&mut self, shard: &ShardKey, position: Option<Value>, done: Vec<(u128, u128)>) {
        let restore = |of: &mut Position| match &position {
            Some(position) => _ = of.0.insert(shard.clone(), position.clone()),
            None => _ = of.0.remove(shard),
        };
        restore(&mut self.base);
        self.entries.iter_mut().for_each(|entry| restore(&mut entry.after));
        if self.exact && !done.is_empty() {
            self.skip.insert(shard.clone(), done);
        }
        self.dirty = true;
    }
}

/// Adds a sequence to runs, joining neighbours.
fn add(runs: &mut Vec<(u128, u128)>, sequence: u128) {
    let at = runs.partition_point(|(first, _)| *first <= sequence);
    if let Some((_, last)) = at.checked_sub(1).and_then(|before| runs.get_mut(before)) {
        if *last >= sequence {
            return;
        }
        if last.checked_add(1) == Some(sequence) {
            *last = sequence;
            let end = sequence.checked_add(1);
            if let Some(&(first, behind)) = runs.get(at)
                && Some(first) == end
            {
                runs.remove(at);
                runs[at - 1].1 = behind;
            }
            return;
        }
    }
    match runs.get_mut(at) {
        Some((first, _)) if sequence.checked_add(1) == Some(*first) => *first = sequence,
        _ => runs.insert(at, (sequence, sequence)),
    }
}

/// Forgets the runs that lie before the records of a batch or among them: the base has passed them.
fn forget(skip: &mut Runs, batch: &Batch) {
    for record in batch.iter() {
        if let Some(runs) = skip.get_mut(record.origin()) {
            runs.retain(|(_, last)| *last > record.sequence());
        }
    }
    skip.retain(|_, runs| !runs.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;
    use millstream_core::BatchBuilder;

    fn batch(sequences: std::ops::Range<u128>) -> Batch {
        let mut builder = BatchBuilder::new();
        sequences.for_each(|sequence| builder.push(&Record { sequence, ..Record::new("s", "x") }));
        builder.finish()
    }

    fn at(next: u64) -> Position {
        let mut position = Position::default();
        position.set(ShardKey::new("s", 0), &next).unwrap();
        position
    }

    fn log() -> Log {
        let mut log = Log::new(at(0), Runs::new(), true);
        log.push(batch(0..4), Vec::new(), at(4), |_| Some(Some(0)));
        log.push(batch(4..8), Vec::new(), at(8), |_| Some(Some(0)));
        log
    }

    fn ack(log: &mut Log, sequence: u128) -> bool {
        log.ack(0, &Record { sequence, ..Record::new("s", "x") })
    }

    #[test]
    fn the_base_stays_before_a_record_that_is_not_done() {
        let mut log = log();
        for sequence in [1, 2, 3, 4, 5, 6, 7] {
            assert!(ack(&mut log, sequence));
        }
        let saved = log.saved();
        assert_eq!(saved.position, at(0));
        assert_eq!(saved.done[&ShardKey::new("s", 0)], [(1, 7)]);
        assert!(ack(&mut log, 0));
        assert_eq!(log.saved(), Saved::new(at(8), Runs::new()));
        assert_eq!(log.size(), (0, 0));
    }

    #[test]
    fn records_done_before_others_are_told_once() {
        let mut log = log();
        assert!(ack(&mut log, 5) && ack(&mut log, 1));
        let told = |log: &mut Log| -> Vec<u128> {
            log.newly_done().iter().flat_map(|batch| batch.iter().map(|r| r.sequence()).collect::<Vec<_>>()).collect()
        };
        assert_eq!(told(&mut log), [1, 5]);
        assert!(told(&mut log).is_empty() && !ack(&mut log, 5));
        assert!([0, 2, 3, 4, 6].map(|sequence| ack(&mut log, sequence)) == [true; 5]);
        assert_eq!((told(&mut log), log.saved().position), (vec![4, 6], at(4)));
    }

    #[test]
    fn a_record_is_acknowledged_once() {
        let mut log = log();
        assert!(ack(&mut log, 5));
        assert!(!ack(&mut log, 5));
        assert!(!ack(&mut log, 99));
    }

    #[test]
    fn what_was_done_before_is_not_given_again_and_stays_saved() {
        let done = Runs::from([(ShardKey::new("s", 0), vec![(2, 5)])]);
        let mut log = Log::new(at(0), done.clone(), true);
        assert!(!log.skips_nothing());
        assert_eq!(log.saved().done, done);
        let shard = ShardKey::new("s", 0);
        let known: Vec<bool> = (0..8).map(|sequence| log.was_done(&shard, sequence)).collect();
        assert_eq!(known, [false, false, true, true, true, true, false, false]);
        log.push(batch(0..4), Vec::new(), at(4), |row| (row < 2).then_some(Some(0)));
        log.done(1, &[0, 1]);
        assert_eq!(log.saved(), Saved::new(at(4), Runs::from([(shard, vec![(2, 5)])])));
    }

    #[test]
    fn a_shard_that_is_lost_holds_up_nobody_and_is_not_committed() {
        let mut log = log();
        assert!(ack(&mut log, 0));
        log.lose(&[ShardKey::new("s", 0)]);
        assert_eq!(log.size(), (0, 0));
        assert_eq!(log.saved(), Saved::new(Position::default(), Runs::new()));
    }

    #[test]
    fn runs_join() {
        let mut runs = Vec::new();
        for sequence in [5, 3, 9, 4, 1, 2, 5, 8] {
            add(&mut runs, sequence);
        }
        assert_eq!(runs, [(1, 5), (8, 9)]);
        add(&mut runs, u128::MAX);
        add(&mut runs, u128::MAX - 1);
        assert_eq!(runs, [(1, 5), (8, 9), (u128::MAX - 1, u128::MAX)]);
    }
}
