//! What became of accepted writes.

use std::collections::VecDeque;

use millstream_core::{Error, Outcomes, WriteId};

use crate::id::EntryId;

/// Writes since the last flush.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// Id of the newest.
    newest: WriteId,
    /// The last is the newest.
    open: VecDeque<Write>,
}

#[derive(Debug)]
struct Write {
    /// By row; 0 for those that are not delivered.
    sequences: Vec<u128>,
    rejected: Vec<(u32, Error)>,
    /// Rows that had been sent before, and may be there twice.
    repeated: Vec<u32>,
}

impl Writes {
    /// The id that the next write will have.
    pub(super) fn next_id(&self) -> WriteId {
        self.newest + 1
    }

    /// Accepts a write of so many records; some cannot be written.
    pub(super) fn accept(&mut self, rows: usize, rejected: Vec<(u32, Error)>) {
        self.newest += 1;
        self.open.push_back(Write { sequences: vec![0; rows], rejected, repeated: Vec::new() });
    }

    fn get(&mut self, id: WriteId) -> Option<&mut Write> {
        let behind = usize::try_from(self.newest.checked_sub(id)?).ok()?;
        let at = self.open.len().checked_sub(behind + 1)?;
        self.open.get_mut(at)
    }

    /// A record has been written.
    pub(super) fn delivered(&mut self, id: WriteId, row: u32, entry: EntryId) {
        let place = self.get(id).and_then(|write| write.sequences.get_mut(row as usize));
        place.into_iter().for_each(|place| *place = entry.sequence());
    }

    /// A record was refused.
    pub(super) fn rejected(&mut self, id: WriteId, row: u32, error: Error) {
        self.get(id).into_iter().for_each(|write| write.rejected.push((row, error.clone())));
    }

    /// A record is sent again, and an earlier try may have written it.
    pub(super) fn repeated(&mut self, id: WriteId, row: u32) {
        self.get(id).into_iter().for_each(|write| write.repeated.push(row));
    }

    /// Forgets all that is open.
    pub(super) fn clear(&mut self) {
        self.open.clear();
    }

    /// The outcomes of all that is open.
    pub(super) fn settle(&mut self) -> Outcomes {
        let mut outcomes = Outcomes::default();
        let first = self.newest + 1 - self.open.len() as u64;
        for (id, mut write) in (first..).zip(self.open.drain(..)) {
            write.rejected.sort_by_key(|(row, _)| *row);
            // A record may be sent again several times.
            write.repeated.sort_unstable();
            write.repeated.dedup();
            outcomes.rejected.extend(write.rejected.into_iter().map(|(row, error)| (id, row, error)));
            outcomes.repeated.extend(write.repeated.into_iter().map(|row| (id, row)));
            outcomes.sequences.push((id, write.sequences));
        }
        outcomes
    }
}
