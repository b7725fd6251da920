//! The checkpoint in one transaction with records and acknowledgements.

use millstream_core::{
    CHECKPOINT_VERSION, Checkpoint, Companion, Delivery, Epoch, Host, Hosted, Last, PlanContext, Planner, Resume, Sink,
    SinkPlan, Source, Stamp, Timestamp, Way,
};
use millstream_testkit::{
    servers::{Redis, RedisCluster},
    started,
};
use serde_json::{Value, json};

use crate::support::*;

fn plan(options: &Value) -> Box<dyn SinkPlan> {
    let context = PlanContext { delivery: Delivery::ExactlyOnce, ..PlanContext::default() };
    for component in millstream_redis::components() {
        if let Planner::Sink(plan) = component.planner {
            return plan(options, &context).unwrap();
        }
    }
    unreachable!()
}

fn checkpoint(epoch: Epoch) -> Checkpoint {
    let text = json!({"version": CHECKPOINT_VERSION, "store_id": "s", "plan": "", "epoch": epoch, "sources": {}, "sinks": {},
        "segments": [], "finished": false, "decided_at": Timestamp(epoch as i64)});
    serde_json::from_value(text).unwrap()
}

/// A host that has taken over, and a sink that has joined it. Their store is their own: a sink deletes what others of it staged.
async fn hosted(options: &Value) -> (Box<dyn Host>, Box<dyn Sink>) {
    let (plan, stamp) = (plan(options), Stamp { pipeline: key(), ..stamp(&key()) });
    let (mut host, mut sink) = (plan.host().unwrap(), plan.create().unwrap());
    host.introduce(&stamp);
    assert_eq!(host.fence().await.unwrap(), None);
    sink.introduce("out", &stamp);
    sink.join(&host.share()).unwrap();
    sink.open(&[]).await.unwrap();
    (host, sink)
}

/// Moves so many records into the transaction of epoch 1; what the source gives it.
async fn relayed(source: &mut dyn Source, sink: &mut dyn Sink, count: usize) -> Vec<(String, Companion)> {
    let mut got = 0;
    while got < count {
        let read = next_read(source).await.unwrap();
        got += read.batch.len();
        sink.write(read.batch).await.unwrap();
    }
    assert!(sink.flush().await.unwrap().rejected.is_empty());
    assert_eq!(sink.prepare(1, Last::No).await.unwrap(), None);
    vec![("source".to_owned(), source.companion().unwrap())]
}

#[tokio::test]
async fn acknowledgements_that_are_too_many_for_one_script_are_staged_before_it() {
    let redis = started!(Redis::start());
    fill(&redis, "from", 0..5000).await;
    let (mut host, mut sink) = hosted(&options(&redis, json!({"stream": "to", "script_bytes": "50KiB"}))).await;
    let mut source = source(&redis, json!({"stream": "from", "group": {"name": "g", "member": "m"}})).await;
    let companions = relayed(&mut *source, &mut *sink, 5000).await;
    redis.cli(&["CONFIG", "RESETSTAT"]);
    let done = host.commit(&checkpoint(1), &companions).await;
    assert!(matches!(done, Hosted::Committed), "{done:?}");
    assert!(redis.cli(&["XPENDING", "from", "g"]).starts_with('0'));
    assert_eq!(redis.cli(&["XLEN", "to"]), "5000");
    // About 24 bytes for each id make 120 kB, in three scripts of at most 50 KiB; one more commits.
    assert!(redis.cli(&["INFO", "commandstats"]).contains("cmdstat_eval:calls=4,"));
    // Nothing of it is left.
    assert_eq!(redis.cli(&["KEYS", "*:staged:*"]) + &redis.cli(&["KEYS", "*:acks"]), "");
    assert_eq!(host.fence().await.unwrap().unwrap().epoch, 1);
}

