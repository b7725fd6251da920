//! A batch as its handler sees it.

use std::{fmt, ops::Deref};

use bytes::Bytes;
use millstream_core::Batch;

use crate::{
    typed::{Data, RecordOf, view},
    work::Gathered,
};

/// Why a batch was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Trigger {
    /// It has as many records as it may.
    Count,
    /// Its values are as many bytes as they may.
    Bytes,
    /// Its time has come, counted from its first record.
    Linger,
    /// The splitter said so.
    Split,
    /// A record with the flush mark came: it is the last one.
    FlushMark,
    /// All open batches together hold as much as they may, and this one is the oldest.
    Memory,
    /// The pipeline drains.
    Drain,
    /// The input has ended.
    End,
    /// Its one record is handled again: it has failed before, or its batch has as a whole (see
    /// [`repeatable`](crate::Batched::repeatable)).
    Retry,
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Trigger::Count => "count",
            Trigger::Bytes => "bytes",
            Trigger::Linger => "linger",
            Trigger::Split => "split",
            Trigger::FlushMark => "flush mark",
            Trigger::Memory => "memory",
            Trigger::Drain => "drain",
            Trigger::End => "end",
            Trigger::Retry => "retry",
        })
    }
}

/// The records of one batch, in order: their values as a slice, and what is known of each.
pub struct BatchOf<T> {
    values: Vec<T>,
    batches: Vec<Batch>,
    rows: Vec<(u32, u32)>,
    key: Option<Bytes>,
    trigger: Trigger,
}

impl<T: Data> BatchOf<T> {
    /// Copies the values; the rest is shared.
    pub(crate) fn gather(gathered: Gathered) -> Self {
        let Gathered { batches, rows, key, trigger } = gathered;
        let mut values = Vec::with_capacity(rows.len());
        for run in rows.chunk_by(|a, b| a.0 == b.0) {
            let Some(batch) = run.first().and_then(|first| batches.get(first.0 as usize)) else { continue };
            let view = view::<T>(batch);
            values.extend(run.iter().filter_map(|(_, row)| view.get(*row as usize)).cloned());
        }
        BatchOf { values, batches, rows, key, trigger }
    }
}

impl<T> BatchOf<T> {
    /// The values, one for each record.
    pub fn values(&self) -> &[T] {
        &self.values
    }

    /// The values, to be kept.
    pub fn into_values(self) -> Vec<T> {
        self.values
    }

    /// The key that its records have in common, where they are batched by key.
    pub fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    /// Why it was closed.
    pub fn trigger(&self) -> Trigger {
        self.trigger
    }

    /// A record with all that is known of it.
    pub fn record(&self, index: usize) -> Option<RecordOf<'_, T>> {
        let (value, (batch, row)) = (self.values.get(index)?, self.rows.get(index)?);
        let batch = self.batches.get(*batch as usize)?;
        ((*row as usize) < batch.len()).then(|| RecordOf::new(value, batch.get(*row as usize)))
    }

    /// All records with what is known of them.
    pub fn records(&self) -> impl Iterator<Item = RecordOf<'_, T>> {
        (0..self.values.len()).filter_map(|index| self.record(index))
    }
}

impl<T> Deref for BatchOf<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.values
    }
}

impl<T> IntoIterator for BatchOf<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.values.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a BatchOf<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.values.iter()
    }
}

impl<T: fmt::Debug> fmt::Debug for BatchOf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchOf").field("values", &self.values).field("trigger", &self.trigger).finish_non_exhaustive()
    }
}
