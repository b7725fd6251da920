//! Running a plan: options, the handle, and what a run comes to in the end.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use millstream_core::{Epoch, Error, ErrorKind, Lag, Result, Role, SeekTo, SinkPlan, Store};
use serde::Serialize;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::{
    dead_letter_task::{Causes, DeadLetterCause},
    handle::{Handle, Happening, Shared},
    metrics::StageFigures,
    open::{DEAD_LETTERS, Lasting},
    plan::{Plan, Planned},
    probe::Probe,
    queues::QueueFigures,
    supervise::supervise,
};

/// How to run a plan.
pub struct RunOptions {
    /// Where checkpoints and keyed state are kept.
    pub store: Box<dyn Store>,
    /// Takes dead letters, each a whole MessagePack `DeadLetter`, where the plan names no sink for them.
    pub dead_letters: Arc<dyn SinkPlan>,
    /// Begin anew, whatever the store holds.
    pub fresh: bool,
    /// Go on where a finished run ended, instead of beginning anew.
    pub go_on: bool,
    /// Stop at the end as it is when the run begins, also where a source would follow.
    pub until_end: bool,
    /// Stop after so many records of each source.
    pub count: Option<u64>,
    /// Where sources without a checkpoint begin, instead of what the plan says.
    pub start: Option<SeekTo>,
    /// Forget saved state whose stage or sink is gone.
    pub allow_dropped_state: bool,
    /// Restarts within a minute before the pipeline stops with the cause.
    pub restarts_per_minute_max: u32,
    /// Called at every step of every epoch.
    pub probe: Probe,
}

impl RunOptions {
    /// The usual options with this store, and this sink for dead letters.
    pub fn new(store: Box<dyn Store>, dead_letters: Arc<dyn SinkPlan>) -> Self {
        RunOptions {
            store,
            dead_letters,
            fresh: false,
            go_on: false,
            until_end: false,
            count: None,
            start: None,
            allow_dropped_state: false,
            restarts_per_minute_max: 5,
            probe: Probe::default(),
        }
    }
}

/// Where a run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// There was nothing to go on from.
    Fresh,
    /// Behind this epoch.
    Resuming(Epoch),
    /// The run before had finished: from the beginning.
    Anew,
}

impl std::fmt::Display for Start {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Start::Fresh => f.write_str("fresh"),
            Start::Resuming(epoch) => write!(f, "resuming epoch {epoch}"),
            Start::Anew => f.write_str("finished before, starting anew"),
        }
    }
}

/// How a run ended without a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// All sources ended by themselves; everything is delivered and committed.
    Finished,
    /// It was told to drain, or reached `until_end` or `count`; the next run goes on.
    Drained,
    /// It was told to stop at once; the next run goes on from the last checkpoint.
    Stopped,
    /// The reader of a sink has gone away, as with `| head`.
    ReaderGone,
}

/// What a pipeline is doing.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Opening sinks and sources.
    Opening,
    /// Running.
    Running,
    /// Reading nothing, because it was told to; what had been read is worked off.
    Paused,
    /// Working off what is in flight.
    Draining,
    /// Waiting to start again, with the cause.
    Restarting(String),
    /// Over.
    Over,
}

/// Figures and books of a pipeline at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// What it is doing.
    pub phase: Phase,
    /// Figures of each stage.
    pub stages: BTreeMap<String, StageFigures>,
    /// What stages are waiting for, where that is not simply work.
    pub waiting: BTreeMap<String, String>,
    /// The newest epoch that counts.
    pub epoch: Epoch,
    /// Epochs committed by this process.
    pub epochs: u64,
    /// Age of the oldest epoch that has begun and does not count yet, by the first record that came for it; `None` when idle.
    pub epoch_age: Option<Duration>,
    /// What waits in the queues before each stage, its workers together.
    pub queues: BTreeMap<String, QueueFigures>,
    /// What there is for each source to read, about a second old; nothing of one that cannot tell.
    pub lags: BTreeMap<String, Lag>,
    /// Mean time from cutting an epoch to its decision.
    pub epoch_latency: Duration,
    /// Restarts from a checkpoint.
    pub restarts: u64,
}

/// What a run came to.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// How it ended.
    pub ended: Ended,
    /// Where it began.
    pub start: Start,
    /// Figures of each stage.
    pub stages: BTreeMap<String, StageFigures>,
    /// The newest epoch that counts.
    pub epoch: Epoch,
    /// Dead letters of this run, by cause, the most frequent first.
    pub causes: Vec<DeadLetterCause>,
}

