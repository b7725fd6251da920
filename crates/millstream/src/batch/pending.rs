//! Batches that are still open.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::{BuildHasher, Hasher},
};

use bytes::Bytes;
use millstream_core::{Batch, Change, Error, Output, Result, Timestamp};

use super::{
    Batching, Splitter, Trigger,
    batching::Parameters,
    saved::{Saved, Tag, batch_of, forget, read, run_of, save},
};
use crate::{
    typed::{Data, Typed, view, written_bytes},
    work::{Held, Row, Set, Slots, has_key},
};

/// A batch that takes records.
pub(crate) struct Open<T> {
    key: Option<Bytes>,
    rows: Vec<Row>,
    tags: Vec<Tag>,
    /// Bytes of the values, where they are counted.
    bytes: u64,
    /// Bytes of memory of its records.
    memory: u64,
    first_at: Timestamp,
    split: Option<Splitter<T>>,
    /// So many of its records, the first, are counted as absorbed; and so many are saved.
    absorbed: usize,
    saved: usize,
    /// It is among the fresh ones.
    fresh: bool,
}

/// All open batches of a worker.
pub(crate) struct Pending<T> {
    opens: Slots<Open<T>>,
    by_key: HashMap<Bytes, u32>,
    /// The open batch of records without a key.
    keyless: Option<u32>,
    /// By the time of their first records.
    by_age: BTreeSet<(Timestamp, u32)>,
    /// Those that took records since the last `absorb`.
    fresh: Vec<u32>,
    /// Those that have something to be saved, each once: by number, and marked there.
    unsaved: Vec<u32>,
    marked: Vec<bool>,
    /// To be saved, and to be forgotten.
    written: Vec<Change>,
    gone: Vec<Change>,
    /// Held records at which the next `compact` is worth a walk.
    compact_at: usize,
    run: u64,
    next: u64,
    records: usize,
    memory: u64,
}

impl<T: Data> Pending<T> {
    pub(crate) fn new() -> Self {
        let random = std::hash::RandomState::new().build_hasher().finish();
        Pending {
            opens: Slots::default(),
            by_key: HashMap::new(),
            keyless: None,
            by_age: BTreeSet::new(),
            fresh: Vec::new(),
            unsaved: Vec::new(),
            marked: Vec::new(),
            written: Vec::new(),
            gone: Vec::new(),
            compact_at: 0,
            run: random,
            next: 0,
            records: 0,
            memory: 0,
        }
    }

    /// Records without a key are saved under this group from here on.
    pub(crate) fn keyless_group(&mut self, group: u16) {
        self.run = run_of(group, self.run);
    }

    /// Bytes of memory of all records in open batches.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }

    /// The number of the open batch of a key; a new one where there is none.
    pub(crate) fn open(
        &mut self,
        key: Option<&[u8]>,
        now: Timestamp,
        split: impl FnOnce() -> Option<Splitter<T>>,
    ) -> u32 {
        let known = match key {
            Some(key) => self.by_key.get(key).copied(),
            None => self.keyless,
        };
        if let Some(number) = known {
            self.age(number, now);
            return number;
        }
        let key = key.map(Bytes::copy_from_slice);
        let number = self.opens.insert(Open {
            key: key.clone(),
            rows: Vec::new(),
            tags: Vec::new(),
            bytes: 0,
            memory: 0,
            first_at: now,
            split: split(),
            absorbed: 0,
            saved: 0,
            fresh: false,
        });
        self.by_age.insert((now, number));
        match key {
            Some(key) => drop(self.by_key.insert(key, number)),
            None => self.keyless = Some(number),
        }
        number
    }

    /// The time of a batch counts from its first record: one that has lost all of its records begins anew.
    fn age(&mut self, number: u32, now: Timestamp) {
        if let Some(open) = self.opens.get_mut(number).filter(|open| open.rows.is_empty()) {
            self.by_age.remove(&(open.first_at, number));
            open.first_at = now;
            self.by_age.insert((now, number));
        }
    }

