//! Spans of `tracing`: one for each batch that a step or sink works on, at the level `debug`; at `trace`, one record of each is
//! named, too. Where nobody listens, that costs one look at a global level for each batch.

use millstream_core::{Batch, Epoch};
use tracing::Span;

/// The span in which a stage works on a batch of an epoch.
pub(crate) fn of_batch(stage: &str, epoch: Epoch, batch: &Batch) -> Span {
    // The fields are looked at only where somebody listens.
    let span = tracing::debug_span!("batch", stage, epoch, records = batch.len(), bytes = batch.size());
    tracing::trace!(parent: &span, record = batch.iter().next().map(|record| record.id()), "first of its batch");
    span
}
