//! The pipelines of a process that can be looked at and steered.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use millstream_core::{Error, ErrorKind, Registry, Result, suggest};
use millstream_runtime::{Handle, Phase, Status};
use serde_json::Value;

use crate::{
    bottleneck,
    history::{History, Window},
    report::{BufferReport, PipelineReport, Queue, Rates, Report, Shares, StageReport, Totals},
    shape::Shape,
};

/// Epochs that are under way for longer make a process unready.
pub const READY_WITHIN: Duration = Duration::from_secs(30);

/// Takes secrets out of a text.
pub type Hide = dyn Fn(&str) -> String + Send + Sync;
/// Reads the keyed state of a running pipeline: of a stage, or of all; up to so many keys of each. Blocks.
pub type ReadState = dyn Fn(Option<&str>, usize) -> Result<Value> + Send + Sync;

/// Drains a pipeline, with its deadline.
pub type Drain = dyn Fn(Duration) + Send + Sync;
/// Reads the figures of a pipeline's buffers.
pub type ReadBuffers = dyn Fn() -> Vec<BufferReport> + Send + Sync;

/// What is said of a sink whose buffer has no room.
const NO_ROOM: &str = "waiting for room in its buffer";

/// A running pipeline that can be looked at.
pub struct Observed {
    pub(crate) shape: Shape,
    pub(crate) handle: Handle,
    pub(crate) hide: Arc<Hide>,
    pub(crate) state: Option<Arc<ReadState>>,
    pub(crate) vars: BTreeMap<String, String>,
    buffers: Option<Arc<ReadBuffers>>,
    drain: Option<Arc<Drain>>,
    history: Mutex<History>,
    failure: Mutex<Option<String>>,
}

impl Observed {
    /// A pipeline, by its plan's shape and its handle.
    pub fn new(shape: Shape, handle: Handle) -> Self {
        let history = Mutex::new(History::new(Instant::now()));
        let hide = Arc::new(str::to_owned);
        let (state, vars, buffers, drain) = (None, BTreeMap::new(), None, None);
        Observed { shape, handle, hide, state, vars, buffers, drain, history, failure: Mutex::default() }
    }

    /// Everything that is said of it goes through `hide`, which takes secrets out.
    #[must_use]
    pub fn hiding(mut self, hide: Arc<Hide>) -> Self {
        self.hide = hide;
        self
    }

    /// How its keyed state is read while it runs.
    #[must_use]
    pub fn with_state(mut self, read: Arc<ReadState>) -> Self {
        self.state = Some(read);
        self
    }

    /// How the figures of the buffers in front of its sinks are read.
    #[must_use]
    pub fn with_buffers(mut self, read: Arc<ReadBuffers>) -> Self {
        self.buffers = Some(read);
        self
    }

    /// How it is drained, where it is one of several that end together, as with the tasks of its buffers.
    #[must_use]
    pub fn with_drain(mut self, drain: Arc<Drain>) -> Self {
        self.drain = Some(drain);
        self
    }

    /// Drains it, and what ends with it.
    pub(crate) fn drain(&self, deadline: Duration) {
        match &self.drain {
            Some(drain) => drain(deadline),
            None => self.handle.drain(deadline),
        }
    }

    /// The pipeline's variables: what `%vars` is in the expression of a tap. They may hold secrets, and are never told.
    #[must_use]
    pub fn with_vars(mut self, vars: BTreeMap<String, String>) -> Self {
        self.vars = vars;
        self
    }

    fn report(&self, ready_within: Duration) -> PipelineReport {
        let status = self.handle.status();
        let window = lock(&self.history).look(&status, Instant::now());
        let failure = lock(&self.failure).clone();
        let (phase, cause) = match (&status.phase, failure) {
            (_, Some(cause)) => ("failed", Some(cause)),
            (Phase::Opening, _) => ("opening", None),
            (Phase::Running, _) => ("running", None),
            (Phase::Paused, _) => ("paused", None),
            (Phase::Draining, _) => ("draining", None),
            (Phase::Restarting(cause), _) => ("restarting", Some(cause.clone())),
            (Phase::Over, _) => ("over", None),
        };
        let mut report = PipelineReport {
            name: self.shape.pipeline.clone(),
            delivery: self.shape.delivery.clone(),
            phase: phase.to_owned(),
            cause: cause.map(|cause| (self.hide)(&cause)),
            epoch: status.epoch,
            epochs: status.epochs,
            epoch_latency_seconds: status.epoch_latency.as_secs_f64(),
            epoch_age_seconds: status.epoch_age.map(|age| age.as_secs_f64()),
            restarts: status.restarts,
            over_seconds: window.over.as_secs_f64(),
            stages: self.stages(&status, &window),
            buffers: self.buffers(),
            ..PipelineReport::default()
        };
        report.wait_for_room();
        report.unready = unready(&report, ready_within);
        report.bottleneck = bottleneck::find(&report).to_string();
        report
    }

    fn buffers(&self) -> Vec<BufferReport> {
        let mut buffers = self.buffers.as_ref().map(|read| read()).unwrap_or_default();
        for buffer in &mut buffers {
            buffer.waiting = buffer.waiting.take().map(|why| (self.hide)(&why));
        }
        buffers
    }

