//! What a source cannot read again, kept until its epoch has committed.

use std::collections::VecDeque;

use millstream_core::{Batch, Epoch};

/// Batches of one source that nobody else remembers. Outlives the pipeline's tasks, so that a restart inside the process
/// gives them again.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    batches: VecDeque<(Epoch, Batch)>,
    bytes: usize,
}

impl Retained {
    /// Keeps a batch of the epoch that is under way.
    pub(crate) fn keep(&mut self, epoch: Epoch, batch: Batch) {
        self.bytes += batch.size();
        self.batches.push_back((epoch, batch));
    }

    /// Forgets what belongs to this epoch or an earlier one.
    pub(crate) fn committed(&mut self, epoch: Epoch) {
        while let Some((_, batch)) = self.batches.pop_front_if(|(of, _)| *of <= epoch) {
            self.bytes -= batch.size();
        }
    }

    /// Everything that is kept, to be given again in the epoch `epoch`.
    pub(crate) fn again(&mut self, epoch: Epoch) -> Vec<Batch> {
        self.batches.iter_mut().for_each(|(of, _)| *of = epoch);
        self.batches.iter().map(|(_, batch)| batch.clone()).collect()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
