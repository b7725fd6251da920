//! Steps whose failures are classified by what the pipeline was told of errors of other types.

use async_trait::async_trait;
use millstream_core::{Batch, Change, Operator, Output, Result, Step, Timestamp, Transform};

use crate::failure::{Classes, Classifiers};

/// The step as it is where there is nothing to classify.
pub(crate) fn classified(step: Step, classifiers: &Classifiers) -> Step {
    let classes = classifiers.all();
    match step {
        step if classes.is_empty() => step,
        Step::Transform(step) => Step::Transform(Box::new(Classified { step, classes })),
        Step::Operator(step) => Step::Operator(Box::new(Classified { step, classes })),
    }
}

/// A step of which each call passes through here once a batch.
struct Classified<S: ?Sized> {
    step: Box<S>,
    classes: Classes,
}

impl<S: ?Sized> Classified<S> {
    fn classify(&self, out: &mut Output) {
        out.failed_mut().iter_mut().for_each(|failed| self.classes.classify(&mut failed.error));
    }
}

impl Transform for Classified<dyn Transform> {
    fn apply(&mut self, batch: Batch, out: &mut Output) {
        self.step.apply(batch, out);
        self.classify(out);
    }
}

#[async_trait]
impl Operator for Classified<dyn Operator> {
    fn keyless_group(&mut self, group: u16) {
        self.step.keyless_group(group);
    }

    async fn restore(&mut self, state: Vec<Change>) -> Result<()> {
        let mut restored = self.step.restore(state).await;
        if let Err(error) = &mut restored {
            self.classes.classify(error);
        }
        restored
    }

    async fn process(&mut self, input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        let done = self.step.process(input, batch, out).await;
        self.classify(out);
        done
    }

    fn is_full(&self) -> bool {
        self.step.is_full()
    }

    fn held(&self) -> usize {
        self.step.held()
    }

    async fn ready(&mut self) {
        self.step.ready().await;
    }

    async fn advance(&mut self, out: &mut Output) -> Result<()> {
        let done = self.step.advance(out).await;
        self.classify(out);
        done
    }

    async fn settle(&mut self, out: &mut Output) -> Result<()> {
        let done = self.step.settle(out).await;
        self.classify(out);
        done
    }

    async fn end(&mut self, out: &mut Output) -> Result<()> {
        let done = self.step.end(out).await;
        self.classify(out);
        done
    }

    fn timer_at(&self) -> Option<Timestamp> {
        self.step.timer_at()
    }

    async fn on_timer(&mut self, now: Timestamp, out: &mut Output) -> Result<()> {
        let done = self.step.on_timer(now, out).await;
        self.classify(out);
        done
    }

    fn changes(&mut self) -> Result<Vec<Change>> {
        self.step.changes()
    }

    async fn drain(&mut self, out: &mut Output) -> Result<()> {
        let done = self.step.drain(out).await;
        self.classify(out);
        done
    }

    async fn close(&mut self) -> Result<()> {
        self.step.close().await
    }
}
