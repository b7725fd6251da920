//! A test in the making: which sources and sinks of the pipeline are swapped for stand-ins.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use millstream_core::{Delivery, Error, ErrorKind, Registry, Result, Role, SinkPlan, SourcePlan, suggest};
use millstream_runtime::{
    Entry, OnFailed, PipelineSpec, Plan, PlanOptions, Planned, RunOptions, Running, StateSpec, Written,
};
use millstream_state::{DEAD_LETTER_CAPABILITIES, Memory, MemoryStore};
use tokio::sync::Notify;

use super::{
    Test,
    clock::VirtualTime,
    given::Typing,
    outcome::Failed,
    sink::FakeSink,
    source::{FakeSource, Script},
    test::{Failures, Parts},
};
use crate::Pipeline;

/// A test in the making. See [`Test::of`].
#[must_use = "a test begins with `start`"]
pub struct Setup {
    spec: Result<PipelineSpec>,
    registry: Registry,
    typings: BTreeMap<String, Typing>,
    sources: BTreeMap<String, Script>,
    kept: BTreeSet<String>,
    sinks: BTreeSet<String>,
    within: Duration,
    limit: Option<Duration>,
    real_time: bool,
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setup { sources, kept, sinks, .. } = self;
        f.debug_struct("Setup")
            .field("sources", sources)
            .field("kept", kept)
            .field("sinks", sinks)
            .finish_non_exhaustive()
    }
}

/// How long virtual time, and how long real time, may go on before what does not come to an end is given up.
const LIMITS: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(30));

/// Virtual time between epochs that nobody asks for.
const EPOCHS_EVERY: Duration = Duration::from_secs(3600);

impl Test {
    /// A test of this pipeline as it is: its steps, rules, limits and its promise. Its state is in memory and new, and its dead
    /// letters come to the test. Buffers on disk are left out.
    pub fn of(pipeline: &Pipeline) -> Setup {
        let spec = pipeline.spec();
        let draft = pipeline.draft();
        let names = spec.iter().flat_map(|spec| spec.sources.iter().enumerate());
        let typed = names.filter_map(|(nth, entry)| Some((entry.name.clone()?, *draft.typings.get(&nth)?)));
        Setup { typings: typed.collect(), ..Setup::new(spec.clone(), draft.registry.clone()) }
    }

    /// The same for a pipeline that comes from a file.
    pub fn of_spec(spec: &PipelineSpec) -> Setup {
        Setup::new(named(spec), millstream_bundle::registry())
    }
}

/// The spec with a name for every source and sink, as its plan calls them.
fn named(spec: &PipelineSpec) -> Result<PipelineSpec> {
    let mut spec = spec.clone();
    unbuffered(&mut spec);
    let plan = Plan::new(&spec, &millstream_bundle::registry(), PlanOptions::default()).map_err(super::first)?;
    let of = |role| plan.role(role).map(|(_, node)| node.name.clone()).collect::<Vec<_>>();
    let (sources, sinks) = (of(Role::Source), of(Role::Sink));
    spec.sources.iter_mut().zip(sources).for_each(|(entry, name)| entry.name = Some(name));
    spec.sinks.iter_mut().zip(sinks).for_each(|(entry, name)| entry.name = Some(name));
    Ok(spec)
}

/// Buffers are pipelines of their own.
fn unbuffered(spec: &mut PipelineSpec) {
    spec.sinks.iter_mut().for_each(|entry| entry.buffer = None);
}

impl Setup {
    fn new(spec: Result<PipelineSpec>, registry: Registry) -> Self {
        Setup {
            spec,
            registry,
            typings: BTreeMap::new(),
            sources: BTreeMap::new(),
            kept: BTreeSet::new(),
            sinks: BTreeSet::new(),
            within: Duration::ZERO,
            limit: None,
            real_time: false,
        }
    }

    /// Swaps the source of this name for one that gives what the test gives it.
    pub fn source(self, name: &str) -> Self {
        self.script(name, Script::new())
    }

    /// Swaps the source of this name for one that follows a script, and then gives what the test gives it.
    pub fn script(mut self, name: &str, script: Script) -> Self {
        self.sources.insert(name.to_owned(), script);
        self
    }

    /// Swaps the sink of this name for one that keeps what it is given. That is so for every sink that is not
    /// [kept](Setup::keep): naming it here checks that there is one.
    pub fn sink(mut self, name: &str) -> Self {
        self.sinks.insert(name.to_owned());
        self
    }

    /// Keeps the source or sink of this name as it is: the test reads from or writes to the real system.
    pub fn keep(mut self, name: &str) -> Self {
        self.kept.insert(name.to_owned());
        self
    }

    /// Lets so much time pass, at most, where a record waits after [`Test::record`] or [`Test::batch`]; none if not said.
    pub fn within(mut self, time: Duration) -> Self {
        self.within = time;
        self
    }

    /// How much time may pass before what does not come to an end is an error: an hour of virtual time, or 30 s of real time,
    /// if not said.
    pub fn give_up_after(mut self, time: Duration) -> Self {
        self.limit = Some(time);
        self
    }

    /// Lets time go as it does: for pipelines that talk to something real, and for runtimes of several threads.
    pub fn real_time(mut self) -> Self {
        self.real_time = true;
        self
    }

