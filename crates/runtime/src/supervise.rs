//! The supervisor: runs a pipeline, and after a failure runs it again from its checkpoint, within limits.

use std::{collections::VecDeque, time::Duration};

use millstream_core::{ErrorKind, Result};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    coordinate::{Coordinator, Turn},
    ending::{Deadline, too_late},
    handle::{Control, Happening},
    metrics::StageFigures,
    open::{Lasting, Ready},
    rules::Retry,
    run::{Ended, Phase, Start, Summary},
    stage_task::sleep,
    task::{AfterFailure, Failure, dice},
};

/// Runs until the pipeline has ended or cannot go on.
pub(crate) async fn supervise(
    mut lasting: Lasting,
    mut control: mpsc::UnboundedReceiver<Control>,
    phase: watch::Sender<Phase>,
    started: watch::Sender<Option<Start>>,
) -> Result<Summary> {
    let mut restarts: VecDeque<Instant> = VecDeque::new();
    let mut failures = 0;
    let result = loop {
        let began = Instant::now();
        phase.send_replace(Phase::Opening);
        let failure = match attempt(&mut lasting, &mut control, &phase, &started).await {
            Ok(Turn::Ended(ended)) => break Ok(ended),
            Ok(Turn::Change) => continue,
            Err(failure) if failure.error.kind() == ErrorKind::Closed && is_sink(&lasting, &failure) => {
                break Ok(Ended::ReaderGone);
            }
            Err(failure) => failure,
        };
        // A run that has held for a while starts counting anew.
        failures = match failure.then {
            AfterFailure::Replay => failures,
            _ if began.elapsed() > Duration::from_secs(60) => 1,
            _ => failures + 1,
        };
        let wait = match after(&failure, failures, &mut restarts, lasting.options.restarts_per_minute_max) {
            Ok(wait) => wait,
            Err(error) => break Err(error),
        };
        let cause = format!("{}: {}", failure.stage, failure.error.chain());
        tracing::warn!(pipeline = %lasting.plan.name, cause, "restarting from the last checkpoint in {wait:?}");
        lasting.shared.metrics.restarts.add(1);
        lasting.shared.tell(Happening::Restarting(failure.stage.clone(), failure.error.chain()));
        phase.send_replace(Phase::Restarting(cause));
        match pause(wait, &mut lasting, &mut control).await {
            Ok(Some(ended)) => break Ok(ended),
            Ok(None) => {}
            Err(failure) => break Err(failure.error),
        }
    };
    if let Some(host) = &mut lasting.host
        && let Err(error) = host.close().await
    {
        tracing::warn!(pipeline = %lasting.plan.name, error = %error.chain(), "closing the host failed");
    }
    let closed = lasting.store.close().await;
    // Whoever hears of the end sees it, too.
    phase.send_replace(Phase::Over);
    lasting.shared.tell(Happening::Over(result.as_ref().err().map(|error| error.chain())));
    let ended = result?;
    closed?;
    Ok(summary(&lasting, ended))
}

async fn attempt(
    lasting: &mut Lasting,
    control: &mut mpsc::UnboundedReceiver<Control>,
    phase: &watch::Sender<Phase>,
    started: &watch::Sender<Option<Start>>,
) -> Result<Turn, Failure> {
    lasting.apply_change();
    let mut ear = Ear { control, drain: lasting.drain, others: Vec::new() };
    let ready = open(lasting, &mut ear).await;
    let Ear { drain, others, .. } = ear;
    lasting.drain = drain;
    others.into_iter().for_each(|control| lasting.note(control));
    let opened = match ready {
        Ok(Ok(ready)) => lasting.begin(ready),
        not => {
            lasting.abandon().await;
            return not.map(|ended| Turn::Ended(ended.err().unwrap_or(Ended::Stopped)));
        }
    };
    phase.send_replace(if lasting.paused { Phase::Paused } else { Phase::Running });
    started.send_replace(lasting.start);
    lasting.shared.tell(Happening::Running(lasting.start.unwrap_or(Start::Fresh)));
    lasting.tell_changed();
    Coordinator::new(lasting, opened, control, phase).run().await
}

/// Opens everything. That can wait long for a system; a wish to end must not. What is to be drained before anything has been
/// read is only what was recovered: without a checkpoint there is nothing.
async fn open(lasting: &mut Lasting, ear: &mut Ear<'_>) -> Result<Result<Ready, Ended>, Failure> {
    let recovered = tokio::select! {
        biased;
        ended = ear.ended(false) => return ended.map(Err),
        recovered = lasting.recover() => recovered?,
    };
    // The books are those of the checkpoint, also if this is as far as it comes.
    lasting.shared.metrics.roll_back(recovered.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.epoch));
    let nothing = recovered.checkpoint.is_none();
    tokio::select! {
        biased;
        ended = ear.ended(nothing) => ended.map(Err),
        ready = lasting.open(recovered) => ready.map(Ok),
    }
}

