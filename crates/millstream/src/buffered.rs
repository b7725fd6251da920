//! Pipelines whose sinks have buffers on disk: each buffer is read by a task, a pipeline of its own called `PIPELINE.SINK`.

use std::sync::Arc;

use millstream_buffer::{Buffer, BufferSink, BufferSource, WhenFull};
use millstream_core::{Delivery, Error, ErrorKind, Form, Registry, Role, SinkPlan, Size, SourcePlan, Way};
use millstream_runtime::{
    BufferSpec, CheckpointSpec, DeadLetterSpec, Entry, ErrorRule, LimitsSpec, PipelineSpec, Plan, PlanOptions, Then,
};

use crate::Home;

/// Kind of the stages that are the ends of a buffer.
const BUFFER: &str = "buffer";

/// A pipeline with the tasks of its buffers, planned: checked, nothing touched.
///
/// The pipeline's plan writes to buffers where its sinks have one; each task reads one and writes to its sink, with that
/// sink's own rules. Both have the pipeline's promise, and each its own epochs, checkpoint, dead letters and restarts.
#[derive(Clone, Debug)]
pub struct Buffered {
    /// The pipeline.
    pub pipeline: Plan,
    /// One for each sink with a buffer, in the order of the sinks.
    pub tasks: Vec<BufferTask>,
}

/// The task between a buffer and its sink.
#[derive(Clone, Debug)]
pub struct BufferTask {
    /// Its plan, called `PIPELINE.SINK`.
    pub plan: Plan,
    /// Name of the sink.
    pub sink: String,
    /// The buffer that it reads, in `STATE_DIR/PIPELINE.SINK/buffer`.
    pub buffer: Buffer,
}

impl Buffered {
    /// Plans a pipeline with or without buffers. All errors that can be found are answered; each says where it lies.
    pub fn new(
        spec: &PipelineSpec,
        registry: &Registry,
        options: PlanOptions,
        home: &Home,
    ) -> Result<Buffered, Vec<Error>> {
        if spec.sinks.iter().all(|sink| sink.buffer.is_none()) {
            return Ok(Buffered { pipeline: Plan::new(spec, registry, options)?, tasks: Vec::new() });
        }
        let split = Split { outline: outline(spec, registry, options)?, spec, home };
        let mut errors = split.refusals();
        let (pipeline, tasks) = split.specs();
        let pipeline = Plan::new(&pipeline, registry, options).map_err(|wrong| errors.extend(wrong)).ok();
        let mut planned = Vec::new();
        for (task, sink, buffer) in tasks {
            match Plan::new(&task, registry, options) {
                Ok(plan) => {
                    let mut plan = called(plan, source_name(&sink));
                    plan.warnings.extend(split.letters_apart().then(|| {
                        format!(
                            "the dead letters of `{sink}` are kept in the state directory: `dead_letter` has one writer"
                        )
                    }));
                    planned.push(BufferTask { plan, sink, buffer });
                }
                Err(wrong) => errors.extend(wrong),
            }
        }
        match pipeline {
            Some(pipeline) if errors.is_empty() => {
                let pipeline = planned.iter().fold(pipeline, |plan, task| called(plan, &task.sink));
                Ok(Buffered { pipeline, tasks: planned })
            }
            _ => Err(errors),
        }
    }

    /// All plans, the pipeline's first.
    pub fn plans(&self) -> impl Iterator<Item = &Plan> {
        std::iter::once(&self.pipeline).chain(self.tasks.iter().map(|task| &task.plan))
    }
}

impl From<Plan> for Buffered {
    fn from(pipeline: Plan) -> Self {
        Buffered { pipeline, tasks: Vec::new() }
    }
}

/// The whole as if there were no buffers: gives names, forms, and whether it ends. Promises are checked part by part.
fn outline(spec: &PipelineSpec, registry: &Registry, options: PlanOptions) -> Result<Plan, Vec<Error>> {
    let mut whole = PipelineSpec { delivery: Delivery::AtLeastOnce, ..spec.clone() };
    whole.sinks.iter_mut().for_each(|sink| sink.buffer = None);
    Plan::new(&whole, registry, options)
}

struct Split<'a> {
    spec: &'a PipelineSpec,
    outline: Plan,
    home: &'a Home,
}

