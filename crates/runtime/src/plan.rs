//! From a pipeline as written to one that can run: every component planned, the graph resolved, the promise checked.
//! No I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millstream_core::{
    Delivery, Error, ErrorKind, Form, Owner, PlanContext, Planner, Registry, Result, Role, SinkPlan, SourcePlan,
    StepPlan, Way, suggest,
};

use crate::{
    rules::Rules,
    spec::{CheckpointSpec, Entry, LimitsSpec, PipelineSpec, StateSpec, Written},
};

/// A pipeline that is ready to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its identity.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The promise.
    pub delivery: Delivery,
    /// Where checkpoints are kept.
    pub state: StateSpec,
    /// When epochs are cut.
    pub checkpoint: CheckpointSpec,
    /// Bounds.
    pub limits: LimitsSpec,
    /// Sources, then steps in an order in which each comes behind what it reads, then sinks.
    pub nodes: Vec<Node>,
    /// Where dead letters go; absent: into the state directory.
    pub dead_letter: Option<Arc<dyn SinkPlan>>,
    /// Stop after so many dead letters.
    pub stop_after: Option<u64>,
    /// What `check` should say.
    pub warnings: Vec<String>,
    /// All sources end by themselves.
    pub bounded: bool,
}

/// One source, step or sink of a plan.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The component's name in the registry.
    pub kind: String,
    /// What it is for.
    pub description: Option<String>,
    /// The component.
    pub component: Planned,
    /// What it reads, in the order of its inputs: node and port.
    pub inputs: Vec<(usize, usize)>,
    /// Its rules, the pipeline's behind them.
    pub rules: Rules,
    /// What its values are.
    pub form: Form,
}

/// A planned component.
#[derive(Clone, Debug)]
pub enum Planned {
    /// A source.
    Source(Arc<dyn SourcePlan>),
    /// A step.
    Step(Arc<dyn StepPlan>),
    /// A sink.
    Sink(Arc<dyn SinkPlan>),
}

/// What planning needs beside the spec.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlanOptions {
    /// What was written before must be kept: `--continue`, `--until-end`, `--resume`.
    pub append: bool,
    /// Sources that follow are read to the end as it is now: the run is bounded all the same.
    pub until_end: bool,
}

impl Plan {
    /// Plans a pipeline. All errors that can be found are answered, not only the first; each says where it lies.
    pub fn new(spec: &PipelineSpec, registry: &Registry, options: PlanOptions) -> Result<Plan, Vec<Error>> {
        Planning::new(spec, registry, options).run()
    }

    /// The nodes of a role.
    pub fn role(&self, role: Role) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes.iter().enumerate().filter(move |(_, node)| node.role() == role)
    }

    /// Who reads each port of a node: for each port, node and input.
    pub fn readers(&self, node: usize) -> Vec<Vec<(usize, usize)>> {
        let mut ports = vec![Vec::new(); self.nodes[node].ports()];
        for (reader, other) in self.nodes.iter().enumerate() {
            for (input, &(from, port)) in other.inputs.iter().enumerate() {
                if from == node
                    && let Some(readers) = ports.get_mut(port)
                {
                    readers.push((reader, input));
                }
            }
        }
        ports
    }

    /// Which parts of the plan own stored state: changing them may orphan it.
    pub fn fingerprint(&self) -> String {
        let stateful = self.nodes.iter().filter(|node| node.stateful());
        stateful.map(|node| format!("{}:{}", node.name, node.kind)).collect::<Vec<_>>().join(",")
    }

    /// Whether some stage keeps state of its own.
    pub fn stateful(&self) -> bool {
        self.nodes.iter().any(Node::stateful)
    }
}

impl Node {
    /// Whether it reads, writes or works in between.
    pub fn role(&self) -> Role {
        match self.component {
            Planned::Source(_) => Role::Source,
            Planned::Step(_) => Role::Step,
            Planned::Sink(_) => Role::Sink,
        }
    }

    /// Whether it keeps state of its own.
    pub fn stateful(&self) -> bool {
        matches!(&self.component, Planned::Step(step) if step.stateful())
    }

    /// Number of outputs.
    pub fn ports(&self) -> usize {
        match &self.component {
            Planned::Source(_) => 1,
            Planned::Step(step) => step.outputs().len().max(1),
            Planned::Sink(_) => 0,
        }
    }
}

