//! A whole process that is killed, and one that dies at any named step of an epoch: from one topic into two, in one
//! transaction, exactly once.
//!
//! The test binary runs itself as a child; the parent kills it with `kill -9` at random moments, or lets it abort at a step,
//! while the input grows, and compares in the end what readers of committed records see with what went in, by value.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use millstream_core::{Delivery, Record};
use millstream_runtime::{Probe, RunOptions, Running, Step};
use millstream_state::EmbeddedStore;
use millstream_testkit::{Dice, FakeSink, budget, process::Process, servers::Kafka, started};
use serde_json::{Value, json};

use crate::{
    runs::{Feed, all_in, assert_once, at, number_of, plan, repeats, shared, spec, wait_for},
    support::{LONG, name, topic},
};

/// What a child is to do, in its environment.
const ORDER: &str = "MILLSTREAM_KAFKA_CHILD";

/// The steps that an epoch has where a host decides: sinks that share its transaction have nothing to commit.
fn steps() -> Vec<Step> {
    let all = Step::ALL.into_iter().chain(Step::HOSTED);
    all.filter(|step| !matches!(step, Step::BeforeSinkCommit | Step::AfterSinkCommit)).collect()
}

/// Not a test of its own: what a child process does.
#[test]
fn child() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let order: Value = serde_json::from_str(&order).unwrap();
    let text = |name: &str| order[name].as_str().unwrap();
    let step = order["step"].as_u64().map(|step| (steps()[step as usize], order["nth"].as_u64().unwrap()));
    let probe = step.map_or_else(Probe::default, |(step, nth)| Probe::at(step, nth, || std::process::abort()));
    let sinks = order["sinks"].as_array().unwrap();
    let delivery = serde_json::from_value(order["delivery"].clone()).unwrap();
    let spec = spec(text("name"), delivery, &order["source"], sinks);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = EmbeddedStore::new(Path::new(text("folder")));
        let mut options = RunOptions::new(Box::new(store), Arc::new(FakeSink::truncating()));
        options.probe = probe;
        options.until_end = order["until_end"].as_bool().unwrap();
        Running::start(plan(&spec), options).wait().await.unwrap();
    });
}

/// A pipeline that runs in a process of its own.
pub(crate) struct Job {
    folder: tempfile::TempDir,
    order: Value,
}

impl Job {
    /// From a topic into others, at the shared broker.
    pub(crate) fn new(from: &str, source: Value, to: &[&str]) -> Job {
        Job::of(&name("pipeline"), &name("log"), from, source, to)
    }

    /// One of a given name, which keeps its checkpoints in a given topic.
    pub(crate) fn of(name: &str, log: &str, from: &str, source: Value, to: &[&str]) -> Job {
        let (folder, brokers) = (tempfile::tempdir().unwrap(), shared().bootstrap());
        let hosting = json!({"checkpoint_topic": log, "transaction_timeout": "10s", "partition": "origin"});
        let last = json!({"checkpoint_topic": log, "transaction_timeout": "10s"});
        let sinks = to.iter().enumerate();
        let sinks: Vec<_> =
            sinks.map(|(i, topic)| at(&brokers, topic, if i == 0 { hosting.clone() } else { last.clone() })).collect();
        let order = json!({
            "name": name, "source": at(&brokers, from, source), "sinks": sinks, "until_end": false,
            "delivery": Delivery::ExactlyOnce, "folder": folder.path().join("state").display().to_string(),
        });
        Job { folder, order }
    }

    /// The same, at least once.
    fn at_least_once(mut self) -> Job {
        self.order["delivery"] = json!(Delivery::AtLeastOnce);
        self
    }

    /// Starts it; it goes on until it is killed, or aborts when it reaches a step for the `nth` time.
    pub(crate) fn start(&self, step: Option<(usize, u64)>) -> Process {
        self.spawn(step, false)
    }

    /// Runs it to the end of what is there.
    pub(crate) fn finish(&self) {
        self.spawn(None, true).succeed(LONG * 2);
    }

