//! A pipeline in the making: its entries, who reads whom, and what went wrong while it was written.

use std::{collections::BTreeSet, sync::Arc};

use millstream_buffer::BufferSpec;
use millstream_core::{Error, ErrorKind, Registry, Result, SinkPlan, SourcePlan, StepPlan};
use millstream_runtime::{Dispatch, Entry, ErrorRule, OnFailed, PipelineSpec, Plan, RateLimit, RunOptions, StateSpec};

use crate::{Home, failure::Classifiers, home::Letters, work::Limits};

/// Why a merge has no settings.
const MERGE: &str = "`merge` only joins streams, and is no step";

/// One entry of a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Id {
    Source(usize),
    Step(usize),
    Sink(usize),
    /// Several streams that flow together: no entry of its own.
    Merge,
}

/// An output of an entry: its only one, or one of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) entry: Id,
    pub(crate) output: Option<usize>,
}

/// An entry as far as it is known: names come when all are there.
struct Drafted<P: ?Sized> {
    entry: Entry<P>,
    /// What it is called where the user gives it no name.
    label: String,
    from: Vec<Port>,
    outputs: Vec<String>,
    /// Limits of a step that does work of its own.
    limits: Option<Arc<Limits>>,
}

pub(crate) struct Draft {
    /// All but the entries.
    pub(crate) spec: PipelineSpec,
    pub(crate) registry: Registry,
    pub(crate) home: Home,
    /// Whether the state directory was chosen.
    pub(crate) at_home: bool,
    /// Dead letters of a pipeline in memory without a state directory of its own.
    pub(crate) letters: Letters,
    pub(crate) errors: Vec<Error>,
    pub(crate) classifiers: Classifiers,
    /// Of sources whose values have a type, by their positions: how a test makes their values.
    #[cfg(feature = "testing")]
    pub(crate) typings: std::collections::BTreeMap<usize, crate::testing::Typing>,
    sources: Vec<Drafted<dyn SourcePlan>>,
    steps: Vec<Drafted<dyn StepPlan>>,
    sinks: Vec<Drafted<dyn SinkPlan>>,
}

impl Draft {
    pub(crate) fn new(name: String) -> Self {
        Draft {
            spec: PipelineSpec { name, ..PipelineSpec::default() },
            registry: millstream_bundle::registry(),
            home: Home::from_environment(),
            at_home: false,
            letters: Letters::default(),
            errors: Vec::new(),
            classifiers: Classifiers::default(),
            #[cfg(feature = "testing")]
            typings: Default::default(),
            sources: Vec::new(),
            steps: Vec::new(),
            sinks: Vec::new(),
        }
    }

    pub(crate) fn source(&mut self, entry: Entry<dyn SourcePlan>, label: &str) -> Id {
        self.sources.push(drafted(entry, label, Vec::new()));
        Id::Source(self.sources.len() - 1)
    }

    pub(crate) fn sink(&mut self, entry: Entry<dyn SinkPlan>, label: &str, from: Vec<Port>) -> Id {
        self.sinks.push(drafted(entry, label, from));
        Id::Sink(self.sinks.len() - 1)
    }

    pub(crate) fn step(
        &mut self,
        entry: Entry<dyn StepPlan>,
        label: &str,
        from: Vec<Port>,
        outputs: Vec<String>,
        limits: Option<Arc<Limits>>,
    ) -> Id {
        self.steps.push(Drafted { outputs, limits, ..drafted(entry, label, from) });
        Id::Step(self.steps.len() - 1)
    }

    pub(crate) fn name(&mut self, id: Id, name: String) {
        let entry = match id {
            Id::Source(i) => self.sources.get_mut(i).map(|drafted| &mut drafted.entry.name),
            Id::Step(i) => self.steps.get_mut(i).map(|drafted| &mut drafted.entry.name),
            Id::Sink(i) => self.sinks.get_mut(i).map(|drafted| &mut drafted.entry.name),
            Id::Merge => self.refuse("name", MERGE),
        };
        entry.into_iter().for_each(|slot| *slot = Some(name.clone()));
    }

