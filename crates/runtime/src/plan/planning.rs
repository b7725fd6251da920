//! Plans every component of a pipeline, in an order in which each comes behind what it reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millstream_core::{
    Delivery, Error, ErrorKind, Form, PlanContext, Planner, Registry, Result, Role, SinkPlan, SourcePlan, StepPlan, Way,
};

use super::{Node, Plan, PlanOptions, Planned, promise::check_exactly_once, workers};
use crate::{
    rate::RatePlan,
    rules::Rules,
    spec::{Dispatch, Entry, PipelineSpec, RateLimit, Written},
};

/// A plan in the making.
pub(super) struct Planning<'a> {
    pub(super) spec: &'a PipelineSpec,
    pub(super) registry: &'a Registry,
    pub(super) options: PlanOptions,
    pub(super) nodes: Vec<Node>,
    /// Node and place of every name.
    pub(super) names: BTreeMap<String, usize>,
    pub(super) last_step: Option<String>,
    pub(super) errors: Vec<Error>,
    pub(super) warnings: Vec<String>,
    pub(super) context: PlanContext,
}

impl<'a> Planning<'a> {
    pub(super) fn new(spec: &'a PipelineSpec, registry: &'a Registry, options: PlanOptions) -> Self {
        let context = PlanContext {
            pipeline: spec.name.clone(),
            delivery: spec.delivery,
            append: options.append || options.until_end,
            vars: spec.vars.clone(),
            ..PlanContext::default()
        };
        let (nodes, errors, warnings) = (Vec::new(), Vec::new(), Vec::new());
        Planning { spec, registry, options, nodes, names: BTreeMap::new(), last_step: None, errors, warnings, context }
    }

    pub(super) fn run(mut self) -> Result<Plan, Vec<Error>> {
        if let Err(error) = Rules::compile(self.spec.errors.clone()) {
            self.errors.push(error.within("errors"));
        }
        if self.spec.sources.is_empty() {
            self.errors.push(plan_error("the pipeline has no source", "add `source:`"));
        }
        if self.spec.sinks.is_empty() {
            self.errors.push(plan_error("the pipeline has no sink", "add `sink:`; `drop: {}` takes everything"));
        }
        self.sources();
        if self.errors.is_empty() {
            self.steps();
        }
        if self.errors.is_empty() {
            self.sinks();
        }
        let dead_letter = self.dead_letter();
        if self.errors.is_empty() {
            self.check_outputs();
            if self.spec.delivery == Delivery::ExactlyOnce {
                self.errors.extend(check_exactly_once(&self.nodes, dead_letter.as_ref()));
            }
        }
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        let spec = self.spec;
        Ok(Plan {
            name: spec.name.clone(),
            description: spec.description.clone(),
            delivery: spec.delivery,
            state: spec.state,
            checkpoint: spec.checkpoint.clone(),
            limits: spec.limits.clone(),
            bounded: self.context.bounded,
            nodes: self.nodes,
            dead_letter,
            stop_after: spec.dead_letter.as_ref().and_then(|letters| letters.stop_after),
            warnings: self.warnings,
        })
    }

    fn sources(&mut self) {
        let spec = self.spec;
        for entry in &spec.sources {
            let planned = plan_source(self.registry, entry, &self.context);
            let Some(source) = self.keep(planned, entry) else { continue };
            let form = source.form();
            self.node(entry, Planned::Source(source), Vec::new(), form);
        }
        self.context.bounded = self.nodes.iter().all(|node| match &node.component {
            Planned::Source(source) => source.capabilities().bounded,
            _ => true,
        });
    }

    /// Plans steps as soon as what they read is planned, whatever their order in the file.
    fn steps(&mut self) {
        let spec = self.spec;
        let names = step_names(&spec.steps, &self.names);
        self.last_step = names.last().cloned();
        let mut waiting: Vec<usize> = (0..spec.steps.len()).collect();
        while !waiting.is_empty() {
            let before = waiting.len();
            waiting.retain(|&i| {
                let entry = &spec.steps[i];
                let from = self.from(entry, i.checked_sub(1).map(|above| names[above].as_str()));
                let stage = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
                if !from.iter().all(|name| self.names.contains_key(name) || self.names.contains_key(&stage(name))) {
                    return true;
                }
                self.step(entry, &names[i], &from);
                false
            });
            if !self.errors.is_empty() {
                return;
            }
            if waiting.len() == before {
                self.unknown_inputs(&waiting, &names);
                return;
            }
        }
    }

