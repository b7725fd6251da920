//! Epochs that a host decides, in the transaction in which its sinks write.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use millstream_core::{
    Change, Checkpoint, Delivery, Epoch, Error, ErrorKind, Registry, Result, Segment, SinkPlan, Step, StepPlan, Store,
};
use millstream_runtime::{
    DeadLetterSpec, Ended, Entry, ErrorRule, PipelineSpec, Plan, PlanOptions, Probe, Retry, Start, Step as EpochStep,
    Then,
};
use millstream_state::{Memory, MemoryStore};
use millstream_testkit::{CountValues, FakeGroup, FakeServer, FakeSink, FakeSource, FakeTopic, Outcome};

use crate::{Bench, MapFn, MapPlan, balanced, named, numbers, spec, until};

const KEEP: MapFn = |value| Ok(Some(value.to_owned()));

/// `source -> out`, exactly once, an epoch every 50 records.
fn hosted(source: &FakeSource, sink: &FakeTopic) -> PipelineSpec {
    let mut spec = spec(source, &[KEEP], sink);
    spec.delivery = Delivery::ExactlyOnce;
    spec.checkpoint.count = Some(50);
    spec
}

fn letters_to(spec: &mut PipelineSpec, sink: &FakeTopic) {
    spec.dead_letter = Some(DeadLetterSpec { sink: Some(named(sink, "letters")), stop_after: None });
}

fn rejected() -> Error {
    Error::new(ErrorKind::Rejected, "larger than the topic allows")
}

fn checkpoint(server: &FakeServer) -> Checkpoint {
    server.checkpoint("test").unwrap()
}

#[tokio::test]
async fn two_topics_the_letters_and_the_checkpoint_share_one_transaction() {
    let (server, bench) = (FakeServer::new(), Bench::new());
    let source = FakeSource::of(numbers(1000)).in_batches_of(7);
    let mut spec = hosted(&source, &server.topic("a"));
    spec.sinks.push(named(&server.topic("b"), "other"));
    letters_to(&mut spec, &server.topic("letters"));
    let no_sevens: MapFn =
        |v| if v.ends_with('7') { Err(Error::new(ErrorKind::Data, "no sevens")) } else { Ok(Some(v.to_owned())) };
    spec.steps = vec![Entry::ready(Arc::new(MapPlan(no_sevens)) as Arc<dyn StepPlan>)];
    let summary = bench.start(&spec).wait().await.unwrap();
    let expected: Vec<_> = numbers(1000).into_iter().filter(|v| !v.ends_with('7')).collect();
    assert_eq!((server.values("a"), server.values("b")), (expected.clone(), expected));
    assert_eq!(server.values("letters").len(), 100);
    let last = checkpoint(&server);
    assert!(last.finished && last.epoch == summary.epoch && last.host.as_deref() == Some("fake://server"));
    assert_eq!(server.violations(), Vec::<String>::new());
    balanced(&summary);
}

#[tokio::test]
async fn readers_see_nothing_before_its_epoch_counts() {
    let (server, source, bench) = (FakeServer::new(), FakeSource::live(), Bench::new());
    let mut spec = hosted(&source, &server.topic("out"));
    spec.checkpoint.every = "1h".parse().unwrap();
    let running = bench.start(&spec);
    let handle = running.handle();
    numbers(10).into_iter().for_each(|v| source.push(None, v));
    until("the records to be written", || handle.status().stages["sink"].records_out == 10).await;
    assert_eq!(server.values("out"), Vec::<String>::new());
    handle.checkpoint().await.unwrap();
    assert_eq!(server.values("out"), numbers(10));
    handle.stop();
}

#[tokio::test(start_paused = true)]
async fn an_epoch_that_is_aborted_or_unknown_goes_through_recovery() {
    let (server, bench) = (FakeServer::new(), Bench::new());
    let source = FakeSource::of(numbers(1000)).in_batches_of(10);
    use Outcome::{Aborted, Committed, CountsUnknown, LostUnknown};
    server.next_commits([Aborted, Committed, LostUnknown, Committed, CountsUnknown, CountsUnknown, Committed, Aborted]);
    let mut running = bench.start(&hosted(&source, &server.topic("out")));
    let summary = running.wait().await.unwrap();
    assert_eq!(server.values("out"), numbers(1000));
    assert_eq!(running.handle().status().restarts, 5);
    assert_eq!(server.violations(), Vec::<String>::new());
    balanced(&summary);
}

