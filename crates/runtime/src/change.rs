//! Changes of a plan that runs: it stops at an epoch, is built anew, and goes on.
//!
//! Nothing is closed that would lose its place: sources go over to the next tasks as after a failure, sinks are brought to the
//! checkpoint, state is divided among the new workers.

use millstream_core::{Delivery, Last, Result};
use tokio::sync::oneshot;

use crate::{
    coordinate::{Aim, Coordinator},
    handle::Happening,
    open::Lasting,
    plan::Plan,
    source_task::SourceCommand,
};

/// Who waits for a change, and what it is.
pub(crate) type Answer = (oneshot::Sender<Result<()>>, Happening);

/// A change that waits for an epoch.
pub(crate) struct Change {
    plan: Plan,
    answers: Vec<Answer>,
}

impl Lasting {
    /// Notes that a step is to have so many workers.
    pub(crate) fn wish(&mut self, step: String, workers: u32, answer: oneshot::Sender<Result<()>>) {
        let plan = self.change.as_ref().map_or(&*self.plan, |change| &change.plan);
        match plan.with_concurrency(&step, workers) {
            Ok(plan) => {
                let mut answers = self.change.take().map(|change| change.answers).unwrap_or_default();
                answers.push((answer, Happening::Concurrency(step, workers)));
                self.change = Some(Change { plan, answers });
            }
            // Who asked may have gone.
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    /// Nothing runs: the change is made. Who waits for it is told by [`Lasting::tell_changed`].
    pub(crate) fn apply_change(&mut self) {
        if let Some(Change { plan, answers }) = self.change.take() {
            self.plan = plan.into();
            self.planned.send_replace(self.plan.clone());
            self.changed.extend(answers);
        }
    }

    /// The pipeline runs as it was changed to.
    pub(crate) fn tell_changed(&mut self) {
        for (answer, happening) in std::mem::take(&mut self.changed) {
            self.shared.tell(happening);
            // Who asked may have gone.
            let _ = answer.send(Ok(()));
        }
    }
}

impl Coordinator<'_> {
    /// Cuts the epoch at which the pipeline is built anew.
    pub(crate) fn begin_change(&mut self) {
        for (_, source) in &self.opened.ends.sources {
            let _ = source.send(SourceCommand::Stop);
        }
        // In `at_most_once` records follow the epoch that holds their position.
        let more = if self.lasting.plan.delivery == Delivery::AtMostOnce { 1 } else { 0 };
        self.aim = Aim::Change(more);
        self.cut_now(Last::No);
    }

    /// Whether the pipeline stands at its last epoch before the change; cuts one more where that is needed.
    pub(crate) fn changed(&mut self) -> bool {
        let Aim::Change(more) = self.aim else { return false };
        if !self.epochs.is_empty() || self.unacknowledged > 0 {
            return false;
        }
        if more == 0 {
            // All that had been read counts.
            for (_, waiting) in self.waiting.drain(..) {
                // Who asked may have gone.
                let _ = waiting.send(self.decided);
            }
            return true;
        }
        self.aim = Aim::Change(more - 1);
        self.cut_now(Last::No);
        false
    }
}
