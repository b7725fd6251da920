//! The task around a stage: a chain of fused steps, their failures, their state.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use millstream_core::{Batch, Change, Epoch, Error, Failed, Last, Output, Result, Step as CoreStep, Timestamp, group};

use crate::{
    align::{Input, Inputs},
    channel::Barrier,
    metrics::StageMetrics,
    park::{Parked, alone},
    probe::Step,
    rules::Rules,
    task::{Context, FailedRecord, Fate, Halt, Outputs, Report},
};

/// One step of a stage, ready to run.
pub(crate) struct StepRun {
    pub(crate) who: Arc<Who>,
    pub(crate) step: CoreStep,
}

/// What of a step is known from outside.
pub(crate) struct Who {
    pub(crate) name: String,
    pub(crate) metrics: Arc<StageMetrics>,
    pub(crate) rules: Rules,
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
}

/// A batch on its way through the chain: before step `step`, on input `port` of it; or behind the last one.
struct Work {
    step: usize,
    port: usize,
    batch: Batch,
    /// How often its only record has failed before.
    attempts: u32,
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
        let result = self.work().await;
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
        loop {
            let timer = self.timer();
            tokio::select! {
                biased;
                () = sleep(timer) => self.on_timer().await?,
                input = self.inputs.next() => match input {
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
            if ending && self.parked.is_empty() {
                ending = false;
                self.outputs.end(&self.context.metrics).await?;
            }
        }
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
            let batch = alone(&waiting.record);
            self.chain(vec![Work { step: waiting.step, port: 0, batch, attempts: waiting.attempts }]).await?;
            self.parked.settled(waiting.record.key.as_deref());
        }
        let now = Timestamp::now();
        for step in 0..self.steps.len() {
            if let CoreStep::Operator(operator) = &mut self.steps[step].step
                && operator.timer_at().is_some_and(|at| at <= now)
            {
                let mut out = Output::default();
                let done = operator.on_timer(now, &mut out).await;
                self.emitted(step, done, &mut out, 0).await?;
            }
        }
        Ok(())
    }

    /// Takes a batch of an input: records of a parked key go behind the others of the key.
    async fn take(&mut self, port: usize, mut batch: Batch) -> std::result::Result<(), Halt> {
        let Some(first) = self.steps.first() else { return Ok(()) };
        first.who.metrics.batches.add(1);
        first.who.metrics.records_in.add(batch.len() as u64);
        first.who.metrics.bytes_in.add(batch.size() as u64);
        if !self.parked.is_empty() {
            batch = park_held(batch, &mut self.parked, &first.who.metrics);
        }
        if batch.is_empty() { Ok(()) } else { self.chain(vec![Work { step: 0, port, batch, attempts: 0 }]).await }
    }

    /// Runs work through the chain, the last entry first, until nothing is left of it.
    async fn chain(&mut self, mut work: Vec<Work>) -> std::result::Result<(), Halt> {
        while let Some(Work { step, port, batch, attempts }) = work.pop() {
            let Some(run) = self.steps.get_mut(step) else {
                self.outputs.send(port, batch, &self.context.metrics).await?;
                continue;
            };
            let since = Instant::now();
            let mut out = Output::default();
            let done = match &mut run.step {
                CoreStep::Transform(transform) => {
                    transform.apply(batch, &mut out);
                    Ok(())
                }
                CoreStep::Operator(operator) => operator.process(port, batch, &mut out).await,
            };
            run.who.metrics.busy_ns.add_time(since.elapsed());
            let next = self.settle(step, done, &mut out, attempts).await?;
            work.extend(next.into_iter().rev());
        }
        Ok(())
    }

    /// The same for what a step emitted on its own.
    async fn emitted(
        &mut self,
        step: usize,
        done: Result<()>,
        out: &mut Output,
        attempts: u32,
    ) -> std::result::Result<(), Halt> {
        let next = self.settle(step, done, out, attempts).await?;
        self.chain(next.into_iter().rev().collect()).await
    }

    /// Counts what a step did, applies its rules to what failed, and answers with the work behind it, in order.
    async fn settle(
        &mut self,
        step: usize,
        done: Result<()>,
        out: &mut Output,
        attempts: u32,
    ) -> std::result::Result<Vec<Work>, Halt> {
        let run = self.steps[step].who.clone();
        done.map_err(|error| self.context.fatal(error.context(format!("cannot go on at `{}`", run.name))))?;
        let counts = out.take_counts();
        run.metrics.created.add(counts.created);
        run.metrics.filtered.add(counts.filtered);
        run.metrics.absorbed.add(counts.absorbed);
        for Failed { record, error } in out.take_failed() {
            // Boxed, as in the other tasks: failures are rare, and their records would make every idle task larger.
            Box::pin(self.failed(step, record, &error, attempts + 1)).await?;
        }
        let last = step + 1 == self.steps.len();
        let mut next = Vec::new();
        for (port, batch) in out.take_batches() {
            if !last {
                let records = batch.len() as u64;
                self.steps[step].who.metrics.records_out.add(records);
                let behind = &self.steps[step + 1].who.metrics;
                behind.batches.add(1);
                behind.records_in.add(records);
                behind.bytes_in.add(batch.size() as u64);
            }
            next.push(Work { step: step + 1, port: if last { port } else { 0 }, batch, attempts: 0 });
        }
        Ok(next)
    }

    async fn failed(
        &mut self,
        step: usize,
        record: Batch,
        error: &Error,
        attempts: u32,
    ) -> std::result::Result<(), Halt> {
        let who = self.steps[step].who.clone();
        let record = record.into_bytes();
        for record in record.iter().map(|record| record.to_record()) {
            let Who { name, metrics, rules } = &*who;
            let failed = FailedRecord { stage: name, metrics, rules, record: &record, error, attempts };
            if let Fate::Park(delay) = self.context.record(failed, self.epoch).await? {
                metrics.parked.add(1);
                self.parked.failed(record, step, attempts, delay);
            }
        }
        Ok(())
    }

    async fn barrier(&mut self, barrier: Barrier) -> std::result::Result<(), Halt> {
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
        if barrier.last == Last::No && !self.parked.is_empty() {
            // What waits for another try is not idle.
            self.context.pace.touch();
        }
        self.outputs.barrier(barrier, &self.context.metrics).await
    }

    async fn end_steps(&mut self) -> std::result::Result<(), Halt> {
        for step in 0..self.steps.len() {
            if let CoreStep::Operator(operator) = &mut self.steps[step].step {
                let mut out = Output::default();
                let done = operator.end(&mut out).await;
                self.emitted(step, done, &mut out, 0).await?;
            }
        }
        Ok(())
    }
}

/// Parks the records whose key is parked already; answers with the others.
pub(crate) fn park_held(batch: Batch, parked: &mut Parked, metrics: &StageMetrics) -> Batch {
    let held = |row: usize, parked: &Parked| parked.holds(batch.get(row).key());
    if !(0..batch.len()).any(|row| held(row, parked)) {
        return batch;
    }
    let batch = batch.clone().into_bytes();
    let (mut behind, mut free) = (Vec::new(), Vec::new());
    for row in 0..batch.len() {
        if parked.holds(batch.get(row).key()) { behind.push(row) } else { free.push(row as u32) }
    }
    metrics.parked.add(behind.len() as u64);
    behind.into_iter().for_each(|row| parked.behind(batch.get(row).to_record(), 0));
    batch.select(free)
}

/// Until `when`; for ever without it.
pub(crate) async fn sleep(when: Option<tokio::time::Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