    fn step(&mut self, entry: &Entry<dyn StepPlan>, name: &str, from: &[String]) {
        let Some(inputs) = self.inputs(entry, from) else { return };
        let context = PlanContext { form: self.joined_form(&inputs), ..self.context.clone() };
        let planned = plan_step(self.registry, entry, &context);
        let Some(step) = self.keep(planned, entry) else { return };
        if step.needs_end() && !self.context.bounded && !self.options.until_end {
            let error = plan_error(
                format!("`{name}` emits at the end, and not all sources end"),
                "use `emit: change`, or a source that ends, or run with --until-end",
            );
            self.errors.push(at(error, &entry.place));
            return;
        }
        if step.stateful() && entry.name.is_none() {
            self.warnings.push(format!(
                "step `{name}` keeps state and has no name: name it, because its state is found by that"
            ));
        }
        let form = step.form();
        let mut named = entry.clone();
        named.name = Some(name.to_owned());
        self.node(&named, Planned::Step(step), inputs, form);
    }

    fn sinks(&mut self) {
        let spec = self.spec;
        let last_step = self.last_step.clone();
        for entry in &spec.sinks {
            let from = self.from(entry, last_step.as_deref());
            let Some(inputs) = self.inputs(entry, &from) else { continue };
            let context = PlanContext { form: self.joined_form(&inputs), ..self.context.clone() };
            let planned = plan_sink(self.registry, entry, &context);
            let Some(sink) = self.keep(planned, entry) else { continue };
            self.warnings
                .extend(sink.warnings().into_iter().map(|warning| format!("sink `{}`: {warning}", entry.kind())));
            self.node(entry, Planned::Sink(sink), inputs, Form::Bytes);
        }
    }

    fn dead_letter(&mut self) -> Option<Arc<dyn SinkPlan>> {
        let entry = self.spec.dead_letter.as_ref()?.sink.as_ref()?;
        let context = PlanContext { bounded: false, append: true, ..self.context.clone() };
        let planned = plan_sink(self.registry, entry, &context);
        let sink = self.keep(planned, entry)?;
        if self.spec.delivery == Delivery::ExactlyOnce && sink.capabilities().way == Way::None {
            let error =
                plan_error("the dead-letter sink cannot keep `exactly_once`", "use a file, or leave `dead_letter` out");
            self.errors.push(at(error, &entry.place));
        }
        Some(sink)
    }

    /// Adds a node under its own name, or its kind's.
    fn node<P: ?Sized>(&mut self, entry: &Entry<P>, component: Planned, inputs: Vec<(usize, usize)>, form: Form) {
        if entry.buffer.is_some() {
            // Left out, it would be one that does nothing.
            let error = plan_error(
                "a buffer is a pipeline of its own",
                "in Rust start it with `Pipeline::start_group`, or plan it with `millstream::Buffered`",
            );
            self.errors.push(at(error.within("buffer"), &outer(&entry.place)));
        }
        let kind = entry.kind().to_owned();
        let name = entry.name.clone().unwrap_or_else(|| free_name(&kind, |name| self.names.contains_key(name)));
        if self.names.contains_key(&name) {
            let error = plan_error(format!("there are two stages `{name}`"), "give one of them another `name`");
            self.errors.push(at(error, &entry.place));
        }
        let rules = match Rules::compile(entry.errors.iter().chain(&self.spec.errors).cloned()) {
            Ok(rules) => rules,
            Err(error) => {
                if self.errors.is_empty() {
                    self.errors.push(at(error.within("errors"), &outer(&entry.place)));
                }
                Rules::default()
            }
        };
        let description = entry.description.clone();
        let mut inputs = inputs;
        let mut concurrency = entry.concurrency;
        if let (Some(limit), Planned::Step(step)) = (&entry.rate_limit, &component) {
            // One pace for all workers, so it stands before them; there are as many as without it.
            let workers = inputs.iter().filter_map(|&(from, _)| Some(self.nodes.get(from)?.workers)).max();
            concurrency = concurrency.or(workers.filter(|_| step.scales()).map(|workers| workers as u32));
            let form = self.joined_form(&inputs);
            inputs = self.pace(&name, limit, inputs, form, &entry.place);
        }
        self.names.insert(name.clone(), self.nodes.len());
        let source = matches!(component, Planned::Source(_));
        self.nodes.push(Node {
            name,
            kind,
            description,
            component,
            inputs,
            rules,
            form,
            concurrency,
            written_dispatch: entry.dispatch,
            workers: 1,
            dispatch: Dispatch::RoundRobin,
            forwards: false,
            on_failed: entry.on_failed.clone(),
        });
        if let Err(error) = workers::assign_last(&mut self.nodes) {
            self.errors.push(at(error.within("concurrency"), &outer(&entry.place)));
        }
        if let (Some(limit), true) = (&entry.rate_limit, source) {
            let node = self.nodes.len() - 1;
            let name = self.nodes[node].name.clone();
            // Who reads the source reads what the limit lets through.
            let inputs = self.pace(&name, limit, vec![(node, 0)], form, &entry.place);
            self.names.extend(inputs.first().map(|&(limiter, _)| (name, limiter)));
        }
    }

