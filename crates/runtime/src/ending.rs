//! How a run comes to its end: told to drain or to stop, by itself, or by a task that died.

use std::time::Duration;

use millstream_core::{Error, ErrorKind, Last};
use tokio::time::Instant;

use crate::{
    coordinate::{Aim, Coordinator},
    dead_letter_task::DeadLetterCommand,
    handle::{Control, Happening},
    run::{Ended, Phase},
    sink_task::SinkCommand,
    source_task::SourceCommand,
    stage_task::sleep,
    task::{AfterFailure, Failure, Halt},
};

/// How long the last epoch of a drain may take, once what is parked has been given up.
const LAST_EPOCH_WAIT: Duration = Duration::from_secs(5);

/// How long steps may take to close, where it is not to end by itself.
pub(crate) const CLOSING_WAIT: Duration = Duration::from_secs(5);

/// No clock is asked for more: a time that overflows would be a panic.
pub(crate) const FAR: Duration = Duration::from_secs(100 * 365 * 86_400);

impl Coordinator<'_> {
    /// Does what a handle says; an answer if that is to stop at once.
    pub(crate) fn obey(&mut self, control: Control) -> Option<Ended> {
        match control {
            Control::Drain(deadline) => {
                let deadline = Deadline::sooner(self.lasting.drain, deadline);
                self.lasting.drain = Some(deadline);
                match self.aim {
                    Aim::Run | Aim::Change(_) => self.drain(deadline),
                    // What is parked may have been given up before.
                    Aim::Drain => self.patience = self.patience.and(Some(deadline.patience)),
                    Aim::Last(_) => {}
                }
                // Where it ends by itself: no later than was asked for.
                self.abort_at = Some(deadline.abort);
                None
            }
            Control::Checkpoint(answer) => {
                self.opened.pace.urge();
                let epoch = match self.aim {
                    // Sources have stopped before it was cut: it covers all that has been read.
                    Aim::Last(_) | Aim::Change(0) => self.cut,
                    _ => self.cut + 1,
                };
                if epoch <= self.decided {
                    // Who asked may have gone.
                    let _ = answer.send(epoch);
                } else {
                    self.waiting.push((epoch, answer));
                }
                None
            }
            Control::Stop => Some(Ended::Stopped),
            Control::Pause(paused) => {
                self.pause(paused);
                None
            }
            Control::Concurrency { step, workers, answer } => {
                self.lasting.wish(step, workers, answer);
                None
            }
        }
    }

    fn pause(&mut self, paused: bool) {
        if std::mem::replace(&mut self.lasting.paused, paused) == paused {
            return;
        }
        for (_, source) in &self.opened.ends.sources {
            let _ = source.send(SourceCommand::Pause(paused));
        }
        if matches!(self.aim, Aim::Run | Aim::Change(_)) {
            self.phase.send_replace(if paused { Phase::Paused } else { Phase::Running });
        }
        self.lasting.shared.tell(if paused { Happening::Paused } else { Happening::Resumed });
    }

    pub(crate) fn drain(&mut self, deadline: Deadline) {
        self.phase.send_replace(Phase::Draining);
        self.lasting.shared.tell(Happening::Draining);
        for (_, source) in &self.opened.ends.sources {
            let _ = source.send(SourceCommand::Stop);
        }
        self.patience = Some(deadline.patience);
        self.abort_at = Some(deadline.abort);
        self.aim = Aim::Drain;
    }

    pub(crate) fn done(&self) -> Option<Ended> {
        let Aim::Last(last) = self.aim else { return None };
        let all = self.epochs.is_empty() && self.unacknowledged == 0 && self.decided == self.cut;
        all.then_some(if last == Last::Finished { Ended::Finished } else { Ended::Drained })
    }

    pub(crate) fn joined(&mut self, joined: Result<Result<(), Halt>, tokio::task::JoinError>) -> Result<(), Failure> {
        let stage = "pipeline".to_owned();
        match joined {
            Ok(Ok(())) | Ok(Err(Halt::Gone)) => Ok(()),
            Ok(Err(Halt::Failed(failure))) => Err(failure),
            Err(error) if error.is_panic() => {
                let error = millstream_core::panicked(&*error.into_panic()).context("a stage died");
                Err(Failure { stage, error, then: AfterFailure::Restart })
            }
            Err(_) => Err(too_late()),
        }
    }

    /// Lets the tasks go, sources first, and waits for them; no longer than a drain may take, and not for one that is told to
    /// stop: all that was to count does.
    pub(crate) async fn close(&mut self, ended: Ended) -> Result<Ended, Failure> {
        for (_, source) in &self.opened.ends.sources {
            let _ = source.send(SourceCommand::Close);
        }
        for (_, sink) in &self.opened.ends.sinks {
            let _ = sink.send(SinkCommand::Close);
        }
        if let Some(letters) = &self.opened.ends.dead_letters {
            let _ = letters.send(DeadLetterCommand::Close);
        }
        loop {
            tokio::select! {
                biased;
                joined = self.opened.tasks.join_next() => match joined {
                    Some(joined) => self.joined(joined)?,
                    None => return Ok(ended),
                },
                Some(control) = self.control.recv() => if self.obey(control).is_some() { return Ok(ended) },
                () = sleep(self.abort_at) => return Ok(ended),
            }
        }
    }
}

/// How long a drain may take, also over restarts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    /// When it gives up on what is parked.
    pub(crate) patience: Instant,
    /// When it gives up on everything.
    pub(crate) abort: Instant,
}

impl Deadline {
    /// So long from now on, if it was not to be sooner `before`.
    pub(crate) fn sooner(before: Option<Deadline>, time: Duration) -> Self {
        let patience = Instant::now() + time.min(FAR);
        let new = Deadline { patience, abort: patience + time.min(LAST_EPOCH_WAIT) };
        before.filter(|before| before.abort <= new.abort).unwrap_or(new)
    }
}

/// Some step has not closed in time.
pub(crate) fn tell_unclosed(pipeline: &str) {
    tracing::warn!(pipeline, "a step does not close within {CLOSING_WAIT:?}");
}

/// A drain that was aborted.
pub(crate) fn too_late() -> Failure {
    let error = Error::new(ErrorKind::Interrupted, "the drain took longer than its deadline")
        .hint("the next run goes on from the last checkpoint");
    Failure { stage: "pipeline".to_owned(), error, then: AfterFailure::Stop }
}