    pub(crate) fn on_error(&mut self, id: Id, rule: ErrorRule) {
        let rules = match id {
            Id::Source(i) => self.sources.get_mut(i).map(|drafted| &mut drafted.entry.errors),
            Id::Step(i) => self.steps.get_mut(i).map(|drafted| &mut drafted.entry.errors),
            Id::Sink(i) => self.sinks.get_mut(i).map(|drafted| &mut drafted.entry.errors),
            Id::Merge => self.refuse("on_error", MERGE),
        };
        rules.into_iter().for_each(|rules| rules.push(rule.clone()));
    }

    pub(crate) fn on_failed(&mut self, id: Id, hook: OnFailed) {
        let slot = match id {
            Id::Source(i) => self.sources.get_mut(i).map(|drafted| &mut drafted.entry.on_failed),
            Id::Step(i) => self.steps.get_mut(i).map(|drafted| &mut drafted.entry.on_failed),
            Id::Sink(i) => self.sinks.get_mut(i).map(|drafted| &mut drafted.entry.on_failed),
            Id::Merge => self.refuse("on_failed", MERGE),
        };
        slot.into_iter().for_each(|slot| *slot = Some(hook.clone()));
    }

    pub(crate) fn rate_limit(&mut self, id: Id, limit: RateLimit) {
        let slot = match id {
            Id::Source(i) => self.sources.get_mut(i).map(|drafted| &mut drafted.entry.rate_limit),
            Id::Step(i) => self.steps.get_mut(i).map(|drafted| &mut drafted.entry.rate_limit),
            Id::Merge => self.refuse("rate_limit", MERGE),
            Id::Sink(_) => None,
        };
        slot.into_iter().for_each(|slot| *slot = Some(limit.clone()));
    }

    pub(crate) fn buffer(&mut self, id: Id, buffer: BufferSpec) {
        if let Id::Sink(i) = id {
            self.sinks.get_mut(i).into_iter().for_each(|drafted| drafted.entry.buffer = Some(buffer.clone()));
        }
    }

    pub(crate) fn concurrency(&mut self, id: Id, workers: u32) {
        let entry = match id {
            Id::Step(i) => self.steps.get_mut(i).map(|drafted| &mut drafted.entry),
            Id::Merge => self.refuse("concurrency", MERGE),
            Id::Source(_) | Id::Sink(_) => self.refuse("concurrency", "only a step has workers"),
        };
        entry.into_iter().for_each(|entry| entry.concurrency = Some(workers));
    }

    pub(crate) fn dispatch(&mut self, id: Id, dispatch: Dispatch) {
        if let Some(drafted) = self.step_mut(id) {
            drafted.entry.dispatch = Some(dispatch);
        }
    }

    pub(crate) fn limits(&mut self, id: Id) -> Option<Arc<Limits>> {
        self.step_mut(id).and_then(|drafted| drafted.limits.clone())
    }

    /// Options to run a plan of this pipeline.
    pub(crate) fn options(&self, plan: &Plan) -> RunOptions {
        let mut options = self.home.options(plan);
        // A buffer's task is a pipeline of its own, on the disk.
        if plan.name == self.spec.name
            && let Some(letters) = self.kept_letters()
        {
            options.dead_letters = letters.sink();
        }
        options
    }

    /// The dead letters in memory, where they are there.
    pub(crate) fn kept_letters(&self) -> Option<&Letters> {
        let on_disk = self.at_home || self.spec.state == StateSpec::Embedded;
        (!on_disk).then_some(&self.letters)
    }

    fn step_mut(&mut self, id: Id) -> Option<&mut Drafted<dyn StepPlan>> {
        match id {
            Id::Step(i) => self.steps.get_mut(i),
            Id::Source(_) | Id::Sink(_) | Id::Merge => None,
        }
    }

    /// A setting of something that has none of the kind.
    fn refuse<S>(&mut self, setting: &str, why: &str) -> Option<S> {
        let error = misuse(format!("`{setting}` says nothing here: {why}"), "say it behind the step that is meant");
        self.errors.push(error);
        None
    }

