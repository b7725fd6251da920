//! What all tasks of a pipeline share: how they report, and what becomes of failures.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use millstream_core::{
    Batch, Change, Companion, DeadLetter, Delivery, Epoch, Error, ErrorKind, Record, SourceCheckpoint, Token,
};
use tokio::sync::mpsc;

use crate::{
    channel::{Barrier, Gone, Message},
    dispatch::Link,
    handle::Shared,
    metrics::StageMetrics,
    pace::{Gates, Pace},
    probe::{Probe, Step},
    rules::{Rules, Then, Verdict},
    spec::OnFailed,
};

/// What a task tells the coordinator. The channel is unbounded, but each task sends at most three reports an epoch, and
/// the number of epochs under way is bounded.
#[derive(Debug)]
pub(crate) enum Report {
    /// A source has given the barrier.
    Source { source: usize, epoch: Epoch, checkpoint: SourceCheckpoint, companion: Option<Companion> },
    /// A stage's state when the barrier passed.
    State { epoch: Epoch, state: Vec<(String, Vec<Change>)> },
    /// A sink knows the outcome of everything before the barrier.
    Sink { sink: usize, epoch: Epoch, token: Option<Token>, state: Vec<(String, Vec<Change>)> },
    /// The dead-letter sink does.
    DeadLetters { epoch: Epoch, token: Option<Token> },
    /// A sink has made the epoch's token count.
    Committed { sink: usize, epoch: Epoch },
    /// A source has told its system, or had nothing to tell.
    Acknowledged,
    /// All inputs of a sink have ended, and nothing of it is parked.
    Ended,
}

/// Why a task stopped before it was told to.
#[derive(Debug)]
pub(crate) enum Halt {
    /// A neighbour has gone; somebody else tells why.
    Gone,
    /// Its own failure.
    Failed(Failure),
}

/// A failure that a pipeline cannot go on with.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) stage: String,
    pub(crate) error: Error,
    pub(crate) then: AfterFailure,
}

/// What the supervisor does about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterFailure {
    /// Ends the pipeline with the cause.
    Stop,
    /// Restarts from the last checkpoint, within the limit on restarts.
    Restart,
    /// Restarts from the last checkpoint, as often as it takes, waiting in between.
    Retry,
    /// Restarts from the last checkpoint at once: the next run knows what to do about the cause.
    Replay,
}

impl From<Gone> for Halt {
    fn from(_: Gone) -> Self {
        Halt::Gone
    }
}

/// Fate of a record that failed.
#[derive(Debug)]
pub(crate) enum Fate {
    /// Tried again after this time.
    Park(Duration),
    /// Counted and done with.
    Done,
}

/// One task's connections to the rest of its pipeline.
pub(crate) struct Context {
    pub(crate) name: Arc<str>,
    pub(crate) delivery: Delivery,
    pub(crate) metrics: Arc<StageMetrics>,
    pub(crate) rules: Rules,
    pub(crate) on_failed: Option<OnFailed>,
    pub(crate) pace: Arc<Pace>,
    pub(crate) gates: Gates,
    pub(crate) reports: mpsc::UnboundedSender<Report>,
    pub(crate) letters: mpsc::Sender<(Epoch, Box<DeadLetter>)>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) probe: Probe,
}

impl Context {
    pub(crate) fn report(&self, report: Report) -> Result<(), Halt> {
        self.reports.send(report).map_err(|_| Halt::Gone)
    }

    pub(crate) fn fail(&self, error: Error, then: AfterFailure) -> Halt {
        Halt::Failed(Failure { stage: self.name.to_string(), error, then })
    }

    /// A failure outside of any record, such as a sync: the supervisor tries again from the checkpoint where that can help.
    pub(crate) fn fatal(&self, error: Error) -> Halt {
        self.fatal_at(&self.name, error)
    }

    /// The same of one of the steps that share this task.
    pub(crate) fn fatal_at(&self, stage: &str, error: Error) -> Halt {
        let then = if error.facts().retry { AfterFailure::Retry } else { AfterFailure::Stop };
        Halt::Failed(Failure { stage: stage.to_owned(), error, then })
    }

    /// Applies the rules to a failed connection: the wait before the next try, or the end of the task.
    pub(crate) fn connection(&self, error: Error, attempts: u32) -> Result<Duration, Halt> {
        self.metrics.failures.add(1);
        if error.kind() == ErrorKind::Fenced {
            // No rule can make us the owner again.
            return Err(self.fail(error, AfterFailure::Stop));
        }
        match self.rules.connection(&error, attempts, dice()) {
            Verdict::Retry(wait) => {
                tracing::warn!(stage = %self.name, attempts, error = %error.chain(), "trying again in {wait:?}");
                self.shared.board.set(&self.name, format!("waiting to try again: {}", error.chain()));
                Ok(wait)
            }
            Verdict::Then(Then::Restart) => Err(self.fail(error, AfterFailure::Restart)),
            Verdict::Then(_) => Err(self.fail(error, AfterFailure::Stop)),
        }
    }

