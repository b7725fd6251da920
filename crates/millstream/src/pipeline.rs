//! Building a pipeline in Rust.

use std::sync::Arc;

use millstream_core::{
    Component, Delivery, Error, ErrorKind, RecordRef, Registry, Result, Role, SinkPlan, SourcePlan, StepPlan, Url,
};
use millstream_runtime::{
    CheckpointSpec, Entry, ErrorRule, PipelineSpec, Plan, PlanOptions, Running, StateSpec, Summary,
};

use crate::{
    Home,
    fold::Fold,
    steps::{Emit, Filter, FlatMap, Map, Value},
};

/// A pipeline as written in Rust. Steps follow each other in the order of the calls; `name` names the newest entry, `from`
/// says what it reads where that is not the entry before it.
///
/// A URL or component that does not exist is told by [`Pipeline::plan`] and whatever runs the pipeline, not before.
#[derive(Debug)]
pub struct Pipeline {
    spec: PipelineSpec,
    registry: Registry,
    home: Home,
    newest: Option<Role>,
    errors: Vec<Error>,
}

impl Pipeline {
    /// An empty pipeline. Its name is its identity: checkpoints and state are found by it.
    pub fn new(name: impl Into<String>) -> Self {
        let spec = PipelineSpec { name: name.into(), ..PipelineSpec::default() };
        let registry = millstream_bundle::registry();
        Pipeline { spec, registry, home: Home::from_environment(), newest: None, errors: Vec::new() }
    }

    /// Reads from a URL, such as `file:book.txt`.
    #[must_use]
    pub fn source(self, url: &str) -> Self {
        self.by_url(Role::Source, url, |pipeline, component, options| {
            pipeline.spec.sources.push(Entry::named(component.name, options));
        })
    }

    /// Reads with a component and its options, as in a pipeline file: `source_with("file", json!({"path": "*.log"}))`.
    #[must_use]
    pub fn source_with(mut self, component: &str, options: serde_json::Value) -> Self {
        self.spec.sources.push(Entry::named(component, options));
        self.entered(Role::Source)
    }

    /// Reads from a source of your own.
    #[must_use]
    pub fn source_of(mut self, source: impl SourcePlan + 'static) -> Self {
        self.spec.sources.push(Entry::ready(Arc::new(source)));
        self.entered(Role::Source)
    }

    /// Writes to a URL, such as `file:out.txt`.
    #[must_use]
    pub fn sink(self, url: &str) -> Self {
        self.by_url(Role::Sink, url, |pipeline, component, options| {
            pipeline.spec.sinks.push(Entry::named(component.name, options));
        })
    }

    /// Writes with a component and its options, as in a pipeline file.
    #[must_use]
    pub fn sink_with(mut self, component: &str, options: serde_json::Value) -> Self {
        self.spec.sinks.push(Entry::named(component, options));
        self.entered(Role::Sink)
    }

    /// Writes to a sink of your own.
    #[must_use]
    pub fn sink_of(mut self, sink: impl SinkPlan + 'static) -> Self {
        self.spec.sinks.push(Entry::ready(Arc::new(sink)));
        self.entered(Role::Sink)
    }

    /// A step with a component and its options, as in a pipeline file: `step_with("map", json!(".n = 1"))`.
    #[must_use]
    pub fn step_with(mut self, component: &str, options: serde_json::Value) -> Self {
        self.spec.steps.push(Entry::named(component, options));
        self.entered(Role::Step)
    }

    /// A step of your own.
    #[must_use]
    pub fn step_of(mut self, step: impl StepPlan + 'static) -> Self {
        self.spec.steps.push(Entry::ready(Arc::new(step)));
        self.entered(Role::Step)
    }

    /// Replaces each value by what `map` writes. An error or panic costs only its record.
    #[must_use]
    pub fn map(self, map: impl Fn(RecordRef<'_>, &mut Value<'_>) -> Result<()> + Send + Sync + 'static) -> Self {
        self.step_of(Map::new(map))
    }