    /// Adds touching rows of a batch to an open one, each of about `memory` bytes. Answers with how many it has then.
    pub(crate) fn add(&mut self, number: u32, batch: u32, rows: std::ops::Range<u32>, memory: u64) -> usize {
        let Some(open) = self.opens.get_mut(number) else { return 0 };
        let added = rows.len();
        let (run, first) = (self.run, self.next);
        open.tags.extend((first..).take(added).map(|nth| Tag { run, nth }));
        open.rows.extend(rows.map(|row| Row { batch, row }));
        open.memory += memory * added as u64;
        self.next += added as u64;
        self.records += added;
        self.memory += memory * added as u64;
        if !std::mem::replace(&mut open.fresh, true) {
            self.fresh.push(number);
        }
        open.rows.len()
    }

    /// How many records an open batch has.
    pub(crate) fn len(&self, number: u32) -> usize {
        self.opens.get(number).map_or(0, |open| open.rows.len())
    }

    /// Counts bytes of a value; answers with how many there are then.
    pub(crate) fn count_bytes(&mut self, number: u32, bytes: u64) -> u64 {
        self.opens.get_mut(number).map_or(0, |open| {
            open.bytes += bytes;
            open.bytes
        })
    }

    /// What the splitter of an open batch says of a value.
    pub(crate) fn splits(&mut self, number: u32, value: &T) -> bool {
        self.opens.get_mut(number).and_then(|open| open.split.as_mut()).is_some_and(|split| split(value))
    }

    /// Closes a batch.
    pub(crate) fn close(&mut self, number: u32, trigger: Trigger, held: &Held) -> Option<Set> {
        let open = self.opens.remove(number)?;
        self.by_age.remove(&(open.first_at, number));
        match &open.key {
            Some(key) => drop(self.by_key.remove(key)),
            None => self.keyless = None,
        }
        self.records -= open.rows.len();
        self.memory = self.memory.saturating_sub(open.memory);
        for (at, tag) in open.rows.iter().zip(&open.tags).take(open.saved) {
            self.gone.push(gone(held, *at, *tag));
        }
        let set = Set { rows: open.rows, key: open.key, trigger, absorbed: open.absorbed };
        (!set.rows.is_empty()).then_some(set)
    }

    /// Closes the oldest batch that has records, if the first of them came at `upto` or before.
    pub(crate) fn close_older(&mut self, upto: Timestamp, trigger: Trigger, held: &Held) -> Option<Set> {
        while let Some((_, number)) = self.by_age.first().copied().filter(|(first_at, _)| *first_at <= upto) {
            let closed = self.close(number, trigger, held);
            if closed.is_some() {
                return closed;
            }
        }
        None
    }

    /// Closes the batches that have all of their records, or more, since what closes one has changed. One that has more comes in
    /// parts, so that none is larger than it may be.
    pub(crate) fn close_full(&mut self, held: &Held, parameters: &Parameters) -> Vec<Set> {
        let mut closed = Vec::new();
        let numbers: Vec<u32> = self.by_age.iter().map(|(_, number)| *number).collect();
        for number in numbers {
            let Some(open) = self.opens.get_mut(number) else { continue };
            let sizes: Vec<u64> = match parameters.bytes() {
                u64::MAX => vec![0; open.rows.len()],
                _ => open.rows.iter().map(|at| bytes_of::<T>(held, *at)).collect(),
            };
            open.bytes = sizes.iter().sum();
            let Some(trigger) = parameters.reached(false, open.rows.len(), open.bytes) else { continue };
            if let Some(set) = self.close(number, trigger, held) {
                closed.extend(in_parts(set, &sizes, parameters));
            }
        }
        closed
    }

    /// When the first record of the oldest batch came.
    pub(crate) fn oldest(&self) -> Option<Timestamp> {
        self.by_age.first().map(|(first_at, _)| *first_at)
    }

    /// Counts what stays in open batches as absorbed, once: it is in the state from here on.
    pub(crate) fn absorb(&mut self, out: &mut Output) {
        for number in self.fresh.drain(..) {
            let Some(open) = self.opens.get_mut(number).filter(|open| open.fresh) else { continue };
            open.fresh = false;
            out.absorbed(open.rows.len() - open.absorbed);
            open.absorbed = open.rows.len();
            if self.marked.len() <= number as usize {
                self.marked.resize(number as usize + 1, false);
            }
            if let Some(mark) = self.marked.get_mut(number as usize)
                && !std::mem::replace(mark, true)
            {
                self.unsaved.push(number);
            }
        }
    }