    /// Applies the rules of `rules` to a record that has failed `attempts` times at `stage`; `epoch` is the one it belongs to.
    pub(crate) async fn record(&self, failed: FailedRecord<'_>, epoch: Epoch) -> Result<Fate, Halt> {
        let FailedRecord { stage, metrics, rules, on_failed, record, error, attempts } = failed;
        metrics.failures.add(1);
        if let Some(OnFailed(hear)) = on_failed {
            let shown = if attempts == Rules::NO_RETRY { 1 } else { attempts };
            // A hook that panics must not take the record's rule with it.
            let heard = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| hear(stage, record, error, shown)));
            if let Err(panic) = heard {
                let error = millstream_core::panicked(&*panic);
                tracing::warn!(stage, error = %error.chain(), "the hook for failed records failed itself");
            }
        }
        match rules.record(error, attempts, dice()) {
            Verdict::Retry(delay) => {
                tracing::debug!(stage, record = record.id(), attempts, error = %error.chain(), "record is tried again in {delay:?}");
                Ok(Fate::Park(delay))
            }
            Verdict::Then(Then::DeadLetter) => {
                tracing::debug!(stage, record = record.id(), attempts, error = %error.chain(), "record becomes a dead letter");
                let attempts = if attempts == Rules::NO_RETRY { 1 } else { attempts };
                let letter = Box::new(DeadLetter::new(record.clone(), stage, error, attempts));
                self.letters.send((epoch, letter)).await.map_err(|_| Halt::Gone)?;
                metrics.dead.add(1);
                Ok(Fate::Done)
            }
            Verdict::Then(Then::Drop) => {
                metrics.dropped.add(1);
                Ok(Fate::Done)
            }
            Verdict::Then(then) => {
                let error = error.clone().context(format!("cannot go on after record {} at `{stage}`", record.id()));
                let then = if then == Then::Restart { AfterFailure::Restart } else { AfterFailure::Stop };
                Err(Halt::Failed(Failure { stage: stage.to_owned(), error, then }))
            }
        }
    }
}

/// A record that failed, with the stage whose rules count.
pub(crate) struct FailedRecord<'a> {
    pub(crate) stage: &'a str,
    pub(crate) metrics: &'a StageMetrics,
    pub(crate) rules: &'a Rules,
    pub(crate) on_failed: &'a Option<OnFailed>,
    pub(crate) record: &'a Record,
    pub(crate) error: &'a Error,
    pub(crate) attempts: u32,
}

/// The links that leave a worker of a stage, by port. A port may have several readers: each gets every record, without a copy.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    pub(crate) ports: Vec<Vec<Link>>,
}

impl Outputs {
    /// Sends a batch to all readers of a port, and counts it; without a reader it counts as filtered.
    pub(crate) async fn send(&self, port: usize, batch: Batch, metrics: &StageMetrics) -> Result<(), Halt> {
        let records = batch.len() as u64;
        let Some((last, others)) = self.ports.get(port).and_then(|readers| readers.split_last()) else {
            metrics.filtered.add(records);
            return Ok(());
        };
        metrics.created.add(records * others.len() as u64);
        metrics.records_out.add(records * (1 + others.len() as u64));
        // A few records must not keep a large block alive in a queue that counts only them.
        let batch = if batch.is_sparse() { batch.compact() } else { batch };
        for reader in others {
            reader.send(batch.clone(), &metrics.blocked_ns).await?;
        }
        Ok(last.send(batch, &metrics.blocked_ns).await?)
    }

    pub(crate) async fn barrier(&self, barrier: Barrier, metrics: &StageMetrics) -> Result<(), Halt> {
        for reader in self.ports.iter().flatten() {
            reader.tell(|| Message::Barrier(barrier), &metrics.blocked_ns).await?;
        }
        Ok(())
    }

    pub(crate) async fn end(&self, metrics: &StageMetrics) -> Result<(), Halt> {
        for reader in self.ports.iter().flatten() {
            reader.tell(|| Message::End, &metrics.blocked_ns).await?;
        }
        Ok(())
    }
}

/// What each stage is doing, where that is not simply working: shown by `status`.
#[derive(Debug, Default)]
pub(crate) struct Board(Mutex<BTreeMap<String, String>>);

impl Board {
    pub(crate) fn set(&self, stage: &str, text: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(stage.to_owned(), text);
    }

    pub(crate) fn clear(&self, stage: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(stage);
    }

    pub(crate) fn read(&self) -> BTreeMap<String, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The error for a rule of our own that was broken.
pub(crate) fn bug(message: &str) -> Error {
    Error::new(ErrorKind::Bug, message)
}

/// A random number from 0 to 1, good enough to spread retries.
pub(crate) fn dice() -> f64 {
    use std::hash::{BuildHasher, Hasher};
    let random = std::hash::RandomState::new().build_hasher().finish();
    random as f64 / u64::MAX as f64
}

impl Context {
    pub(crate) fn reach(&self, step: Step, epoch: Epoch) {
        self.probe.reach(step, epoch);
    }
}
