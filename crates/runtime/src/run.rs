//! Running a plan: options, the handle, and what a run comes to in the end.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use millstream_core::{Epoch, Error, ErrorKind, Result, SeekTo, SinkPlan, Store};
use serde::Serialize;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

use crate::{
    dead_letter_task::{Causes, DeadLetterCause},
    metrics::{PipelineMetrics, StageFigures},
    open::{DEAD_LETTERS, Lasting},
    plan::Plan,
    probe::Probe,
    supervise::supervise,
    task::Board,
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

/// What a handle tells the coordinator.
#[derive(Debug)]
pub(crate) enum Control {
    Drain(Duration),
    Checkpoint(oneshot::Sender<Epoch>),
    Stop,
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

/// A running pipeline. Dropping it does not stop the pipeline.
#[derive(Debug)]
pub struct Running {
    control: mpsc::UnboundedSender<Control>,
    phase: watch::Receiver<Phase>,
    started: watch::Receiver<Option<Start>>,
    metrics: Arc<PipelineMetrics>,
    board: Arc<Board>,
    task: JoinHandle<Result<Summary>>,
}

/// Watches and steers a running pipeline. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    control: mpsc::UnboundedSender<Control>,
    phase: watch::Receiver<Phase>,
    started: watch::Receiver<Option<Start>>,
    metrics: Arc<PipelineMetrics>,
    board: Arc<Board>,
}

impl Running {
    /// Starts a plan on the current tokio runtime, of either flavour.
    pub fn start(plan: Plan, options: RunOptions) -> Running {
        let names = plan.nodes.iter().map(|node| node.name.as_str()).chain([DEAD_LETTERS]);
        let metrics = Arc::new(PipelineMetrics::new(names));
        let board = Arc::<Board>::default();
        let lasting = Lasting {
            plan: Arc::new(plan),
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
            metrics: metrics.clone(),
            board: board.clone(),
            causes: Causes::default(),
            sources: Default::default(),
            condemned: Default::default(),
            start: None,
            anew: false,
        };
        let (control, commands) = mpsc::unbounded_channel();
        let (phase_sender, phase) = watch::channel(Phase::Opening);
        let (started_sender, started) = watch::channel(None);
        let task = tokio::spawn(supervise(lasting, commands, phase_sender, started_sender));
        Running { control, phase, started, metrics, board, task }
    }

    /// A handle that can be given away.
    pub fn handle(&self) -> Handle {
        Handle {
            control: self.control.clone(),
            phase: self.phase.clone(),
            started: self.started.clone(),
            metrics: self.metrics.clone(),
            board: self.board.clone(),
        }
    }

    /// Waits for the end. Cancel-safe: the pipeline runs on when the future is dropped.
    pub async fn wait(&mut self) -> Result<Summary> {
        match (&mut self.task).await {
            Ok(result) => result,
            Err(error) => Err(Error::new(ErrorKind::Bug, "the supervisor died").caused_by(error)),
        }
    }

    /// Drains and waits for the end; see [`Handle::drain`].
    pub async fn drain(&mut self, deadline: Duration) -> Result<Summary> {
        self.handle().drain(deadline);
        self.wait().await
    }
}

impl Handle {
    /// Asks the sources to stop, lets everything in flight finish, commits the last epoch. What is still parked after
    /// `deadline` stays in the state.
    pub fn drain(&self, deadline: Duration) {
        // A pipeline that is over has nothing to drain.
        let _ = self.control.send(Control::Drain(deadline));
    }

    /// Stops at once, without a last epoch.
    pub fn stop(&self) {
        let _ = self.control.send(Control::Stop);
    }

    /// Waits until an epoch that covers all that has been read so far counts.
    pub async fn checkpoint(&self) -> Result<Epoch> {
        let over = || Error::new(ErrorKind::Closed, "cannot commit: the pipeline is over");
        let (answer, answered) = oneshot::channel();
        self.control.send(Control::Checkpoint(answer)).map_err(|_| over())?;
        answered.await.map_err(|_| over())
    }

    /// Figures at this moment.
    pub fn status(&self) -> Status {
        let epochs = self.metrics.epochs.get();
        Status {
            phase: self.phase.borrow().clone(),
            stages: self.metrics.read(),
            waiting: self.board.read(),
            epoch: self.metrics.checkpoint.get(),
            epochs,
            epoch_latency: Duration::from_nanos(self.metrics.epoch_ns.get().checked_div(epochs).unwrap_or(0)),
            restarts: self.metrics.restarts.get(),
        }
    }

    /// Waits until the pipeline runs, and says where it began; `None` if it ended before.
    pub async fn started(&self) -> Option<Start> {
        let mut started = self.started.clone();
        // An error means that the supervisor has gone; what it said last counts.
        let _ = started.wait_for(Option::is_some).await;
        *started.borrow()
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
