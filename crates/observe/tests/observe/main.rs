//! Running pipelines as they look from outside: over HTTP and over the control socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod buffers;
mod control;
mod exposition;
mod http;
mod lag;
mod spans;
mod steps;
mod tapping;

use std::{sync::Arc, time::Duration};

use millstream_core::{SinkPlan, SourcePlan, StepPlan};
use millstream_observe::{Observed, Observer, Shape};
use millstream_runtime::{Entry, PipelineSpec, Plan, PlanOptions, RunOptions, Running};
use millstream_state::{Memory, MemoryStore};
use millstream_testkit::{FakeSink, FakeSource};

use crate::steps::{Passing, registry};

/// `orders -> pass -> out`, under a name.
pub(crate) fn spec(name: &str, source: &FakeSource, sink: &FakeSink) -> PipelineSpec {
    fn named<P: ?Sized>(plan: Arc<P>, name: &str) -> Entry<P> {
        let mut entry = Entry::ready(plan);
        entry.name = Some(name.to_owned());
        entry
    }
    PipelineSpec {
        name: name.to_owned(),
        sources: vec![named(Arc::new(source.clone()) as Arc<dyn SourcePlan>, "orders")],
        steps: vec![named(Arc::new(Passing) as Arc<dyn StepPlan>, "pass")],
        sinks: vec![named(Arc::new(sink.clone()) as Arc<dyn SinkPlan>, "out")],
        ..PipelineSpec::default()
    }
}

/// Starts a pipeline, and lets it be observed.
pub(crate) fn start(observer: &Observer, spec: &PipelineSpec) -> Running {
    start_with(observer, spec, |observed| observed)
}

/// The same with more that is known of it.
pub(crate) fn start_with(observer: &Observer, spec: &PipelineSpec, more: impl FnOnce(Observed) -> Observed) -> Running {
    let plan = Plan::new(spec, &registry(), PlanOptions::default()).unwrap();
    let shape = Shape::of(&plan);
    let store = Box::new(MemoryStore::new(Memory::new()));
    let running = Running::start(plan, RunOptions::new(store, Arc::new(FakeSink::truncating())));
    observer.add(more(Observed::new(shape, running.handle())));
    running
}

pub(crate) fn observer() -> Observer {
    Observer::new(Duration::from_secs(30), registry())
}

pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(std::time::Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
