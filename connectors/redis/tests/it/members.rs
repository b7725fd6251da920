//! Members of a group under load: each second another one joins and the oldest leaves, cleanly or not.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_core::{Delivery, Registry, SinkPlan};
use millstream_runtime::{Entry, Plan, PlanOptions, RunOptions, Running};
use millstream_state::{Memory, MemoryStore};
use millstream_testkit::{FakeSink, budget, servers::Redis, started};
use serde_json::{Value, json};

use crate::{crash::Feed, pipeline::spec_of, support::*};

/// How long the one that stays waits for records of a member that is gone.
const CLAIM_IDLE: &str = "2s";

/// A pipeline from the group to what it delivers.
struct Member {
    running: Running,
    sink: FakeSink,
}

impl Member {
    fn start(source: &Value) -> Member {
        let sink = FakeSink::plain();
        let mut spec = spec_of(&key(), source, &[]);
        spec.delivery = Delivery::AtLeastOnce;
        spec.checkpoint.every = "100ms".parse().unwrap();
        let entry = Entry::ready(Arc::new(sink.clone()) as Arc<dyn SinkPlan>);
        spec.sinks = vec![Entry { from: vec!["in".into()], ..entry }];
        let plan = Plan::new(&spec, &Registry::default(), PlanOptions::default()).unwrap();
        let store = Box::new(MemoryStore::new(Memory::new()));
        Member { running: Running::start(plan, RunOptions::new(store, Arc::new(FakeSink::truncating()))), sink }
    }

    /// Ends it; answers what it has delivered.
    async fn end(mut self, cleanly: bool) -> Vec<String> {
        if cleanly {
            let drained = tokio::time::timeout(PATIENCE * 2, self.running.drain(PATIENCE)).await;
            drained.expect("an end").unwrap();
        } else {
            self.running.handle().stop();
            self.running.wait().await.unwrap();
        }
        self.sink.values()
    }
}

/// One member stays; each second another one joins and the oldest of the others leaves, for a while.
async fn storm(cleanly: bool) {
    let redis = started!(Redis::shared());
    let k = key();
    let streams = options(redis, json!({"stream": k, "shards": 3}));
    let source =
        options(redis, json!({"stream": k, "group": {"name": "g", "claim_idle": CLAIM_IDLE}, "batch": {"count": 20}}));
    let feed = Feed::start(streams);
    let first = Member::start(&source);
    let mut others = VecDeque::new();
    // How often each value was delivered, and how often by a member that did not leave cleanly.
    let (mut delivered, mut dead) = (BTreeMap::<String, usize>::new(), BTreeMap::<String, usize>::new());
    let mut shared_out = 0;
    let seconds = budget(6, 30);
    for second in 0..seconds + 3 {
        if second < seconds {
            others.push_back(Member::start(&source));
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        if second >= 2
            && let Some(oldest) = others.pop_front()
        {
            let values = oldest.end(cleanly).await;
            shared_out += usize::from(!values.is_empty());
            for value in values {
                *delivered.entry(value.clone()).or_default() += 1;
                *dead.entry(value).or_default() += usize::from(!cleanly);
            }
        }
    }
    assert!(others.is_empty());
    let count = feed.end().await;
    // All is there when somebody has delivered it, and nothing waits for a member that is gone.
    let settled = |first: &Member| {
        let here = first.sink.values().into_iter().filter(|value| !delivered.contains_key(value));
        let all = here.collect::<BTreeSet<_>>().len() + delivered.len() == count;
        all && (0..3).all(|shard| redis.cli(&["XPENDING", &format!("{k}:{shard}"), "g"]).starts_with('0'))
    };
    let began = Instant::now();
    while !settled(&first) && began.elapsed() < PATIENCE * 2 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(settled(&first), "something is missing, or still pending");
    for value in first.end(true).await {
        *delivered.entry(value).or_default() += 1;
    }
    let repeated = delivered.values().map(|times| times - 1).sum::<usize>();
    println!("{shared_out} of {seconds} members that left got records; {count} records, {repeated} repeated");
    for (value, times) in &delivered {
        let excused = dead.get(value).copied().unwrap_or(0);
        assert!(*times <= 1 + excused, "{value} was delivered {times} times, {excused} of them by the dead");
    }
    assert!(shared_out > 0, "nobody got a share");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_members_loses_and_repeats_nothing() {
    storm(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_end_without_a_word_repeat_only_what_they_held() {
    storm(false).await;
}