    /// Starts the pipeline. Fails where the pipeline itself cannot be planned, where a name is wrong, and where a source is
    /// neither swapped nor kept.
    ///
    /// Time is virtual from here on until the test is over: `tokio::time` of this thread stands still, and jumps to the next
    /// timer when nothing is left to do.
    pub async fn start(self) -> Result<Test> {
        let mut spec = self.spec.clone()?;
        unbuffered(&mut spec);
        // What production would refuse, a test must not run.
        let plan = Plan::new(&spec, &self.registry, PlanOptions::default()).map_err(super::first)?;
        self.check(&plan)?;
        if !self.real_time {
            // What waits would cut an epoch with every second that goes by.
            spec.checkpoint.every.0 = spec.checkpoint.every.0.max(EPOCHS_EVERY);
        }
        let clock = if self.real_time { None } else { Some(VirtualTime::begin()?) };
        let arrived = Arc::<Notify>::default();
        let (mut sources, mut sinks) = (BTreeMap::new(), BTreeMap::new());
        for node in &plan.nodes {
            match &node.component {
                Planned::Source(real) => {
                    let Some(script) = self.sources.get(&node.name) else { continue };
                    let fake = FakeSource::new(&node.name, &**real, self.typings.get(&node.name).copied());
                    fake.play(script)?;
                    sources.insert(node.name.clone(), fake);
                }
                Planned::Sink(real) if !self.kept.contains(&node.name) => {
                    let fake = FakeSink::new(&node.name, real.capabilities(), arrived.clone());
                    sinks.insert(node.name.clone(), fake);
                }
                _ => {}
            }
        }
        let failures = Failures::default();
        swap(&mut spec, &sources, &sinks, &failures);
        let endless = plan.nodes.iter().any(|node| match &node.component {
            Planned::Source(source) => self.kept.contains(&node.name) && !source.capabilities().bounded,
            _ => false,
        });
        let plan = Plan::new(&spec, &self.registry, PlanOptions::default()).map_err(super::first)?;
        let letters = FakeSink::new("dead letters", DEAD_LETTER_CAPABILITIES, arrived.clone());
        let store = Box::new(MemoryStore::new(Memory::default()));
        let options = RunOptions { fresh: true, ..RunOptions::new(store, Arc::new(letters.clone())) };
        let late = plan.delivery == Delivery::AtMostOnce;
        let running = Running::start(plan, options).abort_on_drop();
        let limit = self.limit.unwrap_or(if self.real_time { LIMITS.1 } else { LIMITS.0 });
        let parts =
            Parts { sources, sinks, letters, failures, arrived, within: self.within, limit, endless, late, clock };
        Ok(Test::new(running, parts))
    }

    /// Every name is that of a source or sink, and every source is swapped or kept.
    fn check(&self, plan: &Plan) -> Result<()> {
        let of = |role| plan.role(role).map(|(_, node)| node.name.as_str()).collect::<Vec<_>>();
        let (sources, sinks) = (of(Role::Source), of(Role::Sink));
        let both: Vec<&str> = sources.iter().chain(&sinks).copied().collect();
        let asked = self.sources.keys().map(|name| (name, "source", &sources));
        let asked = asked.chain(self.sinks.iter().map(|name| (name, "sink", &sinks)));
        for (name, what, known) in asked.chain(self.kept.iter().map(|name| (name, "source or sink", &both))) {
            if !known.contains(&name.as_str()) {
                let error = Error::new(ErrorKind::Option, format!("the pipeline has no {what} `{name}`"));
                return Err(suggest(name, known).into_iter().fold(error, |error, hint| error.hint(hint)));
            }
            if self.kept.contains(name) && (self.sources.contains_key(name) || self.sinks.contains(name)) {
                return Err(Error::new(ErrorKind::Option, format!("`{name}` is both swapped and kept")));
            }
        }
        let real = sources.iter().find(|name| !self.sources.contains_key(**name) && !self.kept.contains(**name));
        real.map_or(Ok(()), |name| {
            let what = format!("the source `{name}` is not swapped: the test would read from the real system");
            let hint = format!("swap it with `.source(\"{name}\")`, or let the test read it with `.keep(\"{name}\")`");
            Err(Error::new(ErrorKind::Option, what).hint(hint))
        })
    }
}

/// Puts the stand-ins into the spec, and listens to failures.
fn swap(
    spec: &mut PipelineSpec,
    sources: &BTreeMap<String, FakeSource>,
    sinks: &BTreeMap<String, FakeSink>,
    failures: &Failures,
) {
    for entry in &mut spec.sources {
        if let Some(fake) = entry.name.as_ref().and_then(|name| sources.get(name)) {
            let fake: Arc<dyn SourcePlan> = Arc::new(fake.clone());
            entry.component = Written::Ready(fake);
        }
        listen(entry, failures);
    }
    for entry in &mut spec.sinks {
        if let Some(fake) = entry.name.as_ref().and_then(|name| sinks.get(name)) {
            let fake: Arc<dyn SinkPlan> = Arc::new(fake.clone());
            entry.component = Written::Ready(fake);
        }
        listen(entry, failures);
    }
    spec.steps.iter_mut().for_each(|entry| listen(entry, failures));
    spec.state = StateSpec::Memory;
    if let Some(letters) = &mut spec.dead_letter {
        letters.sink = None;
    }
}

/// Notes each failure of a record, and calls the pipeline's own hook.
fn listen<P: ?Sized>(entry: &mut Entry<P>, failures: &Failures) {
    let (own, failures) = (entry.on_failed.take(), failures.clone());
    let hear = move |stage: &str, record: &millstream_core::Record, error: &Error, attempts: u32| {
        let (kind, message) = (error.kind(), error.chain());
        let failed = Failed { stage: stage.to_owned(), kind, message, attempts };
        super::test::lock(&failures).push((record.origin.clone(), record.sequence, failed));
        if let Some(OnFailed(own)) = &own {
            own(stage, record, error, attempts);
        }
    };
    entry.on_failed = Some(OnFailed(Arc::new(hear)));
}