    /// Takes records of these keys out of open batches, in order.
    pub(crate) fn take_back(&mut self, held: &Held, keys: &HashSet<Bytes>, out: &mut Output) -> Vec<Row> {
        let (mut taken, mut empty) = (Vec::new(), Vec::new());
        for (number, open) in self.opens.iter_mut() {
            if !open.rows.iter().any(|at| has_key(held, *at, keys)) {
                continue;
            }
            let each = open.memory / open.rows.len() as u64;
            let rows = std::mem::take(&mut open.rows).into_iter().zip(std::mem::take(&mut open.tags));
            let (absorbed, saved) = (std::mem::take(&mut open.absorbed), std::mem::take(&mut open.saved));
            for (nth, (at, tag)) in rows.enumerate() {
                if has_key(held, at, keys) {
                    taken.push((tag.nth, at));
                    out.created(usize::from(nth < absorbed));
                    if nth < saved {
                        self.gone.push(gone(held, at, tag));
                    }
                    open.memory -= each;
                    self.memory = self.memory.saturating_sub(each);
                    self.records -= 1;
                } else {
                    open.rows.push(at);
                    open.tags.push(tag);
                    open.absorbed += usize::from(nth < absorbed);
                    open.saved += usize::from(nth < saved);
                }
            }
            if open.rows.is_empty() {
                empty.push(number);
            }
        }
        // The next record of its key begins another one: nothing is kept of a key that does not come again.
        empty.into_iter().for_each(|number| drop(self.close(number, Trigger::Memory, held)));
        taken.sort_unstable_by_key(|(nth, _)| *nth);
        taken.into_iter().map(|(_, at)| at).collect()
    }

    /// Writes down what is not saved yet. Answers with the records that cannot be: they are in no batch any more.
    pub(crate) fn write_down(&mut self, held: &Held, out: &mut Output) -> Vec<(Row, Error)> {
        let mut refused = Vec::new();
        for number in std::mem::take(&mut self.unsaved) {
            self.marked.get_mut(number as usize).into_iter().for_each(|mark| *mark = false);
            let Some(open) = self.opens.get_mut(number) else { continue };
            let mut bad = Vec::new();
            for (nth, (at, tag)) in open.rows.iter().zip(&open.tags).enumerate().skip(open.saved) {
                let Some(batch) = held.get(at.batch) else { continue };
                match save::<T>(batch, at.row, *tag, open.first_at, open.key.clone()) {
                    Ok(change) => self.written.push(change),
                    Err(error) => bad.push((nth, error)),
                }
            }
            for (nth, error) in bad.into_iter().rev() {
                let each = open.memory / open.rows.len() as u64;
                refused.push((open.rows.remove(nth), error));
                open.tags.remove(nth);
                out.created(usize::from(nth < open.absorbed));
                open.absorbed -= usize::from(nth < open.absorbed);
                open.memory -= each;
                self.memory = self.memory.saturating_sub(each);
                self.records -= 1;
            }
            open.saved = open.rows.len();
        }
        refused
    }

    /// What was written down and what is to be forgotten since the last call.
    pub(crate) fn changes(&mut self) -> Vec<Change> {
        let (mut changes, gone) = (std::mem::take(&mut self.written), std::mem::take(&mut self.gone));
        if !changes.is_empty() && !gone.is_empty() {
            let gone: HashSet<&Bytes> = gone.iter().map(|change| &change.key).collect();
            changes.retain(|change| !gone.contains(&change.key));
        }
        changes.extend(gone);
        changes
    }

