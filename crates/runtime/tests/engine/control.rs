//! Steering a pipeline that runs: pause, rate limits, taps; and hooks of steps.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use millstream_core::{
    Batch, Change, Delivery, ErrorKind, Form, Operator, Output, Registry, Result, Span, Step, StepPlan,
};
use millstream_runtime::{Ended, Entry, Phase, Plan, PlanOptions, RateLimit};
use millstream_testkit::{FakeSink, FakeSource};

use crate::{Bench, balanced, numbers, spec, until};

fn limit(records: u64, per: &str, by_key: bool) -> RateLimit {
    RateLimit { records, per: per.parse::<Span>().unwrap(), by_key }
}

#[tokio::test]
async fn paused_sources_read_nothing_and_what_was_read_is_committed() {
    let (source, sink, bench) = (FakeSource::live(), FakeSink::truncating(), Bench::new());
    let mut running = bench.start(&spec(&source, &[], &sink));
    let handle = running.handle();
    source.push(None, "a");
    until("the first record", || sink.committed() == 1).await;
    handle.pause();
    until("the pause", || matches!(handle.status().phase, Phase::Paused)).await;
    source.push(None, "b");
    // An epoch that is asked for passes all tasks: whoever would still read has read by then.
    handle.checkpoint().await.unwrap();
    assert_eq!(sink.values(), ["a"]);
    handle.resume();
    until("the second record", || sink.values().len() == 2).await;
    running.drain(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn an_epoch_that_is_asked_for_before_all_is_open_comes_when_it_is() {
    let (source, sink, bench) = (FakeSource::live(), FakeSink::plain(), Bench::new());
    let mut running = bench.start(&spec(&source, &[], &sink));
    assert!(running.handle().checkpoint().await.unwrap() >= 1);
    running.drain(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_rate_limit_spreads_records_over_time() {
    for at_source in [true, false] {
        let (source, sink, bench) = (FakeSource::of(numbers(300)), FakeSink::plain(), Bench::new());
        let mut spec = spec(&source, &[|v| Ok(Some(v.to_owned()))], &sink);
        let limit = Some(limit(1000, "1s", false));
        if at_source {
            spec.sources[0].rate_limit = limit
        } else {
            spec.steps[0].rate_limit = limit
        }
        let since = Instant::now();
        let summary = bench.start(&spec).wait().await.unwrap();
        // 300 at 1,000 a second, less what may be made up for.
        assert!(since.elapsed() > Duration::from_millis(250), "{:?}", since.elapsed());
        assert_eq!(sink.values(), numbers(300));
        balanced(&summary);
    }
}

#[tokio::test]
async fn a_rate_limit_that_is_changed_counts_at_once_for_those_that_wait() {
    let (source, sink, bench) = (FakeSource::live(), FakeSink::plain(), Bench::new());
    let mut spec = spec(&source, &[], &sink);
    spec.sources[0].name = Some("in".to_owned());
    spec.sources[0].rate_limit = Some(limit(1, "1h", false));
    let mut running = bench.start(&spec);
    let handle = running.handle();
    numbers(100).into_iter().for_each(|v| source.push(None, v));
    until("the first record", || !sink.values().is_empty()).await;
    until("the others to wait", || handle.status().stages["in.rate_limit"].parked > 0).await;
    handle.set_rate_limit("in", &limit(1_000_000, "1s", false)).unwrap();
    until("all of them", || sink.values().len() == 100).await;
    assert_eq!(handle.set_rate_limit("in", &limit(0, "1s", false)).unwrap_err().kind(), ErrorKind::Option);
    assert_eq!(handle.set_rate_limit("sink", &limit(1, "1s", false)).unwrap_err().kind(), ErrorKind::Option);
    balanced(&running.drain(Duration::from_secs(5)).await.unwrap());
}

#[tokio::test]
async fn with_a_limit_by_key_a_busy_key_waits_alone() {
    let (source, sink, bench) = (FakeSource::live(), FakeSink::plain(), Bench::new());
    let mut spec = spec(&source, &[|v| Ok(Some(v.to_owned()))], &sink);
    spec.steps[0].rate_limit = Some(limit(1, "1h", true));
    for n in 0..50 {
        source.push(Some("busy"), format!("busy {n}"));
        source.push(Some(&format!("quiet-{n}")), format!("quiet {n}"));
    }
    let running = bench.start(&spec);
    until("the quiet ones", || sink.values().iter().filter(|value| value.starts_with("quiet")).count() == 50).await;
    assert_eq!(sink.values().iter().filter(|value| value.starts_with("busy")).count(), 1);
    running.handle().stop();
}

#[tokio::test]
async fn what_waits_for_a_rate_limit_survives_a_drain_and_comes_once() {
    let (source, sink, bench) = (FakeSource::live(), FakeSink::truncating(), Bench::new());
    let mut spec = spec(&source, &[], &sink);
    spec.delivery = Delivery::ExactlyOnce;
    spec.sources[0].name = Some("in".to_owned());
    spec.sources[0].rate_limit = Some(limit(1, "1h", false));
    numbers(20).into_iter().for_each(|v| source.push(None, v));
    let mut running = bench.start(&spec);
    until("the first record", || sink.values().len() == 1).await;
    let summary = running.drain(Duration::from_millis(300)).await.unwrap();
    assert_eq!((summary.ended, summary.parked()), (Ended::Drained, 19));
    spec.sources[0].rate_limit = Some(limit(1_000_000, "1s", false));
    let mut running = bench.start(&spec);
    until("the others", || sink.values().len() == 20).await;
    assert_eq!(sink.values(), numbers(20));
    balanced(&running.drain(Duration::from_secs(5)).await.unwrap());
}

#[tokio::test]
async fn a_limit_that_lets_nothing_pass_is_refused() {
    let mut spec = spec(&FakeSource::live(), &[], &FakeSink::plain());
    spec.sources[0].rate_limit = Some(limit(0, "1s", false));
    let errors = Plan::new(&spec, &Registry::default(), PlanOptions::default()).unwrap_err();
    assert_eq!(errors[0].message(), "this rate limit would never let a record pass");
}

#[tokio::test]
async fn a_tap_shows_what_passes_a_point_and_does_not_hold_it_up() {
    let (source, sink, bench) = (FakeSource::live(), FakeSink::plain(), Bench::new());
    let mut spec = spec(&source, &[|v| Ok(Some(format!("<{v}>")))], &sink);
    spec.steps[0].name = Some("bracket".to_owned());
    let mut running = bench.start(&spec);
    let handle = running.handle();
    let mut points = ["bracket.in", "bracket", "bracket.out", "sink"].map(|point| handle.tap(point).unwrap());
    source.push(None, "a");
    for (tap, expected) in points.iter_mut().zip(["a", "<a>", "<a>", "<a>"]) {
        let batch = tap.next().await.unwrap().into_bytes();
        assert_eq!(batch.get(0).value(), Some(expected.as_bytes()));
    }
    // Nobody reads on: the pipeline goes on all the same, and what is left out is counted.
    numbers(5_000).into_iter().for_each(|v| source.push(None, v));
    until("all records", || sink.values().len() == 5_001).await;
    assert!(handle.tap("nobody").unwrap_err().message().contains("no point `nobody`"));
    assert!(handle.tap("sink.out").is_err());
    running.drain(Duration::from_secs(5)).await.unwrap();
    let mut seen = 1 + points[0].missed();
    while let Some(batch) = points[0].next().await {
        seen += batch.len() as u64;
    }
    assert_eq!(seen, 5_001);
}

/// Writes down which hooks are called.
#[derive(Clone, Debug, Default)]
struct Hooks(Arc<Mutex<Vec<&'static str>>>);

impl Hooks {
    fn note(&self, hook: &'static str) {
        self.0.lock().unwrap().push(hook);
    }
}

impl StepPlan for Hooks {
    fn form(&self) -> Form {
        Form::Text
    }

    fn create(&self) -> Result<Step> {
        Ok(Step::Operator(Box::new(self.clone())))
    }
}

#[async_trait]
impl Operator for Hooks {
    async fn restore(&mut self, _: Vec<Change>) -> Result<()> {
        self.note("init");
        Ok(())
    }

    async fn process(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<()> {
        out.emit(0, batch);
        Ok(())
    }

    async fn end(&mut self, _: &mut Output) -> Result<()> {
        self.note("end");
        Ok(())
    }

    async fn drain(&mut self, _: &mut Output) -> Result<()> {
        self.note("drain");
        Ok(())
    }

    fn changes(&mut self) -> Result<Vec<Change>> {
        Ok(Vec::new())
    }

    async fn close(&mut self) -> Result<()> {
        self.note("close");
        Ok(())
    }
}

#[tokio::test]
async fn hooks_are_called_once_each_however_the_run_ends() {
    let run = |source: FakeSource, sink: FakeSink| {
        let (hooks, bench) = (Hooks::default(), Bench::new());
        let mut spec = spec(&source, &[], &sink);
        spec.steps = vec![Entry::ready(Arc::new(hooks.clone()) as Arc<dyn StepPlan>)];
        (bench.start(&spec), hooks, sink)
    };
    let (mut finishes, hooks, _) = run(FakeSource::of(numbers(10)), FakeSink::plain());
    finishes.wait().await.unwrap();
    assert_eq!(*hooks.0.lock().unwrap(), ["init", "end", "drain", "close"]);

    let source = FakeSource::live();
    let (mut drains, hooks, sink) = run(source.clone(), FakeSink::plain());
    source.push(None, "a");
    until("the record", || sink.values().len() == 1).await;
    drains.drain(Duration::from_secs(5)).await.unwrap();
    assert_eq!(*hooks.0.lock().unwrap(), ["init", "drain", "close"]);

    let (mut stops, hooks, _) = run(FakeSource::live(), FakeSink::plain());
    stops.handle().started().await;
    stops.handle().stop();
    stops.wait().await.unwrap();
    assert_eq!(*hooks.0.lock().unwrap(), ["init", "close"]);

    let sink = FakeSink::truncating();
    sink.fail_flushes([millstream_core::Error::new(ErrorKind::Unavailable, "gone for a moment")]);
    let (mut fails, hooks, _) = run(FakeSource::of(numbers(10)), sink);
    fails.wait().await.unwrap();
    assert_eq!(*hooks.0.lock().unwrap(), ["init", "end", "close", "init", "end", "drain", "close"]);
}
