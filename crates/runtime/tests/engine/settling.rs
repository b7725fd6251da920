//! Sinks that say what became of older writes while newer ones are under way.

use std::time::Duration;

use millstream_core::{Error, ErrorKind};
use millstream_runtime::PipelineSpec;
use millstream_testkit::{FakeSink, FakeSource};

use crate::{Bench, balanced, numbers, spec, until};

/// One epoch, which ends with the run.
fn one_epoch(source: &FakeSource, sink: &FakeSink) -> PipelineSpec {
    let mut spec = spec(source, &[], sink);
    spec.checkpoint.every = "10m".parse().unwrap();
    spec
}

#[tokio::test]
async fn writes_go_on_while_the_outcomes_of_older_ones_are_not_known() {
    let (source, sink, bench) = (FakeSource::live().in_batches_of(1), FakeSink::plain().telling(), Bench::new());
    sink.hold_outcomes(true);
    let mut running = bench.start(&one_epoch(&source, &sink));
    let handle = running.handle();
    for (written, value) in ["a", "b", "c"].into_iter().enumerate() {
        source.push(None, value);
        until("it to be written", || sink.writes() == written + 1).await;
    }
    let out = || handle.status().stages["sink"].records_out;
    assert_eq!((out(), sink.flushes()), (0, 0));
    sink.hold_outcomes(false);
    until("all outcomes to be known", || out() == 3).await;
    assert_eq!(sink.flushes(), 0);
    balanced(&running.drain(Duration::from_secs(20)).await.unwrap());
}

#[tokio::test]
async fn what_is_refused_meets_its_rule_when_that_is_known() {
    let (source, sink, bench) = (FakeSource::live().in_batches_of(2), FakeSink::plain().telling(), Bench::new());
    sink.reject("3", usize::MAX, Error::new(ErrorKind::Rejected, "no"));
    let mut running = bench.start(&one_epoch(&source, &sink));
    let handle = running.handle();
    numbers(10).into_iter().for_each(|value| source.push(None, value));
    until("its end", || handle.status().stages["sink"].dead == 1).await;
    assert_eq!(sink.flushes(), 0);
    let summary = running.drain(Duration::from_secs(20)).await.unwrap();
    balanced(&summary);
    assert_eq!((summary.stages["sink"].records_out, sink.values().len()), (9, 9));
}

#[tokio::test(start_paused = true)]
async fn writes_whose_outcome_is_not_known_are_bounded_in_bytes() {
    let (source, sink, bench) = (FakeSource::live().in_batches_of(1), FakeSink::plain().telling(), Bench::new());
    sink.hold_outcomes(true);
    let mut running = bench.start(&one_epoch(&source, &sink));
    let large = "x".repeat(1 << 20);
    (0..30).for_each(|_| source.push(None, large.clone()));
    until("8 MiB", || sink.writes() >= 8).await;
    // The clock goes on when everybody waits.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!((8..=9).contains(&sink.writes()), "{}", sink.writes());
    sink.hold_outcomes(false);
    until("the rest", || sink.writes() == 30).await;
    balanced(&running.drain(Duration::from_secs(20)).await.unwrap());
}
