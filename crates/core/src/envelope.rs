//! Who the records of a batch are: columns with one entry for each physical row.

use std::sync::Arc;

use crate::{
    ShardKey, Timestamp,
    column::{Column, Headers},
    rows::Rows,
};

/// Who the records of a batch are: columns with one entry for each physical row.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Where each record was read.
    pub shards: Shards,
    /// Their sequences.
    pub sequences: Sequences,
    /// Event times.
    pub times: Times,
    /// Keys, if any record has one.
    pub keys: Option<Column>,
    /// Headers, if any record has one.
    pub headers: Option<Headers>,
    /// What else the system told.
    pub told: Told,
}

/// What a system tells of the records beside their contents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Their times are those at which the system took them, not those that their producers gave.
    pub appended: bool,
    /// How often each was handed out, this time included; absent: all for the first time.
    pub deliveries: Option<Arc<Vec<u32>>>,
    /// How often the step before which each stands has failed on it; absent: never.
    pub attempts: Option<Arc<Vec<u32>>>,
}

impl Told {
    /// How often a physical row was handed out.
    pub fn deliveries(&self, row: usize) -> u32 {
        self.deliveries.as_ref().and_then(|all| all.get(row).copied()).unwrap_or(1)
    }

    /// How often a step has failed on a physical row.
    pub fn attempts(&self, row: usize) -> u32 {
        self.attempts.as_ref().and_then(|all| all.get(row).copied()).unwrap_or(0)
    }

    pub(crate) fn gather(&self, rows: &Rows) -> Self {
        let gathered = |all: &Arc<Vec<u32>>| Arc::new(rows.iter().map(|row| all[row]).collect());
        Told {
            appended: self.appended,
            deliveries: self.deliveries.as_ref().map(gathered),
            attempts: self.attempts.as_ref().map(gathered),
        }
    }
}

/// Stream and shard of each row.
#[derive(Clone, Debug)]
pub enum Shards {
    /// All rows come from one shard.
    Same(ShardKey),
    /// Rows of many shards: a dictionary, and an index into it for each row.
    Each(Arc<Vec<ShardKey>>, Arc<Vec<u32>>),
}

/// Sequence of each row.
#[derive(Clone, Debug)]
pub enum Sequences {
    /// Row `i` has `base + i`.
    Run(u128),
    /// Row `i` has `base + offsets[i]`.
    Each(u128, Arc<Vec<u64>>),
}

/// Event time of each row.
#[derive(Clone, Debug)]
pub enum Times {
    /// No row has a time.
    Absent,
    /// All rows have this time.
    Same(Timestamp),
    /// A time for each row.
    Each(Arc<Vec<Option<Timestamp>>>),
}

impl Envelope {
    /// Stream and shard of a physical row.
    pub fn shard(&self, row: usize) -> &ShardKey {
        match &self.shards {
            Shards::Same(shard) => shard,
            // Built together by `BatchBuilder`: every index is within the dictionary.
            Shards::Each(dictionary, indexes) => &dictionary[indexes[row] as usize],
        }
    }

    /// Sequence of a physical row.
    pub fn sequence(&self, row: usize) -> u128 {
        match &self.sequences {
            Sequences::Run(base) => base + row as u128,
            Sequences::Each(base, offsets) => base + u128::from(offsets[row]),
        }
    }

    /// Event time of a physical row.
    pub fn time(&self, row: usize) -> Option<Timestamp> {
        match &self.times {
            Times::Absent => None,
            Times::Same(time) => Some(*time),
            Times::Each(times) => times.get(row).copied().flatten(),
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.keys.as_ref().map_or(0, Column::size) + self.headers.as_ref().map_or(0, Headers::size)
    }
}