#[tokio::test(start_paused = true)]
async fn a_runner_that_is_fenced_by_another_ends() {
    let (server, source, bench) = (FakeServer::new(), FakeSource::live(), Bench::new());
    let mut running = bench.start(&hosted(&source, &server.topic("out")));
    source.push(None, "before");
    until("the record", || server.values("out").len() == 1).await;
    server.take_over("test");
    source.push(None, "after");
    let error = running.wait().await.unwrap_err();
    assert_eq!((error.kind(), running.handle().status().restarts), (ErrorKind::Fenced, 0));
    assert_eq!(server.values("out"), ["before"]);
}

/// A run of `count` records from an endless source, which is drained.
async fn part(bench: &Bench, spec: &PipelineSpec, count: u64) {
    let summary = bench.start_with(spec, |options| options.count = Some(count)).wait().await.unwrap();
    assert_eq!(summary.ended, Ended::Drained);
}

#[tokio::test]
async fn a_server_that_has_gone_back_is_a_mismatch_and_fresh_begins_anew() {
    let (server, bench) = (FakeServer::new(), Bench::new());
    let source = FakeSource::of(numbers(100));
    let spec = hosted(&source, &server.topic("out"));
    part(&bench, &spec, 10).await;
    let backup = server.backup();
    part(&bench, &spec, 10).await;
    server.restore(backup);
    let error = bench.start(&spec).wait().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StateMismatch);
    assert!(error.hint_text().unwrap().contains("--fresh"), "{error:?}");
    bench.start_with(&spec, |options| options.fresh = true).wait().await.unwrap();
    assert_eq!(server.values("out"), [numbers(10), numbers(100)].concat());
}

#[tokio::test]
async fn without_state_a_lost_volume_is_no_loss() {
    let (server, mut bench) = (FakeServer::new(), Bench::new());
    let source = FakeSource::of(numbers(100));
    let spec = hosted(&source, &server.topic("out"));
    part(&bench, &spec, 30).await;
    let before = checkpoint(&server).store_id;
    bench.memory = Memory::new();
    let mut running = bench.start(&spec);
    assert!(matches!(running.handle().started().await, Some(Start::Resuming(_))));
    running.wait().await.unwrap();
    assert_eq!(server.values("out"), numbers(100));
    assert_eq!(checkpoint(&server).store_id, before);
}

fn counting(source: &FakeSource, sink: &FakeTopic) -> PipelineSpec {
    let mut spec = hosted(source, sink);
    let mut count = Entry::ready(Arc::new(CountValues) as Arc<dyn StepPlan>);
    count.name = Some("count".into());
    spec.steps = vec![count];
    spec
}

#[tokio::test]
async fn with_state_a_lost_volume_is_a_mismatch_also_when_the_last_epochs_changed_none() {
    let (server, source, mut bench) = (FakeServer::new(), FakeSource::live(), Bench::new());
    let spec = counting(&source, &server.topic("out"));
    source.push(None, "x");
    let mut running = bench.start(&spec);
    running.handle().started().await.unwrap();
    for _ in 0..3 {
        running.handle().checkpoint().await.unwrap();
    }
    running.drain(Duration::from_secs(5)).await.unwrap();
    bench.memory = Memory::new();
    let mut running = bench.start(&spec);
    let error = tokio::time::timeout(Duration::from_secs(20), running.wait()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StateMismatch);
}

#[tokio::test]
async fn a_kill_between_the_hosts_decision_and_ours_loses_no_state() {
    for (step, epoch) in
        [EpochStep::BeforeHost, EpochStep::AfterHost].into_iter().flat_map(|s| [(s, 1), (s, 2), (s, 3)])
    {
        let (server, bench) = (FakeServer::new(), Bench::new());
        let values = (0..200).map(|i| format!("v{}", i % 3));
        let spec = counting(&FakeSource::of(values).in_batches_of(10), &server.topic("out"));
        let probe = Probe::new(move |at, of| assert!((at, of) != (step, epoch), "killed"));
        bench.start_with(&spec, |options| options.probe = probe).wait().await.unwrap_err();
        bench.start(&spec).wait().await.unwrap();
        assert_eq!(server.values("out"), ["v0=67", "v1=67", "v2=66"], "killed at {step:?} {epoch}");
    }
}

/// A store that knows whether something was written and not synced.
struct Watched {
    inner: MemoryStore,
    unsynced: Arc<AtomicBool>,
}

#[async_trait]
impl Store for Watched {
    async fn fence(&mut self) -> Result<()> {
        self.inner.fence().await
    }

