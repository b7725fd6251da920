//! What the engine promises, on fakes that keep the contracts and a store in memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod behaviour;
mod closing;
mod condemned;
mod control;
mod ends;
mod figures;
mod groups;
mod hosting;
mod inputs;
mod limits;
mod log;
mod model;
mod opening;
mod rounds;
mod settling;
mod signals;
mod workers;

// What `src/signal.rs` is made of in `signals`.
use shuttle::sync::atomic as atomics;

use std::{sync::Arc, time::Duration};

use millstream_core::{
    Batch, Body, Column, Extent, Form, Forms, Output, Registry, Result, SinkPlan, SourcePlan, Step, StepPlan, Transform,
};
use millstream_runtime::{Entry, PipelineSpec, Plan, PlanOptions, RunOptions, Running, Summary};
use millstream_state::{Memory, MemoryStore};
use millstream_testkit::FakeSink;

/// A step made of a closure over single values.
pub(crate) struct Map(MapFn);

impl Transform for Map {
    fn apply(&mut self, batch: Batch, out: &mut Output) {
        let batch = batch.into_bytes();
        let (mut parents, mut data, mut extents) = (Vec::new(), Vec::new(), Vec::new());
        for row in 0..batch.len() {
            let text = String::from_utf8_lossy(batch.get(row).value().unwrap_or_default()).into_owned();
            match (self.0)(&text) {
                Ok(Some(value)) => {
                    let start = data.len() as u32;
                    data.extend_from_slice(value.as_bytes());
                    extents.push(Extent { start, end: data.len() as u32 });
                    parents.push(row as u32);
                }
                Ok(None) => out.filtered(1),
                Err(error) => out.fail(&batch, row, error),
            }
        }
        let body = Body::Bytes(Column::new(data.into(), extents), Forms::Same(Form::Text));
        out.emit(0, batch.derive(parents, body));
    }
}

pub(crate) type MapFn = fn(&str) -> Result<Option<String>>;

#[derive(Debug)]
pub(crate) struct MapPlan(pub(crate) MapFn);

impl StepPlan for MapPlan {
    fn form(&self) -> Form {
        Form::Text
    }

    fn create(&self) -> Result<Step> {
        Ok(Step::Transform(Box::new(Map(self.0))))
    }
}

pub(crate) fn spec<S, K>(source: &S, steps: &[MapFn], sink: &K) -> PipelineSpec
where
    S: SourcePlan + Clone + 'static,
    K: SinkPlan + Clone + 'static,
{
    PipelineSpec {
        name: "test".to_owned(),
        sources: vec![Entry::ready(Arc::new(source.clone()))],
        steps: steps.iter().map(|map| Entry::ready(Arc::new(MapPlan(*map)) as Arc<dyn StepPlan>)).collect(),
        sinks: vec![named(sink, "sink")],
        ..PipelineSpec::default()
    }
}

pub(crate) fn named<K: SinkPlan + Clone + 'static>(sink: &K, name: &str) -> Entry<dyn SinkPlan> {
    let mut entry = Entry::ready(Arc::new(sink.clone()) as Arc<dyn SinkPlan>);
    entry.name = Some(name.to_owned());
    entry
}

pub(crate) struct Bench {
    pub(crate) memory: Memory,
    pub(crate) dead: FakeSink,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Bench { memory: Memory::new(), dead: FakeSink::truncating() }
    }

    pub(crate) fn options(&self) -> RunOptions {
        RunOptions::new(Box::new(MemoryStore::new(self.memory.clone())), Arc::new(self.dead.clone()))
    }

    pub(crate) fn start(&self, spec: &PipelineSpec) -> Running {
        self.start_with(spec, |_| {})
    }

    pub(crate) fn start_with(&self, spec: &PipelineSpec, change: impl FnOnce(&mut RunOptions)) -> Running {
        let plan = Plan::new(spec, &Registry::default(), PlanOptions::default()).unwrap();
        let mut options = self.options();
        change(&mut options);
        Running::start(plan, options)
    }
}

pub(crate) fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|i| i.to_string()).collect()
}

pub(crate) fn balanced(summary: &Summary) {
    for (name, stage) in &summary.stages {
        assert_eq!(stage.in_flight(), 0, "the books of `{name}` balance: {stage:?}");
    }
}

pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