    /// Adds the step that keeps the rate limit of stage `name`.
    fn pace(
        &mut self,
        name: &str,
        limit: &RateLimit,
        inputs: Vec<(usize, usize)>,
        form: Form,
        place: &[String],
    ) -> Vec<(usize, usize)> {
        if let Err(error) = limit.check() {
            self.errors.push(at(error.within("rate_limit"), &outer(place)));
        }
        let mut entry = Entry::<dyn StepPlan>::named(RATE_LIMIT, serde_json::Value::Null);
        entry.name = Some(format!("{name}.{RATE_LIMIT}"));
        let limiter = self.nodes.len();
        self.node(&entry, Planned::Step(Arc::new(RatePlan::new(limit.clone(), form))), inputs, form);
        vec![(limiter, 0)]
    }

    fn keep<P: ?Sized, Q: ?Sized>(&mut self, planned: Result<Arc<P>>, entry: &Entry<Q>) -> Option<Arc<P>> {
        planned.map_err(|error| self.errors.push(at(error, &entry.place))).ok()
    }
}

/// Kind of the step that keeps a rate limit, and the end of its name.
pub(crate) const RATE_LIMIT: &str = "rate_limit";

/// The names of all steps: their own, or their kind's, beside those that are taken.
fn step_names(steps: &[Entry<dyn StepPlan>], taken: &BTreeMap<String, usize>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let own: BTreeSet<&String> = steps.iter().filter_map(|entry| entry.name.as_ref()).collect();
    for entry in steps {
        let name = entry.name.clone().unwrap_or_else(|| {
            let used = |name: &str| names.iter().any(|used| used == name) || taken.contains_key(name);
            free_name(entry.kind(), |name| used(name) || own.contains(&name.to_owned()))
        });
        names.push(name);
    }
    names
}

/// `kind`, or the first of `kind-2`, `kind-3` that is not taken.
fn free_name(kind: &str, taken: impl Fn(&str) -> bool) -> String {
    let mut name = kind.to_owned();
    let mut nth = 2;
    while taken(&name) {
        name = format!("{kind}-{nth}");
        nth += 1;
    }
    name
}

pub(super) fn plan_error(message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::new(ErrorKind::Plan, message).hint(hint)
}

/// The place of an entry's common keys.
fn outer(place: &[String]) -> Vec<String> {
    place.split_last().map(|(_, outer)| outer.to_vec()).unwrap_or_default()
}

/// Puts the place of an entry before that of an error in it.
pub(super) fn at(error: Error, place: &[String]) -> Error {
    place.iter().rev().fold(error, |error, key| error.within(key))
}

macro_rules! plan_component {
    ($function:ident, $trait:ident, $role:ident) => {
        fn $function(registry: &Registry, entry: &Entry<dyn $trait>, context: &PlanContext) -> Result<Arc<dyn $trait>> {
            match &entry.component {
                Written::Ready(plan) => Ok(plan.clone()),
                Written::Named { kind, options } => match registry.get(Role::$role, kind)?.planner {
                    Planner::$role(make) => make(options, context).map(Arc::from),
                    _ => Err(Error::new(ErrorKind::Bug, format!("`{kind}` is registered in the wrong role"))),
                },
            }
        }
    };
}

plan_component!(plan_source, SourcePlan, Source);
plan_component!(plan_step, StepPlan, Step);
plan_component!(plan_sink, SinkPlan, Sink);