/// Listens while nothing runs.
struct Ear<'a> {
    control: &'a mut mpsc::UnboundedReceiver<Control>,
    drain: Option<Deadline>,
    /// What is to be heard when something runs.
    others: Vec<Control>,
}

/// A wish that cannot wait until something runs.
enum Told {
    Stop,
    Drain,
}

impl Ear<'_> {
    /// Waits for a wish to end. A drain that comes to its deadline is a failure.
    async fn told(&mut self) -> Result<Told, Failure> {
        loop {
            tokio::select! {
                () = sleep(self.drain.map(|drain| drain.abort)) => return Err(too_late()),
                Some(control) = self.control.recv() => match control {
                    Control::Stop => return Ok(Told::Stop),
                    Control::Drain(deadline) => {
                        self.drain = Some(Deadline::sooner(self.drain, deadline));
                        return Ok(Told::Drain);
                    }
                    other => self.others.push(other),
                },
            }
        }
    }

    /// Waits until it is to end: when it is told to stop, or to drain where there is `nothing` to be drained.
    async fn ended(&mut self, nothing: bool) -> Result<Ended, Failure> {
        loop {
            if nothing && self.drain.is_some() {
                return Ok(Ended::Drained);
            }
            if let Told::Stop = self.told().await? {
                return Ok(Ended::Stopped);
            }
        }
    }
}

/// Waits before the next try; not for a drain, which may have little time.
async fn pause(
    wait: Duration,
    lasting: &mut Lasting,
    control: &mut mpsc::UnboundedReceiver<Control>,
) -> Result<Option<Ended>, Failure> {
    let mut ear = Ear { control, drain: lasting.drain, others: Vec::new() };
    let told = tokio::time::timeout(wait, ear.told()).await;
    let Ear { drain, others, .. } = ear;
    lasting.drain = drain;
    others.into_iter().for_each(|control| lasting.note(control));
    match told {
        Ok(told) => told.map(|told| matches!(told, Told::Stop).then_some(Ended::Stopped)),
        Err(_) => Ok(None),
    }
}

impl Lasting {
    /// Takes note of a wish while nothing runs.
    fn note(&mut self, control: Control) {
        match control {
            Control::Pause(paused) => self.paused = paused,
            Control::Concurrency { step, workers, answer } => self.wish(step, workers, answer),
            // If nothing opens any more, it is told by the end of its channel that no epoch was cut.
            Control::Checkpoint(answer) => self.asked.push(answer),
            // Heard before.
            Control::Drain(_) | Control::Stop => {}
        }
    }
}

/// How long to wait before the next start, or why there is none.
fn after(failure: &Failure, failures: u32, restarts: &mut VecDeque<Instant>, most: u32) -> Result<Duration> {
    let named = || {
        let error = failure.error.clone();
        let message = format!("`{}` failed: {}", failure.stage, error.message());
        match failure.stage.as_str() {
            "pipeline" => error,
            _ => error.context(message),
        }
    };
    // A fenced runner that came back would fence the one that replaced it.
    if failure.error.kind() == ErrorKind::Fenced {
        return Err(named());
    }
    match failure.then {
        AfterFailure::Stop => Err(named()),
        AfterFailure::Replay => Ok(Duration::ZERO),
        AfterFailure::Retry => Ok(Retry::default().wait(failures, dice())),
        AfterFailure::Restart => {
            let now = Instant::now();
            restarts.push_back(now);
            while restarts.pop_front_if(|at| now.duration_since(*at) > Duration::from_secs(60)).is_some() {}
            if restarts.len() > most as usize {
                return Err(named().context(format!("gave up after {most} restarts within a minute")));
            }
            Ok(Duration::from_millis(100 << failures.min(8)))
        }
    }
}

fn is_sink(lasting: &Lasting, failure: &Failure) -> bool {
    lasting.plan.role(millstream_core::Role::Sink).any(|(_, node)| node.name == failure.stage)
}

fn summary(lasting: &Lasting, ended: Ended) -> Summary {
    let causes = lasting.causes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut causes: Vec<_> = causes.values().cloned().collect();
    causes.sort_by_key(|cause| std::cmp::Reverse(cause.count));
    let stages: std::collections::BTreeMap<String, StageFigures> = lasting.shared.metrics.read();
    Summary {
        ended,
        start: lasting.start.unwrap_or(Start::Fresh),
        stages,
        epoch: lasting.shared.metrics.checkpoint.get(),
        causes,
    }
}