impl Summary {
    /// Dead letters of this run.
    pub fn dead(&self) -> u64 {
        self.stages.get(DEAD_LETTERS).map_or(0, |letters| letters.records_in)
    }

    /// Records that wait for another try in the state.
    pub fn parked(&self) -> u64 {
        self.stages.values().map(|stage| stage.parked).sum()
    }
}

/// A running pipeline. Dropping it does not stop the pipeline; see [`Running::abort_on_drop`].
#[derive(Debug)]
pub struct Running {
    handle: Handle,
    task: JoinHandle<Result<Summary>>,
    /// What the task has come to.
    ended: Option<Result<Summary>>,
    abort_on_drop: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.abort_on_drop {
            self.task.abort();
        }
    }
}

impl Running {
    /// Starts a plan on the current tokio runtime, of either flavour.
    pub fn start(plan: Plan, options: RunOptions) -> Running {
        let shared = Arc::new(Shared::new(&plan));
        let plan = Arc::new(plan);
        let (plan_sender, planned) = watch::channel(plan.clone());
        let lasting = Lasting {
            plan: plan.clone(),
            planned: plan_sender,
            store: options.store,
            host: None,
            options: RunFlags {
                dead_letters: options.dead_letters,
                fresh: options.fresh,
                go_on: options.go_on,
                until_end: options.until_end,
                count: options.count,
                start: options.start,
                allow_dropped_state: options.allow_dropped_state,
                restarts_per_minute_max: options.restarts_per_minute_max,
                probe: options.probe,
            },
            shared: shared.clone(),
            causes: Causes::default(),
            sources: Default::default(),
            condemned: Default::default(),
            start: None,
            anew: false,
            paused: false,
            drain: None,
            change: None,
            asked: Vec::new(),
            changed: Vec::new(),
            built: Vec::new(),
        };
        let (control, commands) = mpsc::unbounded_channel();
        let (phase_sender, phase) = watch::channel(Phase::Opening);
        let (started_sender, started) = watch::channel(None);
        let over = Over { plan, shared: shared.clone(), phase: phase_sender.clone() };
        let task = tokio::spawn(async move {
            let _over = over;
            supervise(lasting, commands, phase_sender, started_sender).await
        });
        let handle = Handle { control, phase, started, planned, shared };
        Running { handle, task, ended: None, abort_on_drop: false }
    }

    /// A handle that can be given away.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stops at once when this is dropped, without a last epoch.
    #[must_use]
    pub fn abort_on_drop(mut self) -> Self {
        self.abort_on_drop = true;
        self
    }

    /// Waits for the end; who asks again gets the same answer. Cancel-safe: the pipeline runs on when the future is dropped.
    ///
    /// # Errors
    /// What the pipeline has failed with.
    pub async fn wait(&mut self) -> Result<Summary> {
        if let Some(ended) = &self.ended {
            return ended.clone();
        }
        let died = |error| Err(Error::new(ErrorKind::Bug, "the supervisor died").caused_by(error));
        let ended = (&mut self.task).await.unwrap_or_else(died);
        self.ended = Some(ended.clone());
        ended
    }

    /// Drains and waits for the end; see [`Handle::drain`].
    pub async fn drain(&mut self, deadline: Duration) -> Result<Summary> {
        self.handle.drain(deadline);
        self.wait().await
    }
}

/// Tells everybody that the run is over, however it ends: also when its task is dropped.
struct Over {
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
}

impl Drop for Over {
    fn drop(&mut self) {
        for (_, node) in self.plan.role(Role::Source) {
            if let Planned::Source(source) = &node.component {
                source.over();
            }
        }
        self.shared.taps.close();
        // Whoever hears of the end sees it, too.
        if !matches!(self.phase.send_replace(Phase::Over), Phase::Over) {
            self.shared.tell(Happening::Over(Some("it was aborted".to_owned())));
        }
    }
}

/// The options that the engine keeps while it runs.
pub(crate) struct RunFlags {
    pub(crate) dead_letters: Arc<dyn SinkPlan>,
    pub(crate) fresh: bool,
    pub(crate) go_on: bool,
    pub(crate) until_end: bool,
    pub(crate) count: Option<u64>,
    pub(crate) start: Option<SeekTo>,
    pub(crate) allow_dropped_state: bool,
    pub(crate) restarts_per_minute_max: u32,
    pub(crate) probe: Probe,
}
