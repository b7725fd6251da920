//! A pipeline as written: names, kinds, options and edges. Nothing is checked yet; that is [`Plan`](crate::Plan)'s work.

use std::{collections::BTreeMap, sync::Arc};

use millstream_buffer::BufferSpec;
use millstream_core::{Delivery, Error, Record, SinkPlan, Size, SourcePlan, Span, StepPlan};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::rules::ErrorRule;

/// A whole pipeline as written.
#[derive(Clone, Default)]
pub struct PipelineSpec {
    /// Its identity: state is found by it.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Version of the file, for people.
    pub version: Option<String>,
    /// For people and fleets.
    pub tags: Vec<String>,
    /// Where records come from.
    pub sources: Vec<Entry<dyn SourcePlan>>,
    /// What happens to them, in any order; `from` makes the graph.
    pub steps: Vec<Entry<dyn StepPlan>>,
    /// Where they go.
    pub sinks: Vec<Entry<dyn SinkPlan>>,
    /// The promise.
    pub delivery: Delivery,
    /// Where checkpoints and keyed state are kept.
    pub state: StateSpec,
    /// When epochs are cut.
    pub checkpoint: CheckpointSpec,
    /// Rules for all stages, after their own.
    pub errors: Vec<ErrorRule>,
    /// Where dead letters go; absent: into the state directory.
    pub dead_letter: Option<DeadLetterSpec>,
    /// Bounds.
    pub limits: LimitsSpec,
    /// Values of the variables.
    pub vars: BTreeMap<String, String>,
}

/// Shows the graph only: variables may hold secrets.
impl std::fmt::Debug for PipelineSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let PipelineSpec { name, sources, steps, sinks, delivery, .. } = self;
        let mut shown = f.debug_struct("PipelineSpec");
        shown.field("name", name).field("sources", sources).field("steps", steps).field("sinks", sinks);
        shown.field("delivery", delivery).finish_non_exhaustive()
    }
}

/// One source, step or sink as written. `P` is the trait of its plan.
pub struct Entry<P: ?Sized> {
    /// Its name; unique in the pipeline. Absent: its kind, then `kind-2`.
    pub name: Option<String>,
    /// What it is.
    pub component: Written<P>,
    /// Names of the stages, or `STAGE.OUTPUT`, that it reads. Empty: the entry before it, or the only source.
    pub from: Vec<String>,
    /// What it is for.
    pub description: Option<String>,
    /// Its own error rules, first match wins.
    pub errors: Vec<ErrorRule>,
    /// Workers of a step; absent: as many as what it reads has.
    pub concurrency: Option<u32>,
    /// How records get to the workers of a step; absent: by key if they come by key, else to whoever has room.
    pub dispatch: Option<Dispatch>,
    /// How fast records may pass a source or step.
    pub rate_limit: Option<RateLimit>,
    /// Hears of each failed record before its rule acts.
    pub on_failed: Option<OnFailed>,
    /// A buffer on disk in front of a sink. It is a pipeline of its own, so a [`Plan`](crate::Plan) has none: whoever runs a
    /// spec takes its buffers out first.
    pub buffer: Option<BufferSpec>,
    /// Where it stands in the file: keys from the outermost, for messages.
    pub place: Vec<String>,
}

/// How records get to the workers of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Dispatch {
    /// Batch by batch to whoever has room, in turn: no order between workers.
    RoundRobin,
    /// All records of a key to the same worker, so that they are handled in order and never beside each other. Records without
    /// a key go to whoever has room.
    Key,
}

/// How fast records may pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// So many records ...
    pub records: u64,
    /// ... in this time, spread over it.
    #[serde(default = "second")]
    pub per: Span,
    /// For each key on its own; records of other keys do not wait.
    #[serde(default)]
    pub by_key: bool,
}

fn second() -> Span {
    Span(std::time::Duration::from_secs(1))
}

/// Called with each failed record: the stage, the record, why, and how often it has failed by now. Must not block.
#[derive(Clone)]
pub struct OnFailed(pub Arc<FailedHook>);

type FailedHook = dyn Fn(&str, &Record, &Error, u32) + Send + Sync;