    fn id(&self) -> String {
        self.inner.id()
    }

    async fn load(&mut self) -> Result<Option<Checkpoint>> {
        self.inner.load().await
    }

    fn was_reset(&self) -> bool {
        self.inner.was_reset()
    }

    async fn adopt(&mut self, checkpoint: Checkpoint) -> Result<()> {
        self.inner.adopt(checkpoint).await
    }

    async fn scan(&mut self, stage: &str) -> Result<Vec<Change>> {
        self.inner.scan(stage).await
    }

    async fn write(&mut self, pending: Segment) -> Result<u64> {
        self.unsynced.store(true, Ordering::SeqCst);
        self.inner.write(pending).await
    }

    async fn sync(&mut self) -> Result<()> {
        self.unsynced.store(false, Ordering::SeqCst);
        self.inner.sync().await
    }

    async fn decide(&mut self, checkpoint: Checkpoint, expected: Epoch) -> Result<()> {
        self.inner.decide(checkpoint, expected).await
    }

    async fn reset(&mut self) -> Result<()> {
        self.inner.reset().await
    }

    async fn close(&mut self) -> Result<()> {
        self.inner.close().await
    }
}

#[tokio::test]
async fn state_is_durable_before_the_host_decides() {
    let (server, bench) = (FakeServer::new(), Bench::new());
    let spec = counting(&FakeSource::of(numbers(500)).in_batches_of(10), &server.topic("out"));
    let (written, unsynced) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let inner = MemoryStore::new(bench.memory.clone());
    let store = Watched { inner, unsynced: unsynced.clone() };
    let seen = written.clone();
    let probe = Probe::new(move |step, _| match step {
        EpochStep::BeforeRecord => unsynced.store(false, Ordering::SeqCst),
        EpochStep::BeforeHost => assert!(!unsynced.load(Ordering::SeqCst)),
        EpochStep::AfterHost => seen.store(true, Ordering::SeqCst),
        _ => {}
    });
    let change =
        |options: &mut millstream_runtime::RunOptions| (options.store, options.probe) = (Box::new(store), probe);
    bench.start_with(&spec, change).wait().await.unwrap();
    assert!(written.load(Ordering::SeqCst));
}

