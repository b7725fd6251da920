//! Sources and sinks that fail, are slow, stand still or refuse.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use millstream::{
    Error, ErrorKind, ErrorRule, Pipeline, Then,
    testing::{Script, Test},
};

use super::{copy, order, orders, retry, started};

#[tokio::test]
async fn a_sink_that_is_away_for_a_while_is_tried_until_it_is_back() {
    let test = started(&copy(), "in").await;
    test.fails_next("out", ErrorKind::Unavailable, 5).unwrap();
    let began = tokio::time::Instant::now();
    test.record("in", "x").await.unwrap().expect_delivered("out").equals_texts(&["x"]);
    assert!(began.elapsed() > Duration::from_secs(10), "it waited between its tries: {:?}", began.elapsed());
    assert_eq!(test.finish().await.unwrap().stage("out").failures, 5);
}

#[tokio::test]
async fn a_source_that_fails_is_read_again() {
    let test = started(&copy(), "in").await;
    test.record("in", "a").await.unwrap();
    test.fails_next("in", ErrorKind::Unavailable, 3).unwrap();
    test.record("in", "b").await.unwrap().expect_delivered("out");
    let books = test.finish().await.unwrap();
    books.delivered("out").equals_texts(&["a", "b"]);
    assert_eq!(books.stage("in").failures, 3);
}

#[tokio::test]
async fn a_script_fails_between_its_batches() {
    let script = Script::new().batch(["a"]).error(super::away()).batch(["b"]).end();
    let test = Test::of(&copy()).script("in", script).start().await.unwrap();
    let books = test.finish().await.unwrap();
    books.delivered("out").equals_texts(&["a", "b"]);
    assert_eq!((books.stage("in").failures, books.stage("in").batches), (1, 2));
}

#[tokio::test]
async fn a_failure_that_no_rule_helps_is_the_error_of_the_next_call() {
    let test = started(&orders(), "orders").await;
    test.fails_next("charged", ErrorKind::Permission, 1).unwrap();
    let error = test.record("orders", order(1, 1.0)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Permission);
    let text = error.chain();
    assert!(text.contains("the pipeline stopped: `charged` failed") && text.contains("\norders "), "{text}");
    assert_eq!(test.finish().await.unwrap_err().kind(), ErrorKind::Permission);
}

#[tokio::test]
async fn a_pipeline_that_starts_again_from_its_checkpoint_loses_nothing() {
    let restart = ErrorRule::any().then(Then::Restart);
    let test = started(&copy().on_error(restart), "in").await;
    test.record("in", "a").await.unwrap();
    test.fails_next("out", ErrorKind::Unavailable, 2).unwrap();
    let outcomes = test.batch("in", ["b", "c"]).await.unwrap();
    outcomes.iter().for_each(|outcome| drop(outcome.expect_delivered("out")));
    assert_eq!(test.status().restarts, 2);
    test.finish().await.unwrap().delivered("out").equals_texts(&["a", "b", "c"]);
}

#[tokio::test]
async fn a_sink_refuses_the_records_it_is_told_to() {
    let test = started(&copy(), "in").await;
    test.rejects("out", |record| record.value.as_deref() == Some(b"bad")).unwrap();
    let outcomes = test.batch("in", ["good", "bad", "fine"]).await.unwrap();
    outcomes[0].expect_delivered("out");
    outcomes[1].expect_dead("out", ErrorKind::Rejected);
    test.finish().await.unwrap().delivered("out").equals_texts(&["good", "fine"]);
}

#[tokio::test]
async fn a_record_that_is_refused_for_a_while_is_tried_again_by_its_rule() {
    let pipeline = copy().on_error(retry(5, Duration::from_secs(10)));
    let test = started(&pipeline, "in").await;
    let times = Arc::new(AtomicUsize::new(0));
    let count = times.clone();
    let refuse = move |_: &millstream::Record| (count.fetch_add(1, Ordering::SeqCst) < 3).then(super::away);
    test.rejects_with("out", refuse).unwrap();
    let outcome = test.record("in", "x").await.unwrap();
    outcome.expect_waiting();
    test.advance(Duration::from_secs(31)).await.unwrap();
    let outcome = test.latest(&outcome).await.unwrap();
    outcome.expect_delivered("out");
    assert_eq!((outcome.failures().len(), times.load(Ordering::SeqCst)), (3, 4));
    test.finish().await.unwrap();
}