impl std::fmt::Debug for OnFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnFailed")
    }
}

/// A component by its name in the registry, or one that a program made itself.
pub enum Written<P: ?Sized> {
    /// To be looked up and planned.
    Named {
        /// The registry's name.
        kind: String,
        /// Its options, interpolated.
        options: Value,
    },
    /// Planned already.
    Ready(Arc<P>),
}

impl<P: ?Sized> Entry<P> {
    /// An entry for a component of the registry.
    pub fn named(kind: impl Into<String>, options: Value) -> Self {
        Entry::new(Written::Named { kind: kind.into(), options })
    }

    /// An entry for a component that is planned already.
    pub fn ready(plan: Arc<P>) -> Self {
        Entry::new(Written::Ready(plan))
    }

    fn new(component: Written<P>) -> Self {
        Entry {
            name: None,
            component,
            from: Vec::new(),
            description: None,
            errors: Vec::new(),
            concurrency: None,
            dispatch: None,
            rate_limit: None,
            on_failed: None,
            buffer: None,
            place: Vec::new(),
        }
    }

    /// The component's name in the registry, or `custom`.
    pub fn kind(&self) -> &str {
        match &self.component {
            Written::Named { kind, .. } => kind,
            Written::Ready(_) => "custom",
        }
    }
}

impl<P: ?Sized> Clone for Entry<P> {
    fn clone(&self) -> Self {
        Entry {
            name: self.name.clone(),
            component: match &self.component {
                Written::Named { kind, options } => Written::Named { kind: kind.clone(), options: options.clone() },
                Written::Ready(plan) => Written::Ready(plan.clone()),
            },
            from: self.from.clone(),
            description: self.description.clone(),
            errors: self.errors.clone(),
            concurrency: self.concurrency,
            dispatch: self.dispatch,
            rate_limit: self.rate_limit.clone(),
            on_failed: self.on_failed.clone(),
            buffer: self.buffer.clone(),
            place: self.place.clone(),
        }
    }
}

/// Shows the kind only: options may hold secrets.
impl<P: ?Sized> std::fmt::Debug for Entry<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("name", &self.name).field("kind", &self.kind()).field("from", &self.from).finish()
    }
}

/// Where checkpoints and keyed state are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum StateSpec {
    /// In the state directory: survives crashes. The default.
    #[default]
    #[serde(with = "empty")]
    #[schemars(with = "NoOptions")]
    Embedded,
    /// In memory: survives restarts inside the process only.
    #[serde(with = "empty")]
    #[schemars(with = "NoOptions")]
    Memory,
}

/// An empty object.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct NoOptions {}

/// `embedded: {}` is a variant with an empty object.
mod empty {
    use serde::{Deserialize, Deserializer};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
        super::NoOptions::deserialize(deserializer).map(|_| ())
    }
}

/// When epochs are cut, and how many may be under way.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSpec {
    /// Time from the first record after a checkpoint to the next one. Longer: less work, more to repeat after a crash.
    pub every: Span,
    /// Cut earlier after so many records.
    pub count: Option<u64>,
    /// Cut earlier after so many bytes.
    pub bytes: Option<Size>,
    /// Epochs that may be under way at once. More: a slow sink holds up the others less, and more is kept in memory.
    pub in_flight: u32,
}

impl Default for CheckpointSpec {
    fn default() -> Self {
        CheckpointSpec { every: Span(std::time::Duration::from_secs(1)), count: None, bytes: None, in_flight: 4 }
    }
}

/// Bounds of one pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSpec {
    /// Memory for queues, batches that wait for their outcome, parked records and what cannot be read again, together.
    pub memory: Size,
}

impl Default for LimitsSpec {
    fn default() -> Self {
        LimitsSpec { memory: Size(256 << 20) }
    }
}

/// Where dead letters go.
#[derive(Clone, Debug)]
pub struct DeadLetterSpec {
    /// The sink that takes them; absent: the state directory.
    pub sink: Option<Entry<dyn SinkPlan>>,
    /// Stop the pipeline after so many.
    pub stop_after: Option<u64>,
}