    /// Keeps the records for which `keep` is true. A panic costs only its record.
    #[must_use]
    pub fn filter(self, keep: impl Fn(RecordRef<'_>) -> bool + Send + Sync + 'static) -> Self {
        self.step_of(Filter::new(keep))
    }

    /// Replaces each record by any number of records. A panic costs only its record, and takes its outputs back.
    #[must_use]
    pub fn flat_map(self, map: impl Fn(RecordRef<'_>, &mut Emit<'_>) + Send + Sync + 'static) -> Self {
        self.step_of(FlatMap::new(map))
    }

    /// Keeps a state of type `V` for each key, changed by `fold` with each record; at the end of the input each key's state
    /// becomes a record, whose value `emit` writes. The state is in the checkpoint: a record counts once, also after a crash.
    ///
    /// `name` is needed because the state is found by it.
    #[must_use]
    pub fn fold<V>(
        mut self,
        name: &str,
        key: impl Fn(RecordRef<'_>) -> Option<&[u8]> + Send + Sync + 'static,
        fold: impl Fn(&mut V, RecordRef<'_>) + Send + Sync + 'static,
        emit: impl Fn(&[u8], &V, &mut Value<'_>) + Send + Sync + 'static,
    ) -> Self
    where
        V: Default + serde::Serialize + serde::de::DeserializeOwned + Send + Sync + 'static,
    {
        self = self.step_of(Fold::new(key, fold, emit));
        self.name(name)
    }

    /// Names the newest source, step or sink.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        match self.newest {
            Some(Role::Source) => {
                self.spec.sources.last_mut().into_iter().for_each(|entry| entry.name = Some(name.to_owned()))
            }
            Some(Role::Step) => {
                self.spec.steps.last_mut().into_iter().for_each(|entry| entry.name = Some(name.to_owned()))
            }
            Some(Role::Sink) => {
                self.spec.sinks.last_mut().into_iter().for_each(|entry| entry.name = Some(name.to_owned()))
            }
            None => {
                self.errors.push(Error::new(ErrorKind::Plan, "`name` names the entry before it, and there is none"))
            }
        }
        self
    }

    /// Says what the newest step or sink reads: names of stages, or `STAGE.OUTPUT`.
    #[must_use]
    pub fn from(mut self, stages: &[&str]) -> Self {
        let stages: Vec<String> = stages.iter().map(|&stage| stage.to_owned()).collect();
        match self.newest {
            Some(Role::Step) => self.spec.steps.last_mut().into_iter().for_each(|entry| entry.from.clone_from(&stages)),
            Some(Role::Sink) => self.spec.sinks.last_mut().into_iter().for_each(|entry| entry.from.clone_from(&stages)),
            _ => self
                .errors
                .push(Error::new(ErrorKind::Plan, "`from` belongs to a step or sink before it, and there is none")),
        }
        self
    }

    /// The promise; at least once if not said.
    #[must_use]
    pub fn delivery(mut self, delivery: Delivery) -> Self {
        self.spec.delivery = delivery;
        self
    }

    /// When epochs are cut.
    #[must_use]
    pub fn checkpoint(mut self, checkpoint: CheckpointSpec) -> Self {
        self.spec.checkpoint = checkpoint;
        self
    }

    /// An error rule for all stages; the first that matches decides.
    #[must_use]
    pub fn on_error(mut self, rule: ErrorRule) -> Self {
        self.spec.errors.push(rule);
        self
    }

    /// Keeps checkpoints and dead letters in this state directory.
    #[must_use]
    pub fn home(mut self, home: Home) -> Self {
        self.home = home;
        self
    }

    /// Keeps checkpoints and state in memory only: a crash of the process begins anew.
    #[must_use]
    pub fn in_memory(mut self) -> Self {
        self.spec.state = StateSpec::Memory;
        self
    }

    /// Checks everything that can be checked without I/O.
    pub fn plan(&self) -> Result<Plan> {
        if let Some(error) = self.errors.first() {
            return Err(error.clone());
        }
        Plan::new(&self.spec, &self.registry, PlanOptions::default()).map_err(|errors| {
            errors.into_iter().next().unwrap_or_else(|| Error::new(ErrorKind::Bug, "a plan failed without a reason"))
        })
    }

    /// Starts it on the current tokio runtime.
    pub fn start(&self) -> Result<Running> {
        let plan = self.plan()?;
        let options = self.home.options(&plan);
        Ok(Running::start(plan, options))
    }

    /// Runs it to its end.
    pub async fn run(&self) -> Result<Summary> {
        self.start()?.wait().await
    }

    fn entered(mut self, role: Role) -> Self {
        self.newest = Some(role);
        self
    }

    fn by_url(mut self, role: Role, url: &str, enter: impl FnOnce(&mut Self, &Component, serde_json::Value)) -> Self {
        let found = Url::parse(url)
            .and_then(|url| self.registry.by_url(role, &url).map(|(component, options)| (*component, options)));
        match found {
            Ok((component, options)) => enter(&mut self, &component, options),
            Err(error) => self.errors.push(error),
        }
        self.entered(role)
    }
}
