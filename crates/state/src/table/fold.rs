//! Changes of a table by user code that may panic: what a record changed that panicked is taken back.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use millstream_core::{Error, panicked};

use super::{KeyedTable, State, Words};

/// Values of at most so many bytes, without any on the heap, are copied before each record.
const COPIED_BYTES_MAX: usize = 64;

/// The rows of one batch on their way into a table; by [`KeyedTable::fold`].
///
/// Each row calls [`Folds::entry`], changes the value, and calls [`Folds::done`]. Between rows and behind the last one,
/// where [`Folds::is_torn`] says that `done` was not reached, [`Folds::mend`] takes back what that row has changed.
///
/// A value that is small and holds nothing on the heap is copied before each row. Any other is cloned once for each batch
/// that touches its key; `mend` clones it once more and folds the earlier rows of its key in the batch again. So what it
/// costs is one clone a key a batch, and its memory until the batch is done: with a hot key next to nothing, with a large value
/// of a rare key that clone.
pub struct Folds<'a, V: Default> {
    table: &'a mut KeyedTable<V>,
    /// Of the slots with their flag `kept`, or of the row under way where values are copied.
    kept: Vec<Kept<V>>,
    /// The row that is changing a value, and its slot.
    open: Option<(usize, u32)>,
}

/// What is needed to go back behind the changes of a row.
struct Kept<V> {
    slot: u32,
    /// Nothing for a key that was not there.
    value: Option<V>,
    /// The first row that is not in the value.
    from: usize,
}

impl<V: Default + Clone> KeyedTable<V> {
    /// For the rows of one batch, any of which may panic while it changes a value.
    pub fn fold(&mut self) -> Folds<'_, V> {
        Folds { table: self, kept: Vec::new(), open: None }
    }
}

impl<V: Default> Drop for Folds<'_, V> {
    fn drop(&mut self) {
        for kept in &self.kept {
            if let Some(slot) = self.table.slots.get_mut(kept.slot as usize) {
                slot.state.kept = false;
            }
        }
        self.table.close_holes();
    }
}

impl<V: Default + Clone> Folds<'_, V> {
    const COPIED: bool = !std::mem::needs_drop::<V>() && size_of::<V>() <= COPIED_BYTES_MAX;

    /// The value of the key of `row`, made by `Default` where there is none, to be changed until [`Folds::done`].
    #[inline]
    pub fn entry(&mut self, row: usize, key: &[u8]) -> &mut V {
        let words = Words::of(key, &self.table.seeds);
        let (number, new) = match self.table.find(key, words) {
            Some(number) => (number, false),
            None => (self.table.insert(key, words, State::default(), V::default()), true),
        };
        // Indexes: `find` and `insert` answer with numbers of slots.
        let slot = &mut self.table.slots[number as usize];
        if Self::COPIED {
            let value = (!new).then(|| slot.value.clone());
            self.kept.clear();
            self.kept.push(Kept { slot: number, value, from: row });
        } else if !slot.state.kept {
            let value = (!new).then(|| slot.value.clone());
            slot.state.kept = true;
            self.kept.push(Kept { slot: number, value, from: row });
        }
        self.open = Some((row, number));
        self.table.touch(number)
    }

    /// The row has made all its changes.
    #[inline]
    pub fn done(&mut self) {
        self.open = None;
    }

    /// Whether a row has begun to change a value and not come to its end.
    #[inline]
    pub fn is_torn(&self) -> bool {
        self.open.is_some()
    }

    /// Takes back what the torn row has changed. `key` tells the key of an earlier row of the batch, `fold` folds it again.
    /// Rows that panic now and did not before are answered, with their causes: they have changed nothing either.
    #[cold]
    pub fn mend<'k>(
        &mut self,
        key: impl Fn(usize) -> Option<&'k [u8]>,
        mut fold: impl FnMut(&mut V, usize),
    ) -> Vec<(u32, Error)> {
        let Some((torn, number)) = self.open.take() else { return Vec::new() };
        let Some(at) = self.kept.iter().position(|kept| kept.slot == number) else { return Vec::new() };
        let own = self.table.key(self.table.slots[number as usize].key()).to_vec();
        // A row whose key cannot even be told was not folded.
        let is_own =
            |row: &usize| catch_unwind(AssertUnwindSafe(|| key(*row) == Some(own.as_slice()))).unwrap_or(false);
        let mut rows: BTreeSet<usize> = (self.kept[at].from..torn).filter(is_own).collect();
        let mut failed = Vec::new();
        loop {
            let mut row = torn;
            let again = catch_unwind(AssertUnwindSafe(|| {
                let before = self.kept[at].value.clone();
                let there = before.is_some() || !rows.is_empty();
                let mut value = before.unwrap_or_default();
                for &next in &rows {
                    row = next;
                    fold(&mut value, next);
                }
                there.then(|| (value.clone(), value))
            }));
            match again {
                Ok(Some((kept, value))) => {
                    self.kept[at] = Kept { slot: number, value: Some(kept), from: torn + 1 };
                    self.table.slots[number as usize].value = value;
                    return failed;
                }
                Ok(None) => {
                    self.kept.swap_remove(at);
                    self.table.leave_hole(number);
                    return failed;
                }
                Err(panic) if rows.remove(&row) => failed.push((row as u32, panicked(&*panic))),
                // `Clone` or `Default` of the value itself panics, which it did not before: what it was is all there is.
                Err(panic) => {
                    failed.extend(rows.iter().map(|row| (*row as u32, panicked(&*panic))));
                    let Kept { value, .. } = self.kept.swap_remove(at);
                    self.table.slots[number as usize].state.kept = false;
                    match value {
                        Some(value) => self.table.slots[number as usize].value = value,
                        None => drop(self.table.leave_hole(number)),
                    }
                    return failed;
                }
            }
        }
    }
}
