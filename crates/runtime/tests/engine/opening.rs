//! Wishes that come while a pipeline opens, or waits to open again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use millstream_core::{Batch, Change, Error, ErrorKind, Form, Operator, Output, Result, Step, StepPlan};
use millstream_runtime::{Ended, Entry, ErrorRule, Match, Phase, PipelineSpec, Probe, Retry, Step as EpochStep};
use millstream_testkit::{FakeSink, FakeSource};
use tokio::sync::watch;

use crate::{Bench, balanced, numbers, spec, until};

const SOON: Duration = Duration::from_secs(10);

/// A step that cannot be opened while its gate is shut.
#[derive(Clone, Debug)]
struct Gated {
    gate: Arc<watch::Sender<bool>>,
    waits: Arc<AtomicBool>,
}

impl Gated {
    fn new(open: bool) -> Self {
        Gated { gate: Arc::new(watch::Sender::new(open)), waits: Arc::default() }
    }

    fn set(&self, open: bool) {
        self.waits.store(false, Ordering::SeqCst);
        self.gate.send_replace(open);
    }

    async fn reached(&self) {
        until("the opening", || self.waits.load(Ordering::SeqCst)).await;
    }
}

impl StepPlan for Gated {
    fn form(&self) -> Form {
        Form::Text
    }

    fn create(&self) -> Result<Step> {
        Ok(Step::Operator(Box::new(self.clone())))
    }
}

#[async_trait]
impl Operator for Gated {
    async fn restore(&mut self, _: Vec<Change>) -> Result<()> {
        self.waits.store(true, Ordering::SeqCst);
        let mut gate = self.gate.subscribe();
        gate.wait_for(|open| *open).await.unwrap();
        Ok(())
    }

    async fn process(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<()> {
        out.emit(0, batch);
        Ok(())
    }

    fn changes(&mut self) -> Result<Vec<Change>> {
        Ok(Vec::new())
    }
}

/// A pipeline that opens when the gate does.
fn gated(source: &FakeSource, sink: &FakeSink, gate: &Gated) -> PipelineSpec {
    let mut spec = spec(source, &[], sink);
    spec.steps = vec![Entry::ready(Arc::new(gate.clone()) as Arc<dyn StepPlan>)];
    let retry = Retry { attempts: Some(9), delay: "300ms".parse().unwrap(), jitter: 0.0, ..Retry::default() };
    spec.errors = vec![ErrorRule { matches: Match::default(), retry: Some(retry), then: None }];
    spec
}

#[tokio::test]
async fn a_drain_before_anything_is_open_reads_nothing_and_has_drained() {
    let (source, sink, gate, bench) = (FakeSource::live(), FakeSink::plain(), Gated::new(false), Bench::new());
    source.push(None, "a");
    let mut running = bench.start(&gated(&source, &sink, &gate));
    gate.reached().await;
    // Nobody opens the gate.
    let summary = running.drain(SOON).await.unwrap();
    assert_eq!((summary.ended, summary.epoch), (Ended::Drained, 0));
    assert_eq!((source.opened(), sink.values().len()), (0, 0));
    balanced(&summary);
    gate.set(true);
    let mut running = bench.start(&gated(&source, &sink, &gate));
    until("the record", || sink.values() == ["a"]).await;
    running.drain(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_while_it_opens_works_off_what_was_recovered_and_reads_nothing() {
    let (source, sink, gate, bench) = (FakeSource::live(), FakeSink::truncating(), Gated::new(true), Bench::new());
    let spec = gated(&source, &sink, &gate);
    sink.reject("parked", 1, Error::new(ErrorKind::Rejected, "not now"));
    source.push(None, "parked");
    let mut running = bench.start(&spec);
    let handle = running.handle();
    until("the record to be parked", || handle.status().stages["sink"].parked == 1).await;
    assert_eq!(running.drain(Duration::from_millis(100)).await.unwrap().parked(), 1);
    numbers(100).into_iter().for_each(|value| source.push(None, value));
    gate.set(false);
    let mut running = bench.start(&spec);
    gate.reached().await;
    running.handle().drain(SOON);
    gate.set(true);
    let summary = running.wait().await.unwrap();
    assert_eq!((summary.ended, summary.parked(), summary.stages["custom"].records_in), (Ended::Drained, 0, 0));
    assert_eq!((sink.values(), sink.committed()), (vec!["parked".to_owned()], 1));
    balanced(&summary);
    let mut running = bench.start(&spec);
    until("what had not been read", || sink.values().len() == 101).await;
    running.drain(SOON).await.unwrap();
}

#[tokio::test]
async fn a_drain_of_what_cannot_be_opened_gives_up_at_its_deadline() {
    let (source, sink, gate, bench) = (FakeSource::live(), FakeSink::plain(), Gated::new(true), Bench::new());
    let spec = gated(&source, &sink, &gate);
    source.push(None, "a");
    let mut running = bench.start(&spec);
    until("the record", || sink.values().len() == 1).await;
    running.drain(SOON).await.unwrap();
    gate.set(false);
    let mut running = bench.start(&spec);
    gate.reached().await;
    let began = Instant::now();
    let error = running.drain(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert!(began.elapsed() < SOON);
}

#[tokio::test]
async fn a_stop_while_it_opens_needs_nothing_open() {
    let (source, sink, gate, bench) = (FakeSource::live(), FakeSink::plain(), Gated::new(false), Bench::new());
    let mut running = bench.start(&gated(&source, &sink, &gate));
    gate.reached().await;
    running.handle().stop();
    assert_eq!(running.wait().await.unwrap().ended, Ended::Stopped);
}

#[tokio::test]
async fn a_drain_while_it_waits_to_start_again_delivers_what_nobody_else_remembers() {
    let (source, sink, gate, bench) =
        (FakeSource::of(numbers(10)).forgetful(), FakeSink::truncating(), Gated::new(true), Bench::new());
    sink.fail_flushes([Error::new(ErrorKind::Unavailable, "sync failed")]);
    let mut running = bench.start(&gated(&source, &sink, &gate));
    let handle = running.handle();
    until("the restart", || matches!(handle.status().phase, Phase::Restarting(_))).await;
    let summary = running.drain(SOON).await.unwrap();
    assert!(matches!(summary.ended, Ended::Drained | Ended::Finished), "{:?}", summary.ended);
    assert_eq!((sink.values(), sink.committed()), (numbers(10), 10));
    balanced(&summary);
}

#[tokio::test]
async fn a_failure_in_a_drain_does_not_end_the_drain() {
    let (source, sink, gate, bench) = (FakeSource::live(), FakeSink::truncating(), Gated::new(true), Bench::new());
    let (failing, fails) = (sink.clone(), Arc::new(AtomicBool::new(false)));
    let armed = fails.clone();
    let probe = Probe::new(move |step, _| {
        if step == EpochStep::BeforeSinkCommit && armed.swap(false, Ordering::SeqCst) {
            failing.fail_commits([Error::new(ErrorKind::Unavailable, "cannot rename")]);
        }
    });
    source.push(None, "a");
    let mut running = bench.start_with(&gated(&source, &sink, &gate), |options| options.probe = probe);
    until("the record to count", || sink.committed() == 1).await;
    fails.store(true, Ordering::SeqCst);
    source.push(None, "b");
    until("the second record", || sink.values().len() == 2).await;
    let summary = tokio::time::timeout(SOON, running.drain(SOON)).await.unwrap().unwrap();
    assert_eq!((summary.ended, running.handle().status().restarts, sink.committed()), (Ended::Drained, 1, 2));
    balanced(&summary);
}
