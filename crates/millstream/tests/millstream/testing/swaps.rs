//! What is swapped, what is kept, and what is refused.

use millstream::{
    Delivery, ErrorKind, Pipeline,
    runtime::{Entry, PipelineSpec},
    testing::Test,
};
use serde_json::json;

use super::{copy, order, orders, started};

#[tokio::test]
async fn a_source_that_is_not_swapped_is_refused() {
    let error = Test::of(&orders()).start().await.unwrap_err();
    assert!(error.message().contains("`orders` is not swapped"), "{error:?}");
    let hint = error.hint_text().unwrap();
    assert!(hint.contains(".source(\"orders\")") && hint.contains(".keep(\"orders\")"), "{hint}");
}

#[tokio::test]
async fn names_that_are_wrong_are_told_with_those_that_are_meant() {
    let error = Test::of(&orders()).source("order").start().await.unwrap_err();
    assert_eq!(error.message(), "the pipeline has no source `order`");
    assert_eq!(error.hint_text(), Some("did you mean `orders`?"));
    let error = Test::of(&orders()).source("orders").sink("paid").start().await.unwrap_err();
    assert_eq!(error.hint_text(), Some("known are: charged"));
    let error = Test::of(&orders()).source("orders").keep("orders").start().await.unwrap_err();
    assert_eq!(error.message(), "`orders` is both swapped and kept");
    let test = started(&orders(), "orders").await;
    let error = test.record("order", order(1, 1.0)).await.unwrap_err();
    assert_eq!(error.hint_text(), Some("did you mean `orders`?"));
    assert!(test.rejects("orders", |_| true).is_err() && test.delivered("orders").is_err());
    test.finish().await.unwrap();
}

#[tokio::test]
async fn what_production_would_refuse_a_test_refuses() {
    let pipeline = Pipeline::new("broken");
    pipeline.source("file:in").name("in").sink("nonsense://x");
    assert!(Test::of(&pipeline).source("in").start().await.is_err());
    // Standard output cannot keep the promise; the stand-in for it could.
    let pipeline = Pipeline::new("promise").delivery(Delivery::ExactlyOnce);
    pipeline.source("file:in").name("in").sink_with("stdout", json!({}));
    let error = Test::of(&pipeline).source("in").start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Plan, "{error:?}");
}

#[tokio::test]
async fn a_test_writes_no_file_and_leaves_no_state() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let pipeline = Pipeline::new("real").home(millstream::Home::new(path("state")));
    let source = pipeline.source_with("file", json!({"path": path("in.txt").to_str().unwrap()})).name("in");
    source.sink_with("file", json!({"path": path("out.txt").to_str().unwrap()})).name("out");
    let test = started(&pipeline, "in").await;
    test.record("in", "x").await.unwrap().expect_delivered("out");
    test.finish().await.unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_is_kept_is_real() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("in.txt"), "one\ntwo\n").unwrap();
    let pipeline = Pipeline::new("real");
    let file = pipeline.source_with("file", json!({"path": path("in.txt").to_str().unwrap()})).name("file");
    let other = pipeline.source("file:nowhere").name("other");
    let both = file.merge(other);
    both.sink_with("file", json!({"path": path("out.txt").to_str().unwrap()})).name("out");
    let setup = Test::of(&pipeline).keep("file").keep("out").source("other").real_time();
    let test = setup.start().await.unwrap();
    test.push("other", ["three"]).unwrap();
    let books = test.finish().await.unwrap();
    let mut lines: Vec<_> = std::fs::read_to_string(path("out.txt")).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!((lines, books.stage("out").records_out), (vec!["one".into(), "three".into(), "two".into()], 3));
    books.delivered("out").is_nothing();
}

#[tokio::test]
async fn a_pipeline_is_tested_again_and_again_and_runs_still() {
    let pipeline = Pipeline::new("again").in_memory();
    pipeline.values([1u64, 2]).name("in").map(|n| n * 2).drop().name("out");
    for _ in 0..2 {
        let test = started(&pipeline, "in").await;
        test.record("in", 21u64).await.unwrap().expect_delivered("out").equals(&[42u64]);
        test.finish().await.unwrap().delivered("out").equals(&[42u64]);
    }
    assert_eq!(pipeline.run().await.unwrap().stages["out"].records_in, 2);
}

#[tokio::test]
async fn sources_and_sinks_without_a_name_are_called_by_what_they_are() {
    let pipeline = Pipeline::new("nameless");
    pipeline.source("file:in.txt").text().map(|text| text.len()).to_text().sink("file:out.txt");
    let graph = pipeline.plan().unwrap().graph();
    let (source, sink) = (&graph.stages[0].name, &graph.stages.last().unwrap().name);
    let test = started(&pipeline, source).await;
    test.record(source, "four").await.unwrap().expect_delivered(sink).equals_texts(&["4"]);
    test.finish().await.unwrap();
}

#[tokio::test]
async fn a_pipeline_of_a_file_is_tested_by_its_spec() {
    let spec = PipelineSpec {
        name: "file".to_owned(),
        sources: vec![Entry::named("file", json!({"path": "in.txt"}))],
        steps: vec![Entry::named("filter", json!(". != \"no\""))],
        sinks: vec![Entry::named("file", json!({"path": "out.txt"}))],
        ..PipelineSpec::default()
    };
    let test = Test::of_spec(&spec).source("file").start().await.unwrap();
    test.record("file", "no").await.unwrap().expect_filtered();
    test.record("file", "yes").await.unwrap().expect_delivered("file-2").equals_texts(&["yes"]);
    test.finish().await.unwrap();
}

#[tokio::test]
async fn a_source_that_was_ended_takes_nothing_more() {
    let test = started(&copy(), "in").await;
    test.record("in", "x").await.unwrap();
    test.end("in").unwrap();
    assert_eq!(test.record("in", "y").await.unwrap_err().kind(), ErrorKind::Closed);
    test.finish().await.unwrap().delivered("out").equals_texts(&["x"]);
}
