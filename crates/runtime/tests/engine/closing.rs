//! How a run ends whose last epoch counts, when what it is made of does not let go, and how one ends that is aborted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use millstream_core::{Batch, Change, Error, ErrorKind, Form, Operator, Output, Result, Step, StepPlan};
use millstream_runtime::{Ended, Entry, Happening, Phase, PipelineSpec};
use millstream_testkit::{FakeSink, FakeSource};

use crate::{Bench, balanced, numbers, spec, until};

const SOON: Duration = Duration::from_secs(30);

/// A step whose closing never ends, or that panics when it is made or opened.
#[derive(Clone, Debug, Default)]
struct Sticky {
    closing: Arc<AtomicBool>,
    panics_made: bool,
    panics_opened: bool,
}

impl StepPlan for Sticky {
    fn form(&self) -> Form {
        Form::Text
    }

    fn create(&self) -> Result<Step> {
        assert!(!self.panics_made, "cannot be made");
        Ok(Step::Operator(Box::new(self.clone())))
    }
}

#[async_trait]
impl Operator for Sticky {
    async fn restore(&mut self, _: Vec<Change>) -> Result<()> {
        assert!(!self.panics_opened, "cannot be opened");
        Ok(())
    }

    async fn process(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<()> {
        out.emit(0, batch);
        Ok(())
    }

    fn changes(&mut self) -> Result<Vec<Change>> {
        Ok(Vec::new())
    }

    async fn close(&mut self) -> Result<()> {
        self.closing.store(true, Ordering::SeqCst);
        std::future::pending().await
    }
}

fn sticky(source: &FakeSource, sink: &FakeSink, step: &Sticky) -> PipelineSpec {
    let mut spec = spec(source, &[], sink);
    spec.steps = vec![Entry::ready(Arc::new(step.clone()) as Arc<dyn StepPlan>)];
    spec
}

#[tokio::test(start_paused = true)]
async fn a_step_that_does_not_let_go_holds_a_drain_up_no_longer_than_its_deadline() {
    let (source, sink, step, bench) = (FakeSource::live(), FakeSink::truncating(), Sticky::default(), Bench::new());
    numbers(10).into_iter().for_each(|value| source.push(None, value));
    let mut running = bench.start(&sticky(&source, &sink, &step));
    until("the records", || sink.values().len() == 10).await;
    let began = tokio::time::Instant::now();
    let summary = running.drain(Duration::from_millis(100)).await.unwrap();
    assert_eq!((summary.ended, sink.committed()), (Ended::Drained, 10));
    assert!(step.closing.load(Ordering::SeqCst) && began.elapsed() < SOON, "{:?}", began.elapsed());
    balanced(&summary);
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_that_has_finished_and_does_not_let_go_can_be_stopped_and_drained() {
    for drain in [false, true] {
        let (sink, step, bench) = (FakeSink::truncating(), Sticky::default(), Bench::new());
        let mut running = bench.start(&sticky(&FakeSource::of(numbers(10)), &sink, &step));
        until("the closing", || step.closing.load(Ordering::SeqCst)).await;
        let handle = running.handle();
        match drain {
            true => handle.drain(Duration::from_millis(100)),
            false => handle.stop(),
        }
        let summary = tokio::time::timeout(SOON, running.wait()).await.unwrap().unwrap();
        // All of it counts.
        assert_eq!((summary.ended, sink.committed()), (Ended::Finished, 10));
    }
}

#[tokio::test(start_paused = true)]
async fn the_sooner_one_of_two_drains_counts() {
    let (source, sink, bench) = (FakeSource::live(), FakeSink::truncating(), Bench::new());
    sink.reject("0", usize::MAX, Error::new(ErrorKind::Unavailable, "away"));
    source.push(None, "0");
    let mut running = bench.start(&spec(&source, &[], &sink));
    let handle = running.handle();
    until("the record to be parked", || handle.status().stages["sink"].parked == 1).await;
    let began = tokio::time::Instant::now();
    handle.drain(Duration::from_secs(3000));
    until("the drain", || matches!(handle.status().phase, Phase::Draining)).await;
    let summary = running.drain(Duration::from_secs(1)).await.unwrap();
    assert_eq!((summary.ended, summary.parked()), (Ended::Drained, 1));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_making_of_a_step_is_its_failure() {
    for (panics_made, panics_opened) in [(true, false), (false, true)] {
        let step = Sticky { panics_made, panics_opened, ..Sticky::default() };
        let bench = Bench::new();
        let mut running = bench.start(&sticky(&FakeSource::of(numbers(10)), &FakeSink::plain(), &step));
        let handle = running.handle();
        let mut events = handle.events();
        let error = running.wait().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Panic);
        let told = error.chain();
        assert!(told.contains("`custom-2` failed") && told.contains("cannot be"), "{told}");
        assert!(matches!(handle.status().phase, Phase::Over));
        // Who asks again hears the same.
        assert_eq!(running.wait().await.unwrap_err().chain(), told);
        loop {
            if let Happening::Over(why) = events.recv().await.unwrap() {
                break assert!(why.unwrap().contains("cannot be"));
            }
        }
    }
}

#[tokio::test]
async fn whoever_watches_a_pipeline_that_is_aborted_hears_of_it() {
    let (source, sink, bench) = (FakeSource::live(), FakeSink::plain(), Bench::new());
    source.push(None, "a");
    let running = bench.start(&spec(&source, &[], &sink)).abort_on_drop();
    let handle = running.handle();
    let (mut events, mut tap) = (handle.events(), handle.tap("sink").unwrap());
    until("the record", || sink.values().len() == 1).await;
    let began = Instant::now();
    drop(running);
    loop {
        if let Happening::Over(why) = events.recv().await.unwrap() {
            break assert!(why.unwrap().contains("aborted"));
        }
    }
    assert!(matches!(handle.status().phase, Phase::Over) && began.elapsed() < SOON);
    while tap.next().await.is_some() {}
}
