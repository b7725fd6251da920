//! Steps in several workers: dispatch, order, and changes while they run.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use millstream_core::{Delivery, Error, ErrorKind, Registry, StepPlan};
use millstream_runtime::{Dispatch, Entry, ErrorRule, Happening, Plan, PlanOptions, Retry};
use millstream_testkit::{CountValues, FakeSink, FakeSource};

use crate::{Bench, MapFn, MapPlan, balanced, numbers, spec, until};

/// Records `key:n` for some keys, with the key as their key.
fn keyed(keys: usize, each: usize) -> FakeSource {
    let source = FakeSource::live();
    for n in 0..each {
        for key in 0..keys {
            source.push(Some(&format!("k{key}")), format!("k{key}:{n}"));
        }
    }
    source.in_batches_of(64)
}

/// The numbers of each key in the order in which they came.
fn by_key(values: &[String]) -> BTreeMap<String, Vec<usize>> {
    let mut by_key: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for value in values {
        let (key, n) = value.split_once(':').unwrap();
        by_key.entry(key.to_owned()).or_default().push(n.parse().unwrap());
    }
    by_key
}

fn in_workers(map: MapFn, workers: u32, dispatch: Dispatch) -> Entry<dyn StepPlan> {
    let mut entry = Entry::ready(Arc::new(MapPlan(map)) as Arc<dyn StepPlan>);
    (entry.name, entry.concurrency, entry.dispatch) = (Some("work".to_owned()), Some(workers), Some(dispatch));
    entry
}