#[tokio::test]
async fn a_group_and_a_stream_in_one_slot_of_a_cluster_share_a_transaction() {
    let cluster = started!(RedisCluster::shared());
    let (tag, url) = (key(), cluster.url());
    let (from, to) = (format!("{{{tag}}}from"), format!("{{{tag}}}to"));
    let source_options = json!({"url": url, "stream": from, "group": {"name": "g", "member": "m", "mkstream": true}});
    let sink_options = json!({"url": url, "stream": to, "shards": 3, "script_bytes": "1KiB"});
    let source_plan = plan_source(&source_options).unwrap();
    let sink_plan = plan(&sink_options);
    assert!(source_plan.transaction().is_some());
    assert_eq!(source_plan.transaction(), sink_plan.transaction());
    // A sink can do both: which it does is up to the plan.
    assert_eq!(sink_plan.capabilities().way, Way::TwoPhase);
    let mut filler = plan_sink(&json!({"url": url, "stream": from})).unwrap().create().unwrap();
    filler.open(&[]).await.unwrap();
    filler.write(value_batch(0..300)).await.unwrap();
    filler.flush().await.unwrap();
    let (mut host, mut sink) = hosted(&sink_options).await;
    let mut source = source_plan.create().unwrap();
    source.open(&Resume::default()).await.unwrap();
    let companions = relayed(&mut *source, &mut *sink, 300).await;
    let written = || (0..3).map(|shard| cluster.cli(&["XLEN", &format!("{to}:{shard}")])).collect::<Vec<_>>();
    assert_eq!(written(), ["0", "0", "0"]);
    // The slot goes elsewhere before the epoch is decided.
    let slot = cluster.slot(&to);
    cluster.move_slot(slot, (0..3).find(|node| *node != cluster.master(slot)).unwrap());
    let done = host.commit(&checkpoint(1), &companions).await;
    assert!(matches!(done, Hosted::Committed), "{done:?}");
    assert_eq!(written(), ["100", "100", "100"]);
    assert!(cluster.cli(&["XPENDING", &from, "g"]).starts_with('0'));
    assert_eq!(host.fence().await.unwrap().unwrap().epoch, 1);
}

#[test]
fn only_keys_that_certainly_share_a_slot_share_a_transaction() {
    let url = "redis://a,b";
    let of_source =
        |stream: &str| plan_source(&json!({"url": url, "stream": stream, "group": "g"})).unwrap().transaction();
    let of_sink = |options: Value| {
        let mut options = options;
        options["url"] = url.into();
        plan(&options).transaction()
    };
    let tagged = of_source("{t}a,{t}b");
    assert!(tagged.is_some());
    for same in [
        json!({"stream": "{t}"}),
        json!({"stream": "{t}x", "shards": 2}),
        json!({"stream": "{t}{key}"}),
        json!({"stream": "t"}),
    ] {
        assert_eq!(of_sink(same.clone()), tagged, "{same}");
    }
    for (one, other) in
        [(of_source("{t}a,{u}b"), of_source("a")), (of_sink(json!({"stream": "t", "shards": 2})), of_sink(json!({})))]
    {
        assert_eq!((one, other), (None, None));
    }
    assert_ne!(of_sink(json!({"stream": "{u}"})), tagged);
    // In whatever order the nodes are named.
    assert_eq!(plan(&json!({"url": "redis://b,a", "stream": "{t}"})).transaction(), tagged);
}

/// What a member named `m` has read of a stream and put into a transaction.
async fn read_by_a_member(redis: &Redis, from: &str, sink: Value) -> (Box<dyn Host>, Vec<(String, Companion)>) {
    fill(redis, from, 0..2500).await;
    let (host, mut sink) = hosted(&options(redis, sink)).await;
    let mut source = source(redis, json!({"stream": from, "group": {"name": "g", "member": "m"}})).await;
    let companions = relayed(&mut *source, &mut *sink, 2500).await;
    (host, companions)
}

