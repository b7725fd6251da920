//! `exactly_once`: nothing is seen before its epoch counts, and then once.

use std::time::Duration;

use millstream_core::{
    CHECKPOINT_VERSION, Checkpoint, Delivery, Epoch, ErrorKind, Hosted, Last, PlanContext, Planner, Resume, Sink,
    SinkPlan, Timestamp, Token, Way,
};
use millstream_testkit::{
    servers::{Flow, Proxy, Redis, RedisCluster},
    started,
};
use serde_json::{Value, json};

use crate::support::*;

pub fn plan(options: &Value) -> Box<dyn SinkPlan> {
    let context = PlanContext { delivery: Delivery::ExactlyOnce, ..PlanContext::default() };
    for component in millstream_redis::components() {
        if let Planner::Sink(plan) = component.planner {
            return plan(options, &context).unwrap();
        }
    }
    unreachable!()
}

pub async fn open(options: &Value, store: &str, resume: &[(Epoch, Token)]) -> Box<dyn Sink> {
    let mut sink = plan(options).create().unwrap();
    sink.introduce("out", &stamp(store));
    sink.open(resume).await.unwrap();
    sink
}

async fn prepared(sink: &mut dyn Sink, epoch: Epoch, range: std::ops::Range<usize>) -> (Epoch, Token) {
    sink.write(value_batch(range)).await.unwrap();
    assert!(sink.flush().await.unwrap().rejected.is_empty());
    let token = sink.prepare(epoch, Last::No).await.unwrap().unwrap();
    // As it comes back from a checkpoint.
    (epoch, serde_json::from_str(&serde_json::to_string(&token).unwrap()).unwrap())
}

async fn stored(redis: &Redis, stream: &str) -> Vec<String> {
    let mut source = source_at(redis, json!({"stream": stream}), until_end()).await;
    all(&mut *source).await
}

pub fn checkpoint(epoch: Epoch) -> Checkpoint {
    let text = json!({"version": CHECKPOINT_VERSION, "store_id": "s", "plan": "", "epoch": epoch, "sources": {}, "sinks": {},
        "segments": [], "finished": false, "decided_at": Timestamp(epoch as i64)});
    serde_json::from_value(text).unwrap()
}

#[tokio::test]
async fn what_is_prepared_is_seen_when_its_epoch_counts_and_only_once() {
    let redis = started!(Redis::shared());
    let (k, store) = (key(), key());
    let options = options(redis, json!({"stream": k, "shards": 3, "trim": {"count": 100_000}}));
    let mut sink = open(&options, &store, &[]).await;
    let first = prepared(&mut *sink, 1, 0..1000).await;
    let second = prepared(&mut *sink, 2, 1000..1500).await;
    let never = prepared(&mut *sink, 3, 1500..2000).await;
    for shard in 0..3 {
        assert_eq!(redis.cli(&["EXISTS", &format!("{k}:{shard}")]), "0");
    }
    sink.commit(&first.1).await.unwrap();
    sink.commit(&first.1).await.unwrap();
    assert_eq!(stored(redis, &k).await.len(), 1000);
    sink.commit(&second.1).await.unwrap();
    sink.commit(&first.1).await.unwrap();
    sink.abort(&never.1).await.unwrap();
    let mut got: Vec<usize> = stored(redis, &k).await.iter().map(|value| value[1..].parse().unwrap()).collect();
    got.sort();
    assert_eq!(got, (0..1500).collect::<Vec<_>>());
    assert!(sink.prepare(4, Last::No).await.unwrap().is_none());
}

#[tokio::test]
async fn a_crash_at_any_step_repeats_nothing_and_leaves_nothing() {
    let redis = started!(Redis::shared());
    let (k, store) = (key(), key());
    let options = options(redis, json!({"stream": k}));
    let mut sink = open(&options, &store, &[]).await;
    let one = prepared(&mut *sink, 1, 0..100).await;
    // Prepared and decided; then staged and never decided.
    sink.write(value_batch(100..200)).await.unwrap();
    sink.flush().await.unwrap();
    drop(sink);
    let mut sink = open(&options, &store, std::slice::from_ref(&one)).await;
    assert_eq!(stored(redis, &k).await, numbered(0..100));
    assert_eq!(redis.cli(&["KEYS", &format!("*{store}:out:staged*")]), "");
    let two = prepared(&mut *sink, 2, 100..200).await;
    sink.commit(&two.1).await.unwrap();
    drop(sink);
    // Committed, and the checkpoint did not hear of it.
    open(&options, &store, &[one, two.clone()]).await;
    assert_eq!(stored(redis, &k).await, numbered(0..200));
    // The server forgets what it has done.
    redis.cli(&["DEL", &format!("{{0}}:millstream:{store}:out:epoch")]);
    let mut sink = plan(&options).create().unwrap();
    sink.introduce("out", &stamp(&store));
    assert_eq!(sink.open(&[two]).await.unwrap_err().kind(), ErrorKind::StateMismatch);
}

