//! The supervisor: runs a pipeline, and after a failure runs it again from its checkpoint, within limits.

use std::{collections::VecDeque, time::Duration};

use millstream_core::{ErrorKind, Result};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    coordinate::Coordinator,
    metrics::StageFigures,
    open::Lasting,
    rules::Retry,
    run::{Control, Ended, Phase, Start, Summary},
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
            Ok(ended) => break Ok(ended),
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
        lasting.metrics.restarts.add(1);
        phase.send_replace(Phase::Restarting(cause));
        if let Some(ended) = pause(wait, &mut control).await {
            break Ok(ended);
        }
    };
    if let Some(host) = &mut lasting.host
        && let Err(error) = host.close().await
    {
        tracing::warn!(pipeline = %lasting.plan.name, error = %error.chain(), "closing the host failed");
    }
    let closed = lasting.store.close().await;
    phase.send_replace(Phase::Over);
    let ended = result?;
    closed?;
    Ok(summary(&lasting, ended))
}

async fn attempt(
    lasting: &mut Lasting,
    control: &mut mpsc::UnboundedReceiver<Control>,
    phase: &watch::Sender<Phase>,
    started: &watch::Sender<Option<Start>>,
) -> Result<Ended, Failure> {
    // Opening can wait long for a system; a stop must not.
    let opened = tokio::select! {
        opened = lasting.open() => opened?,
        stopped = stop_asked(control) => return Ok(stopped),
    };
    phase.send_replace(Phase::Running);
    started.send_replace(lasting.start);
    Coordinator::new(lasting, opened, control, phase).run().await
}

/// Waits for a wish to end; others are out of place while nothing runs.
async fn stop_asked(control: &mut mpsc::UnboundedReceiver<Control>) -> Ended {
    loop {
        match control.recv().await {
            Some(Control::Drain(_) | Control::Stop) => return Ended::Stopped,
            Some(Control::Checkpoint(_)) => {}
            None => std::future::pending().await,
        }
    }
}

async fn pause(wait: Duration, control: &mut mpsc::UnboundedReceiver<Control>) -> Option<Ended> {
    tokio::time::timeout(wait, stop_asked(control)).await.ok()
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
    let stages: std::collections::BTreeMap<String, StageFigures> = lasting.metrics.read();
    Summary {
        ended,
        start: lasting.start.unwrap_or(Start::Fresh),
        stages,
        epoch: lasting.metrics.checkpoint.get(),
        causes,
    }
}
