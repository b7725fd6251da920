//! The batches whose records a step has taken and not yet answered for.

use millstream_core::{BATCH_RECORDS_MAX, Batch, BatchBuilder, Output};
use millstream_runtime::batch_span;
use tracing::Span;

use super::Slots;
use crate::typed::{Data, Typed};

/// A record of a held batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) batch: u32,
    pub(crate) row: u32,
}

/// Batches whose records are still wanted.
#[derive(Debug, Default)]
pub(crate) struct Held {
    batches: Slots<HeldBatch>,
    /// Records that the batches keep alive, wanted or not.
    rows: usize,
    /// Bytes of memory of the batches.
    bytes: usize,
}

#[derive(Debug)]
struct HeldBatch {
    batch: Batch,
    /// How many of its records are still wanted.
    wanted: usize,
    /// The span of its batch, where somebody listens.
    span: Option<Span>,
}

impl Held {
    /// Holds the batch that is being handled, for all of its records.
    pub(crate) fn add(&mut self, batch: Batch) -> u32 {
        self.insert(batch, batch_span())
    }

    /// Holds records of several batches, which have no span in common.
    pub(crate) fn add_mixed(&mut self, batch: Batch) -> u32 {
        self.insert(batch, None)
    }

    fn insert(&mut self, batch: Batch, span: Option<Span>) -> u32 {
        self.rows += batch.body().0.len();
        self.bytes += batch.size();
        let wanted = batch.len();
        self.batches.insert(HeldBatch { batch, wanted, span })
    }

    pub(crate) fn get(&self, batch: u32) -> Option<&Batch> {
        self.batches.get(batch).map(|held| &held.batch)
    }

    /// The span in which a record is to be handled, where somebody listens.
    pub(crate) fn span(&self, batch: u32) -> Option<Span> {
        self.batches.get(batch).and_then(|held| held.span.clone())
    }

    /// Records that its batches keep alive.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of memory that its batches keep alive.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a batch keeps many more records alive than are wanted of it.
    pub(crate) fn is_sparse(&self, batch: u32) -> bool {
        self.batches.get(batch).is_some_and(|held| held.wanted * 8 < held.batch.body().0.len())
    }

    /// So many records of a batch are no longer wanted.
    pub(crate) fn release(&mut self, batch: u32, records: usize) {
        if let Some(held) = self.batches.get_mut(batch) {
            held.wanted = held.wanted.saturating_sub(records);
            if held.wanted == 0 {
                self.rows = self.rows.saturating_sub(held.batch.body().0.len());
                self.bytes = self.bytes.saturating_sub(held.batch.size());
                self.batches.remove(batch);
            }
        }
    }

    /// The same for records one by one.
    pub(crate) fn release_rows(&mut self, rows: &[Row]) {
        for run in rows.chunk_by(|a, b| a.batch == b.batch) {
            run.first().into_iter().for_each(|first| self.release(first.batch, run.len()));
        }
    }

    /// Reports a record as failed, and lets it go.
    pub(crate) fn fail(&mut self, at: Row, error: millstream_core::Error, out: &mut Output) {
        if let Some(batch) = self.get(at.batch) {
            out.fail(batch, at.row as usize, error);
        }
        self.release(at.batch, 1);
    }

    /// Gives records back that were not begun, and lets them go.
    pub(crate) fn give_back(&mut self, rows: &[Row], out: &mut Output) {
        for run in rows.chunk_by(|a, b| a.batch == b.batch) {
            if let Some(records) = self.records(run) {
                out.give_back(records);
            }
        }
        self.release_rows(rows);
    }

    /// Emits records with these values, one for each, and lets them go.
    ///
    /// Records that came together go on together, without a copy of what is around their values; where they come from many
    /// batches, they are put into one, because the next steps work batch by batch.
    pub(crate) fn emit<U: Data>(&mut self, rows: &[Row], mut values: Vec<U>, out: &mut Output) {
        debug_assert_eq!(rows.len(), values.len());
        let runs = rows.chunk_by(|a, b| a.batch == b.batch).count();
        if rows.len() >= runs * RUN_RECORDS_MIN || runs == 1 {
            for run in rows.chunk_by(|a, b| a.batch == b.batch) {
                let rest = values.split_off(run.len().min(values.len()));
                if let Some(records) = self.records(run) {
                    out.emit(0, records.with_body(Typed::body(std::mem::replace(&mut values, rest))));
                }
            }
        } else {
            for part in rows.chunks(BATCH_RECORDS_MAX) {
                let rest = values.split_off(part.len().min(values.len()));
                out.emit(0, self.gather(part).with_body(Typed::body(std::mem::replace(&mut values, rest))));
            }
        }
        self.release_rows(rows);
    }

    /// Who these records are, in one batch of its own without values.
    pub(crate) fn gather(&self, rows: &[Row]) -> Batch {
        let mut builder = BatchBuilder::new();
        for run in rows.chunk_by(|a, b| a.batch == b.batch) {
            let Some(batch) = run.first().and_then(|first| self.get(first.batch)) else { continue };
            let records = batch.records();
            run.iter().for_each(|at| builder.push_ref(&records.get(at.row as usize)));
        }
        builder.finish()
    }

    /// Records of one batch.
    fn records(&self, run: &[Row]) -> Option<Batch> {
        let (first, last) = (run.first()?, run.last()?);
        let batch = self.get(first.batch)?;
        let touching = run.windows(2).all(|pair| matches!(pair, [a, b] if b.row == a.row + 1));
        Some(match touching {
            true if run.len() == batch.len() => batch.clone(),
            true => batch.slice(first.row as usize, last.row as usize + 1),
            false => batch.select(run.iter().map(|at| at.row).collect()),
        })
    }
}

/// From so many records of a batch at a time it is cheaper to share what is around them than to copy it.
const RUN_RECORDS_MIN: usize = 16;