#[tokio::test]
async fn a_connection_that_breaks_spoils_the_epoch_and_not_the_next() {
    let redis = started!(Redis::shared());
    let proxy = Proxy::start(&redis.address());
    let (k, store) = (key(), key());
    let options = json!({"url": format!("redis://{}", proxy.address()), "stream": k, "timeout": "1s"});
    let mut sink = open(&options, &store, &[]).await;
    for flow in [Flow::ToServer, Flow::ToClient] {
        proxy.cut_after(flow, 700);
        sink.write(value_batch(0..1000)).await.unwrap();
        sink.write(value_batch(0..1000)).await.unwrap();
        let error = sink.flush().await.unwrap_err();
        assert!(error.facts().retry, "{error:?}");
        assert!(sink.flush().await.is_err() && sink.prepare(1, Last::No).await.is_err());
        sink.open(&[]).await.unwrap();
    }
    let token = prepared(&mut *sink, 1, 0..1000).await;
    sink.commit(&token.1).await.unwrap();
    assert_eq!(stored(redis, &k).await, numbered(0..1000));
}

#[tokio::test]
async fn slots_of_a_cluster_are_committed_one_by_one() {
    let cluster = started!(RedisCluster::shared());
    let (k, store) = (key(), key());
    let options = json!({"url": cluster.url(), "stream": k, "shards": 5, "sharder": "round_robin"});
    assert_eq!(plan(&options).capabilities().way, Way::TwoPhase);
    // Without the promise what is written is there: nobody is to write it again.
    assert_eq!(plan_sink(&options).unwrap().capabilities().way, Way::None);
    let mut sink = open(&options, &store, &[]).await;
    let one = prepared(&mut *sink, 1, 0..500).await;
    drop(sink);
    for _ in 0..2 {
        open(&options, &store, std::slice::from_ref(&one)).await;
        for shard in 0..5 {
            assert_eq!(cluster.cli(&["XLEN", &format!("{k}:{shard}")]), "100");
        }
    }
}

#[tokio::test]
async fn a_group_and_a_stream_on_one_server_share_a_transaction() {
    let redis = started!(Redis::shared());
    let (from_stream, to_stream) = (key(), key());
    fill(redis, &from_stream, 0..300).await;
    let sink_options = options(redis, json!({"stream": to_stream}));
    let source_options = json!({"stream": from_stream, "group": {"name": "g", "member": "m"}});
    let sink_plan = plan(&sink_options);
    assert_eq!(sink_plan.capabilities().way, Way::Hosting);
    let source_plan = plan_source(&options(redis, source_options.clone())).unwrap();
    assert_eq!(sink_plan.transaction(), source_plan.transaction());
    let pipeline = millstream_core::Stamp { pipeline: key(), ..stamp(&key()) };
    let mut host = sink_plan.host().unwrap();
    host.introduce(&pipeline);
    assert_eq!(host.fence().await.unwrap(), None);
    let mut sink = sink_plan.create().unwrap();
    sink.introduce("out", &pipeline);
    sink.join(&host.share()).unwrap();
    sink.open(&[]).await.unwrap();
    let mut source = source_at(redis, source_options, Resume::default()).await;
    let mut got = 0;
    while got < 300 {
        let read = next_read(&mut *source).await.unwrap();
        got += read.batch.len();
        sink.write(read.batch).await.unwrap();
    }
    sink.flush().await.unwrap();
    assert_eq!(sink.prepare(1, Last::No).await.unwrap(), None);
    let companions = [("source".to_owned(), source.companion().unwrap())];
    assert_eq!(redis.cli(&["EXISTS", &to_stream]), "0");
    assert!(redis.cli(&["XPENDING", &from_stream, "g"]).starts_with("300"));
    let hosted = host.commit(&checkpoint(1), &companions).await;
    assert!(matches!(hosted, Hosted::Committed), "{hosted:?}");
    assert_eq!(stored(redis, &to_stream).await, numbered(0..300));
    assert!(redis.cli(&["XPENDING", &from_stream, "g"]).starts_with('0'));
    // An empty transaction, and one after another runner has taken over.
    assert!(matches!(host.commit(&checkpoint(2), &[]).await, Hosted::Committed));
    let mut newer = sink_plan.host().unwrap();
    newer.introduce(&pipeline);
    assert_eq!(newer.fence().await.unwrap().unwrap().epoch, 2);
    sink.write(value_batch(0..10)).await.unwrap();
    sink.flush().await.unwrap();
    assert!(matches!(host.commit(&checkpoint(3), &[]).await, Hosted::Fenced(_)));
    assert!(host.reset().await.is_err());
    assert_eq!(stored(redis, &to_stream).await.len(), 300);
    newer.reset().await.unwrap();
    assert_eq!(newer.fence().await.unwrap(), None);
}

