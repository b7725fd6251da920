//! Whole pipelines, exactly once, while brokers, connections and topics make trouble: each number comes out once.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use millstream_core::{Delivery, ErrorKind, Record, ShardKey, StepPlan, Store};
use millstream_runtime::{Entry, Handle, PipelineSpec, Probe, RunOptions, Running, Start, Step};
use millstream_state::{EmbeddedStore, Memory, MemoryStore};
use millstream_testkit::{
    CountValues, Dice, FakeSink, budget,
    servers::{Flow, Kafka, Listener},
    started,
};
use serde_json::{Value, json};

use crate::{
    runs::{Feed, all_in, assert_once, at, numbered, plan, shared, spec, wait_for, wait_while},
    support::{LONG, event, name, sink_plan, topic, topic_with, write_all},
};

/// Runs a plan on a store in memory.
fn run(spec: &PipelineSpec, memory: &Memory, change: impl FnOnce(&mut RunOptions)) -> Running {
    run_on(spec, Box::new(MemoryStore::new(memory.clone())), change)
}

fn run_on(spec: &PipelineSpec, store: Box<dyn Store>, change: impl FnOnce(&mut RunOptions)) -> Running {
    let mut options = RunOptions::new(store, Arc::new(FakeSink::truncating()));
    options.restarts_per_minute_max = 100;
    change(&mut options);
    Running::start(plan(spec), options)
}

/// How `numbers` gets into `copy`.
struct Through<'a> {
    kafka: &'a Kafka,
    /// Where the pipeline finds the brokers.
    brokers: String,
    partitions: u64,
    source: Value,
    sink: Value,
    probe: Probe,
    /// Of the running pipeline.
    handle: Arc<OnceLock<Handle>>,
}

impl<'a> Through<'a> {
    fn new(kafka: &'a Kafka, brokers: String) -> Self {
        let partitions = 3;
        kafka.create_topic("numbers", partitions, &[]);
        kafka.create_topic("copy", partitions, &[]);
        let source = json!({"group": "readers", "membership": {"instance": "one", "session_timeout": "6s"}});
        let sink = json!({"partition": "origin", "transaction_timeout": "10s"});
        Through {
            kafka,
            brokers,
            partitions: partitions as u64,
            source,
            sink,
            probe: Probe::default(),
            handle: Arc::default(),
        }
    }

    fn spec(&self) -> PipelineSpec {
        let (source, sink) =
            (at(&self.brokers, "numbers", self.source.clone()), at(&self.brokers, "copy", self.sink.clone()));
        spec("numbers to copy", Delivery::ExactlyOnce, &source, &[sink])
    }

