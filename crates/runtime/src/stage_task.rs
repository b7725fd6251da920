//! The task around a stage: a chain of fused steps, their failures, their state.

use std::{
    collections::HashSet,
    future::poll_fn,
    sync::Arc,
    task::Poll,
};

use bytes::Bytes;
use millstream_core::{Batch, Change, Epoch, Last, Output, Step as CoreStep, Timestamp, group};

use tokio::sync::{mpsc, watch};

use crate::{
    align::{Input, Inputs},
    channel::Barrier,
    metrics::StageMetrics,
    park::{Parked, alone},
    probe::Step,
    rules::Rules,
    spec::OnFailed,
    task::{Context, Halt, Outputs, Report},
};

/// One step of a stage, ready to run.
pub(crate) struct StepRun {
    pub(crate) who: Arc<Who>,
    pub(crate) step: CoreStep,
    /// Records that it keeps for later, as far as they are in the books.
    pub(crate) held: usize,
}

impl StepRun {
    /// Brings the books to what the step keeps for later.
    pub(crate) fn count_held(&mut self) {
        if let CoreStep::Operator(operator) = &self.step {
            let held = operator.held();
            match held.checked_sub(self.held) {
                Some(more) => self.who.metrics.parked.add(more as u64),
                None => self.who.metrics.parked.sub((self.held - held) as u64),
            }
            self.held = held;
        }
    }
}

/// What of a step is known from outside.
pub(crate) struct Who {
    pub(crate) name: String,
    pub(crate) metrics: Arc<StageMetrics>,
    pub(crate) rules: Rules,
    pub(crate) on_failed: Option<OnFailed>,
}

pub(crate) struct StageTask {
    /// Of the last step: its outputs are the stage's.
    pub(crate) context: Context,
    pub(crate) steps: Vec<StepRun>,
    pub(crate) inputs: Inputs,
    pub(crate) outputs: Outputs,
    pub(crate) parked: Parked,
    pub(crate) epoch: Epoch,
    /// The steps have been told that the input has ended, and whether the checkpoint knows it: what they emit at the end
    /// must come once.
    pub(crate) ended: bool,
    pub(crate) end_saved: bool,
    /// The steps have been told that no more input comes in this run.
    pub(crate) drained: bool,
    /// Tells the newest epoch that was cut and, by its end, to close; and whom it tells by letting go.
    pub(crate) stop_side: (watch::Receiver<Epoch>, mpsc::Sender<()>),
    /// Keys of parked records that are being tried again, and whose outcome is not known.
    pub(crate) trying: HashSet<Bytes>,
    /// What the steps have emitted, failed, filtered and absorbed: only whether it grows is of interest.
    pub(crate) outcomes: u64,
}

/// A batch on its way through the chain: before step `step`, on input `port` of it; or behind the last one.
pub(crate) struct Work {
    pub(crate) step: usize,
    pub(crate) port: usize,
    pub(crate) batch: Batch,
}

/// The name under which a stage's parked records are saved.
pub(crate) fn parked_state(stage: &str) -> String {
    format!("{stage}#parked")
}

/// The name under which it is saved that a stage has told its steps of the end.
pub(crate) fn ended_state(stage: &str) -> String {
    format!("{stage}#ended")
}

impl StageTask {
    pub(crate) async fn run(mut self) -> std::result::Result<(), Halt> {
        let (mut stopped, _closed) = self.stop_side.clone();
        let result = tokio::select! {
            biased;
            () = async { while stopped.changed().await.is_ok() {} } => Err(Halt::Gone),
            result = self.work() => result,
        };
        for run in &mut self.steps {
            if let CoreStep::Operator(operator) = &mut run.step
                && let Err(error) = operator.close().await
            {
                tracing::warn!(stage = %run.who.name, error = %error.chain(), "closing failed");
            }
        }
        result
    }

    async fn work(&mut self) -> std::result::Result<(), Halt> {
        // The end is passed on when nothing is parked any more.
        let mut ending = false;
        let mut cut = self.stop_side.0.clone();
        loop {
            let timer = self.timer();
            // What lies before a barrier that has been cut must be taken, so that the barrier can come; behind the last one
            // there is only the end.
            let full = self.is_full() && !self.drained && *cut.borrow_and_update() < self.epoch;
            tokio::select! {
                biased;
                () = sleep(timer) => self.on_timer().await?,
                step = ready(&mut self.steps) => self.advance(step).await?,
                Ok(()) = cut.changed(), if full => {}
                input = self.inputs.next(), if !full => match input {
                    Ok(Input::Batch(port, batch)) => self.take(port, batch).await?,
                    Ok(Input::Barrier(barrier)) => self.barrier(barrier).await?,
                    Ok(Input::End) => {
                        if !std::mem::replace(&mut self.ended, true) {
                            self.end_steps().await?;
                        }
                        ending = true;
                    }
                    // The coordinator ends a run by letting the sources go, and so everybody behind them.
                    Err(_) => return Ok(()),
                },
            }
            if ending && self.nothing_waits() {
                ending = false;
                self.outputs.end(&self.context.metrics).await?;
            }
        }
    }

    fn is_full(&self) -> bool {
        self.steps.iter().any(|run| matches!(&run.step, CoreStep::Operator(step) if step.is_full()))
    }

    fn nothing_waits(&self) -> bool {
        self.parked.is_empty() && self.steps.iter().all(|run| run.held == 0)
    }

    fn timer(&self) -> Option<tokio::time::Instant> {
        let operators = self.steps.iter().filter_map(|run| match &run.step {
            CoreStep::Operator(operator) => operator.timer_at(),
            CoreStep::Transform(_) => None,
        });
        let now = (Timestamp::now(), tokio::time::Instant::now());
        let operators = operators.map(|at| now.1 + std::time::Duration::from_nanos((at.0 - now.0.0).max(0) as u64));
        operators.chain(self.parked.due()).min()
    }

