//! Counting what is written only when replicas have it.

use millstream_core::{Delivery, ErrorKind, Hosted, Last, PlanContext, Planner, SinkPlan, Stamp};
use millstream_testkit::{
    servers::{Redis, RedisCluster, wait_until},
    started,
};
use serde_json::{Value, json};

use crate::{exact::checkpoint, support::*};

fn exact(options: &Value) -> Box<dyn SinkPlan> {
    let context = PlanContext { delivery: Delivery::ExactlyOnce, ..PlanContext::default() };
    let planners = millstream_redis::components().into_iter().map(|component| component.planner);
    let mut sinks = planners.filter_map(|planner| if let Planner::Sink(plan) = planner { Some(plan) } else { None });
    sinks.next().unwrap()(options, &context).unwrap()
}

#[tokio::test]
async fn waiting_for_replicas_may_take_longer_than_any_answer() {
    let redis = started!(Redis::shared());
    let wait = json!({"replicas": 1, "timeout": "800ms"});
    let mut sink = sink(redis, json!({"stream": key(), "wait": wait, "timeout": "200ms"})).await;
    sink.write(value_batch(0..10)).await.unwrap();
    let error = sink.flush().await.unwrap_err();
    assert!(error.kind() == ErrorKind::Unavailable && error.message().contains("0 of 1 replicas"), "{error:?}");
}

#[tokio::test]
async fn an_epoch_that_a_server_hosts_counts_when_replicas_have_it() {
    let (redis, replica) = (started!(Redis::start()), started!(Redis::start()));
    replica.cli(&["REPLICAOF", "127.0.0.1", &redis.port().to_string()]);
    // What is written reaches it: a `WAIT` of a connection that has written nothing says less.
    let follows = |what: &str| {
        redis.cli(&["SET", "probe", what]);
        wait_until("the replica follows", PATIENCE, || replica.cli(&["GET", "probe"]) == what);
    };
    follows("first");
    // That may have come with all that there was; what is written next may come a second later.
    follows("second");
    let wait = json!({"replicas": 1, "timeout": "2s"});
    let sinks =
        [json!({"stream": "a"}), json!({"stream": "b", "wait": wait})].map(|more| exact(&options(&redis, more)));
    let pipeline = Stamp { pipeline: key(), ..stamp("s") };
    // It is hosted by one that does not ask for it, and the other does.
    let mut host = sinks[0].host().unwrap();
    host.introduce(&pipeline);
    assert_eq!(host.fence().await.unwrap(), None);
    let mut sink = sinks[1].create().unwrap();
    sink.introduce("b", &pipeline);
    sink.join(&host.share()).unwrap();
    sink.open(&[]).await.unwrap();
    sink.write(value_batch(0..100)).await.unwrap();
    sink.flush().await.unwrap();
    assert!(matches!(host.commit(&checkpoint(1), &[]).await, Hosted::Committed));
    assert_eq!(replica.cli(&["XLEN", "b"]), "100");
    sink.write(value_batch(100..200)).await.unwrap();
    sink.flush().await.unwrap();
    replica.pause();
    let done = host.commit(&checkpoint(2), &[]).await;
    let Hosted::Unknown(error) = done else { panic!("{done:?}") };
    assert!(error.message().contains("0 of 1 replicas"), "{error:?}");
    // Who hosts and asks for it believes nothing that replicas do not have.
    let mut careful = sinks[1].host().unwrap();
    careful.introduce(&pipeline);
    assert!(careful.fence().await.unwrap_err().message().contains("0 of 1 replicas"));
    replica.resume();
    follows("again");
    assert_eq!(careful.fence().await.unwrap().unwrap().epoch, 2);
    assert_eq!(replica.cli(&["XLEN", "b"]), "200");
}

#[tokio::test]
async fn a_commit_in_two_phases_waits_for_replicas_too() {
    let cluster = started!(RedisCluster::shared());
    let options = |replicas: u32| json!({"url": cluster.url(), "stream": "waits", "shards": 3, "wait": {"replicas": replicas, "timeout": "1s"}});
    let mut sink = exact(&options(1)).create().unwrap();
    sink.introduce("out", &stamp("waits"));
    sink.open(&[]).await.unwrap();
    sink.write(value_batch(0..100)).await.unwrap();
    sink.flush().await.unwrap();
    let token = sink.prepare(1, Last::No).await.unwrap().unwrap();
    // Each node has one replica.
    let mut greedy = exact(&options(2)).create().unwrap();
    greedy.introduce("out", &stamp("waits"));
    for error in [greedy.open(&[(1, token.clone())]).await.unwrap_err(), greedy.commit(&token).await.unwrap_err()] {
        assert!(error.facts().retry && error.message().contains("1 of 2 replicas"), "{error:?}");
    }
    sink.open(&[(1, token.clone())]).await.unwrap();
    sink.commit(&token).await.unwrap();
}
