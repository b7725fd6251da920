//! What a plan with buffers is made of, and what it refuses.

use millstream::{
    Buffered, Home,
    core::{ErrorKind, Registry, Size},
    runtime::{PipelineSpec, Plan, PlanOptions, WhenFull},
};
use millstream_testkit::{FakeGroup, FakeSink, FakeSource};

use super::{EXACTLY_ONCE, planned, sink, spec};

fn refused(spec: &PipelineSpec) -> millstream::Error {
    let home = Home::new("never-made");
    let errors = Buffered::new(spec, &Registry::default(), PlanOptions::default(), &home).unwrap_err();
    errors.into_iter().next().unwrap()
}

#[test]
fn each_buffer_is_the_end_of_the_pipeline_and_the_source_of_a_task_of_its_own() {
    let fake = FakeSink::truncating();
    let mut spec = spec(FakeSource::live());
    spec.sinks = vec![
        sink("a", &fake, Some(WhenFull::Block)),
        sink("b", &fake, None),
        sink("buffer", &fake, Some(WhenFull::Block)),
    ];
    let home = Home::new("never-made");
    let planned = planned(&spec, &home);
    let names: Vec<&str> = planned.plans().map(|plan| plan.name.as_str()).collect();
    assert_eq!(names, ["p", "p.a", "p.buffer"]);
    let kinds = |plan: &Plan| plan.nodes.iter().map(|node| format!("{}:{}", node.name, node.kind)).collect::<Vec<_>>();
    assert_eq!(kinds(&planned.pipeline), ["custom:custom", "a:buffer", "b:custom", "buffer:buffer"]);
    assert_eq!(kinds(&planned.tasks[0].plan), ["buffer:buffer", "a:custom"]);
    assert_eq!(kinds(&planned.tasks[1].plan), ["buffer-2:buffer", "buffer:custom"]);
    // Memory is shared, and epochs fit the buffer.
    assert_eq!(planned.plans().map(|plan| plan.limits.memory.0).collect::<Vec<_>>(), [(256 << 20) / 3; 3]);
    assert!(planned.plans().all(|plan| plan.checkpoint.bytes == Some(Size(128 << 10))));
    assert!(!home.directory().exists(), "planning touches nothing");
}

#[test]
fn a_buffer_that_drops_does_not_keep_exactly_once() {
    for lossy in [WhenFull::DropNewest, WhenFull::DropOldest] {
        let mut spec = spec(FakeSource::live());
        spec.delivery = EXACTLY_ONCE;
        spec.sinks = vec![sink("a", &FakeSink::truncating(), Some(lossy))];
        let error = refused(&spec);
        assert_eq!(error.kind(), ErrorKind::Plan);
        assert!(error.message().contains("`a` cannot keep `exactly_once`: its buffer drops"), "{error:?}");
        assert_eq!(error.place().unwrap().path, ["buffer", "when_full"]);
    }
}

#[test]
fn a_sink_keeps_exactly_once_behind_its_buffer_or_is_refused_there() {
    let mut spec = spec(FakeSource::live());
    spec.delivery = EXACTLY_ONCE;
    spec.sinks = vec![sink("a", &FakeSink::plain(), Some(WhenFull::Block))];
    assert!(refused(&spec).message().contains("sink `a` (fake) cannot keep `exactly_once`"));
}

#[test]
fn a_group_source_cannot_keep_exactly_once_before_a_buffer() {
    let mut spec = spec(FakeGroup::new(1));
    spec.delivery = EXACTLY_ONCE;
    spec.sinks = vec![sink("a", &FakeSink::truncating(), Some(WhenFull::Block))];
    let error = refused(&spec);
    assert!(error.message().contains("group"), "{error:?}");
}

#[test]
fn a_buffer_that_is_too_small_is_refused() {
    let mut spec = spec(FakeSource::live());
    let mut entry = sink("a", &FakeSink::plain(), Some(WhenFull::Block));
    entry.buffer.as_mut().unwrap().disk = Size(1000);
    spec.sinks = vec![entry];
    let error = refused(&spec);
    assert_eq!((error.kind(), error.place().unwrap().path.join(".").as_str()), (ErrorKind::Option, "buffer.disk"));
}

#[test]
fn a_plan_alone_refuses_a_buffer_that_nobody_would_run() {
    let mut spec = spec(FakeSource::live());
    spec.sinks = vec![sink("a", &FakeSink::plain(), Some(WhenFull::Block))];
    let errors = Plan::new(&spec, &Registry::default(), PlanOptions::default()).unwrap_err();
    assert!(errors[0].message().contains("a buffer is a pipeline of its own"), "{errors:?}");
}