    /// All that is written while `fault` happens comes through once. Answers how many records, and how many restarts.
    async fn all_once(self, fault: impl AsyncFnOnce(&Kafka)) -> (usize, u64) {
        let near = self.kafka.bootstrap();
        let memory = Memory::new();
        let feed = Feed::start(&near, "numbers", self.partitions, (20, Duration::from_millis(20)));
        let mut running = run(&self.spec(), &memory, |options| options.probe = self.probe.clone());
        let handle = running.handle();
        let _ = self.handle.set(handle.clone());
        let through = async {
            wait_for(&near, "copy", 300).await;
            fault(self.kafka).await;
            let each = feed.end().await;
            assert_once(&all_in(&near, "numbers").await, self.partitions, each, "what was written");
            let stands = || format!("{:?}", handle.status());
            let found = wait_while(&near, "copy", each * self.partitions as usize, stands).await;
            assert_once(&found, self.partitions, each, "what came through");
            (each, found)
        };
        let (each, found) = tokio::select! {
            through = through => through,
            ended = running.wait() => panic!("it ended by itself: {}", ended.map_or_else(|error| error.chain(), |_| String::new())),
        };
        let restarts = running.handle().status().restarts;
        tokio::time::timeout(LONG, running.drain(Duration::from_secs(20))).await.expect("an end").unwrap();
        assert_once(&all_in(&near, "copy").await, self.partitions, each, "after the drain");
        (found.len(), restarts)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_are_killed_and_elected_again_lose_and_repeat_nothing() {
    let kafka = started!(Kafka::setup().brokers(3).start());
    let through = Through::new(&kafka, kafka.bootstrap());
    let fault = async |kafka: &Kafka| {
        tokio::task::block_in_place(|| {
            for topic in ["numbers", "copy", "__transaction_state", "__consumer_offsets"].into_iter().take(budget(1, 4))
            {
                let old = kafka.leader(topic, 0).unwrap();
                kafka.kill(old);
                kafka.wait_for_leader_other_than(old, topic, 0);
                std::thread::sleep(Duration::from_millis(500));
                kafka.restart(old);
                ["numbers", "copy"].iter().for_each(|topic| kafka.wait_for_in_sync(topic, 3));
                if budget(false, true) {
                    // Leads move back to where they were, without anybody's end.
                    kafka.tool("kafka-leader-election", &["--election-type", "preferred", "--all-topic-partitions"]);
                }
            }
        });
    };
    println!("records and restarts: {:?}", through.all_once(fault).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stands_still_loses_and_repeats_nothing() {
    // Whose controller stands still, too, and would take its broker for dead: Kafka 4.3 can then forget what was committed.
    let kafka = started!(Kafka::setup().patient().start());
    let through = Through::new(&kafka, kafka.bootstrap());
    let fault = async |kafka: &Kafka| {
        tokio::task::block_in_place(|| kafka.pause(1));
        tokio::time::sleep(Duration::from_secs(budget(4, 30))).await;
        tokio::task::block_in_place(|| kafka.resume(1));
    };
    println!("records and restarts: {:?}", through.all_once(fault).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stands_still_while_others_take_over_loses_and_repeats_nothing() {
    let kafka = started!(Kafka::setup().brokers(3).start());
    let through = Through::new(&kafka, kafka.bootstrap());
    let fault = async |kafka: &Kafka| {
        tokio::task::block_in_place(|| {
            let old = kafka.leader("copy", 0).unwrap();
            kafka.pause(old);
            kafka.wait_for_leader_other_than(old, "copy", 0);
            std::thread::sleep(Duration::from_secs(budget(1, 30)));
            kafka.resume(old);
            ["numbers", "copy"].iter().for_each(|topic| kafka.wait_for_in_sync(topic, 3));
        });
    };
    println!("records and restarts: {:?}", through.all_once(fault).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_cut_inside_transactions_lose_and_repeat_nothing() {
    let kafka = started!(Kafka::setup().patient().proxied().start());
    let through = Through::new(&kafka, kafka.bootstrap_of(Listener::Proxied));
    let fault = async |kafka: &Kafka| {
        let mut dice = Dice::new(7);
        for cut in 0..budget(6, 60) {
            let flow = if dice.roll(2) == 0 { Flow::ToServer } else { Flow::ToClient };
            let bytes = dice.roll(30_000);
            tokio::task::block_in_place(|| match cut % 3 {
                0 => kafka.proxy(1).cut_after(flow, bytes),
                1 => kafka.proxy(1).reset(),
                _ => kafka.proxy(1).cut(),
            });
            tokio::time::sleep(Duration::from_millis(100 + dice.roll(500))).await;
        }
    };
    println!("records and restarts: {:?}", through.all_once(fault).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_the_broker_ends_is_played_again() {
    let kafka = started!(Kafka::setup().patient().proxied().start());
    let mut through = Through::new(&kafka, kafka.bootstrap_of(Listener::Proxied));
    through.sink = json!({"partition": "origin", "transaction_timeout": "2s"});
    let fault = async |kafka: &Kafka| {
        for _ in 0..budget(1, 6) {
            tokio::task::block_in_place(|| kafka.proxy(1).stall());
            tokio::time::sleep(Duration::from_secs(6)).await;
            tokio::task::block_in_place(|| kafka.proxy(1).resume());
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
    };
    let (records, restarts) = through.all_once(fault).await;
    println!("{records} records, {restarts} restarts");
    assert!(restarts > 0, "no transaction was ended by the broker");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_outcome_nobody_hears_is_settled_by_recovery() {
    let kafka: &'static Kafka = Box::leak(Box::new(started!(Kafka::setup().patient().proxied().start())));
    let mut through = Through::new(kafka, kafka.bootstrap_of(Listener::Proxied));
    through.sink = json!({"partition": "origin", "transaction_timeout": "2s"});
    // When an epoch is about to be decided, the way back is cut after some bytes, and nobody gets a new connection for longer
    // than the client waits.
    let (rounds, cuts) = (budget(2, 8), Arc::new(AtomicUsize::new(0)));
    let (counted, epochs) = (cuts.clone(), AtomicUsize::new(0));
    through.probe = Probe::new(move |step, _| {
        let ordered = counted.load(Ordering::SeqCst);
        if step == Step::BeforeHost && ordered < rounds && epochs.fetch_add(1, Ordering::SeqCst) % 8 == 7 {
            counted.store(ordered + 1, Ordering::SeqCst);
            // Before the step goes on: a thread might come to it too late, when the answer has been heard.
            kafka.proxy(1).refuse();
            kafka.proxy(1).cut_after(Flow::ToClient, 60 + 60 * (ordered as u64 % 6));
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_secs(5));
                kafka.proxy(1).heal();
            });
        }
    });
    let handle = Arc::new(OnceLock::<Handle>::new());
    through.handle = handle.clone();
    let fault = async |_: &Kafka| {
        let deadline = tokio::time::Instant::now() + LONG * budget(3, 8);
        while cuts.load(Ordering::SeqCst) < rounds {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", handle.get().map(|handle| handle.status()));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (records, restarts) = through.all_once(fault).await;
    println!("{records} records, {restarts} restarts");
    assert!(restarts > 0, "every outcome was heard");
    kafka.kill(1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_the_topic_no_longer_takes_goes_to_its_rule_and_the_others_through() {
    let kafka = started!(Kafka::shared());
    let (brokers, from, to) = (kafka.bootstrap(), topic(2), topic(2));
    let dead = FakeSink::plain();
    let (source, sink) = (at(&brokers, &from, json!({})), at(&brokers, &to, json!({"checkpoint_topic": name("log")})));
    let spec = spec(&name("pipeline"), Delivery::ExactlyOnce, &source, &[sink]);
    let mut running = run(&spec, &Memory::new(), |options| options.dead_letters = Arc::new(dead.clone()));
    let small = |i: usize| Record { key: Some("k".into()), ..Record::new("x", format!("small {i}")) };
    write_all(&from, json!({}), &(0..100).map(small).collect::<Vec<_>>()).await;
    wait_for(&brokers, &to, 100).await;
    let lowered =
        ["--alter", "--entity-type", "topics", "--entity-name", &to, "--add-config", "max.message.bytes=2000"];
    tokio::task::block_in_place(|| kafka.tool("kafka-configs", &lowered));
    let mut records: Vec<Record> = (100..200).map(small).collect();
    records.insert(50, Record { key: Some("k".into()), ..Record::new("x", vec![b'x'; 5000]) });
    write_all(&from, json!({}), &records).await;
    let handle = running.handle();
    let found = wait_while(&brokers, &to, 200, || format!("{:?}", handle.status())).await;
    let summary = tokio::time::timeout(LONG, running.drain(Duration::from_secs(10))).await.expect("an end").unwrap();
    let texts = crate::support::texts(&found);
    assert_eq!(texts, (0..200).map(|i| format!("small {i}")).collect::<Vec<_>>());
    assert_eq!((summary.dead(), dead.values().len()), (1, 1), "{:?}", summary.causes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_inside_a_transaction_are_as_small_as_each_topic_wants_them() {
    let kafka = started!(Kafka::shared());
    let (brokers, from) = (kafka.bootstrap(), topic(1));
    let outputs = ["50000", "2000"].map(|limit| topic_with(1, &[("max.message.bytes", limit)]));
    let log = json!({"checkpoint_topic": name("log")});
    let sinks = outputs.each_ref().map(|to| at(&brokers, to, log.clone()));
    let spec = spec(&name("pipeline"), Delivery::ExactlyOnce, &at(&brokers, &from, json!({})), &sinks);
    write_all(&from, json!({"partition": 0}), &(0..5_000).map(|i| numbered(0, i)).collect::<Vec<_>>()).await;
    let mut running = run(&spec, &Memory::new(), |options| options.until_end = true);
    let summary = tokio::time::timeout(LONG, running.wait()).await.expect("an end").unwrap();
    assert_eq!(summary.dead(), 0, "{:?}", summary.causes);
    for to in &outputs {
        assert_once(&all_in(&brokers, to).await, 1, 5_000, to);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_whose_topic_takes_less_than_before_refuses_what_is_too_large() {
    let kafka = started!(Kafka::shared());
    let (brokers, to) = (kafka.bootstrap(), topic(1));
    let mut sink = sink_plan(&at(&brokers, &to, json!({}))).unwrap().create().unwrap();
    sink.open(&[]).await.unwrap();
    let of = |size: usize| crate::support::batch(&[Record::new("x", vec![b'x'; size])]);
    sink.write(of(5000)).await.unwrap();
    assert!(sink.flush().await.unwrap().rejected.is_empty());
    let lowered =
        ["--alter", "--entity-type", "topics", "--entity-name", &to, "--add-config", "max.message.bytes=2000"];
    tokio::task::block_in_place(|| kafka.tool("kafka-configs", &lowered));
    // It is told once that all must be sent again, as after any trouble; from then on the limit is known.
    sink.write(of(5000)).await.unwrap();
    let error = tokio::time::timeout(LONG, sink.flush()).await.expect("an answer").unwrap_err();
    assert!(error.facts().retry && error.message().contains("2000"), "{error:?}");
    sink.open(&[]).await.unwrap();
    sink.write(of(5000)).await.unwrap();
    let outcomes = tokio::time::timeout(LONG, sink.flush()).await.expect("an answer").unwrap();
    let rejected: Vec<_> = outcomes.rejected.iter().map(|(_, row, error)| (*row, error.kind())).collect();
    assert_eq!(rejected, [(0, ErrorKind::TooLarge)]);
    sink.write(of(500)).await.unwrap();
    assert!(sink.flush().await.unwrap().rejected.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_is_shut_out_ends_and_the_other_goes_on() {
    let _kafka = started!(Kafka::shared());
    let (brokers, from, to) = (shared().bootstrap(), topic(2), topic(2));
    let sink = json!({"checkpoint_topic": name("log"), "partition": "origin"});
    let spec =
        spec(&name("pipeline"), Delivery::ExactlyOnce, &at(&brokers, &from, json!({})), &[at(&brokers, &to, sink)]);
    let feed = Feed::start(&brokers, &from, 2, (10, Duration::from_millis(10)));
    let mut old = run(&spec, &Memory::new(), |_| {});
    let handle = old.handle();
    wait_for(&brokers, &to, 100).await;
    // On a machine that has nothing of the first one's store.
    let mut new = run(&spec, &Memory::new(), |_| {});
    let ended = tokio::time::timeout(LONG, old.wait()).await;
    let error = ended.unwrap_or_else(|_| panic!("it ends: {:?}", handle.status())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{}", error.chain());
    let start = new.handle().started().await.unwrap();
    assert!(matches!(start, Start::Resuming(_)), "{start:?}: a checkpoint that names no segment needs no volume");
    let each = feed.end().await;
    assert_once(&wait_for(&brokers, &to, each * 2).await, 2, each, "what both have written");
    new.drain(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_store_with_keyed_state_is_a_mismatch_until_it_is_begun_anew() {
    let _kafka = started!(Kafka::shared());
    let (brokers, from, to) = (shared().bootstrap(), topic(1), topic(1));
    let values: Vec<Record> = (0..100).map(|i| Record::new("x", format!("v{}", i % 10))).collect();
    write_all(&from, json!({}), &values).await;
    for (source, delivery) in [
        (json!({}), Delivery::ExactlyOnce),
        (json!({"group": name("group")}), Delivery::ExactlyOnce),
        (json!({"group": name("group")}), Delivery::AtLeastOnce),
    ] {
        let (disk, other_disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let on = |disk: &tempfile::TempDir| Box::new(EmbeddedStore::new(disk.path()));
        let sink = json!({"checkpoint_topic": name("log")});
        let mut spec = counting(&at(&brokers, &from, source.clone()), &at(&brokers, &to, sink));
        spec.delivery = delivery;
        let mut first = run_on(&spec, on(&disk), |options| options.count = Some(60));
        tokio::time::timeout(LONG, first.wait()).await.expect("an end").unwrap();
        let mut lost = run_on(&spec, on(&other_disk), |_| {});
        let error = tokio::time::timeout(LONG, lost.wait()).await.expect("an end").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StateMismatch, "{}", error.chain());
        let hint = error.hint_text().unwrap_or_default().to_owned();
        assert!(hint.contains("--fresh") || hint.contains("state reset"), "{source} {delivery:?}: {}", error.chain());
        // The two ways to begin anew.
        let fresh = delivery == Delivery::ExactlyOnce;
        if !fresh {
            let mut store = on(&other_disk);
            store.fence().await.unwrap();
            store.reset().await.unwrap();
            store.close().await.unwrap();
        }
        let mut anew = run_on(&spec, on(&other_disk), |options| (options.fresh, options.count) = (fresh, Some(20)));
        let summary = tokio::time::timeout(LONG, anew.wait()).await.expect("an end").unwrap();
        assert_eq!(summary.start, Start::Fresh);
        // And what it has begun goes on.
        let mut goes_on = run_on(&spec, on(&other_disk), |options| options.count = Some(20));
        let summary = tokio::time::timeout(LONG, goes_on.wait()).await.expect("an end").unwrap();
        assert!(matches!(summary.start, Start::Resuming(_)), "{source}");
    }
}

/// Counts values by key.
fn counting(source: &Value, sink: &Value) -> PipelineSpec {
    let mut spec = spec(&name("pipeline"), Delivery::ExactlyOnce, source, std::slice::from_ref(sink));
    let mut count = Entry::ready(Arc::new(CountValues) as Arc<dyn StepPlan>);
    count.name = Some("custom".to_owned());
    spec.steps = vec![count];
    spec
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn begun_anew_keyed_state_agrees_with_its_group_also_after_a_restart() {
    let _kafka = started!(Kafka::shared());
    let (brokers, from, to) = (shared().bootstrap(), topic(2), topic(1));
    let values: Vec<Record> = (0..100).map(|i| Record::new("x", format!("v{i}"))).collect();
    write_all(&from, json!({"partition": "round_robin"}), &values).await;
    for delivery in [Delivery::AtLeastOnce, Delivery::ExactlyOnce] {
        let source = json!({"group": name("group")});
        let sink = json!({"checkpoint_topic": name("log")});
        let mut spec = counting(&at(&brokers, &from, source.clone()), &at(&brokers, &to, sink));
        spec.delivery = delivery;
        let mut first = run(&spec, &Memory::new(), |options| options.count = Some(30));
        tokio::time::timeout(LONG, first.wait()).await.expect("an end").unwrap();
        let memory = Memory::new();
        let mut anew = run(&spec, &memory, |options| options.fresh = true);
        // All partitions are here, and nothing of them was read yet or much: it dies now.
        let handle = anew.handle();
        handle.started().await.unwrap();
        let deadline = tokio::time::Instant::now() + LONG;
        while handle.status().stages["kafka"].records_in == 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        handle.stop();
        tokio::time::timeout(LONG, anew.wait()).await.expect("an end").unwrap();
        let mut on = run(&spec, &memory, |options| options.until_end = true);
        let summary = tokio::time::timeout(LONG, on.wait()).await.expect("an end").unwrap();
        assert!(matches!(summary.start, Start::Resuming(_)), "{delivery:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyed_state_stops_at_an_epoch_when_its_group_takes_a_partition() {
    let _kafka = started!(Kafka::shared());
    let (brokers, from, to) = (shared().bootstrap(), topic(2), topic(1));
    let values: Vec<Record> = (0..200).map(|i| Record::new("x", format!("v{i}"))).collect();
    write_all(&from, json!({"partition": "round_robin"}), &values).await;
    for more in
        [json!({}), json!({"membership": {"assignor": "range"}}), json!({"membership": {"protocol": "consumer"}})]
    {
        let mut source = json!({"group": name("group")});
        source.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let spec = counting(
            &at(&brokers, &from, source.clone()),
            &at(&brokers, &to, json!({"checkpoint_topic": name("log")})),
        );
        let memory = Memory::new();
        let mut running = run(&spec, &memory, |_| {});
        let handle = running.handle();
        let deadline = tokio::time::Instant::now() + LONG;
        while handle.status().stages["kafka"].records_in < 200 {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", handle.status());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut other = crate::support::opened(&from, source.clone(), &Default::default()).await;
        let told = tokio::spawn(async move {
            let mut got: Vec<ShardKey> = Vec::new();
            while got.is_empty() {
                if let Ok(millstream_core::Event::Added(shards)) = event(&mut *other).await {
                    got = shards;
                }
            }
            other.close().await.unwrap();
            got
        });
        let error = tokio::time::timeout(LONG, running.wait()).await.expect("it stops").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StateMismatch, "{}", error.chain());
        assert!(error.chain().contains("gave the shards") && error.hint_text().is_some(), "{}", error.chain());
        assert!(!told.await.unwrap().is_empty(), "the other member has its share");
        // Stopped at an epoch: alone again, it goes on from there, and has missed nothing.
        write_all(&from, json!({"partition": "round_robin"}), &values[..20]).await;
        let mut again = run(&spec, &memory, |options| options.count = Some(20));
        let summary = tokio::time::timeout(LONG, again.wait()).await.expect("an end").unwrap();
        assert_eq!(summary.stages["kafka"].records_in, 20, "{more}");
    }
}
