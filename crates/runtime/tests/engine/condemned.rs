//! Records that a transaction was aborted for, where ways of one record have met.

use std::sync::Arc;

use millstream_core::{Delivery, Error, ErrorKind, StepPlan};
use millstream_runtime::{DeadLetterSpec, Entry, PipelineSpec};
use millstream_testkit::{FakeServer, FakeSource};

use crate::{Bench, MapFn, MapPlan, balanced, named, numbers, spec};

/// Each number goes two ways, which meet in one topic; what is refused goes to another.
fn two_ways(source: &FakeSource, server: &FakeServer, ways: [MapFn; 2]) -> PipelineSpec {
    let mut spec = spec(source, &[], &server.topic("out"));
    spec.delivery = Delivery::ExactlyOnce;
    spec.checkpoint.count = Some(50);
    spec.steps = ways.map(|way| Entry::ready(Arc::new(MapPlan(way)) as Arc<dyn StepPlan>)).into();
    for (step, name) in spec.steps.iter_mut().zip(["one", "other"]) {
        (step.name, step.from) = (Some(name.to_owned()), vec!["custom".into()]);
    }
    spec.sinks[0].from = vec!["one".into(), "other".into()];
    spec.dead_letter =
        Some(DeadLetterSpec { sink: Some(named(&server.topic("letters"), "letters")), stop_after: None });
    spec
}

fn refused() -> Error {
    Error::new(ErrorKind::Rejected, "larger than the topic allows")
}

#[tokio::test]
async fn only_the_one_that_was_refused_goes_to_its_rule() {
    let (server, bench) = (FakeServer::new(), Bench::new());
    let source = FakeSource::of(numbers(100)).in_batches_of(10);
    let spec = two_ways(&source, &server, [|v| Ok(Some(format!("a{v}"))), |v| Ok(Some(format!("b{v}")))]);
    for value in ["a5", "b60", "b61"] {
        server.reject("out", value, 1, refused());
    }
    let summary = bench.start(&spec).wait().await.unwrap();
    let mut letters: Vec<String> = server.values("letters");
    letters.sort();
    assert_eq!((letters, summary.dead()), (vec!["5".to_owned(), "60".to_owned(), "61".to_owned()], 3));
    let mut expected: Vec<String> = numbers(100).iter().flat_map(|v| [format!("a{v}"), format!("b{v}")]).collect();
    expected.retain(|value| !["a5", "b60", "b61"].contains(&value.as_str()));
    expected.sort();
    let mut out = server.values("out");
    out.sort();
    assert_eq!(out, expected);
    assert_eq!(server.violations(), Vec::<String>::new());
    balanced(&summary);
}
