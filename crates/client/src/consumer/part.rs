//! Records on their way to one consumer.

use std::{collections::VecDeque, sync::Arc};

use millstream_core::{Batch, Error, Record, Result, ShardKey};

/// Records of one batch that one consumer is to get. Those in front of `next` have been handed out.
#[derive(Debug)]
pub(crate) struct Part {
    /// The log's number of the batch that was read; 0 where there is no log.
    pub(crate) entry: u64,
    batch: Batch,
    /// For each record its row in the batch that was read; absent: the same.
    rows: Option<Arc<[u32]>>,
    /// Records at fault, ascending, by their place in `batch`.
    failed: VecDeque<(u32, Error)>,
    next: usize,
    /// How often shards had gone when it was taken.
    pub(crate) turn: u64,
    /// What it counts in the buffer.
    pub(crate) bytes: usize,
}

/// What a consumer is given: one record or several, or the fault of one; and the rows that it was.
#[derive(Debug)]
pub(crate) struct Given<T> {
    pub(crate) what: Result<T>,
    pub(crate) rows: Vec<u32>,
}

impl Part {
    /// `rows` of the batch that was read (all, if absent), with the records at fault by their row in it.
    pub(crate) fn new(entry: u64, read: &Batch, rows: Option<Vec<u32>>, failed: &[(u32, Error)]) -> Self {
        let batch = match &rows {
            Some(rows) => read.select(rows.clone()),
            None => read.clone(),
        };
        let place = |row: u32| match &rows {
            Some(rows) => rows.iter().position(|other| *other == row).map(|at| at as u32),
            None => Some(row),
        };
        let mut failed: Vec<_> = failed.iter().filter_map(|(row, error)| Some((place(*row)?, error.clone()))).collect();
        failed.sort_by_key(|(at, _)| *at);
        let bytes = batch.size();
        Part { entry, batch, rows: rows.map(Arc::from), failed: failed.into(), next: 0, turn: 0, bytes }
    }

    /// Records that are not handed out.
    pub(crate) fn left(&self) -> usize {
        self.batch.len().saturating_sub(self.next)
    }

    /// The records that are not handed out.
    pub(crate) fn rest(&self) -> Batch {
        self.batch.slice(self.next.min(self.batch.len()), self.batch.len())
    }

    /// The rows of the records that are not handed out.
    pub(crate) fn rows_left(&self) -> impl Iterator<Item = u32> {
        (self.next..self.batch.len()).map(|at| self.row(at))
    }

    fn row(&self, at: usize) -> u32 {
        self.rows.as_ref().map_or(at as u32, |rows| rows[at])
    }

    /// Hands out the next record.
    pub(crate) fn record(&mut self) -> Option<Given<Record>> {
        let at = (self.next < self.batch.len()).then_some(self.next)?;
        self.next += 1;
        let failed = self.failed.pop_front_if(|(of, _)| *of as usize == at);
        let what = match failed {
            Some((_, error)) => Err(error),
            None => Ok(self.batch.get(at).to_record()),
        };
        Some(Given { what, rows: vec![self.row(at)] })
    }

    /// Hands out all records up to the next one at fault, or that one's fault.
    pub(crate) fn records(&mut self) -> Option<Given<Batch>> {
        let (from, len) = (self.next, self.batch.len());
        if from >= len {
            return None;
        }
        let to = self.failed.front().map_or(len, |(at, _)| (*at as usize).clamp(from, len));
        if to == from {
            let given = self.record()?;
            return Some(Given { what: given.what.map(|record| self.batch_of(&record)), rows: given.rows });
        }
        self.next = to;
        Some(Given { what: Ok(self.batch.slice(from, to)), rows: (from..to).map(|at| self.row(at)).collect() })
    }

    fn batch_of(&self, record: &Record) -> Batch {
        let mut builder = millstream_core::BatchBuilder::new();
        builder.push(record);
        builder.finish()
    }

    /// Takes out the records not yet handed out that belong to other shards; tells of each its shard, sequence and row.
    pub(crate) fn keep_only(&mut self, keep: impl Fn(&ShardKey) -> bool, mut taken: impl FnMut(&ShardKey, u128, u32)) {
        let mut picks = Vec::with_capacity(self.left());
        for at in self.next..self.batch.len() {
            let record = self.batch.get(at);
            match keep(record.origin()) {
                true => picks.push(at as u32),
                false => taken(record.origin(), record.sequence(), self.row(at)),
            }
        }
        if picks.len() == self.left() {
            return;
        }
        let failed = std::mem::take(&mut self.failed);
        let place = |at: u32| picks.binary_search(&at).ok().map(|at| at as u32);
        self.failed = failed.into_iter().filter_map(|(at, error)| Some((place(at)?, error))).collect();
        self.rows = Some(picks.iter().map(|at| self.row(*at as usize)).collect());
        self.batch = self.batch.select(picks);
        self.next = 0;
    }
}
