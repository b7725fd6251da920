//! Whole processes that are killed (`kill -9`) or stand still at any moment, while their input grows: exactly once.
//!
//! The test binary runs itself as a child, and compares in the end what is in the output with what went in, by value.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use millstream_core::Registry;
use millstream_runtime::{Plan, PlanOptions, RunOptions, Running};
use millstream_state::EmbeddedStore;
use millstream_testkit::{
    Dice, FakeSink, budget,
    process::Process,
    servers::{Redis, RedisCluster},
    started,
};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::{
    pipeline::{check, spec_of, stored},
    support::*,
};

/// What a child is to do, in its environment.
const ORDER: &str = "MILLSTREAM_REDIS_CHILD";

/// Not a test of its own: what a child process does.
#[test]
fn child() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let order: Value = serde_json::from_str(&order).unwrap();
    let sinks: Vec<&Value> = order["sinks"].as_array().unwrap().iter().collect();
    let mut spec = spec_of(order["name"].as_str().unwrap(), &order["source"], &sinks);
    spec.checkpoint.every = "50ms".parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = EmbeddedStore::new(order["folder"].as_str().unwrap());
        let mut options = RunOptions::new(Box::new(store), Arc::new(FakeSink::truncating()));
        options.until_end = order["until_end"].as_bool().unwrap();
        let plan = Plan::new(&spec, &Registry::default(), PlanOptions::default()).unwrap();
        Running::start(plan, options).wait().await.unwrap();
    });
}

/// A pipeline that runs in processes of its own.
struct Job {
    folder: tempfile::TempDir,
    order: Value,
}

impl Job {
    fn new(source: &Value, sinks: &[&Value]) -> Job {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state").display().to_string();
        Job { folder, order: json!({"name": key(), "source": source, "sinks": sinks, "folder": state}) }
    }

    /// Starts it; it goes on until it is killed, or to the end of what is there.
    fn start(&self, until_end: bool) -> Process {
        let mut order = self.order.clone();
        order["until_end"] = until_end.into();
        let said = self.folder.path().join("said");
        Process::start("crash::child", (ORDER, &order.to_string()), said)
    }
}

/// Writes numbers into a stream, until it is told to stop.
pub struct Feed {
    stop: Arc<AtomicBool>,
    writing: JoinHandle<usize>,
}

impl Feed {
    pub fn start(options: Value) -> Feed {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let writing = tokio::spawn(async move {
            let mut sink = plan_sink(&options).unwrap().create().unwrap();
            sink.open(&[]).await.unwrap();
            let mut written = 0;
            while !stopped.load(Ordering::Acquire) {
                sink.write(value_batch(written..written + 50)).await.unwrap();
                assert!(sink.flush().await.unwrap().rejected.is_empty());
                written += 50;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            written
        });
        Feed { stop, writing }
    }

    /// Stops; how many there are.
    pub async fn end(self) -> usize {
        self.stop.store(true, Ordering::Release);
        self.writing.await.unwrap()
    }
}

/// Kills a job over and over at random moments while its input grows, and lets it come to its end.
async fn killed(source: &Value, sinks: &[&Value], kills: usize, seed: u64) {
    let feed = Feed::start(json!({"url": source["url"], "stream": source["stream"]}));
    let (job, mut dice) = (Job::new(source, sinks), Dice::new(seed));
    for _ in 0..kills {
        let mut process = job.start(false);
        tokio::time::sleep(Duration::from_millis(50 + dice.roll(700))).await;
        process.kill();
    }
    let count = feed.end().await;
    tokio::task::block_in_place(|| job.start(true).succeed(PATIENCE * 3));
    for sink in sinks {
        let got = stored(json!({"url": sink["url"], "stream": sink["stream"]})).await;
        check(&got, count, seed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_that_reads_with_a_group_is_exactly_once() {
    let redis = started!(Redis::shared());
    let group = json!({"name": "g", "max_deliveries": 100, "mkstream": true});
    let source = options(redis, json!({"stream": key(), "group": group}));
    killed(&source, &[&options(redis, json!({"stream": key()}))], budget(6, 25), 1).await;
    let pending = redis.cli(&["XPENDING", source["stream"].as_str().unwrap(), "g"]);
    assert!(pending.starts_with('0'), "{pending}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_that_writes_a_cluster_in_two_phases_is_exactly_once() {
    let cluster = started!(RedisCluster::shared());
    let at = |more: Value| {
        let mut options = more;
        options["url"] = cluster.url().into();
        options
    };
    let tag = key();
    let (far, near) = (json!({"stream": key(), "shards": 4}), json!({"stream": format!("{{{tag}}}near")}));
    killed(&at(json!({"stream": key()})), &[&at(near), &at(far)], budget(6, 25), 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_stand_still_or_are_killed_do_not_break_exactly_once() {
    let redis = started!(Redis::shared());
    let from = key();
    redis.cli(&["XGROUP", "CREATE", &from, "g", "0", "MKSTREAM"]);
    let group = json!({"name": "g", "max_deliveries": 1000, "claim_idle": "400ms"});
    let source = options(redis, json!({"stream": from, "group": group, "batch": {"count": 20}}));
    let sink = options(redis, json!({"stream": key()}));
    // Two members, each a pipeline of its own, into one stream.
    let jobs = [0, 1].map(|_| Job::new(&source, &[&sink]));
    let feed = Feed::start(options(redis, json!({"stream": from})));
    let mut processes = jobs.each_ref().map(|job| job.start(false));
    let (pending, mut dice) = (|| redis.cli(&["XPENDING", &from, "g"]), Dice::new(3));
    // Number, first, last, and then name and number of each.
    wait("both read", || pending().lines().count() >= 7).await;
    for round in 0..budget(3, 12) {
        let (still, other) = (round % 2, (round + 1) % 2);
        // Long enough for the other to take over and commit what it has in hand.
        processes[still].signal("-STOP");
        tokio::time::sleep(Duration::from_millis(1000 + dice.roll(500))).await;
        processes[still].signal("-CONT");
        tokio::time::sleep(Duration::from_millis(dice.roll(500))).await;
        processes[other].kill();
        tokio::time::sleep(Duration::from_millis(dice.roll(1500))).await;
        processes[other] = jobs[other].start(false);
    }
    let count = feed.end().await;
    let to = json!({"url": sink["url"], "stream": sink["stream"]});
    let began = Instant::now();
    while stored(to.clone()).await.len() < count || !pending().starts_with('0') {
        assert!(began.elapsed() < PATIENCE * 2, "{} {} {}", pending(), processes[0].said(), processes[1].said());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    processes.iter_mut().for_each(Process::kill);
    check(&stored(to).await, count, 3);
}

async fn wait(what: &str, mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
