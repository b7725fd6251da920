//! The rows of a batch, gathered while a block is read, and made a batch when its bytes are frozen.

use std::sync::Arc;

use bytes::Bytes;
use millstream_core::{
    Batch, Body, Column, ColumnBuilder, Envelope, Error, Extent, Form, Forms, Read, Sequences, ShardKey, Shards, Times,
    Timestamp, Told,
};

/// Rows of one batch to be.
#[derive(Default)]
pub(super) struct Rows {
    extents: Vec<Extent>,
    times: Vec<Option<Timestamp>>,
    /// Sequence of the first row; `sequences` is only kept once they do not follow one another.
    first_sequence: u64,
    sequences: Option<Vec<u64>>,
    /// Place of the first row's shard in the dictionary; `shards` is only kept once there is another.
    first_shard: u32,
    shards: Option<Vec<u32>>,
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
        Rows { extents: Vec::with_capacity(rows), times: Vec::with_capacity(rows), ..Rows::default() }
    }

    #[inline(always)]
    pub(super) fn push(&mut self, row: Row) {
        let at = self.extents.len();
        if at == 0 {
            (self.first_sequence, self.first_shard) = (row.sequence, row.shard);
        }
        match &mut self.sequences {
            Some(sequences) => sequences.push(row.sequence),
            None if self.first_sequence.checked_add(at as u64) == Some(row.sequence) => {}
            None => self.keep_sequences(row.sequence),
        }
        match &mut self.shards {
            Some(shards) => shards.push(row.shard),
            None if self.first_shard == row.shard => {}
            None => self.keep_shards(row.shard),
        }
        self.bytes += row.value.len();
        self.extents.push(row.value);
        self.times.push(row.time);
    }

    #[cold]
    fn keep_sequences(&mut self, next: u64) {
        let mut sequences = Vec::with_capacity(self.extents.capacity());
        // All of these have been pushed, so the sum is a sequence that was read.
        sequences.extend((0..self.len() as u64).map(|at| self.first_sequence + at));
        sequences.push(next);
        self.sequences = Some(sequences);
    }

    #[cold]
    fn keep_shards(&mut self, next: u32) {
        let mut shards = Vec::with_capacity(self.extents.capacity());
        shards.resize(self.len(), self.first_shard);
        shards.push(next);
        self.shards = Some(shards);
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
        let shards = match (self.shards, dictionary.get(self.first_shard as usize)) {
            (None, Some(shard)) => Shards::Same(shard.clone()),
            (shards, _) => Shards::Each(dictionary.clone(), Arc::new(shards.unwrap_or_else(|| vec![0; rows]))),
        };
        let sequences = match self.sequences {
            None => Sequences::Run(self.first_sequence.into()),
            Some(sequences) => Sequences::Each(0, Arc::new(sequences)),
        };
        let envelope = Envelope {
            shards,
            sequences,
            times: Times::Each(Arc::new(self.times)),
            keys: None,
            headers: None,
            told: Told::default(),
        };
        let column = Column::new(data.clone(), self.extents);
        // A few records must not keep a block alive.
        let column =
            if self.bytes.saturating_mul(SPARSE) < data.len() { copied(&column, rows, self.bytes) } else { column };
        Read::new(Batch::new(envelope, Body::Bytes(column, Forms::Same(form))), self.failed)
    }
}

/// Values that are less than this part of their block are copied out of it.
const SPARSE: usize = 8;

fn copied(column: &Column, rows: usize, bytes: usize) -> Column {
    let mut builder = ColumnBuilder::with_capacity(rows, bytes);
    (0..rows).for_each(|row| builder.push(column.get(row)));
    builder.finish()
}