    fn spawn(&self, step: Option<(usize, u64)>, until_end: bool) -> Process {
        let mut order = self.order.clone();
        order["until_end"] = json!(until_end);
        if let Some((step, nth)) = step {
            (order["step"], order["nth"]) = (json!(step), json!(nth));
        }
        let said = self.folder.path().join("said");
        Process::start("crash::child", (ORDER, &order.to_string()), said)
    }
}

/// Kills a job over and over while its input grows: at random moments, and in turn at each step.
async fn killed(source: Value, kills: usize, seed: u64) {
    let _kafka = started!(Kafka::shared());
    let brokers = shared().bootstrap();
    let (from, first, second) = (topic(2), topic(2), topic(1));
    let feed = Feed::start(&brokers, &from, 2, (10, Duration::from_millis(10)));
    let job = Job::new(&from, source, &[&first, &second]);
    let (mut dice, steps) = (Dice::new(seed), steps());
    let mut at_steps: BTreeMap<usize, usize> = BTreeMap::new();
    let mut step = dice.roll(steps.len() as u64) as usize;
    for life in 0..kills {
        if life % 2 == 0 {
            let mut process = job.start(None);
            tokio::time::sleep(Duration::from_millis(100 + dice.roll(1500))).await;
            process.kill();
        } else {
            let mut process = job.start(Some((step, 1 + dice.roll(3))));
            let status = tokio::task::block_in_place(|| process.wait(LONG * 2));
            assert!(!status.success(), "{:?}: {}", steps[step], process.said());
            assert!(std::os::unix::process::ExitStatusExt::signal(&status).is_some(), "{}", process.said());
            *at_steps.entry(step).or_default() += 1;
            step = (step + 1) % steps.len();
        }
    }
    let each = feed.end().await;
    tokio::task::block_in_place(|| job.finish());
    for (topic, what) in [(&first, "the first topic"), (&second, "the second topic")] {
        let found = wait_for(&brokers, topic, each * 2).await;
        assert_once(&found, 2, each, what);
        if *topic == first {
            assert!(found.iter().all(|record| record.origin.shard == number_of(record).0));
        }
    }
    assert_eq!(all_in(&brokers, &from).await.len(), each * 2);
    let died_at: Vec<_> = at_steps.keys().map(|step| steps[*step]).collect();
    println!("{kills} kills, {} of them at {died_at:?}; {} records", at_steps.values().sum::<usize>(), each * 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_that_reads_by_position_is_exactly_once() {
    killed(json!({}), budget(5, 30), 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_that_reads_with_a_group_is_exactly_once() {
    let membership = json!({"instance": "one", "session_timeout": "6s"});
    killed(json!({"group": name("group"), "membership": membership}), budget(5, 30), 2).await;
}

/// Two members of a group take turns: the one that is killed holds records, which the other takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_member_held_goes_on_with_another_in_order() {
    let _kafka = started!(Kafka::shared());
    let brokers = shared().bootstrap();
    let (from, to, kills) = (topic(2), topic(2), budget(2, 10));
    let source = json!({"group": name("group"), "membership": {"session_timeout": "6s"}});
    let member = |of: &str| Job::of(&name(of), &name("log"), &from, source.clone(), &[&to]).at_least_once();
    let members = [member("one"), member("two")];
    let feed = Feed::start(&brokers, &from, 2, (10, Duration::from_millis(5)));
    let mut working = members[0].start(None);
    for life in 1..=kills {
        let before = all_in(&brokers, &to).await.len();
        wait_for(&brokers, &to, before + 100).await;
        let next = members[life % 2].start(None);
        working.kill();
        working = next;
    }
    // The one that is left has taken over by then.
    let before = all_in(&brokers, &to).await.len();
    wait_for(&brokers, &to, before + 100).await;
    let each = feed.end().await;
    let began = std::time::Instant::now();
    let complete = |found: &[Record]| found.iter().map(number_of).collect::<BTreeSet<_>>().len() == each * 2;
    let found = loop {
        let found = all_in(&brokers, &to).await;
        if complete(&found) || began.elapsed() > LONG * 2 {
            break found;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    working.kill();
    let again = repeats(&found, 2, each, "the copy");
    println!("{kills} kills; {again} of {} records twice", each * 2);
}