    /// A quarter of the memory is for what steps hold behind busy keys; queues, parked records and what cannot be read again have
    /// the other three.
    fn divide_memory(&self) {
        let limits: Vec<_> = self.steps.iter().filter_map(|step| step.limits.as_ref()).collect();
        let memory = usize::try_from(self.spec.limits.memory.0).unwrap_or(usize::MAX);
        let each = memory / 4 / limits.len().max(1);
        limits.into_iter().for_each(|limits| limits.set_held_bytes(each));
    }

    /// The pipeline as written, with a name for every entry.
    pub(crate) fn spec(&self) -> Result<PipelineSpec> {
        if let Some(error) = self.errors.first() {
            return Err(error.clone());
        }
        self.divide_memory();
        let names = Names::new(self);
        let mut spec = self.spec.clone();
        spec.sources = finish(&self.sources, &names.sources, &names);
        spec.steps = finish(&self.steps, &names.steps, &names);
        spec.sinks = finish(&self.sinks, &names.sinks, &names);
        Ok(spec)
    }
}

fn drafted<P: ?Sized>(entry: Entry<P>, label: &str, from: Vec<Port>) -> Drafted<P> {
    Drafted { entry, label: label.to_owned(), from, outputs: Vec::new(), limits: None }
}

/// Names of all entries: their own, else what they do, numbered where that is taken.
struct Names<'a> {
    draft: &'a Draft,
    sources: Vec<String>,
    steps: Vec<String>,
    sinks: Vec<String>,
}

impl<'a> Names<'a> {
    fn new(draft: &'a Draft) -> Self {
        let own = |name: &Option<String>| name.clone();
        let mut taken: BTreeSet<String> = draft.sources.iter().filter_map(|drafted| own(&drafted.entry.name)).collect();
        taken.extend(draft.steps.iter().filter_map(|drafted| own(&drafted.entry.name)));
        taken.extend(draft.sinks.iter().filter_map(|drafted| own(&drafted.entry.name)));
        let sources = named(&draft.sources, &mut taken);
        let steps = named(&draft.steps, &mut taken);
        let sinks = named(&draft.sinks, &mut taken);
        Names { draft, sources, steps, sinks }
    }

    /// A port as `STAGE` or `STAGE.OUTPUT`.
    fn port(&self, port: Port) -> Option<String> {
        match port.entry {
            Id::Source(i) => self.sources.get(i).cloned(),
            Id::Sink(_) | Id::Merge => None,
            Id::Step(i) => {
                let name = self.steps.get(i)?;
                let output = port.output.and_then(|output| self.draft.steps.get(i)?.outputs.get(output));
                Some(output.map_or_else(|| name.clone(), |output| format!("{name}.{output}")))
            }
        }
    }
}

fn named<P: ?Sized>(entries: &[Drafted<P>], taken: &mut BTreeSet<String>) -> Vec<String> {
    let name = |drafted: &Drafted<P>| {
        drafted.entry.name.clone().unwrap_or_else(|| {
            let numbered = (2..).map(|nth: u32| format!("{}-{nth}", drafted.label));
            let free = std::iter::once(drafted.label.clone()).chain(numbered).find(|name| !taken.contains(name));
            let name = free.unwrap_or_default();
            taken.insert(name.clone());
            name
        })
    };
    entries.iter().map(name).collect()
}

fn finish<P: ?Sized>(entries: &[Drafted<P>], names: &[String], all: &Names<'_>) -> Vec<Entry<P>> {
    let finished = entries.iter().zip(names).map(|(drafted, name)| {
        let mut entry = drafted.entry.clone();
        entry.name = Some(name.clone());
        entry.from = drafted.from.iter().filter_map(|&port| all.port(port)).collect();
        entry
    });
    finished.collect()
}

/// The error of a builder call that makes no sense.
pub(crate) fn misuse(message: impl Into<String>, hint: &str) -> Error {
    Error::new(ErrorKind::Plan, message).hint(hint)
}