impl Split<'_> {
    /// Sinks with a buffer: the entry, its place among the sinks, its name.
    fn buffered(&self) -> impl Iterator<Item = (usize, &Entry<dyn SinkPlan>, &BufferSpec, &str)> {
        // Sinks stand in a plan in the order of the spec.
        let named = self.outline.role(Role::Sink).map(|(_, node)| node.name.as_str());
        let entries = self.spec.sinks.iter().enumerate().zip(named);
        entries.filter_map(|((at, entry), name)| Some((at, entry, entry.buffer.as_ref()?, name)))
    }

    fn refusals(&self) -> Vec<Error> {
        let mut errors = Vec::new();
        for (_, entry, buffer, name) in self.buffered() {
            let lossy = self.spec.delivery == Delivery::ExactlyOnce && buffer.when_full.drops();
            let lossy = lossy.then(|| {
                let message =
                    format!("sink `{name}` cannot keep `exactly_once`: its buffer drops records when it is full");
                let hint = "use `when_full: block` or `dead_letter`, or `delivery: at_least_once`";
                Error::new(ErrorKind::Plan, message).hint(hint).within("when_full")
            });
            let wrong = buffer.validate().err().into_iter().chain(lossy);
            let outer = entry.place.split_last().map_or(&[][..], |(_, outer)| outer);
            errors.extend(
                wrong.map(|error| outer.iter().rev().fold(error.within(BUFFER), |error, key| error.within(key))),
            );
        }
        errors
    }

    /// The pipeline that writes to the buffers, and for each its task, its sink's name and the buffer.
    fn specs(&self) -> (PipelineSpec, Vec<(PipelineSpec, String, Buffer)>) {
        let parts = 1 + self.buffered().count() as u64;
        let memory = Size(self.spec.limits.memory.0 / parts);
        let mut pipeline = PipelineSpec { limits: LimitsSpec { memory }, ..self.spec.clone() };
        let mut tasks = Vec::new();
        for (at, entry, spec, name) in self.buffered() {
            let task = format!("{}.{name}", self.spec.name);
            let folder = self.home.pipeline(&task).join(BUFFER);
            let buffer = Buffer::new(name, folder, spec.clone(), self.form(name), self.outline.bounded);
            pipeline.sinks[at] = Entry {
                name: Some(name.to_owned()),
                from: entry.from.clone(),
                description: entry.description.clone(),
                // What has no room is not for the sink's own rules.
                errors: when_full(spec.when_full).into_iter().chain(entry.errors.clone()).collect(),
                on_failed: entry.on_failed.clone(),
                place: entry.place.clone(),
                ..Entry::ready(Arc::new(BufferSink::new(&buffer)) as Arc<dyn SinkPlan>)
            };
            pipeline.checkpoint = paced(&pipeline.checkpoint, spec);
            tasks.push((self.task(task, entry, spec, name, &buffer, memory), name.to_owned(), buffer));
        }
        (pipeline, tasks)
    }

    fn task(
        &self,
        task: String,
        entry: &Entry<dyn SinkPlan>,
        spec: &BufferSpec,
        name: &str,
        buffer: &Buffer,
        memory: Size,
    ) -> PipelineSpec {
        let whole = self.spec;
        let mut source = Entry::ready(Arc::new(BufferSource::new(buffer)) as Arc<dyn SourcePlan>);
        source.name = Some(source_name(name).to_owned());
        let sink = Entry { name: Some(name.to_owned()), from: Vec::new(), buffer: None, ..entry.clone() };
        PipelineSpec {
            name: task,
            description: entry.description.clone(),
            sources: vec![source],
            steps: Vec::new(),
            sinks: vec![sink],
            checkpoint: paced(&whole.checkpoint, spec),
            dead_letter: self.dead_letter(),
            limits: LimitsSpec { memory },
            ..whole.clone()
        }
    }

    /// Where a task's dead letters go: where the pipeline's do, unless that has one writer.
    fn dead_letter(&self) -> Option<DeadLetterSpec> {
        let mut letters = self.spec.dead_letter.clone()?;
        letters.sink = letters.sink.filter(|_| !self.letters_apart());
        Some(letters)
    }

    /// Whether dead letters go to a file, which has one writer.
    fn letters_apart(&self) -> bool {
        self.outline.dead_letter.as_ref().is_some_and(|sink| sink.capabilities().way == Way::Truncating)
    }

    /// What the values are that come to a sink.
    fn form(&self, sink: &str) -> Form {
        let nodes = &self.outline.nodes;
        let inputs = nodes.iter().find(|node| node.name == sink).map(|node| node.inputs.as_slice()).unwrap_or_default();
        let forms = || inputs.iter().map(|&(from, _)| nodes[from].form);
        let first = forms().next().unwrap_or_default();
        if forms().all(|form| form == first) {
            first
        } else if forms().all(|form| form != Form::Bytes) {
            // Text and JSON together are JSON values.
            Form::Json
        } else {
            Form::Bytes
        }
    }
}

/// Epochs that are cut early enough for the buffer's size.
fn paced(checkpoint: &CheckpointSpec, buffer: &BufferSpec) -> CheckpointSpec {
    let most = buffer.epoch_bytes_max();
    let bytes = checkpoint.bytes.map_or(most, |bytes| bytes.0.min(most));
    CheckpointSpec { bytes: Some(Size(bytes)), ..checkpoint.clone() }
}

/// What becomes of records for which there is no room.
fn when_full(when_full: WhenFull) -> Vec<ErrorRule> {
    let then = match when_full {
        WhenFull::DeadLetter => Then::DeadLetter,
        WhenFull::DropNewest => Then::Drop,
        // The buffer itself sees to these.
        WhenFull::Block | WhenFull::DropOldest => return Vec::new(),
    };
    vec![ErrorRule::of(ErrorKind::Full).then(then)]
}

/// Shows the end of a buffer as what it is.
fn called(mut plan: Plan, name: &str) -> Plan {
    let ends = plan.nodes.iter_mut().filter(|node| node.name == name);
    ends.for_each(|node| BUFFER.clone_into(&mut node.kind));
    plan
}

/// Name of the source of a task, whose sink has this name.
fn source_name(sink: &str) -> &'static str {
    if sink == BUFFER { "buffer-2" } else { BUFFER }
}