    fn stages(&self, status: &Status, window: &Window) -> Vec<StageReport> {
        let graph = self.handle.graph();
        let workers = |name: &str| {
            let now = graph.stages.iter().find(|stage| stage.name == name).map(|stage| stage.workers);
            now.and_then(|workers| u32::try_from(workers).ok()).unwrap_or(1)
        };
        let stages = self.shape.stages.iter().map(|shape| StageReport {
            role: shape.role.to_string(),
            kind: shape.kind.clone(),
            reads: shape.reads.clone(),
            scales: shape.scales,
            waiting: status.waiting.get(&shape.name).map(|text| (self.hide)(text)),
            ..figures(&shape.name, workers(&shape.name), status, window)
        });
        // What the engine counts beside the plan: its dead letters.
        let planned = |name: &str| self.shape.stages.iter().any(|stage| stage.name == name);
        let others = status.stages.keys().filter(|name| !planned(name)).map(|name| figures(name, 1, status, window));
        stages.chain(others).collect()
    }
}

impl PipelineReport {
    /// A sink whose buffer is full says so, where it says nothing else.
    fn wait_for_room(&mut self) {
        for buffer in self.buffers.iter().filter(|buffer| buffer.waiting_seconds.is_some()) {
            let sinks = self.stages.iter_mut().filter(|stage| stage.role == "sink" && stage.name == buffer.sink);
            sinks.for_each(|sink| sink.waiting = sink.waiting.take().or_else(|| Some(NO_ROOM.to_owned())));
        }
    }
}

/// What is counted of a stage.
fn figures(name: &str, workers: u32, status: &Status, window: &Window) -> StageReport {
    let now = window.now.get(name).copied().unwrap_or_default();
    let before = window.before.get(name).copied().unwrap_or_default();
    let seconds = window.over.as_secs_f64().max(1e-9);
    let per_second = |figure: fn(&Totals) -> u64| figure(&now).saturating_sub(figure(&before)) as f64 / seconds;
    // A call that began before the window counts when it ends.
    let share = |figure: fn(&Totals) -> u64| (per_second(figure) / 1e9 / f64::from(workers.max(1))).min(1.0);
    let (busy, blocked) = (share(|totals| totals.busy_ns), share(|totals| totals.blocked_ns));
    let in_flight = status.stages.get(name).map_or(0, |stage| stage.in_flight());
    StageReport {
        name: name.to_owned(),
        workers,
        queue: status.queues.get(name).filter(|queue| queue.batches_max > 0).map(Queue::from),
        lag: status.lags.get(name).copied(),
        in_flight: u64::try_from(in_flight).unwrap_or(0),
        totals: now,
        rates: Rates {
            records_in: per_second(|totals| totals.records_in),
            records_out: per_second(|totals| totals.records_out),
            bytes_in: per_second(|totals| totals.bytes_in),
            failures: per_second(|totals| totals.failures),
        },
        shares: Shares { busy, blocked, idle: (1.0 - busy - blocked).max(0.0) },
        ..StageReport::default()
    }
}

/// Why a pipeline is not ready, if it is not. One that is over needs nothing more.
fn unready(report: &PipelineReport, within: Duration) -> Option<String> {
    match (report.phase.as_str(), &report.cause, report.epoch_age_seconds) {
        ("over", ..) => None,
        ("opening" | "restarting" | "failed", Some(cause), _) => Some(format!("{}: {cause}", report.phase)),
        ("opening" | "restarting" | "failed", None, _) => Some(report.phase.clone()),
        (_, _, Some(age)) if age > within.as_secs_f64() => {
            Some(format!("records have been under way for {age:.0} s, and no epoch has been committed since"))
        }
        _ => None,
    }
}

/// The pipelines of a process. Cheap to clone; every clone is the same.
#[derive(Clone)]
pub struct Observer(Arc<Inner>);

struct Inner {
    pipelines: Mutex<Vec<Arc<Observed>>>,
    ready_within: Duration,
    /// Finds the step `filter`, for `tap --where`.
    pub(crate) registry: Registry,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.all().iter().map(|pipeline| pipeline.shape.pipeline.clone())).finish()
    }
}

impl Observer {
    /// Nobody to look at yet. Epochs that are under way for longer than `ready_within` make the process unready
    /// ([`READY_WITHIN`] is usual); `registry` has the steps that taps may use.
    pub fn new(ready_within: Duration, registry: Registry) -> Self {
        Observer(Arc::new(Inner { pipelines: Mutex::default(), ready_within, registry }))
    }

    /// From now on this pipeline can be looked at.
    pub fn add(&self, pipeline: Observed) {
        lock(&self.0.pipelines).push(Arc::new(pipeline));
    }

    /// A pipeline has failed for good.
    pub fn failed(&self, pipeline: &str, error: &Error) {
        for observed in self.all().iter().filter(|observed| observed.shape.pipeline == pipeline) {
            *lock(&observed.failure) = Some(error.chain());
        }
    }

    /// How all pipelines get on.
    pub fn report(&self) -> Report {
        let pipelines = self.all().iter().map(|pipeline| pipeline.report(self.0.ready_within)).collect();
        Report { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").to_owned(), pipelines }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Observed>> {
        lock(&self.0.pipelines).clone()
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// The pipeline of this name, or the only one.
    pub(crate) fn find(&self, name: Option<&str>) -> Result<Arc<Observed>> {
        let all = self.all();
        let names: Vec<&str> = all.iter().map(|observed| observed.shape.pipeline.as_str()).collect();
        let found = match name {
            Some(name) => all.iter().find(|observed| observed.shape.pipeline == name),
            None if all.len() > 1 => {
                let message = format!("this process runs several pipelines: {}", names.join(", "));
                return Err(Error::new(ErrorKind::Option, message).hint("say which one"));
            }
            None => all.first(),
        };
        found.cloned().ok_or_else(|| {
            let error =
                Error::new(ErrorKind::NotFound, format!("this process runs no pipeline `{}`", name.unwrap_or("")));
            name.and_then(|name| suggest(name, &names)).into_iter().fold(error, |error, hint| error.hint(hint))
        })
    }
}

/// No code of ours panics while it holds one of these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