    async fn on_timer(&mut self) -> std::result::Result<(), Halt> {
        self.context.pace.touch();
        while let Some(waiting) = self.parked.take(tokio::time::Instant::now()) {
            let first = self.steps.get(waiting.step);
            first.inspect(|run| run.who.metrics.parked.sub(1));
            let before = self.outcomes;
            self.chain(vec![Work { step: waiting.step, port: waiting.port, batch: alone(&waiting.record) }]).await?;
            match waiting.record.key {
                // It is under way: what is behind it waits for what becomes of it.
                Some(key) if self.outcomes == before => drop(self.trying.insert(key)),
                key => self.parked.settled(key.as_deref()),
            }
        }
        let now = Timestamp::now();
        for step in 0..self.steps.len() {
            if let CoreStep::Operator(operator) = &mut self.steps[step].step
                && operator.timer_at().is_some_and(|at| at <= now)
            {
                let mut out = Output::default();
                let done = operator.on_timer(now, &mut out).await;
                self.emitted(step, done, &mut out).await?;
            }
        }
        Ok(())
    }

    /// Takes what a step has done on its own.
    async fn advance(&mut self, step: usize) -> std::result::Result<(), Halt> {
        let CoreStep::Operator(operator) = &mut self.steps[step].step else { return Ok(()) };
        let mut out = Output::default();
        let done = operator.advance(&mut out).await;
        self.context.pace.touch();
        self.emitted(step, done, &mut out).await
    }

    /// Takes a batch of an input: records of a parked key go behind the others of the key.
    async fn take(&mut self, port: usize, mut batch: Batch) -> std::result::Result<(), Halt> {
        let Some(first) = self.steps.first() else { return Ok(()) };
        first.who.metrics.batches.add(1);
        first.who.metrics.records_in.add(batch.len() as u64);
        first.who.metrics.bytes_in.add(batch.size() as u64);
        if !self.parked.is_empty() {
            batch = self.park_held(batch, port)?;
        }
        if batch.is_empty() { Ok(()) } else { self.chain(vec![Work { step: 0, port, batch }]).await }
    }

    async fn barrier(&mut self, barrier: Barrier) -> std::result::Result<(), Halt> {
        self.settle_steps().await?;
        if barrier.last != Last::No && !std::mem::replace(&mut self.drained, true) {
            self.drain_steps().await?;
        }
        let mut state = Vec::new();
        for run in &mut self.steps {
            run.who.metrics.mark(barrier.epoch);
            if let CoreStep::Operator(operator) = &mut run.step {
                let changes = operator.changes().map_err(|error| self.context.fatal(error))?;
                state.push((run.who.name.to_string(), changes));
            }
        }
        let parked = self.parked.changes().map_err(|error| self.context.fatal(error))?;
        state.push((parked_state(&self.context.name), parked));
        // Only operators emit at the end; a pipeline without them keeps no state for it.
        let emits = self.steps.iter().any(|run| matches!(run.step, CoreStep::Operator(_)));
        if emits && self.ended != self.end_saved {
            let value = self.ended.then(Bytes::new);
            state.push((ended_state(&self.context.name), vec![Change { group: group(b""), key: Bytes::new(), value }]));
            self.end_saved = self.ended;
        }
        state.retain(|(_, changes)| !changes.is_empty());
        self.epoch = barrier.epoch + 1;
        self.context.report(Report::State { epoch: barrier.epoch, state })?;
        self.context.reach(Step::BetweenStages, barrier.epoch);
        if barrier.last == Last::No && !self.nothing_waits() {
            // What waits for another try is not idle.
            self.context.pace.touch();
        }
        self.outputs.barrier(barrier, &self.context.metrics).await
    }

    /// Lets every step do what it has begun.
    async fn settle_steps(&mut self) -> std::result::Result<(), Halt> {
        for step in 0..self.steps.len() {
            if let CoreStep::Operator(operator) = &mut self.steps[step].step {
                let mut out = Output::default();
                let done = operator.settle(&mut out).await;
                self.emitted(step, done, &mut out).await?;
            }
        }
        for key in std::mem::take(&mut self.trying) {
            self.parked.settled(Some(&key));
        }
        Ok(())
    }

    async fn end_steps(&mut self) -> std::result::Result<(), Halt> {
        self.settle_steps().await?;
        for step in 0..self.steps.len() {
            if let CoreStep::Operator(operator) = &mut self.steps[step].step {
                let mut out = Output::default();
                let done = operator.end(&mut out).await;
                self.emitted(step, done, &mut out).await?;
            }
        }
        self.settle_steps().await
    }

    async fn drain_steps(&mut self) -> std::result::Result<(), Halt> {
        for step in 0..self.steps.len() {
            if let CoreStep::Operator(operator) = &mut self.steps[step].step {
                let mut out = Output::default();
                let done = operator.drain(&mut out).await;
                self.emitted(step, done, &mut out).await?;
            }
        }
        self.settle_steps().await
    }
}

/// Waits until a step has something to say on its own; answers which. Cancel-safe.
async fn ready(steps: &mut [StepRun]) -> usize {
    let mut waits: Vec<_> = steps
        .iter_mut()
        .enumerate()
        .filter_map(|(i, run)| match &mut run.step {
            CoreStep::Operator(operator) => Some((i, operator.ready())),
            CoreStep::Transform(_) => None,
        })
        .collect();
    poll_fn(|context| {
        let ready = waits.iter_mut().find_map(|(i, wait)| wait.as_mut().poll(context).is_ready().then_some(*i));
        ready.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Until `when`; for ever without it.
pub(crate) async fn sleep(when: Option<tokio::time::Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
