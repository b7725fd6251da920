//! The task around a stage: a chain of fused steps, their failures, their state.

use std::{
    collections::HashMap,
    future::poll_fn,
    panic::{AssertUnwindSafe, resume_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{self, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt as _;
use millstream_core::{Batch, Epoch, Last, Output, Record, ShardKey, Step as CoreStep, Timestamp};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    align::{Input, Inputs},
    channel::Barrier,
    ended::{EndMark, ended_state},
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
    /// It has been told that the input has ended, and nothing has come to it since: what it emitted then must come once.
    pub(crate) ended: bool,
    /// What the checkpoint knows of it.
    pub(crate) end_mark: EndMark,
}

impl StepRun {
    /// Lets the step let go of what it holds.
    pub(crate) async fn close(&mut self) {
        if let CoreStep::Operator(operator) = &mut self.step
            && let Err(error) = operator.close().await
        {
            tracing::warn!(stage = %self.who.name, error = %error.chain(), "closing failed");
        }
    }

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
    /// The steps have been told that no more input comes in this run.
    pub(crate) drained: bool,
    /// The last barrier of this run has passed: what is let go behind it would come again in the next.
    pub(crate) halted: bool,
    /// Tells the newest epoch that was cut and, by its end, to close; and whom it tells by letting go.
    pub(crate) stop_side: (watch::Receiver<Epoch>, mpsc::Sender<()>),
    /// Keys of parked records that are being tried again and whose outcome is not known, and which record of each.
    pub(crate) trying: HashMap<Bytes, (ShardKey, u128)>,
    /// What the steps have emitted, failed, filtered and absorbed: only whether it grows is of interest.
    pub(crate) outcomes: u64,
}

/// A batch on its way through the chain: before step `step`, on input `port` of it; or behind the last one.
pub(crate) struct Work {
    pub(crate) step: usize,
    pub(crate) port: usize,
    pub(crate) batch: Batch,
    /// A parked record whose turn it is.
    pub(crate) retried: bool,
}

/// The name under which a stage's parked records are saved.
pub(crate) fn parked_state(stage: &str) -> String {
    format!("{stage}#parked")
}

/// After a timer, so much time is for what else there is to do, where timers come too fast.
pub(crate) const TIMER_PAUSE: Duration = Duration::from_millis(1);

impl StageTask {
    pub(crate) async fn run(mut self) -> std::result::Result<(), Halt> {
        let (mut stopped, _closed) = self.stop_side.clone();
        // A step that panics ends the run; all are closed all the same.
        let result = AssertUnwindSafe(async {
            tokio::select! {
                biased;
                () = async { while stopped.changed().await.is_ok() {} } => Err(Halt::Gone),
                result = self.work() => result,
            }
        });
        let result = result.catch_unwind().await;
        self.close().await;
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Lets every step let go of what it holds.
    pub(crate) async fn close(&mut self) {
        for run in &mut self.steps {
            run.close().await;
        }
    }

    async fn work(&mut self) -> std::result::Result<(), Halt> {
        // The end is passed on when nothing is parked any more.
        let mut ending = false;
        let mut cut = self.stop_side.0.clone();
        let mut not_before = None;
        loop {
            let timer = self.timer().map(|at| not_before.map_or(at, |after| at.max(after)));
            // What lies before a barrier that has been cut must be taken, so that the barrier can come; behind the last one
            // there is only the end.
            let full = self.is_full() && !self.halted && *cut.borrow_and_update() < self.epoch;
            tokio::select! {
                biased;
                () = sleep(timer) => {
                    self.on_timer().await?;
                    not_before = Some(Instant::now() + TIMER_PAUSE);
                }
                step = ready(&mut self.steps), if !self.halted => self.advance(step).await?,
                Ok(()) = cut.changed(), if full => {}
                input = self.inputs.next(), if !full => match input {
                    Ok(Input::Batch(port, batch)) => self.take(port, batch).await?,
                    Ok(Input::Barrier(barrier)) => self.barrier(barrier).await?,
                    Ok(Input::End) => ending = true,
                    // The coordinator ends a run by letting the sources go, and so everybody behind them.
                    Err(_) => return Ok(()),
                },
            }
            if ending && !self.halted && self.end().await? {
                ending = false;
                self.outputs.end(&self.context.metrics).await?;
            }
        }
    }

    /// All inputs have ended: tells the steps, each when nothing before it waits any more, and again where what failed in it came
    /// once more. Whether nothing is left to come out.
    async fn end(&mut self) -> std::result::Result<bool, Halt> {
        while self.parked.is_empty() {
            // What was tried again may be under way.
            self.settle_steps().await?;
            if !self.parked.is_empty() {
                break;
            }
            let Some(step) = self.steps.iter().position(|run| !run.ended || run.held > 0) else { return Ok(true) };
            let run = &mut self.steps[step];
            let CoreStep::Operator(operator) = &mut run.step else { break };
            if std::mem::replace(&mut run.ended, true) {
                break;
            }
            let mut out = Output::default();
            let done = working(&run.who.metrics, operator.end(&mut out)).await;
            self.emitted(step, done, &mut out).await?;
        }
        Ok(false)
    }

    fn is_full(&self) -> bool {
        self.steps.iter().any(|run| matches!(&run.step, CoreStep::Operator(step) if step.is_full()))
    }

    fn nothing_waits(&self) -> bool {
        self.parked.is_empty() && self.steps.iter().all(|run| run.held == 0)
    }

    /// When something is to be done on time. Behind the last barrier of a run nothing is.
    fn timer(&self) -> Option<Instant> {
        if self.halted {
            return None;
        }
        let operators = self.steps.iter().filter_map(|run| match &run.step {
            CoreStep::Operator(operator) => operator.timer_at(),
            CoreStep::Transform(_) => None,
        });
        let now = (Timestamp::now(), Instant::now());
        let operators = operators.map(|at| now.1 + Duration::from_nanos((at.0 - now.0.0).max(0) as u64));
        operators.chain(self.parked.due()).min()
    }

    async fn on_timer(&mut self) -> std::result::Result<(), Halt> {
        self.context.pace.touch();
        // Each at most once: one that fails again may be due again by now.
        for _ in 0..self.parked.len() {
            let Some(waiting) = self.parked.take(Instant::now()) else { break };
            self.steps.get(waiting.step).inspect(|run| run.who.metrics.parked.sub(1));
            let before = self.outcomes;
            let batch = alone(&waiting.record);
            self.chain(vec![Work { step: waiting.step, port: waiting.port, batch, retried: true }]).await?;
            let Record { key, origin, sequence, .. } = waiting.record;
            match key {
                // It is under way: what is behind it waits for what becomes of it.
                Some(key) if self.outcomes == before => drop(self.trying.insert(key, (origin, sequence))),
                key => self.parked.settled(key.as_deref()),
            }
        }
        let now = Timestamp::now();
        for step in 0..self.steps.len() {
            if let StepRun { step: CoreStep::Operator(operator), who, .. } = &mut self.steps[step]
                && operator.timer_at().is_some_and(|at| at <= now)
            {
                let mut out = Output::default();
                let done = working(&who.metrics, operator.on_timer(now, &mut out)).await;
                self.emitted(step, done, &mut out).await?;
            }
        }
        Ok(())
    }

    /// Takes what a step has done on its own.
    async fn advance(&mut self, step: usize) -> std::result::Result<(), Halt> {
        let StepRun { step: CoreStep::Operator(operator), who, .. } = &mut self.steps[step] else { return Ok(()) };
        let mut out = Output::default();
        let done = working(&who.metrics, operator.advance(&mut out)).await;
        self.context.pace.touch();
        self.emitted(step, done, &mut out).await.map(drop)
    }

    /// Takes a batch of an input.
    async fn take(&mut self, port: usize, batch: Batch) -> std::result::Result<(), Halt> {
        let Some(first) = self.steps.first() else { return Ok(()) };
        first.who.metrics.batches.add(1);
        first.who.metrics.records_in.add(batch.len() as u64);
        first.who.metrics.bytes_in.add(batch.size() as u64);
        self.chain(vec![Work { step: 0, port, batch, retried: false }]).await
    }

    async fn barrier(&mut self, barrier: Barrier) -> std::result::Result<(), Halt> {
        self.settle_steps().await?;
        if barrier.last != Last::No && !std::mem::replace(&mut self.drained, true) {
            self.drain_steps().await?;
        }
        self.halted = barrier.halts;
        let mut state = Vec::new();
        for run in &mut self.steps {
            run.who.metrics.mark(barrier.epoch);
            if let CoreStep::Operator(operator) = &mut run.step {
                let changes = operator.changes().map_err(|error| self.context.fatal(error))?;
                state.push((run.who.name.to_string(), changes));
                state.push((ended_state(&run.who.name), run.end_mark.changes(run.ended && run.held == 0)));
            }
        }
        let parked = self.parked.changes().map_err(|error| self.context.fatal(error))?;
        state.extend(
            parked
                .into_iter()
                .filter_map(|(step, changes)| self.steps.get(step).map(|run| (parked_state(&run.who.name), changes))),
        );
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

    /// Lets every step do what it has begun. What it gives back meanwhile begins anew, until all is done.
    async fn settle_steps(&mut self) -> std::result::Result<(), Halt> {
        for step in 0..self.steps.len() {
            while let StepRun { step: CoreStep::Operator(operator), who, .. } = &mut self.steps[step] {
                let mut out = Output::default();
                let done = working(&who.metrics, operator.settle(&mut out)).await;
                if !self.emitted(step, done, &mut out).await? {
                    break;
                }
            }
        }
        for (key, _) in std::mem::take(&mut self.trying) {
            self.parked.settled(Some(&key));
        }
        Ok(())
    }

    async fn drain_steps(&mut self) -> std::result::Result<(), Halt> {
        for step in 0..self.steps.len() {
            if let StepRun { step: CoreStep::Operator(operator), who, .. } = &mut self.steps[step] {
                let mut out = Output::default();
                let done = working(&who.metrics, operator.drain(&mut out)).await;
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
            CoreStep::Operator(operator) => Some((i, &run.who.metrics, operator.ready())),
            CoreStep::Transform(_) => None,
        })
        .collect();
    poll_fn(|context| {
        let ready = waits
            .iter_mut()
            .find_map(|(i, metrics, wait)| poll_working(metrics, wait.as_mut(), context).is_ready().then_some(*i));
        ready.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

/// Lets a step do what it has begun. Cancel-safe if `work` is.
async fn working<T>(metrics: &StageMetrics, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(|context| poll_working(metrics, work.as_mut(), context)).await
}

/// The time of a poll is that in which a step works; between two of them it waits, and is idle.
fn poll_working<F>(metrics: &StageMetrics, work: Pin<&mut F>, context: &mut task::Context<'_>) -> Poll<F::Output>
where
    F: Future + ?Sized,
{
    let since = std::time::Instant::now();
    let polled = work.poll(context);
    metrics.busy_ns.add_time(since.elapsed());
    polled
}

/// Until `when`; for ever without it.
pub(crate) async fn sleep(when: Option<tokio::time::Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
