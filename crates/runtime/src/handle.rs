//! Watching and steering a running pipeline.

use std::{
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use millstream_core::{Epoch, Error, ErrorKind, Result, Role};
use serde::Serialize;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::{
    lag::Lags,
    lease::lock,
    metrics::PipelineMetrics,
    open::DEAD_LETTERS,
    plan::{Plan, Planned, RATE_LIMIT},
    queues::Queues,
    run::{Phase, Start, Status},
    spec::{Dispatch, RateLimit},
    tap::{Tap, Taps},
    task::Board,
};

/// Events that a listener may be behind before it misses some.
const EVENTS_KEPT: usize = 256;

/// What a handle tells the coordinator.
#[derive(Debug)]
pub(crate) enum Control {
    Drain(Duration),
    Checkpoint(oneshot::Sender<Epoch>),
    Stop,
    Pause(bool),
    Concurrency { step: String, workers: u32, answer: oneshot::Sender<Result<()>> },
}

/// Something that has happened to a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Happening {
    /// All is opened; records flow.
    Running(Start),
    /// An epoch counts; the time from its barrier.
    Committed(Epoch, Duration),
    /// Sources read nothing more until `Resumed`.
    Paused,
    /// Sources read again.
    Resumed,
    /// A step has another number of workers.
    Concurrency(String, u32),
    /// Sources have stopped for good; what is in flight is worked off.
    Draining,
    /// It starts again from the last checkpoint: at which stage it failed, and why.
    Restarting(String, String),
    /// Over; why, if it failed.
    Over(Option<String>),
}

/// The stages of a pipeline and what each reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Graph {
    /// Sources, then steps, each behind what it reads, then sinks.
    pub stages: Vec<GraphStage>,
}

/// One stage of a [`Graph`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GraphStage {
    /// Its name.
    pub name: String,
    /// The component's name, or `custom`.
    pub kind: String,
    /// Whether it reads, writes or works in between.
    pub role: Role,
    /// Workers.
    pub workers: usize,
    /// How records get to the workers.
    pub dispatch: Dispatch,
    /// Names of the stages that it reads.
    pub reads: Vec<String>,
}

/// What tasks and handles share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Name of the pipeline.
    pipeline: String,
    pub(crate) metrics: PipelineMetrics,
    pub(crate) board: Board,
    pub(crate) queues: Queues,
    pub(crate) lags: Lags,
    pub(crate) taps: Taps,
    /// Made when somebody first listens: an idle pipeline has no use for its room.
    events: OnceLock<broadcast::Sender<Happening>>,
    /// Since when the oldest epoch that does not count yet has records.
    pub(crate) begun: Mutex<Option<Instant>>,
}

impl Shared {
    pub(crate) fn new(plan: &Plan) -> Self {
        let names = plan.nodes.iter().map(|node| node.name.as_str()).chain([DEAD_LETTERS]);
        Shared {
            pipeline: plan.name.clone(),
            metrics: PipelineMetrics::new(names),
            board: Board::default(),
            queues: Queues::default(),
            lags: Lags::default(),
            taps: Taps::default(),
            events: OnceLock::new(),
            begun: Mutex::default(),
        }
    }

    /// Tells everybody who listens, and the log.
    pub(crate) fn tell(&self, happening: Happening) {
        self.log(&happening);
        if let Some(events) = self.events.get() {
            // An error means that nobody does any more.
            let _ = events.send(happening);
        }
    }

    /// What is rare at the level `info`, what comes with each epoch at `debug`. Also an end with an error is no warning: whoever
    /// waits for the pipeline is given that error, and says it.
    fn log(&self, happening: &Happening) {
        let pipeline = self.pipeline.as_str();
        match happening {
            Happening::Running(start) => tracing::info!(pipeline, %start, "running"),
            Happening::Committed(epoch, took) => tracing::debug!(pipeline, epoch, ?took, "committed"),
            Happening::Paused => tracing::info!(pipeline, "paused"),
            Happening::Resumed => tracing::info!(pipeline, "resumed"),
            Happening::Concurrency(step, workers) => tracing::info!(pipeline, step, workers, "concurrency changed"),
            Happening::Draining => tracing::info!(pipeline, "draining"),
            // The supervisor warns of it, and says when that will be.
            Happening::Restarting(..) => {}
            Happening::Over(None) => tracing::info!(pipeline, "over"),
            Happening::Over(Some(error)) => tracing::info!(pipeline, error, "over with an error"),
        }
    }
}

/// Watches and steers a running pipeline. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(crate) control: mpsc::UnboundedSender<Control>,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) started: watch::Receiver<Option<Start>>,
    pub(crate) planned: watch::Receiver<Arc<Plan>>,
    pub(crate) shared: Arc<Shared>,
}

impl Handle {
    /// Asks the sources to stop, lets everything in flight finish, commits the last epoch. What is still parked after
    /// `deadline` stays in the state. A pipeline that still opens, or is about to start again, opens to the end and works off
    /// what it has recovered, without reading; where there is no checkpoint there is nothing to do, and it has drained at once.
    pub fn drain(&self, deadline: Duration) {
        // A pipeline that is over has nothing to drain.
        let _ = self.control.send(Control::Drain(deadline));
    }

    /// Stops at once, without a last epoch.
    pub fn stop(&self) {
        let _ = self.control.send(Control::Stop);
    }