#[tokio::test]
async fn a_slow_sink_takes_its_time_and_a_slow_source_too() {
    let test = started(&copy(), "in").await;
    let began = tokio::time::Instant::now();
    test.slow("out", Duration::from_secs(7)).unwrap();
    test.record("in", "x").await.unwrap().expect_delivered("out");
    assert_eq!(began.elapsed().as_secs(), 7);
    test.slow("in", Duration::from_secs(20)).unwrap();
    test.record("in", "y").await.unwrap().expect_delivered("out");
    assert_eq!(began.elapsed().as_secs(), 34);
    test.finish().await.unwrap();
}

#[tokio::test]
async fn a_sink_that_stands_still_is_told_and_does_not_hang_the_test() {
    let test = started(&copy(), "in").await;
    test.stalls("out", true).unwrap();
    let error = test.record("in", "x").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let text = error.chain();
    assert!(text.contains("does not come to an end within 3600s of virtual time"), "{text}");
    assert!(text.contains("\nstage        in  out  in flight\n"), "{text}");
    test.stalls("out", false).unwrap();
    test.record("in", "y").await.unwrap().expect_delivered("out");
    test.finish().await.unwrap().delivered("out").equals_texts(&["x", "y"]);
}

#[tokio::test]
async fn the_end_of_a_pipeline_that_tries_for_ever_is_given_up() {
    let pipeline = Pipeline::new("stubborn");
    let rule = ErrorRule::any().retry(millstream::Retry::forever());
    let numbers = pipeline.values(Vec::<u64>::new()).name("in").try_map(|_: &u64| Err::<u64, Error>(super::away()));
    numbers.name("try").on_error(rule).drop().name("out");
    let test = started(&pipeline, "in").await;
    test.record("in", 1u64).await.unwrap().expect_waiting();
    let error = test.finish().await.unwrap_err().chain();
    assert!(error.contains("records still wait for another try, or for others: 1 at `try`"), "{error}");
}

#[tokio::test]
async fn the_pipelines_own_hook_hears_of_failures_as_ever() {
    let heard = Arc::new(AtomicUsize::new(0));
    let count = heard.clone();
    let pipeline = Pipeline::new("hooked");
    let numbers = pipeline.values(Vec::<u64>::new()).name("in").try_map(|_: &u64| Err::<u64, _>("never"));
    numbers.name("try").on_failed(move |_, _, _| assert!(count.fetch_add(1, Ordering::SeqCst) < 9)).drop();
    let test = started(&pipeline, "in").await;
    assert_eq!(test.record("in", 1u64).await.unwrap().failures().len(), 1);
    assert_eq!(heard.load(Ordering::SeqCst), 1);
    test.finish().await.unwrap();
}

#[tokio::test]
async fn a_test_steers_the_pipeline_by_its_handle() {
    let pipeline = Pipeline::new("steered");
    pipeline.values(Vec::<u64>::new()).name("in").map(|n| n + 1).name("more").concurrency(1).drop().name("out");
    let test = started(&pipeline, "in").await;
    test.record("in", 1u64).await.unwrap();
    test.handle().set_concurrency("more", 3).await.unwrap();
    test.record("in", 2u64).await.unwrap().expect_delivered("out").equals(&[3u64]);
    test.handle().pause();
    test.settle().await.unwrap();
    test.push("in", [3u64]).unwrap();
    test.settle().await.unwrap();
    assert_eq!(test.delivered("out").unwrap().len(), 2);
    test.handle().resume();
    test.record("in", 4u64).await.unwrap();
    test.finish().await.unwrap().delivered("out").equals_unordered(&[2u64, 3, 4, 5]);
}