#[tokio::test]
async fn a_transaction_whose_answer_is_lost_is_found_again() {
    let redis = started!(Redis::shared());
    let proxy = Proxy::start(&redis.address());
    let k = key();
    let options = json!({"url": format!("redis://{}", proxy.address()), "stream": k, "timeout": "500ms"});
    let (sink_plan, pipeline) = (plan(&options), millstream_core::Stamp { pipeline: key(), ..stamp(&key()) });
    let mut host = sink_plan.host().unwrap();
    host.introduce(&pipeline);
    host.fence().await.unwrap();
    let mut sink = sink_plan.create().unwrap();
    sink.introduce("out", &pipeline);
    sink.join(&host.share()).unwrap();
    sink.open(&[]).await.unwrap();
    sink.write(value_batch(0..100)).await.unwrap();
    sink.flush().await.unwrap();
    proxy.cut_after(Flow::ToClient, 0);
    let hosted = host.commit(&checkpoint(7), &[]).await;
    assert!(matches!(hosted, Hosted::Unknown(_)), "{hosted:?}");
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(host.fence().await.unwrap().unwrap().epoch, 7);
    assert_eq!(stored(redis, &k).await, numbered(0..100));
}

#[tokio::test]
async fn a_stream_that_has_become_something_else_stops_the_epoch_as_a_whole() {
    let redis = started!(Redis::shared());
    let (good, bad, store) = (key(), key(), key());
    let options = options(redis, json!({"stream": "{header:to}"}));
    let mut sink = open(&options, &store, &[]).await;
    let to = |to: &str| {
        let mut record = millstream_core::Record::new("in", "v");
        record.headers = vec![("to".into(), Some(to.to_owned().into()))];
        record
    };
    put(&mut *sink, &[to(&good), to(&bad)]).await;
    let token = sink.prepare(1, Last::No).await.unwrap().unwrap();
    redis.cli(&["SET", &bad, "a string"]);
    assert!(sink.commit(&token).await.unwrap_err().message().contains("WRONGTYPE"));
    assert_eq!(redis.cli(&["EXISTS", &good]), "0");
    redis.cli(&["DEL", &bad]);
    sink.commit(&token).await.unwrap();
    assert_eq!([redis.cli(&["XLEN", &good]), redis.cli(&["XLEN", &bad])], ["1", "1"]);
}

#[tokio::test]
async fn times_that_go_back_are_kept_where_they_can_be() {
    let redis = started!(Redis::shared());
    let (k, store) = (key(), key());
    let mut sink = open(&options(redis, json!({"stream": k})), &store, &[]).await;
    let at = |ms| {
        let mut record = millstream_core::Record::new("in", format!("v{ms}"));
        record.time = Some(Timestamp::from_millis(ms));
        record
    };
    put(&mut *sink, &[at(5), at(4)]).await;
    let token = sink.prepare(1, Last::No).await.unwrap().unwrap();
    sink.commit(&token).await.unwrap();
    assert_eq!(stored(redis, &k).await, ["v5", "v4"]);
    assert!(redis.cli(&["XRANGE", &k, "-", "+"]).starts_with("5-0\n"));
}

#[tokio::test]
async fn an_epoch_whose_records_were_all_refused_has_nothing_to_commit() {
    let redis = started!(Redis::start());
    redis.cli(&["ACL", "SETUSER", "me", "on", ">pw", "~*", "+@all", "-rpush"]);
    let me = json!({"stream": "k", "auth": {"user": "me", "password": "pw"}});
    let mut sink = open(&options(&redis, me), "s", &[]).await;
    sink.write(value_batch(0..10)).await.unwrap();
    assert_eq!(sink.flush().await.unwrap().rejected.len(), 10);
    assert!(sink.prepare(1, Last::No).await.unwrap().is_none());
    redis.cli(&["ACL", "SETUSER", "me", "+rpush"]);
    let (_, token) = prepared(&mut *sink, 2, 0..10).await;
    sink.commit(&token).await.unwrap();
    assert_eq!(stored(&redis, "k").await, numbered(0..10));
}

#[tokio::test]
async fn an_epoch_that_the_server_has_no_room_for_waits_as_a_whole() {
    let redis = started!(Redis::start());
    let mut sink = open(&options(&redis, json!({"stream": "full"})), "s", &[]).await;
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    sink.write(value_batch(0..10)).await.unwrap();
    // None of its records is refused for that.
    let error = sink.flush().await.unwrap_err();
    assert!(error.facts().retry && error.chain().contains("OOM"), "{error:?}");
    assert!(sink.prepare(1, Last::No).await.is_err());
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    sink.open(&[]).await.unwrap();
    let (_, token) = prepared(&mut *sink, 1, 0..10).await;
    sink.commit(&token).await.unwrap();
    assert_eq!(stored(&redis, "full").await, numbered(0..10));
}