    /// Opens the batches that were saved. Where there are fewer workers now, what two of them had open is one batch: those that
    /// have all of their records are closed, and answered with.
    pub(crate) fn restore(&mut self, state: Vec<Change>, held: &mut Held, batching: &Batching<T>) -> Result<Vec<Set>> {
        let (saved, mut closed) = (read(state)?, Vec::new());
        if saved.is_empty() {
            return Ok(closed);
        }
        let batch = batch_of::<T>(&saved)?;
        let memory = batch.size() as u64 / saved.len() as u64;
        let id = held.add(batch.clone());
        for (row, (tag, Saved { nth, first_at, batch_key, .. })) in saved.into_iter().enumerate() {
            let number = self.open(batch_key.as_deref(), first_at, || batching.splitter());
            self.next = nth;
            let count = self.add(number, id, row as u32..row as u32 + 1, memory);
            let Some(open) = self.opens.get_mut(number) else { continue };
            if first_at < open.first_at {
                self.by_age.remove(&(open.first_at, number));
                open.first_at = first_at;
                self.by_age.insert((first_at, number));
            }
            // It keeps the name under which it is saved.
            open.tags.pop();
            open.tags.push(tag);
            (open.saved, open.absorbed) = (open.rows.len(), open.rows.len());
            let mut splits = false;
            if let Some(value) = view::<T>(&batch).get(row) {
                open.bytes += written_bytes(value) as u64;
                splits = open.split.as_mut().is_some_and(|split| split(value));
            }
            let reached = batching.parameters.reached(splits, count, open.bytes);
            closed.extend(reached.and_then(|trigger| self.close(number, trigger, held)));
        }
        Ok(closed)
    }

    /// Copies records of open batches that keep many others alive, so that memory is that of what is held.
    pub(crate) fn compact(&mut self, held: &mut Held) {
        if held.rows() < self.compact_at / 4 {
            self.compact_at = 0;
        }
        if held.rows() < self.compact_at.max(8 * self.records + COMPACT_RECORDS_MIN) {
            return;
        }
        let mut sparse: Vec<Row> = Vec::new();
        for (_, open) in self.opens.iter() {
            sparse.extend(open.rows.iter().filter(|at| held.is_sparse(at.batch)));
        }
        // Not again before there is twice as much: what is under way keeps batches alive, too.
        self.compact_at = 2 * held.rows();
        if sparse.is_empty() {
            return;
        }
        let values: Vec<T> =
            sparse.iter().filter_map(|at| view::<T>(held.get(at.batch)?).get(at.row as usize).cloned()).collect();
        let batch: Batch = held.gather(&sparse).with_body(Typed::body(values));
        let id = held.add_mixed(batch);
        let moved: HashMap<(u32, u32), u32> =
            sparse.iter().zip(0..).map(|(at, row)| ((at.batch, at.row), row)).collect();
        for (_, open) in self.opens.iter_mut() {
            for at in &mut open.rows {
                if let Some(&row) = moved.get(&(at.batch, at.row)) {
                    *at = Row { batch: id, row };
                }
            }
        }
        sparse.iter().for_each(|at| held.release(at.batch, 1));
    }
}

/// Fewer records than these are not worth the walk.
const COMPACT_RECORDS_MIN: usize = 1 << 16;

/// Bytes of the value of a record.
fn bytes_of<T: Data>(held: &Held, at: Row) -> u64 {
    let value = held.get(at.batch).and_then(|batch| view::<T>(batch).get(at.row as usize));
    value.map_or(0, |value| written_bytes(value) as u64)
}

/// The records of a batch, whose values have these bytes, in batches as large as they may be.
fn in_parts(set: Set, sizes: &[u64], parameters: &Parameters) -> Vec<Set> {
    let part = || Set { rows: Vec::new(), key: set.key.clone(), trigger: set.trigger, absorbed: 0 };
    let (mut parts, mut last, mut bytes) = (Vec::new(), part(), 0);
    for (nth, (at, size)) in set.rows.iter().zip(sizes).enumerate() {
        last.rows.push(*at);
        last.absorbed += usize::from(nth < set.absorbed);
        bytes += size;
        if let Some(trigger) = parameters.reached(false, last.rows.len(), bytes) {
            parts.push(Set { trigger, ..std::mem::replace(&mut last, part()) });
            bytes = 0;
        }
    }
    parts.extend((!last.rows.is_empty()).then_some(last));
    parts
}

fn gone(held: &Held, at: Row, tag: Tag) -> Change {
    forget(held.get(at.batch).and_then(|batch| batch.get(at.row as usize).key()), tag)
}
