//! The end of input: told once, behind everything, also while workers change.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use millstream_core::{Error, ErrorKind, Form, Result, Step, StepPlan};
use millstream_runtime::{Dispatch, Entry, ErrorRule, Match, RateLimit, Retry};
use millstream_testkit::{CountValues, FakeSink, FakeSource};

use crate::{Bench, MapFn, balanced, numbers, spec, until};

/// Counts values that are their own keys, in any number of workers.
#[derive(Debug)]
struct Counts;

impl StepPlan for Counts {
    fn form(&self) -> Form {
        Form::Text
    }

    fn stateful(&self) -> bool {
        true
    }

    fn scales(&self) -> bool {
        true
    }

    fn create(&self) -> Result<Step> {
        CountValues.create()
    }
}

fn count() -> Entry<dyn StepPlan> {
    let mut entry = Entry::ready(Arc::new(Counts) as Arc<dyn StepPlan>);
    entry.name = Some("count".to_owned());
    entry
}

#[tokio::test]
async fn a_step_hears_of_the_end_behind_what_a_limit_before_it_has_held_back() {
    let (source, sink, bench) = (FakeSource::live().bounded(), FakeSink::plain(), Bench::new());
    numbers(300).into_iter().for_each(|value| source.push(Some(&value[value.len() - 1..]), value.clone()));
    source.end();
    let mut spec = spec(&source, &[|v| Ok(Some(v.to_owned()))], &sink);
    spec.steps[0].rate_limit = Some(RateLimit { records: 100, per: "1s".parse().unwrap(), by_key: true });
    spec.steps.push(count());
    let summary = bench.start(&spec).wait().await.unwrap();
    let mut expected: Vec<String> = numbers(300).iter().map(|v| format!("{v}=1")).collect();
    expected.sort();
    let mut values = sink.values();
    values.sort();
    assert_eq!(values, expected);
    balanced(&summary);
}

#[tokio::test]
async fn a_resize_while_some_workers_have_ended_tells_nobody_twice() {
    static READY: AtomicBool = AtomicBool::new(false);
    let late: MapFn = |value| match value {
        "k3" if !READY.load(SeqCst) => Err(Error::new(ErrorKind::Unavailable, "not now")),
        value => Ok(Some(value.to_owned())),
    };
    for (from, to) in [(2, 3), (4, 1), (2, 7)] {
        READY.store(false, SeqCst);
        let (source, sink, bench) = (FakeSource::live().bounded(), FakeSink::plain(), Bench::new());
        for n in 0..300 {
            let key = format!("k{}", n % 30);
            source.push(Some(&key), key.clone());
        }
        source.end();
        let mut spec = spec(&source, &[late], &sink);
        spec.steps[0].name = Some("work".to_owned());
        (spec.steps[0].concurrency, spec.steps[0].dispatch) = (Some(from), Some(Dispatch::Key));
        spec.steps.push(count());
        let retry =
            Retry { attempts: None, delay: "20ms".parse().unwrap(), backoff: 1.0, jitter: 0.0, ..Retry::default() };
        spec.errors = vec![ErrorRule { matches: Match::default(), retry: Some(retry), then: None }];
        let mut running = bench.start(&spec);
        let handle = running.handle();
        until("workers to have ended", || !sink.values().is_empty()).await;
        handle.set_concurrency("work", to).await.unwrap();
        // What changes is saved, and a third number finds it.
        handle.set_concurrency("work", to + 1).await.unwrap();
        READY.store(true, SeqCst);
        let summary = tokio::time::timeout(Duration::from_secs(20), running.wait()).await.unwrap().unwrap();
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        sink.values().into_iter().for_each(|value| *times.entry(value).or_default() += 1);
        let expected: BTreeMap<String, usize> = (0..30).map(|n| (format!("k{n}=10"), 1)).collect();
        assert_eq!(times, expected, "from {from} to {to} workers");
        balanced(&summary);
    }
}
