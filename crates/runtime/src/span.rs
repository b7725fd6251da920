//! Spans of `tracing`: one for each batch that a step or sink works on, at the level `debug`; at `trace`, one record of each is
//! named, too. Where nobody listens, that costs one look at a global level for each batch.

use millstream_core::{Batch, Epoch};
use tracing::{Span, level_filters::LevelFilter};

/// The span in which a stage works on a batch of an epoch.
pub(crate) fn of_batch(stage: &str, epoch: Epoch, batch: &Batch) -> Span {
    // The fields are looked at only where somebody listens.
    let span = tracing::debug_span!("batch", stage, epoch, records = batch.len(), bytes = batch.size());
    tracing::trace!(parent: &span, record = batch.iter().next().map(|record| record.id()), "first of its batch");
    span
}

/// The span of the batch that a step is handling now, where somebody listens: for what the step does later for its records, beside
/// other batches.
pub fn batch_span() -> Option<Span> {
    if LevelFilter::current() < LevelFilter::DEBUG {
        return None;
    }
    // There may be others around it that are not of the engine; this file makes only this one.
    Some(Span::current()).filter(|span| span.metadata().is_some_and(|about| about.target() == module_path!()))
}