/// Takes longer for some records than for others, so that workers run apart.
fn uneven(value: &str) -> millstream_core::Result<Option<String>> {
    if value.ends_with('7') {
        std::thread::yield_now();
    }
    Ok(Some(value.to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_key_the_order_of_each_key_is_kept_through_all_later_stages() {
    let (source, sink, bench) = (keyed(10, 500), FakeSink::plain(), Bench::new());
    source.end();
    let mut spec = spec(&source, &[], &sink);
    let mut behind = in_workers(uneven, 3, Dispatch::Key);
    (behind.name, behind.dispatch) = (Some("behind".to_owned()), None);
    spec.steps = vec![in_workers(uneven, 4, Dispatch::Key), behind];
    let summary = bench.start(&spec).wait().await.unwrap();
    let by_key = by_key(&sink.values());
    assert_eq!(by_key.len(), 10);
    by_key.iter().for_each(|(key, all)| assert_eq!(*all, (0..500).collect::<Vec<_>>(), "{key}"));
    balanced(&summary);
}

#[tokio::test]
async fn in_turn_every_record_comes_once_on_one_thread_too() {
    let (source, sink, bench) = (FakeSource::of(numbers(10_000)).in_batches_of(10), FakeSink::plain(), Bench::new());
    let mut spec = spec(&source, &[], &sink);
    spec.steps = vec![in_workers(uneven, 5, Dispatch::RoundRobin)];
    let summary = bench.start(&spec).wait().await.unwrap();
    let mut values = sink.values();
    values.sort_by_key(|value| value.parse::<usize>().unwrap());
    assert_eq!(values, numbers(10_000));
    balanced(&summary);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_of_each_key_is_kept_while_workers_come_and_go() {
    let (source, sink, bench) = (keyed(7, 50), FakeSink::truncating(), Bench::new());
    let mut spec = spec(&source, &[], &sink);
    spec.delivery = Delivery::ExactlyOnce;
    spec.checkpoint.every = "5ms".parse().unwrap();
    spec.steps = vec![in_workers(uneven, 1, Dispatch::Key)];
    let mut running = bench.start(&spec);
    let handle = running.handle();
    let mut events = handle.events();
    for (round, workers) in [4, 2, 8, 1, 3].into_iter().enumerate() {
        for n in 0..50 {
            (0..7).for_each(|key| source.push(Some(&format!("k{key}")), format!("k{key}:{}", 50 * (round + 1) + n)));
        }
        handle.set_concurrency("work", workers).await.unwrap();
        let stage = handle.graph().stages.into_iter().find(|stage| stage.name == "work").unwrap();
        assert_eq!((stage.workers, stage.dispatch), (workers as usize, Dispatch::Key));
    }
    until("all records", || sink.values().len() == 7 * 300).await;
    let summary = running.drain(Duration::from_secs(5)).await.unwrap();
    by_key(&sink.values()).iter().for_each(|(key, all)| assert_eq!(*all, (0..300).collect::<Vec<_>>(), "{key}"));
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        told.extend(matches!(event, Happening::Concurrency(..)).then_some(event));
    }
    assert_eq!(told.len(), 5, "{told:?}");
    balanced(&summary);
}

#[tokio::test]
async fn a_parked_key_stays_in_order_when_it_gets_another_worker() {
    static WELL: AtomicBool = AtomicBool::new(false);
    let fail: MapFn = |value| {
        let bad = value == "k3:0" && !WELL.load(Relaxed);
        if bad { Err(Error::new(ErrorKind::Unavailable, "not yet")) } else { Ok(Some(value.to_owned())) }
    };
    let (source, sink, bench) = (keyed(6, 5), FakeSink::plain(), Bench::new());
    let mut spec = spec(&source, &[], &sink);
    let mut work = in_workers(fail, 4, Dispatch::Key);
    let retry = Retry { delay: "20ms".parse().unwrap(), backoff: 1.0, ..Retry::default() };
    work.errors = vec![ErrorRule { retry: Some(retry), ..ErrorRule::default() }];
    spec.steps = vec![work];
    let mut running = bench.start(&spec);
    let handle = running.handle();
    until("the others", || sink.values().len() == 25).await;
    for workers in [1, 3, 2] {
        handle.set_concurrency("work", workers).await.unwrap();
        assert_eq!(handle.status().stages["work"].parked, 5, "with {workers} workers");
    }
    WELL.store(true, Relaxed);
    until("all records", || sink.values().len() == 30).await;
    let summary = running.drain(Duration::from_secs(5)).await.unwrap();
    assert_eq!(by_key(&sink.values())["k3"], [0, 1, 2, 3, 4]);
    assert_eq!(summary.dead(), 0);
    balanced(&summary);
}

#[tokio::test]
async fn a_step_whose_state_cannot_be_divided_refuses_several_workers() {
    let (source, sink) = (FakeSource::of(numbers(1)), FakeSink::plain());
    let mut spec = spec(&source, &[], &sink);
    let mut count = Entry::ready(Arc::new(CountValues) as Arc<dyn StepPlan>);
    (count.name, count.concurrency) = (Some("count".to_owned()), Some(2));
    spec.steps = vec![count];
    let errors = Plan::new(&spec, &Registry::default(), PlanOptions::default()).unwrap_err();
    assert_eq!(errors[0].message(), "`count` keeps state that cannot be divided among workers");
    spec.steps = vec![in_workers(uneven, 0, Dispatch::Key)];
    let errors = Plan::new(&spec, &Registry::default(), PlanOptions::default()).unwrap_err();
    assert_eq!(errors[0].message(), "`work` cannot have 0 workers");
}

#[tokio::test]
async fn a_change_of_what_is_not_there_is_refused_and_the_pipeline_goes_on() {
    let (source, sink, bench) = (FakeSource::live(), FakeSink::plain(), Bench::new());
    let mut running = bench.start(&spec(&source, &[], &sink));
    let handle = running.handle();
    let error = handle.set_concurrency("nobody", 2).await.unwrap_err();
    assert_eq!(error.message(), "there is no step `nobody`");
    source.push(None, "a");
    until("the record", || sink.values().len() == 1).await;
    running.drain(Duration::from_secs(5)).await.unwrap();
    assert_eq!(handle.set_concurrency("nobody", 2).await.unwrap_err().kind(), ErrorKind::Closed);
}
