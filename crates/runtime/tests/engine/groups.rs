//! Sources whose shards a group gives out: claims, shards that leave, come and are lost, restarts.

use std::{sync::Arc, time::Duration};

use millstream_core::{Error, ErrorKind, Stamp, StepPlan};
use millstream_runtime::{Entry, ErrorRule, PipelineSpec, Retry};
use millstream_testkit::{CountValues, FakeGroup, FakeSink};
use tokio::time::Instant;

use crate::{Bench, balanced, spec, until};

fn away() -> Error {
    Error::new(ErrorKind::Unavailable, "away")
}

fn with_counts(spec: &mut PipelineSpec) {
    let mut count = Entry::ready(Arc::new(CountValues) as Arc<dyn StepPlan>);
    count.name = Some("count".into());
    spec.steps = vec![count];
}

/// The longest time between two renewals from `since` on until now.
fn longest_gap(source: &FakeGroup, since: Instant) -> Duration {
    let mut last = since;
    let times = source.renewed().into_iter().filter(|at| *at >= since).chain([Instant::now()]);
    times.map(|at| at - std::mem::replace(&mut last, at)).max().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn claims_are_renewed_while_it_reads_waits_for_room_and_drains() {
    let (sink, bench) = (FakeSink::plain(), Bench::new());
    let source = FakeGroup::new(1).in_batches_of(1).with_claims(Duration::from_secs(1));
    let began = Instant::now();
    let mut running = bench.start(&spec(&source, &[], &sink));
    tokio::time::sleep(Duration::from_secs(10)).await;
    sink.stall(true);
    (0..100).for_each(|i| source.push(0, None, i.to_string()));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(running.handle().status().stages["custom"].records_in < 20, "the source waits for room");
    running.handle().drain(Duration::from_secs(20));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(longest_gap(&source, began) <= Duration::from_millis(1100), "{:?}", longest_gap(&source, began));
    sink.stall(false);
    balanced(&running.wait().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_restart_inside_the_process_is_no_rebalance() {
    let (source, sink, bench) = (FakeGroup::new(2).in_batches_of(10), FakeSink::truncating(), Bench::new());
    (0..500).for_each(|i| source.push(i % 2, None, i.to_string()));
    let source = source.bounded();
    let mut spec = spec(&source, &[], &sink);
    spec.checkpoint.count = Some(50);
    sink.fail_flushes([away(), away(), away()]);
    let summary = bench.start(&spec).wait().await.unwrap();
    assert_eq!(sink.values().len(), 500);
    assert_eq!(source.members(), (1, 4), "one member, opened again after each failure");
    balanced(&summary);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_cannot_be_opened_again_is_replaced() {
    let (source, sink, bench) = (FakeGroup::new(1).in_batches_of(10), FakeSink::truncating(), Bench::new());
    (0..100).for_each(|i| source.push(0, None, i.to_string()));
    sink.fail_flushes([away()]);
    let source = source.bounded();
    let mut running = bench.start(&spec(&source, &[], &sink));
    running.handle().started().await.unwrap();
    source.fail_opens([away(), Error::new(ErrorKind::Closed, "the client is broken")]);
    running.wait().await.unwrap();
    assert_eq!(source.members(), (2, 4), "tried again, then a new one");
    assert_eq!(sink.values().len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_leaves_is_drained_committed_released_and_repeats_nothing() {
    let (source, sink, bench) = (FakeGroup::new(2).in_batches_of(10), FakeSink::plain(), Bench::new());
    let mut spec = spec(&source, &[], &sink);
    spec.checkpoint.every = "1h".parse().unwrap();
    (0..100).for_each(|i| source.push(i % 2, None, i.to_string()));
    let mut running = bench.start(&spec);
    until("the records", || sink.values().len() == 100).await;
    source.ask_for(&[1]);
    until("the shard to be released", || source.released() == [1]).await;
    assert_eq!(source.offset(1).unwrap().0, 50, "all that was read of it is committed");
    source.push(1, None, "for the other member");
    source.push(0, None, "for us");
    until("the record", || sink.values().len() == 101).await;
    running.handle().checkpoint().await.unwrap();
    source.add(&[1]);
    until("what came meanwhile", || sink.values().len() == 102).await;
    let summary = running.drain(Duration::from_secs(5)).await.unwrap();
    assert_eq!(source.violations(), Vec::<String>::new());
    assert_eq!(summary.stages["sink"].records_out, 102);
    balanced(&summary);
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_leaves_is_in_no_later_checkpoint() {
    let (source, sink, bench) = (FakeGroup::new(2).in_batches_of(1), FakeSink::plain(), Bench::new());
    let mut spec = spec(&source, &[], &sink);
    spec.checkpoint.count = Some(1);
    let mut running = bench.start(&spec);
    running.handle().started().await.unwrap();
    source.ask_for(&[1]);
    // Several epochs are under way when it is released.
    (0..200).for_each(|i| source.push(0, None, i.to_string()));
    until("the records", || sink.values().len() == 200).await;
    running.drain(Duration::from_secs(5)).await.unwrap();
    assert_eq!(source.violations(), Vec::<String>::new());
    // Another member goes on with it, and gives it back.
    source.push(1, None, "read by another");
    source.set_offset(1, 1, None);
    source.add(&[1]);
    source.push(1, None, "read by us");
    let mut running = bench.start(&spec);
    until("the record", || sink.values().len() > 200).await;
    running.drain(Duration::from_secs(5)).await.unwrap();
    assert_eq!(sink.values().last().map(String::as_str), Some("read by us"));
}

#[tokio::test(start_paused = true)]
async fn it_hears_that_a_shard_leaves_while_it_waits_for_room() {
    let (source, sink, bench) = (FakeGroup::new(2).in_batches_of(1), FakeSink::plain(), Bench::new());
    let mut spec = spec(&source, &[], &sink);
    spec.checkpoint.every = "1h".parse().unwrap();
    let running = bench.start(&spec);
    running.handle().started().await.unwrap();
    until("the first epoch", || running.handle().status().epochs == 1).await;
    sink.stall(true);
    (0..100).for_each(|i| source.push(0, None, i.to_string()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    source.ask_for(&[0]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(source.unheard(), 0);
    sink.stall(false);
    until("the shard to be released", || source.released() == [0]).await;
    assert!(sink.values().len() < 20, "what was not read before is for the other member");
    running.handle().stop();
}

fn retried_after(delay: &str) -> Vec<ErrorRule> {
    let retry = Retry { attempts: Some(9), delay: delay.parse().unwrap(), jitter: 0.0, ..Retry::default() };
    vec![ErrorRule { matches: Default::default(), retry: Some(retry), then: None }]
}

#[tokio::test(start_paused = true)]
async fn what_is_parked_of_a_shard_is_worked_off_before_it_goes() {
    let (source, sink, bench) = (FakeGroup::new(2), FakeSink::plain(), Bench::new());
    let mut spec = spec(&source, &[], &sink);
    spec.errors = retried_after("3s");
    sink.reject("x", 1, Error::new(ErrorKind::Rejected, "not now"));
    source.push(1, None, "x");
    let mut running = bench.start(&spec);
    let handle = running.handle();
    until("x to be parked", || handle.status().stages["sink"].parked == 1).await;
    source.ask_for(&[0]);
    until("the shard without parked records to go", || source.released() == [0]).await;
    assert_eq!(sink.values().len(), 0);
    source.ask_for(&[1]);
    until("the other shard to go", || source.released() == [0, 1]).await;
    assert_eq!(sink.values(), ["x"]);
    balanced(&running.drain(Duration::from_secs(1)).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_is_parked_for_too_long_stays_with_us_when_its_shard_goes() {
    let (source, sink, bench) = (FakeGroup::new(2), FakeSink::plain(), Bench::new());
    let mut spec = spec(&source, &[], &sink);
    spec.errors = retried_after("30s");
    sink.reject("x", 1, Error::new(ErrorKind::Rejected, "not now"));
    source.push(1, None, "x");
    let mut running = bench.start(&spec);
    let handle = running.handle();
    until("x to be parked", || handle.status().stages["sink"].parked == 1).await;
    source.ask_for(&[1]);
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(source.released(), Vec::<u64>::new());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((source.released(), sink.values().len()), (vec![1], 0));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(sink.values(), ["x"], "it is ours, and comes all the same");
    balanced(&running.drain(Duration::from_secs(1)).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_lost_takes_its_open_epochs_with_it_and_the_others_go_on() {
    let (source, sink, bench) = (FakeGroup::new(2).in_batches_of(10), FakeSink::truncating(), Bench::new());
    let mut spec = spec(&source, &[], &sink);
    spec.checkpoint.every = "1h".parse().unwrap();
    let running = bench.start(&spec);
    let handle = running.handle();
    source.push(1, None, "committed");
    until("the record", || sink.values().len() == 1).await;
    handle.checkpoint().await.unwrap();
    source.push(0, None, "ours");
    source.push(1, None, "theirs");
    until("both records", || sink.values().len() == 3).await;
    source.take_away(&[1]);
    until("a restart", || handle.status().restarts == 1).await;
    until("the other shard to go on", || sink.values() == ["committed", "ours"]).await;
    handle.checkpoint().await.unwrap();
    assert_eq!((source.offset(0).unwrap().0, source.offset(1).unwrap().0), (1, 1));
    assert_eq!((source.violations(), source.members().0), (Vec::new(), 1));
    assert_eq!(source.resumed(), [0], "recovery went on without it");
    // It comes back.
    source.add(&[1]);
    until("what was thrown away", || sink.values().len() == 3).await;
    handle.stop();
}

#[tokio::test(start_paused = true)]
async fn with_keyed_state_a_shard_that_leaves_stops_the_pipeline_at_an_epoch() {
    let (source, sink, bench) = (FakeGroup::new(2), FakeSink::plain(), Bench::new());
    let mut spec = spec(&source, &[], &sink);
    with_counts(&mut spec);
    source.push(1, None, "x");
    let mut running = bench.start(&spec);
    let handle = running.handle();
    until("the record", || handle.status().stages["count"].absorbed == 1).await;
    source.ask_for(&[1]);
    let error = tokio::time::timeout(Duration::from_secs(60), running.wait()).await.unwrap().unwrap_err();
    assert!(error.kind() == ErrorKind::StateMismatch && error.chain().contains("fake/1"), "{}", error.chain());
    assert_eq!((source.released(), source.offset(1).unwrap().0), (vec![1], 1));
}

#[tokio::test(start_paused = true)]
async fn with_keyed_state_a_shard_that_is_lost_stops_the_pipeline() {
    let (source, sink, bench) = (FakeGroup::new(2), FakeSink::plain(), Bench::new());
    let mut spec = spec(&source, &[], &sink);
    with_counts(&mut spec);
    let mut running = bench.start(&spec);
    running.handle().started().await.unwrap();
    source.take_away(&[1]);
    let error = tokio::time::timeout(Duration::from_secs(60), running.wait()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StateMismatch);
}

#[tokio::test(start_paused = true)]
async fn an_offset_that_others_have_set_wins_over_our_checkpoint() {
    let (source, sink, bench) = (FakeGroup::new(1), FakeSink::plain(), Bench::new());
    (0..10).for_each(|i| source.push(0, None, i.to_string()));
    let source = source.bounded();
    let mut spec = spec(&source, &[], &sink);
    bench.start_with(&spec, |options| options.count = Some(10)).wait().await.unwrap();
    let (next, stamp) = source.offset(0).unwrap();
    let stamp = stamp.unwrap();
    assert_eq!((next, stamp.pipeline.as_str()), (10, "test"));
    source.set_offset(0, 7, None);
    bench.start_with(&spec, |options| options.go_on = true).wait().await.unwrap();
    assert_eq!(sink.values()[10..], ["7", "8", "9"], "a group that was reset by its own tools");
    // Our own, and of an epoch that our state does not have.
    let unknown = Stamp { epoch: stamp.epoch + 100, ..stamp };
    source.set_offset(0, 5, Some(unknown));
    with_counts(&mut spec);
    let error = bench.start_with(&spec, |options| options.go_on = true).wait().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StateMismatch);
}
