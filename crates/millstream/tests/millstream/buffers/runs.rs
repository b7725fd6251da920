//! Running: dead sinks beside live ones, restarts, drains, ends.

use std::time::Duration;

use millstream::{
    Ended, Home,
    core::{Error, ErrorKind},
    runtime::{ErrorRule, Then, WhenFull},
    state::read_dead_letters,
};
use millstream_testkit::{FakeSink, FakeSource};

use super::{EXACTLY_ONCE, numbers, run, sink, spec, start, until};

#[test]
fn a_dead_sink_does_not_hold_up_a_live_one_and_gets_all_in_order_when_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let home = Home::new(folder.path());
    let (source, live, dead) = (FakeSource::live(), FakeSink::plain(), FakeSink::plain());
    let mut spec = spec(source.clone());
    spec.sinks = vec![sink("live", &live, None), sink("dead", &dead, Some(WhenFull::Block))];
    dead.stall(true);
    run(async {
        let group = start(&spec, &home).await;
        numbers(0..500).into_iter().for_each(|value| source.push(None, value));
        until("the live sink to have all", || live.values() == numbers(0..500)).await;
        // Epochs count, though nothing of them is in the dead sink.
        group.handle().checkpoint().await.unwrap();
        let figures = || group.handle().status().buffers["dead"].figures.clone();
        until("the buffer to have all", || figures().records == 500).await;
        assert!(dead.values().is_empty() && figures().oldest_age.is_some() && figures().bytes > 0);
        dead.stall(false);
        numbers(500..600).into_iter().for_each(|value| source.push(None, value));
        until("the dead sink to have all", || dead.values() == numbers(0..600)).await;
        // As long as it takes.
        group.handle().drain(Duration::MAX);
        let summary = group.wait().await.unwrap();
        assert_eq!((summary.pipeline.unwrap().ended, summary.left["dead"]), (Ended::Drained, 0));
        assert_eq!(summary.tasks["dead"].as_ref().unwrap().stages["dead"].records_out, 600);
    });
    assert_eq!((live.values(), dead.values()), (numbers(0..600), numbers(0..600)));
}

#[test]
fn what_a_dead_sink_did_not_take_waits_on_disk_for_the_next_run_once_each() {
    for (delivery, dead) in [
        (EXACTLY_ONCE, FakeSink::truncating()),
        (EXACTLY_ONCE, FakeSink::two_phase()),
        (millstream::Delivery::AtLeastOnce, FakeSink::truncating()),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        let (source, live) = (FakeSource::live(), FakeSink::truncating());
        let mut spec = spec(source.clone());
        spec.delivery = delivery;
        spec.sinks = vec![sink("live", &live, None), sink("dead", &dead, Some(WhenFull::Block))];
        run(async {
            let group = start(&spec, &home).await;
            numbers(0..100).into_iter().for_each(|value| source.push(None, value));
            until("some to be delivered", || dead.committed() > 0).await;
            dead.stall(true);
            numbers(100..300).into_iter().for_each(|value| source.push(None, value));
            until("the live sink to have all", || live.values() == numbers(0..300)).await;
            group.handle().drain(Duration::from_millis(300));
            let summary = group.wait().await.unwrap();
            assert_eq!(summary.pipeline.unwrap().ended, Ended::Drained, "the pipeline itself has nothing left to do");
            assert!(summary.left["dead"] >= 200 && summary.left["dead"] <= 300, "{:?}", summary.left);
        });
        dead.stall(false);
        // Another process would begin like this: with a new runtime, and nothing in memory.
        let home = Home::new(folder.path());
        run(async {
            let group = start(&spec, &home).await;
            numbers(300..350).into_iter().for_each(|value| source.push(None, value));
            until("all to be delivered", || dead.committed() == 350).await;
            group.handle().drain(Duration::from_secs(10));
            assert_eq!(group.wait().await.unwrap().left["dead"], 0);
        });
        assert_eq!((dead.values(), live.values()), (numbers(0..350), numbers(0..350)), "{delivery}");
    }
}

#[test]
fn a_drain_of_a_group_that_still_opens_delivers_what_is_left_and_reads_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (source, dead) = (FakeSource::live(), FakeSink::truncating());
    let mut spec = spec(source.clone());
    spec.sinks = vec![sink("dead", &dead, Some(WhenFull::Block))];
    dead.stall(true);
    run(async {
        let group = start(&spec, &Home::new(folder.path())).await;
        numbers(0..100).into_iter().for_each(|value| source.push(None, value));
        until("all to be in the buffer", || group.handle().status().buffers["dead"].figures.records == 100).await;
        group.handle().drain(Duration::from_millis(100));
        assert_eq!(group.wait().await.unwrap().left["dead"], 100);
    });
    dead.stall(false);
    source.push(None, "new");
    run(async {
        let group = start(&spec, &Home::new(folder.path())).await;
        // Before all can be open.
        group.handle().drain(Duration::from_secs(10));
        let summary = group.wait().await.unwrap();
        assert_eq!((summary.pipeline.unwrap().ended, summary.left["dead"]), (Ended::Drained, 0));
    });
    assert_eq!(dead.values(), numbers(0..100));
}