#[tokio::test]
async fn an_epoch_with_records_that_another_member_has_taken_over_does_not_count() {
    let redis = started!(Redis::shared());
    for (bytes, acknowledged) in [("4MiB", false), ("4MiB", true), ("1KiB", false), ("1KiB", true)] {
        let (from, to) = (key(), key());
        let sink = json!({"stream": to, "script_bytes": bytes});
        let (mut host, companions) = read_by_a_member(redis, &from, sink).await;
        let id = redis.cli(&["XRANGE", &from, "-", "+", "COUNT", "1700"]);
        let id = id.lines().rev().find(|line| line.contains('-')).unwrap();
        redis.cli(&["XCLAIM", &from, "g", "other", "0", id, "JUSTID"]);
        if acknowledged {
            redis.cli(&["XACK", &from, "g", id]);
        }
        let done = host.commit(&checkpoint(1), &companions).await;
        let Hosted::Aborted(error) = done else { panic!("{done:?}") };
        assert!(error.facts().retry && error.message().contains(&from), "{error:?}");
        assert_eq!(redis.cli(&["XLEN", &to]), "0");
        let pending = if acknowledged { "2499" } else { "2500" };
        assert!(redis.cli(&["XPENDING", &from, "g"]).starts_with(pending));
        assert_eq!(host.fence().await.unwrap(), None);
    }
}

#[tokio::test]
async fn what_a_source_gives_again_before_it_hears_of_its_commit_is_acknowledged_once() {
    let redis = started!(Redis::shared());
    let (from, to) = (key(), key());
    let (mut host, companions) = read_by_a_member(redis, &from, json!({"stream": to})).await;
    for epoch in 1..4 {
        let done = host.commit(&checkpoint(epoch), &companions).await;
        assert!(matches!(done, Hosted::Committed), "{done:?}");
        assert!(redis.cli(&["XPENDING", &from, "g"]).starts_with('0'));
    }
    assert_eq!(redis.cli(&["XLEN", &to]), "2500");
}

#[tokio::test]
async fn an_owner_whose_key_is_lost_was_not_replaced() {
    let redis = started!(Redis::start());
    // What is acknowledged goes into the script, or is staged before it.
    for (round, bytes) in ["4MiB", "1KiB"].into_iter().enumerate() {
        let (from, to) = (format!("from{round}"), format!("to{round}"));
        let sink = json!({"stream": to, "script_bytes": bytes});
        let (mut host, companions) = read_by_a_member(&redis, &from, sink).await;
        let owner = redis.cli(&["KEYS", "*:owner"]);
        redis.cli(&["DEL", &owner]);
        let done = host.commit(&checkpoint(1), &companions).await;
        let Hosted::Aborted(error) = done else { panic!("{done:?}") };
        assert!(error.facts().retry && error.message().contains(&owner), "{error:?}");
        assert!(error.hint_text().is_some_and(|hint| hint.contains("noeviction")), "{error:?}");
        assert_eq!(redis.cli(&["EXISTS", &to]), "0");
        assert!(host.reset().await.unwrap_err().facts().retry);
        // Recovery takes over again, and sees what is left.
        assert_eq!(host.fence().await.unwrap(), None);
        assert!(matches!(host.commit(&checkpoint(2), &[]).await, Hosted::Committed));
        assert_eq!(host.fence().await.unwrap().unwrap().epoch, 2);
        redis.cli(&["FLUSHALL"]);
        assert!(matches!(host.commit(&checkpoint(3), &[]).await, Hosted::Aborted(_)));
        assert_eq!(host.fence().await.unwrap(), None);
        redis.cli(&["FLUSHALL"]);
    }
}

#[tokio::test]
async fn an_epoch_of_which_something_staged_is_lost_does_not_count() {
    let redis = started!(Redis::start());
    let (mut host, mut sink) = hosted(&options(&redis, json!({"stream": "to"}))).await;
    put(&mut *sink, &records(&value_batch(0..10))).await;
    assert_eq!(sink.prepare(1, Last::No).await.unwrap(), None);
    let list = redis.cli(&["KEYS", "*:staged:*"]);
    redis.cli(&["DEL", &list]);
    let done = host.commit(&checkpoint(1), &[]).await;
    let Hosted::Aborted(error) = done else { panic!("{done:?}") };
    assert!(error.facts().retry && error.message().contains(&list), "{error:?}");
    assert_eq!(host.fence().await.unwrap(), None);
}
