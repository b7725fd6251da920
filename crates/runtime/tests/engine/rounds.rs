//! Rounds of start, load and drain at a random moment: nothing is lost, nobody is late, nothing is left.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_core::{Delivery, Error, ErrorKind, StepPlan};
use millstream_runtime::{Dispatch, Ended, Entry, ErrorRule, PipelineSpec, Retry};
use millstream_testkit::{Dice, FakeSink, FakeSource, budget};

use crate::{
    Bench, MapFn, balanced,
    model::steps::{Kind, Work, World},
    named, spec, until,
};

const KEYS: u64 = 13;

/// A step by key in four workers, one that works on several at once, one that holds records, and a rate limit.
fn pipeline(source: &FakeSource, sink: &FakeSink, world: &Arc<World>) -> PipelineSpec {
    let mut spec = spec(source, &[], sink);
    let step = |n: usize, kind: Kind, workers: u32| {
        let work = Work { world: world.clone(), step: n, kind };
        let mut entry = Entry::ready(Arc::new(work) as Arc<dyn StepPlan>);
        (entry.name, entry.concurrency, entry.dispatch) =
            (Some(format!("step{n}")), Some(workers), Some(Dispatch::Key));
        let retry = Retry { delay: "2ms".parse().unwrap(), backoff: 1.0, ..Retry::default() };
        entry.errors = vec![ErrorRule { retry: Some(retry), ..ErrorRule::default() }];
        entry
    };
    spec.steps = vec![step(0, Kind::Map, 4), step(1, Kind::Async(8), 2), step(2, Kind::Hold(20), 3)];
    spec.steps[1].rate_limit =
        Some(millstream_runtime::RateLimit { records: 20_000, per: "1s".parse().unwrap(), by_key: true });
    spec.delivery = Delivery::ExactlyOnce;
    spec.checkpoint.every = "5ms".parse().unwrap();
    spec
}

/// A seed whose steps neither drop nor refuse nor panic in what is pushed.
fn faultless() -> Arc<World> {
    let all_pass = |seed: &u64| {
        let world = World { seed: *seed, ..World::default() };
        (0..2).all(|step| world.faultless(step))
    };
    let seed = (0..).find(all_pass).unwrap_or_default();
    Arc::new(World { seed, ..World::default() })
}

async fn rounds(rounds: u64, alive: impl Fn() -> usize) {
    let (source, sink, bench, world) =
        (FakeSource::live().in_batches_of(7), FakeSink::truncating(), Bench::new(), faultless());
    let spec = pipeline(&source, &sink, &world);
    let mut dice = Dice::new(rounds);
    let mut pushed = Vec::new();
    for round in 0..rounds {
        let before = alive();
        let mut running = bench.start(&spec);
        running.handle().started().await;
        let load = dice.roll(300);
        for n in 0..load {
            let (key, value) = (format!("k{}", dice.roll(KEYS)), format!("{round}-{n}"));
            source.push(Some(&key), value.clone());
            pushed.push(value);
            if dice.roll(20) == 0 {
                tokio::time::sleep(Duration::from_micros(dice.roll(2000))).await;
            }
        }
        let summary = running.drain(Duration::from_secs(20)).await.unwrap();
        assert_eq!((summary.ended, summary.parked()), (Ended::Drained, 0), "round {round}");
        balanced(&summary);
        drop(running);
        until("all tasks to end", || alive() <= before).await;
    }
    let mut running = bench.start(&spec);
    until("what was not read", || sink.values().len() == pushed.len()).await;
    running.drain(Duration::from_secs(20)).await.unwrap();
    let mut values = sink.values();
    values.sort();
    pushed.sort();
    assert_eq!(values, pushed, "nothing is lost and nothing comes twice");
}

fn number() -> u64 {
    budget(10, 100)
}

fn alive() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// 100 rounds with `MILLSTREAM_LONG=1`, as the next one.
#[tokio::test]
async fn rounds_of_load_and_drain_lose_nothing_and_leave_no_task_on_one_thread() {
    rounds(number(), alive).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rounds_of_load_and_drain_lose_nothing_and_leave_no_task_on_several_threads() {
    rounds(number(), alive).await;
}

const NEVER: MapFn = |value| match value {
    "bad" => Err(Error::new(ErrorKind::Unavailable, "not yet")),
    _ => Ok(Some(value.to_owned())),
};

#[tokio::test]
async fn a_drain_ends_by_its_deadline_with_what_is_parked_kept() {
    let (source, sink, bench) = (FakeSource::live(), FakeSink::truncating(), Bench::new());
    let mut spec = spec(&source, &[NEVER], &sink);
    let retry = Retry { delay: "1ms".parse().unwrap(), backoff: 1.0, ..Retry::default() };
    spec.steps[0].errors = vec![ErrorRule { retry: Some(retry), ..ErrorRule::default() }];
    source.push(Some("k"), "bad");
    source.push(Some("k"), "behind");
    source.push(None, "good");
    let mut running = bench.start(&spec);
    until("the good one", || sink.values() == ["good"]).await;
    let since = Instant::now();
    let summary = running.drain(Duration::from_millis(200)).await.unwrap();
    assert!(since.elapsed() >= Duration::from_millis(200) && since.elapsed() < Duration::from_secs(5));
    assert_eq!((summary.ended, summary.parked()), (Ended::Drained, 2));
    balanced(&summary);
}

/// Twice the deadline is the most, and a step is told of the end all the same.
#[tokio::test]
async fn a_drain_that_a_sink_holds_up_is_given_up_and_steps_are_closed() {
    let (source, sink, bench, world) = (FakeSource::live(), FakeSink::truncating(), Bench::new(), faultless());
    let mut spec = pipeline(&source, &sink, &world);
    spec.sinks = vec![named(&sink, "sink")];
    sink.stall(true);
    (0..100).for_each(|n| source.push(Some("k"), n.to_string()));
    let mut running = bench.start(&spec);
    let handle = running.handle();
    until("records at the sink", || handle.status().stages["sink"].records_in > 0).await;
    let since = Instant::now();
    let error = running.drain(Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    assert_eq!(world.open.load(std::sync::atomic::Ordering::SeqCst), 0, "every step that was opened is closed");
    sink.stall(false);
    let mut again = bench.start(&spec);
    until("all records", || sink.values().len() == 100).await;
    again.drain(Duration::from_secs(5)).await.unwrap();
}

/// Whatever is tried again at once, for ever, others go on and epochs are decided.
#[tokio::test]
async fn a_record_that_is_tried_again_without_a_delay_holds_up_nobody() {
    let retry = Retry { delay: "0s".parse().unwrap(), backoff: 1.0, ..Retry::default() };
    let rule = vec![ErrorRule { retry: Some(retry), ..ErrorRule::default() }];
    let (source, sink, bench) = (FakeSource::live(), FakeSink::truncating(), Bench::new());
    let mut spec = spec(&source, &[NEVER], &sink);
    spec.steps[0].errors = rule.clone();
    spec.sinks[0].errors = rule;
    sink.reject("worse", usize::MAX, Error::new(ErrorKind::Unavailable, "never"));
    for value in ["bad", "worse", "good"] {
        source.push(Some(value), value);
    }
    let running = bench.start(&spec);
    until("the good one to count", || sink.committed() == 1).await;
    running.handle().checkpoint().await.unwrap();
    running.handle().stop();
}
