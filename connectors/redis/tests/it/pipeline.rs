//! Whole pipelines, exactly once, killed at named steps: what goes in comes out, once.

use std::sync::Arc;

use millstream_core::{Delivery, PlanContext, Planner, Registry, SinkPlan, SourcePlan};
use millstream_runtime::{Entry, PipelineSpec, Plan, PlanOptions};
use millstream_testkit::{
    run_killed,
    servers::{Redis, RedisCluster},
    silence_kills, started,
};
use serde_json::{Value, json};

use crate::support::*;

pub fn exact(options: &Value) -> Arc<dyn SinkPlan> {
    let context = PlanContext { delivery: Delivery::ExactlyOnce, ..PlanContext::default() };
    for component in millstream_redis::components() {
        if let Planner::Sink(plan) = component.planner {
            return plan(options, &context).unwrap().into();
        }
    }
    unreachable!()
}

fn spec(name: &str, source: &Value, sink: &Value) -> PipelineSpec {
    spec_of(name, source, &[sink])
}

pub fn spec_of(name: &str, source: &Value, sinks: &[&Value]) -> PipelineSpec {
    let source: Arc<dyn SourcePlan> = plan_source(source).unwrap().into();
    let mut spec = PipelineSpec {
        name: name.to_owned(),
        sources: vec![Entry { name: Some("in".into()), ..Entry::ready(source) }],
        sinks: sinks.iter().map(|sink| Entry { from: vec!["in".into()], ..Entry::ready(exact(sink)) }).collect(),
        delivery: Delivery::ExactlyOnce,
        ..PipelineSpec::default()
    };
    spec.checkpoint.count = Some(300);
    spec
}

/// Runs to the end of the source, killed on the way.
async fn run(spec: &PipelineSpec, seed: u64) -> usize {
    let plan = || Plan::new(spec, &Registry::default(), PlanOptions::default()).unwrap();
    run_killed(plan, 8, 4, seed, PATIENCE * 3).await
}

/// All numbers below `count` came, once.
pub fn check(got: &[usize], count: usize, seed: u64) {
    let missing: Vec<usize> = (0..count).filter(|number| got.binary_search(number).is_err()).collect();
    let twice: Vec<usize> = got.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    assert!(missing.is_empty() && twice.is_empty(), "seed {seed}: missing {missing:?}, twice {twice:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_and_a_sink_of_one_server_are_exactly_once_however_often_they_are_killed() {
    let redis = started!(Redis::shared());
    silence_kills();
    let mut killed = 0;
    for seed in 0..14 {
        let (from, to) = (key(), key());
        fill(redis, &from, 0..5000).await;
        let source = json!({"stream": from, "group": {"name": "g", "max_deliveries": 100, "claim_idle": "2s"}, "batch": {"count": 100}});
        let spec = spec(&key(), &options(redis, source), &options(redis, json!({"stream": to})));
        killed += run(&spec, seed).await;
        let mut source = source_at(redis, json!({"stream": to}), until_end()).await;
        let mut got: Vec<usize> = all(&mut *source).await.iter().map(|value| value[1..].parse().unwrap()).collect();
        got.sort();
        check(&got, 5000, seed);
        assert!(redis.cli(&["XPENDING", &from, "g"]).starts_with('0'));
    }
    assert!(killed >= 50, "{killed} kills");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_exactly_once_in_two_phases_however_often_it_is_killed() {
    let cluster = started!(RedisCluster::shared());
    silence_kills();
    let mut killed = 0;
    for seed in 0..4 {
        let (from, to) = (key(), key());
        fill_cluster(json!({"url": cluster.url(), "stream": from, "shards": 3})).await;
        let source = json!({"url": cluster.url(), "stream": from, "batch": {"count": 100}});
        let spec = spec(&key(), &source, &json!({"url": cluster.url(), "stream": to, "shards": 4}));
        killed += run(&spec, seed).await;
        check(&stored(json!({"url": cluster.url(), "stream": to})).await, 5000, seed);
    }
    assert!(killed >= 8, "{killed} kills");
}

/// Writes the 5,000 numbers.
async fn fill_cluster(options: Value) {
    let mut sink = plan_sink(&options).unwrap().create().unwrap();
    sink.open(&[]).await.unwrap();
    for i in 0..5 {
        sink.write(value_batch(i * 1000..(i + 1) * 1000)).await.unwrap();
    }
    assert!(sink.flush().await.unwrap().rejected.is_empty());
}

/// The numbers in a stream, ascending.
pub async fn stored(options: Value) -> Vec<usize> {
    let mut source = plan_source(&options).unwrap().create().unwrap();
    source.open(&until_end()).await.unwrap();
    let mut got: Vec<usize> = all(&mut *source).await.iter().map(|value| value[1..].parse().unwrap()).collect();
    got.sort();
    got
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_in_one_slot_of_a_cluster_is_exactly_once_also_beside_a_sink_over_several_slots() {
    let cluster = started!(RedisCluster::shared());
    silence_kills();
    let url = cluster.url();
    let mut killed = 0;
    for seed in 0..4 {
        let (tag, far) = (key(), key());
        let (from, to) = (format!("{{{tag}}}from"), format!("{{{tag}}}to"));
        fill_cluster(json!({"url": url, "stream": from, "shards": 2})).await;
        let group = json!({"name": "g", "max_deliveries": 100, "claim_idle": "2s"});
        let source = json!({"url": url, "stream": from, "group": group, "batch": {"count": 100}});
        let near = json!({"url": url, "stream": to, "shards": 2});
        let spec = spec_of(&key(), &source, &[&json!({"url": url, "stream": far, "shards": 4}), &near]);
        killed += run(&spec, seed).await;
        check(&stored(json!({"url": url, "stream": to})).await, 5000, seed);
        check(&stored(json!({"url": url, "stream": far})).await, 5000, seed);
        for shard in 0..2 {
            assert!(cluster.cli(&["XPENDING", &format!("{from}:{shard}"), "g"]).starts_with('0'));
        }
    }
    assert!(killed >= 8, "{killed} kills");
}

#[test]
fn a_group_cannot_be_exactly_once_where_no_sink_shares_its_slot() {
    let url = "redis://a,b";
    let source = json!({"url": url, "stream": "{t}from", "group": "g"});
    let spec = spec(&key(), &source, &json!({"url": url, "stream": "{u}to"}));
    let errors = Plan::new(&spec, &Registry::default(), PlanOptions::default()).unwrap_err();
    let said = errors[0].message();
    assert!(said.contains("no sink writes in a transaction of slot"), "{said}");
}