#[test]
fn a_bounded_run_ends_when_its_buffers_are_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let (home, ledger) = (Home::new(folder.path()), FakeSink::truncating());
    let mut spec = spec(FakeSource::of(numbers(0..1000)).in_batches_of(70));
    spec.sinks = vec![sink("ledger", &ledger, Some(WhenFull::Block))];
    for runs in 1..3 {
        run(async {
            let summary = start(&spec, &home).await.wait().await.unwrap();
            let task = summary.tasks["ledger"].as_ref().unwrap();
            assert_eq!((summary.pipeline.unwrap().ended, task.ended), (Ended::Finished, Ended::Finished));
        });
        // A run that ended starts anew; our fake is a sink that replaces nothing by itself.
        let all: Vec<String> = (0..runs).flat_map(|_| numbers(0..1000)).collect();
        assert!(
            ledger.finished() && ledger.values().ends_with(&numbers(0..1000)),
            "{} of {}",
            ledger.values().len(),
            all.len()
        );
    }
}

#[test]
fn a_bounded_run_that_was_stopped_before_its_buffer_was_delivered_is_not_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let (home, source) = (Home::new(folder.path()), FakeSource::of(numbers(0..1000)));
    let (live, dead) = (FakeSink::truncating(), FakeSink::truncating());
    let mut spec = spec(source.clone());
    spec.delivery = EXACTLY_ONCE;
    spec.sinks = vec![sink("live", &live, None), sink("dead", &dead, Some(WhenFull::Block))];
    dead.stall(true);
    run(async {
        let group = start(&spec, &home).await;
        until("the live sink to be done", || live.finished()).await;
        group.handle().drain(Duration::from_millis(100));
        assert_eq!(group.wait().await.unwrap().left["dead"], 1000);
    });
    dead.stall(false);
    let opened = source.opened();
    run(async {
        let group = start(&spec, &Home::new(folder.path())).await;
        assert!(group.resting, "the pipeline had finished; only its buffer has not been delivered");
        let summary = group.wait().await.unwrap();
        assert_eq!((summary.pipeline.is_none(), summary.left["dead"]), (true, 0));
    });
    assert!(dead.finished());
    assert_eq!((dead.values(), live.values(), source.opened()), (numbers(0..1000), numbers(0..1000), opened));
}

#[test]
fn a_sink_that_fails_for_good_ends_the_group_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (home, source, broken) = (Home::new(folder.path()), FakeSource::live(), FakeSink::truncating());
    let mut spec = spec(source.clone());
    spec.delivery = EXACTLY_ONCE;
    spec.sinks = vec![sink("broken", &broken, Some(WhenFull::Block))];
    broken.fail_writes([Error::new(ErrorKind::Permission, "no entry")]);
    run(async {
        let group = start(&spec, &home).await;
        numbers(0..10).into_iter().for_each(|value| source.push(None, value));
        let error = group.wait().await.unwrap_err();
        assert_eq!((error.kind(), error.chain().contains("no entry")), (ErrorKind::Permission, true), "{error:?}");
        // Somebody opens the door.
        let group = start(&spec, &home).await;
        until("all to be delivered", || broken.committed() == 10).await;
        group.handle().drain(Duration::from_secs(10));
        group.wait().await.unwrap();
    });
    assert_eq!(broken.values(), numbers(0..10));
}

#[test]
fn records_that_the_sink_refuses_follow_its_rules_behind_the_buffer() {
    let folder = tempfile::tempdir().unwrap();
    let (home, picky) = (Home::new(folder.path()), FakeSink::truncating());
    picky.reject("3", 1, Error::new(ErrorKind::Rejected, "not that one"));
    picky.reject("5", 1, Error::new(ErrorKind::Data, "nor that"));
    let mut spec = spec(FakeSource::of(numbers(0..10)));
    let mut entry = sink("picky", &picky, Some(WhenFull::Block));
    let matches = millstream::runtime::Match { code: Some("E_DATA".to_owned()), ..Default::default() };
    entry.errors = vec![ErrorRule { matches, retry: None, then: Some(Then::Drop) }];
    spec.sinks = vec![entry];
    let summary = run(async { start(&spec, &home).await.wait().await.unwrap() });
    let stage = summary.tasks["picky"].as_ref().unwrap().stages["picky"];
    assert_eq!((stage.dead, stage.dropped, stage.records_out), (1, 1, 8));
    let letters = read_dead_letters(&home.pipeline("p.picky"), 1, 10).unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].1.record.id().as_str(), letters[0].1.stage.as_str()), ("fake/0@3", "picky"));
}

#[test]
fn a_stopped_group_goes_on_from_its_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let (home, source, ledger) = (Home::new(folder.path()), FakeSource::live(), FakeSink::truncating());
    let mut spec = spec(source.clone());
    spec.delivery = EXACTLY_ONCE;
    spec.sinks = vec![sink("ledger", &ledger, Some(WhenFull::Block))];
    run(async {
        for part in 0..5 {
            let group = start(&spec, &home).await;
            numbers(part * 200..part * 200 + 200).into_iter().for_each(|value| source.push(None, value));
            until("some of it", || ledger.values().len() > part * 150).await;
            group.handle().stop();
            let _ = group.wait().await;
        }
        let group = start(&spec, &home).await;
        // What an earlier run wrote may stand there until the sink is opened; what comes now counts only after that.
        source.push(None, "1000".to_owned());
        until("the rest", || ledger.committed() == 1001).await;
        group.handle().drain(Duration::from_secs(10));
        group.wait().await.unwrap();
    });
    assert_eq!(ledger.values(), numbers(0..1001));
}