struct Planning<'a> {
    spec: &'a PipelineSpec,
    registry: &'a Registry,
    options: PlanOptions,
    nodes: Vec<Node>,
    /// Node and place of every name.
    names: BTreeMap<String, usize>,
    last_step: Option<String>,
    errors: Vec<Error>,
    warnings: Vec<String>,
    context: PlanContext,
}

impl<'a> Planning<'a> {
    fn new(spec: &'a PipelineSpec, registry: &'a Registry, options: PlanOptions) -> Self {
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

    fn run(mut self) -> Result<Plan, Vec<Error>> {
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
            self.check_promise();
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

    fn unknown_inputs(&mut self, waiting: &[usize], names: &[String]) {
        for &i in waiting {
            let entry = &self.spec.steps[i];
            let unknown: Vec<&String> = entry
                .from
                .iter()
                .filter(|from| {
                    let stage = from.split('.').next().unwrap_or_default();
                    !self.names.contains_key(*from)
                        && !names.iter().any(|name| name == *from || name == stage)
                        && !self.names.contains_key(stage)
                })
                .collect();
            let error = match unknown.first() {
                Some(name) => self.unknown(name, names),
                None => plan_error(format!("step `{}` reads its own output", names[i]), "a pipeline has no loops"),
            };
            let mut place = entry.place.clone();
            place.pop();
            self.errors.push(at(error.within("from"), &place));
        }
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
        let kind = entry.kind().to_owned();
        let name = entry.name.clone().unwrap_or_else(|| free_name(&kind, |name| self.names.contains_key(name)));
        if self.names.contains_key(&name) {
            let error = plan_error(format!("there are two stages `{name}`"), "give one of them another `name`");
            self.errors.push(at(error, &entry.place));
        }
        let rules = match Rules::compile(entry.errors.iter().chain(&self.spec.errors).cloned()) {
            Ok(rules) => rules,
            Err(error) => {
                let mut place = entry.place.clone();
                place.pop();
                if self.errors.is_empty() {
                    self.errors.push(at(error.within("errors"), &place));
                }
                Rules::default()
            }
        };
        self.names.insert(name.clone(), self.nodes.len());
        let description = entry.description.clone();
        self.nodes.push(Node { name, kind, description, component, inputs, rules, form });
    }

    /// What an entry reads: as written, else what is above it, else the only source.
    fn from<P: ?Sized>(&self, entry: &Entry<P>, above: Option<&str>) -> Vec<String> {
        if !entry.from.is_empty() {
            return entry.from.clone();
        }
        match above {
            Some(above) => vec![above.to_owned()],
            None => self
                .nodes
                .iter()
                .filter(|node| node.role() == Role::Source)
                .map(|node| node.name.clone())
                .take(2)
                .collect(),
        }
    }

    fn inputs<P: ?Sized>(&mut self, entry: &Entry<P>, from: &[String]) -> Option<Vec<(usize, usize)>> {
        let mut place = entry.place.clone();
        place.pop();
        if from.len() > 1 && entry.from.is_empty() {
            let error = plan_error(
                format!("`{}` does not say which source it reads", entry.kind()),
                "there are several: add `from`",
            );
            self.errors.push(at(error, &place));
            return None;
        }
        let mut inputs = Vec::new();
        for name in from {
            match self.output(name) {
                Ok(input) => inputs.push(input),
                Err(error) => {
                    self.errors.push(at(if entry.from.is_empty() { error } else { error.within("from") }, &place));
                    return None;
                }
            }
        }
        Some(inputs)
    }

    /// The node and port of `STAGE` or `STAGE.OUTPUT`.
    fn output(&self, text: &str) -> Result<(usize, usize)> {
        let (name, port) = match self.names.get(text) {
            Some(_) => (text, None),
            None => text.split_once('.').map_or((text, None), |(name, port)| (name, Some(port))),
        };
        let Some(&node) = self.names.get(name) else { return Err(self.unknown(text, &[])) };
        let outputs = match &self.nodes[node].component {
            Planned::Step(step) => step.outputs(),
            _ => Vec::new(),
        };
        match port {
            None if outputs.is_empty() => Ok((node, 0)),
            None => {
                let written: Vec<_> = outputs.iter().map(|output| format!("{name}.{output}")).collect();
                let error = plan_error(
                    format!("`{name}` has several outputs"),
                    format!("name one of them: {}", written.join(", ")),
                );
                Err(error)
            }
            Some(port) => outputs.iter().position(|output| output == port).map(|port| (node, port)).ok_or_else(|| {
                let error = Error::new(ErrorKind::Plan, format!("`{name}` has no output `{port}`"));
                suggest(port, &outputs).into_iter().fold(error, |error, hint| error.hint(hint))
            }),
        }
    }

    fn unknown(&self, name: &str, more: &[String]) -> Error {
        let known: Vec<&str> = self.names.keys().chain(more).map(String::as_str).collect();
        let error = Error::new(ErrorKind::Plan, format!("there is no stage `{name}`"));
        suggest(name, &known).into_iter().fold(error, |error, hint| error.hint(hint))
    }

    /// What the values are that come in: what all inputs agree on, else bytes.
    fn joined_form(&self, inputs: &[(usize, usize)]) -> Form {
        let forms: BTreeSet<u8> = inputs.iter().map(|&(node, _)| self.nodes[node].form as u8).collect();
        match inputs.first() {
            Some(&(node, _)) if forms.len() == 1 => self.nodes[node].form,
            // Text and JSON together are still JSON values to a step.
            Some(_) if !forms.contains(&(Form::Bytes as u8)) => Form::Json,
            _ => Form::Bytes,
        }
    }

    fn keep<P: ?Sized, Q: ?Sized>(&mut self, planned: Result<Arc<P>>, entry: &Entry<Q>) -> Option<Arc<P>> {
        planned.map_err(|error| self.errors.push(at(error, &entry.place))).ok()
    }

    /// Every output must have a reader, unless the step says that it needs none.
    fn check_outputs(&mut self) {
        let read: BTreeSet<(usize, usize)> = self.nodes.iter().flat_map(|node| node.inputs.iter().copied()).collect();
        for (i, node) in self.nodes.iter().enumerate() {
            let (outputs, optional) = match &node.component {
                Planned::Step(step) => (step.outputs(), step.optional_outputs()),
                Planned::Source(_) => (Vec::new(), Vec::new()),
                Planned::Sink(_) => continue,
            };
            for port in 0..outputs.len().max(1) {
                let name = outputs.get(port);
                if read.contains(&(i, port)) || name.is_some_and(|name| optional.contains(name)) {
                    continue;
                }
                let shown = name.map_or(node.name.clone(), |name| format!("{}.{name}", node.name));
                let hint = if name.is_some_and(|name| name == "rest") {
                    "add a sink `from` it, or say `rest: drop`"
                } else {
                    "add a step or sink with `from`"
                };
                self.errors.push(plan_error(format!("nobody reads `{shown}`"), hint));
            }
        }
    }

    /// Refuses what cannot keep the mode.
    fn check_promise(&mut self) {
        if self.spec.delivery != Delivery::ExactlyOnce {
            return;
        }
        let all_deterministic = self.nodes.iter().all(|node| match &node.component {
            Planned::Step(step) => step.deterministic(),
            _ => true,
        });
        let mut errors = Vec::new();
        for node in &self.nodes {
            match &node.component {
                Planned::Sink(sink) => match sink.capabilities().way {
                    Way::None => errors.push(plan_error(
                        format!("sink `{}` ({}) cannot keep `exactly_once`", node.name, sink.describe()),
                        "write to a file, or use `delivery: at_least_once`",
                    )),
                    Way::Idempotent if !all_deterministic => errors.push(plan_error(
                        format!(
                            "sink `{}` is idempotent, but a step before it may give other results when repeated",
                            node.name
                        ),
                        "use `delivery: at_least_once`",
                    )),
                    _ => {}
                },
                Planned::Source(source) if source.capabilities().owner == Owner::Nobody => errors.push(plan_error(
                    format!(
                        "source `{}` ({}) cannot keep `exactly_once`: it is lost with the process",
                        node.name,
                        source.describe()
                    ),
                    "write it to a file first, or use `delivery: at_least_once`",
                )),
                _ => {}
            }
        }
        self.errors.extend(errors);
    }
}

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

fn plan_error(message: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::new(ErrorKind::Plan, message).hint(hint)
}

/// Puts the place of an entry before that of an error in it.
fn at(error: Error, place: &[String]) -> Error {
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
