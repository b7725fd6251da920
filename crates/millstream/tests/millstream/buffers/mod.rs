//! Sinks behind buffers on disk: a slow or dead one holds up nobody else, and gets everything in the end.

mod builder;
mod crash;
mod full;
mod plans;
mod runs;

use std::{future::Future, sync::Arc, time::Duration};

use millstream::{
    Buffered, Delivery, Group, Home,
    core::{Registry, SinkPlan, Size, SourcePlan, Span},
    runtime::{BufferSpec, CheckpointSpec, Entry, PipelineSpec, PlanOptions, RunOptions, WhenFull},
};

/// A pipeline `p` from a source to named sinks, some with buffers; epochs are short.
pub(crate) fn spec(source: impl SourcePlan + 'static) -> PipelineSpec {
    PipelineSpec {
        name: "p".to_owned(),
        sources: vec![Entry::ready(Arc::new(source) as Arc<dyn SourcePlan>)],
        checkpoint: CheckpointSpec { every: Span(Duration::from_millis(20)), ..CheckpointSpec::default() },
        ..PipelineSpec::default()
    }
}

pub(crate) fn sink(
    name: &str,
    sink: &(impl SinkPlan + Clone + 'static),
    buffer: Option<WhenFull>,
) -> Entry<dyn SinkPlan> {
    let mut entry = Entry::ready(Arc::new(sink.clone()) as Arc<dyn SinkPlan>);
    entry.name = Some(name.to_owned());
    entry.buffer = buffer.map(|when_full| BufferSpec { disk: Size(1 << 20), when_full });
    entry
}

pub(crate) fn planned(spec: &PipelineSpec, home: &Home) -> Buffered {
    Buffered::new(spec, &Registry::default(), PlanOptions::default(), home).unwrap()
}

/// Starts a spec anew with the same state directory.
pub(crate) async fn start(spec: &PipelineSpec, home: &Home) -> Group {
    start_with(spec, home, |_| {}).await
}

pub(crate) async fn start_with(spec: &PipelineSpec, home: &Home, change: impl Fn(&mut RunOptions)) -> Group {
    let options = |plan: &millstream::runtime::Plan| {
        let mut options = home.options(plan);
        change(&mut options);
        options
    };
    Group::start(planned(spec, home), home, options).await.unwrap()
}

/// Runs on a runtime of two threads, for a minute at most.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await.expect("it takes too long") })
}

pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|i| i.to_string()).collect()
}

pub(crate) const EXACTLY_ONCE: Delivery = Delivery::ExactlyOnce;
