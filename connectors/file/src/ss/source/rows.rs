//! The rows of a batch, gathered while a block is read, and made a batch when its bytes are frozen.

use std::sync::Arc;

use bytes::Bytes;
use millstream_core::{
    Batch, Body, Column, ColumnBuilder, Envelope, Error, Extent, Form, Forms, Read, Sequences, ShardKey, Shards, Times,
    Timestamp,
};

/// Rows of one batch to be.
#[derive(Default)]
pub(super) struct Rows {
    extents: Vec<Extent>,
    sequences: Vec<u64>,
    times: Vec<Option<Timestamp>>,
    /// Index of each row's shard in the dictionary.
    shards: Vec<u32>,
    /// Bytes of the values.
    bytes: usize,
    failed: Vec<(u32, Error)>,
}

/// One row.
pub(super) struct Row {
    /// Index in the dictionary.
    pub(super) shard: u32,
    pub(super) sequence: u64,
    pub(super) time: Option<Timestamp>,
    pub(super) value: Extent,
}

impl Rows {
    pub(super) fn with_capacity(rows: usize) -> Self {
        Rows {
            extents: Vec::with_capacity(rows),
            sequences: Vec::with_capacity(rows),
            times: Vec::with_capacity(rows),
            shards: Vec::with_capacity(rows),
            ..Rows::default()
        }
    }

    #[inline(always)]
    pub(super) fn push(&mut self, row: Row) {
        self.bytes += row.value.len();
        self.extents.push(row.value);
        self.sequences.push(row.sequence);
        self.times.push(row.time);
        self.shards.push(row.shard);
    }

    /// Says that the newest row is at fault.
    pub(super) fn fail(&mut self, error: Error) {
        self.failed.push((self.len().saturating_sub(1) as u32, error));
    }

    pub(super) fn len(&self) -> usize {
        self.extents.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// The batch; the extents lie in `data`.
    pub(super) fn finish(self, data: &Bytes, form: Form, dictionary: &Arc<Vec<ShardKey>>) -> Read {
        let rows = self.len();
        let first = self.shards.first().copied().unwrap_or(0);
        let shards = match dictionary.get(first as usize) {
            Some(shard) if self.shards.iter().all(|shard| *shard == first) => Shards::Same(shard.clone()),
            _ => Shards::Each(dictionary.clone(), Arc::new(self.shards)),
        };
        let base = self.sequences.first().copied().unwrap_or(0);
        let in_a_row = |(at, sequence): (usize, &u64)| base.checked_add(at as u64) == Some(*sequence);
        let sequences = if self.sequences.iter().enumerate().all(in_a_row) {
            Sequences::Run(base.into())
        } else {
            Sequences::Each(0, Arc::new(self.sequences))
        };
        let envelope =
            Envelope { shards, sequences, times: Times::Each(Arc::new(self.times)), keys: None, headers: None };
        let column = Column::new(data.clone(), self.extents);
        // A few records must not keep a block alive.
        let column =
            if self.bytes.saturating_mul(SPARSE) < data.len() { copied(&column, rows, self.bytes) } else { column };
        Read { batch: Batch::new(envelope, Body::Bytes(column, Forms::Same(form))), failed: self.failed }
    }
}

/// Values that are less than this part of their block are copied out of it.
const SPARSE: usize = 8;

fn copied(column: &Column, rows: usize, bytes: usize) -> Column {
    let mut builder = ColumnBuilder::with_capacity(rows, bytes);
    (0..rows).for_each(|row| builder.push(column.get(row)));
    builder.finish()
}