    /// Lets the sources read nothing until [`Handle::resume`]; what has been read is worked off and committed.
    pub fn pause(&self) {
        let _ = self.control.send(Control::Pause(true));
    }

    /// Lets the sources read again.
    pub fn resume(&self) {
        let _ = self.control.send(Control::Pause(false));
    }

    /// Waits until an epoch that covers all that has been read so far counts.
    pub async fn checkpoint(&self) -> Result<Epoch> {
        let (answer, answered) = oneshot::channel();
        self.control.send(Control::Checkpoint(answer)).map_err(|_| over("commit"))?;
        answered.await.map_err(|_| over("commit"))
    }

    /// Gives a step another number of workers, and those that follow it: the pipeline stops at an epoch, is built anew, and
    /// goes on. Returns when it does. The order of each key is kept.
    pub async fn set_concurrency(&self, step: &str, workers: u32) -> Result<()> {
        let (answer, answered) = oneshot::channel();
        let control = Control::Concurrency { step: step.to_owned(), workers, answer };
        self.control.send(control).map_err(|_| over("change it"))?;
        answered.await.map_err(|_| over("change it"))?
    }

    /// Changes the rate limit of a source or step that was planned with one; at once, also for those that wait.
    pub fn set_rate_limit(&self, stage: &str, limit: &RateLimit) -> Result<()> {
        let value = serde_json::to_value(limit)
            .map_err(|cause| Error::new(ErrorKind::Bug, "cannot write down a rate limit").caused_by(cause))?;
        self.set_option(&format!("{stage}.{RATE_LIMIT}"), RATE_LIMIT, &value).map_err(|error| {
            let hint = "only a stage that was planned with a rate limit can be given another one";
            if error.kind() == ErrorKind::Option { error.hint(hint) } else { error }
        })
    }

    /// Changes an option of a step while it runs, in all its workers; not every option can be. Steps of the library that wait have
    /// `timeout` and, if several things may be under way at once, `in_flight`; those that batch have `batch.count`, `batch.bytes`
    /// and `batch.linger`, too.
    ///
    /// # Errors
    /// [`Option`](ErrorKind::Option): there is no such step, or the value is wrong; [`Unsupported`](ErrorKind::Unsupported): the
    /// step has no such option, or it cannot change while the step runs.
    pub fn set_option(&self, step: &str, option: &str, value: &serde_json::Value) -> Result<()> {
        let plan = self.planned.borrow().clone();
        let found = plan.nodes.iter().find_map(|node| match &node.component {
            Planned::Step(planned) if node.name == step => Some(planned.clone()),
            _ => None,
        });
        let found = found.ok_or_else(|| Error::new(ErrorKind::Option, format!("there is no step `{step}`")))?;
        found.change(option, value).map_err(|error| error.context(format!("cannot change `{step}`")))
    }

    /// What happens from now on. A listener that is far behind misses some, and is told so.
    pub fn events(&self) -> broadcast::Receiver<Happening> {
        self.shared.events.get_or_init(|| broadcast::channel(EVENTS_KEPT).0).subscribe()
    }

    /// The stages and what each reads, as they are now.
    pub fn graph(&self) -> Graph {
        self.planned.borrow().graph()
    }

    /// Copies of the records that pass `STAGE` (or `STAGE.out`) or come to it (`STAGE.in`), from now on. The pipeline does not
    /// wait for their reader: what it is too slow for is left out, and counted.
    pub fn tap(&self, point: &str) -> Result<Tap> {
        self.shared.taps.add(point, &self.planned.borrow())
    }

    /// Figures at this moment.
    pub fn status(&self) -> Status {
        let Shared { metrics, board, queues, lags, begun, .. } = &*self.shared;
        let epochs = metrics.epochs.get();
        Status {
            phase: self.phase.borrow().clone(),
            stages: metrics.read(),
            waiting: board.read(),
            epoch: metrics.checkpoint.get(),
            epochs,
            epoch_age: lock(begun).map(|since| since.elapsed()),
            queues: queues.read(),
            lags: lags.read(),
            epoch_latency: Duration::from_nanos(metrics.epoch_ns.get().checked_div(epochs).unwrap_or(0)),
            restarts: metrics.restarts.get(),
        }
    }

    /// Waits until the pipeline runs, and says where it began; `None` if it ended before.
    pub async fn started(&self) -> Option<Start> {
        let mut started = self.started.clone();
        // An error means that the supervisor has gone; what it said last counts.
        let _ = started.wait_for(Option::is_some).await;
        *started.borrow()
    }

    /// Waits until the pipeline is over, however it ends.
    pub async fn over(&self) {
        let mut phase = self.phase.clone();
        // An error means that the supervisor has gone.
        let _ = phase.wait_for(|phase| matches!(phase, Phase::Over)).await;
    }
}

impl Plan {
    /// The stages and what each reads.
    pub fn graph(&self) -> Graph {
        let stages = self.nodes.iter().map(|node| GraphStage {
            name: node.name.clone(),
            kind: node.kind.clone(),
            role: node.role(),
            workers: node.workers,
            dispatch: node.dispatch,
            reads: node.inputs.iter().map(|&(from, _)| self.nodes[from].name.clone()).collect(),
        });
        Graph { stages: stages.collect() }
    }
}

fn over(what: &str) -> Error {
    Error::new(ErrorKind::Closed, format!("cannot {what}: the pipeline is over"))
}
