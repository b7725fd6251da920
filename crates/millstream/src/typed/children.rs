//! What records become of which each may become many, or none.

use millstream_core::{Batch, Error, Output, Result};

use super::{Data, Typed, steps::fail_all};

/// New values, and the rows of the batch that they come from.
pub(super) struct Children<T> {
    values: Vec<T>,
    parents: Vec<u32>,
    filtered: usize,
    created: usize,
}

impl<T: Data> Children<T> {
    pub(super) fn with_capacity(records: usize) -> Self {
        let (values, parents) = (Vec::with_capacity(records), Vec::with_capacity(records));
        Children { values, parents, filtered: 0, created: 0 }
    }

    /// Lets `add` append what the record of a row becomes. If it fails or panics half-way, none of it stays.
    pub(super) fn add(&mut self, row: usize, add: impl FnOnce(&mut Vec<T>) -> Result<()>) -> Result<()> {
        self.values.truncate(self.parents.len());
        add(&mut self.values)?;
        match self.values.len() - self.parents.len() {
            0 => self.filtered += 1,
            outputs => self.created += outputs - 1,
        }
        self.parents.resize(self.values.len(), row as u32);
        Ok(())
    }

    /// Sends them on, and the records of `batch` that failed to their rules.
    pub(super) fn emit(mut self, batch: Batch, failed: Vec<(u32, Error)>, out: &mut Output) {
        self.values.truncate(self.parents.len());
        out.filtered(self.filtered);
        out.created(self.created);
        fail_all(&batch, failed, out);
        out.emit(0, batch.derive(self.parents, Typed::body(self.values)));
    }
}