#[tokio::test(start_paused = true)]
async fn a_truncating_and_a_two_phase_sink_stand_beside_it() {
    let (server, bench) = (FakeServer::new(), Bench::new());
    let (file, table) = (FakeSink::truncating(), FakeSink::two_phase());
    let source = FakeSource::of(numbers(1000)).in_batches_of(10);
    let mut spec = hosted(&source, &server.topic("out"));
    spec.sinks.extend([named(&file, "file"), named(&table, "table")]);
    server.next_commits([Outcome::Committed, Outcome::Aborted, Outcome::CountsUnknown, Outcome::LostUnknown]);
    let summary = bench.start(&spec).wait().await.unwrap();
    assert_eq!((server.values("out"), file.values(), table.values()), (numbers(1000), numbers(1000), numbers(1000)));
    balanced(&summary);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_refused_becomes_a_dead_letter_and_the_others_come_once() {
    let (server, bench) = (FakeServer::new(), Bench::new());
    let source = FakeSource::of(numbers(500)).in_batches_of(10);
    let mut spec = hosted(&source, &server.topic("out"));
    letters_to(&mut spec, &server.topic("letters"));
    for value in ["20", "21", "333", "499"] {
        server.reject("out", value, 99, rejected());
    }
    let mut running = bench.start(&spec);
    let summary = running.wait().await.unwrap();
    let fine: Vec<_> = numbers(500).into_iter().filter(|v| !["20", "21", "333", "499"].contains(&v.as_str())).collect();
    assert_eq!(server.values("out"), fine);
    assert_eq!(server.values("letters"), ["20", "21", "333", "499"]);
    assert_eq!(summary.causes[0].message, "larger than the topic allows");
    assert_eq!(server.violations(), Vec::<String>::new());
    balanced(&summary);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_refused_is_tried_again_where_its_rule_says_so() {
    let (server, bench) = (FakeServer::new(), Bench::new());
    let mut spec = hosted(&FakeSource::of(numbers(100)).in_batches_of(10), &server.topic("out"));
    letters_to(&mut spec, &server.topic("letters"));
    let retry = Retry { attempts: Some(3), delay: "10s".parse().unwrap(), ..Retry::default() };
    spec.errors = vec![ErrorRule { matches: Default::default(), retry: Some(retry), then: Some(Then::DeadLetter) }];
    server.reject("out", "5", 2, rejected());
    server.reject("out", "6", 9, rejected());
    let summary = bench.start(&spec).wait().await.unwrap();
    let mut values = server.values("out");
    assert!(values.contains(&"5".to_owned()) && values.len() == 99, "the third try of 5 succeeds");
    values.dedup();
    assert_eq!((values.len(), server.values("letters")), (99, vec!["6".to_owned()]));
    balanced(&summary);
}

/// Passes values on, and does not promise to do so again.
#[derive(Debug)]
struct Moody;

impl StepPlan for Moody {
    fn form(&self) -> millstream_core::Form {
        millstream_core::Form::Text
    }

    fn deterministic(&self) -> bool {
        false
    }

    fn create(&self) -> Result<Step> {
        MapPlan(KEEP).create()
    }
}

#[tokio::test]
async fn a_record_that_is_refused_and_cannot_be_told_again_stops_the_pipeline() {
    let (server, bench) = (FakeServer::new(), Bench::new());
    let mut spec = hosted(&FakeSource::of(numbers(100)), &server.topic("out"));
    spec.steps = vec![Entry::ready(Arc::new(Moody) as Arc<dyn StepPlan>)];
    server.reject("out", "5", 1, rejected());
    let error = bench.start(&spec).wait().await.unwrap_err();
    assert!(error.chain().contains("may give other records"), "{}", error.chain());
    assert!(error.chain().contains("larger than the topic allows"), "{}", error.chain());
    assert_eq!(server.values("out"), Vec::<String>::new());
}

#[tokio::test]
async fn a_finished_run_starts_anew_at_the_host_too() {
    let (server, bench) = (FakeServer::new(), Bench::new());
    let spec = hosted(&FakeSource::of(numbers(60)), &server.topic("out"));
    bench.start(&spec).wait().await.unwrap();
    let mut again = bench.start(&spec);
    assert_eq!(again.handle().started().await, Some(Start::Anew));
    again.wait().await.unwrap();
    assert_eq!(server.values("out"), [numbers(60), numbers(60)].concat());
    assert_eq!(server.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_state_that_was_reset_begins_anew_whatever_the_host_holds() {
    let (server, bench) = (FakeServer::new(), Bench::new());
    let spec = hosted(&FakeSource::of(numbers(60)), &server.topic("out"));
    part(&bench, &spec, 20).await;
    // As `millstream state reset` does, and a fresh start that died in the middle.
    let mut store = MemoryStore::new(bench.memory.clone());
    store.fence().await.unwrap();
    store.load().await.unwrap();
    store.reset().await.unwrap();
    let mut running = bench.start(&spec);
    assert_eq!(running.handle().started().await, Some(Start::Fresh));
    running.wait().await.unwrap();
    assert_eq!(server.values("out"), [numbers(20), numbers(60)].concat());
}

#[tokio::test]
async fn a_pipeline_moves_to_a_host_and_back() {
    let (server, bench) = (FakeServer::new(), Bench::new());
    let mut spec = hosted(&FakeSource::of(numbers(100)), &server.topic("out"));
    for (i, delivery) in [Delivery::AtLeastOnce, Delivery::ExactlyOnce, Delivery::AtLeastOnce].into_iter().enumerate() {
        spec.delivery = delivery;
        part(&bench, &spec, 20).await;
        assert_eq!(server.values("out"), numbers(20 * (i + 1)));
    }
    spec.delivery = Delivery::ExactlyOnce;
    bench.start(&spec).wait().await.unwrap();
    assert_eq!(server.values("out"), numbers(100));
}

#[tokio::test(start_paused = true)]
async fn a_transaction_gets_no_older_than_its_system_allows() {
    let (server, source, bench) = (FakeServer::new(), FakeSource::live(), Bench::new());
    let mut spec = hosted(&source, &server.topic("out"));
    spec.checkpoint.every = "1h".parse().unwrap();
    server.limit_age(Duration::from_secs(5));
    let running = bench.start(&spec);
    source.push(None, "one");
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(server.values("out"), ["one"]);
    running.handle().stop();
}

#[tokio::test(start_paused = true)]
async fn neither_a_stop_nor_a_drain_waits_for_a_host_that_does_not_answer() {
    for drain in [false, true] {
        let (server, bench) = (FakeServer::new(), Bench::new());
        server.next_commits([Outcome::Committed, Outcome::Hangs]);
        let spec = hosted(&FakeSource::of(numbers(100)), &server.topic("out"));
        let mut running = bench.start(&spec);
        until("the host to be asked", || server.commits() == 2).await;
        if drain {
            let error = running.drain(Duration::from_secs(1)).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Interrupted);
        } else {
            running.handle().stop();
            assert_eq!(running.wait().await.unwrap().ended, Ended::Stopped);
        }
        bench.start(&spec).wait().await.unwrap();
        assert_eq!(server.values("out"), numbers(100), "the next run recovers");
    }
}

#[tokio::test(start_paused = true)]
async fn offsets_of_a_group_are_committed_in_the_transaction() {
    let (server, bench) = (FakeServer::new(), Bench::new());
    let source = FakeGroup::new(3).in_batches_of(5).on(&server);
    (0..300).for_each(|i| source.push(i % 3, None, i.to_string()));
    let source = source.bounded();
    let mut spec = spec(&source, &[KEEP], &server.topic("out"));
    spec.delivery = Delivery::ExactlyOnce;
    spec.checkpoint.count = Some(40);
    server.next_commits([Outcome::Committed, Outcome::CountsUnknown, Outcome::LostUnknown, Outcome::Aborted]);
    let summary = bench.start(&spec).wait().await.unwrap();
    let mut values: Vec<u32> = server.values("out").iter().map(|value| value.parse().unwrap()).collect();
    values.sort();
    assert_eq!(values, (0..300).collect::<Vec<_>>());
    for shard in 0..3 {
        let (next, stamp) = source.offset(shard).unwrap();
        assert_eq!((next, stamp.unwrap().epoch), (100, summary.epoch));
    }
    assert_eq!((source.violations(), server.violations()), (Vec::new(), Vec::new()));
    assert_eq!(source.members().0, 1, "a restart is no rebalance");
    balanced(&summary);
}

/// Another system with transactions.
#[derive(Clone, Debug)]
struct Elsewhere(FakeTopic);

impl SinkPlan for Elsewhere {
    fn capabilities(&self) -> millstream_core::SinkCapabilities {
        self.0.capabilities()
    }

    fn describe(&self) -> String {
        "fake://elsewhere/out".to_owned()
    }

    fn transaction(&self) -> Option<String> {
        Some("fake://elsewhere".to_owned())
    }

    fn create(&self) -> Result<Box<dyn millstream_core::Sink>> {
        self.0.create()
    }
}

fn refusal(spec: &PipelineSpec) -> String {
    let errors = Plan::new(spec, &Registry::default(), PlanOptions::default()).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    format!("{}; {}", errors[0], errors[0].hint_text().unwrap())
}

#[test]
fn two_systems_cannot_share_a_transaction() {
    let server = FakeServer::new();
    let mut spec = hosted(&FakeSource::live(), &server.topic("out"));
    spec.sinks.push(named(&Elsewhere(server.topic("out")), "other"));
    let text = refusal(&spec);
    assert!(text.contains("`sink` and `other`") && text.contains("fake://elsewhere"), "{text}");
    assert!(text.contains("at_least_once"), "{text}");
    spec.sinks.pop();
    spec.dead_letter =
        Some(DeadLetterSpec { sink: Some(named(&Elsewhere(server.topic("out")), "letters")), stop_after: None });
    assert!(refusal(&spec).contains("`sink` and `dead_letter`"));
}

#[test]
fn a_group_needs_a_sink_in_a_transaction_of_its_own_system() {
    let server = FakeServer::new();
    let plan = |group: &FakeGroup, sink: &dyn Fn() -> Entry<dyn SinkPlan>| {
        let mut spec = spec(group, &[], &FakeSink::truncating());
        spec.delivery = Delivery::ExactlyOnce;
        spec.sinks = vec![sink()];
        spec
    };
    let (file, topic) = (|| named(&FakeSink::truncating(), "file"), || named(&server.topic("out"), "out"));
    let elsewhere = || named(&Elsewhere(server.topic("out")), "out");
    for text in [
        refusal(&plan(&FakeGroup::new(1).on(&server), &file)),
        refusal(&plan(&FakeGroup::new(1).on(&server), &elsewhere)),
        refusal(&plan(&FakeGroup::new(1), &topic)),
    ] {
        assert!(text.contains("keeps its position") && text.contains("without a group"), "{text}");
    }
    let fine = plan(&FakeGroup::new(1).on(&server), &topic);
    assert!(Plan::new(&fine, &Registry::default(), PlanOptions::default()).is_ok());
}
