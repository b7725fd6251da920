//! How much there is to read.

use std::{sync::Arc, time::Duration};

use millstream_core::{Registry, Resume, SeekTo, SinkPlan, Source, SourcePlan};
use millstream_runtime::{Entry, Phase, PipelineSpec, Plan, PlanOptions, RunOptions, Running};
use millstream_state::{Memory, MemoryStore};
use millstream_testkit::{FakeSink, servers::Redis, started};
use serde_json::json;

use crate::support::*;

fn lag(source: &dyn Source) -> Option<u64> {
    source.lag()?.records
}

/// Waits until the streams were looked at again.
async fn becomes(source: &mut dyn Source, expected: Option<u64>) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while lag(source) != expected {
        assert!(tokio::time::Instant::now() < until, "{:?} instead of {expected:?}", lag(source));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_reader_by_id_knows_how_many_records_are_left() {
    let redis = started!(Redis::shared());
    let k = key();
    fill(redis, &format!("{k}:0"), 0..300).await;
    fill(redis, &format!("{k}:1"), 0..100).await;
    let mut source = source(redis, json!({"stream": k, "batch": {"count": 50}})).await;
    assert_eq!(lag(&*source), Some(400));
    let (mut got, mut left) = (0, 400);
    while got < 400 {
        let read = next_read(&mut *source).await.unwrap().batch.len();
        (got, left) = (got + read, left - read as u64);
        assert_eq!(lag(&*source), Some(left));
    }
    // Others write on: that is seen without reading.
    fill(redis, &format!("{k}:1"), 100..150).await;
    becomes(&mut *source, Some(50)).await;
    take(&mut *source, 50).await;
    assert_eq!(lag(&*source), Some(0));
    source.seek(&SeekTo::Beginning, None).await.unwrap();
    assert_eq!(lag(&*source), Some(450));
}

#[tokio::test]
async fn in_the_middle_of_a_stream_it_is_known_once_its_end_was_reached() {
    let redis = started!(Redis::shared());
    let k = key();
    fill(redis, &k, 0..100).await;
    let mut first = source_at(redis, json!({"stream": k, "batch": {"count": 10}}), Resume::default()).await;
    next_read(&mut *first).await.unwrap();
    let position = first.position().unwrap();
    // Where we have read up to there ourselves, it was counted.
    let resumed = source_at(redis, json!({"stream": k}), from(position)).await;
    assert_eq!(lag(&*resumed), Some(96));
    let middle = records(&next_read(&mut *first).await.unwrap().batch)[0].sequence;
    let mut source = source_at(redis, json!({"stream": k}), start(SeekTo::At(middle))).await;
    assert_eq!(lag(&*source), None);
    take(&mut *source, 96).await;
    becomes(&mut *source, Some(0)).await;
    // What is trimmed need not be read.
    fill(redis, &k, 100..120).await;
    becomes(&mut *source, Some(20)).await;
    redis.cli(&["XTRIM", &k, "MAXLEN", "5"]);
    becomes(&mut *source, Some(5)).await;
}

#[tokio::test]
async fn a_group_knows_what_none_of_its_members_has_taken() {
    let redis = started!(Redis::shared());
    let k = key();
    fill(redis, &k, 0..200).await;
    let member = |name: &str| json!({"stream": k, "group": {"name": "g", "member": name}, "batch": {"count": 50}});
    let mut one = source(redis, member("one")).await;
    let mut two = source(redis, member("two")).await;
    take(&mut *one, 50).await;
    take(&mut *two, 50).await;
    let pending = |name: &str| redis.cli(&["XINFO", "GROUPS", name]);
    let expected: u64 = {
        let text = pending(&k);
        let mut lines = text.lines().skip_while(|line| *line != "lag").skip(1);
        lines.next().unwrap().parse().unwrap()
    };
    assert!(expected < 200);
    becomes(&mut *one, Some(expected)).await;
    becomes(&mut *two, Some(expected)).await;
}

#[tokio::test]
async fn what_a_paused_pipeline_has_not_read_is_its_lag() {
    let redis = started!(Redis::shared());
    for more in [json!({}), json!({"group": "g"})] {
        let k = key();
        // What was asked for before the pause still comes, and a group has given it away.
        let ahead = if more.get("group").is_some() { 20 } else { 0 };
        let mut options = options(redis, json!({"stream": k, "batch": {"count": 10}}));
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let source: Arc<dyn SourcePlan> = plan_source(&options).unwrap().into();
        let sink: Arc<dyn SinkPlan> = Arc::new(FakeSink::plain());
        fill(redis, &k, 0..10).await;
        let spec = PipelineSpec {
            name: "lag".into(),
            sources: vec![Entry { name: Some("in".into()), ..Entry::ready(source) }],
            sinks: vec![Entry::ready(sink)],
            ..PipelineSpec::default()
        };
        let plan = Plan::new(&spec, &Registry::default(), PlanOptions::default()).unwrap();
        let store = Box::new(MemoryStore::new(Memory::new()));
        let mut running = Running::start(plan, RunOptions::new(store, Arc::new(FakeSink::truncating())));
        let handle = running.handle();
        let shown = |expected: std::ops::RangeInclusive<u64>| {
            let handle = handle.clone();
            tokio::time::timeout(PATIENCE, async move {
                let lag = || handle.status().lags.get("in").and_then(|lag| lag.records);
                while !lag().is_some_and(|lag| expected.contains(&lag)) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
        };
        shown(0..=0).await.expect("all is read");
        handle.pause();
        while !matches!(handle.status().phase, Phase::Paused) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        fill(redis, &k, 10..500).await;
        shown(490 - ahead..=490).await.expect("nothing of it is read");
        running.drain(PATIENCE).await.unwrap();
    }
}
