//! Reading as a member of a group.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use millstream_core::{Event, Owner, Resume, SeekTo, ShardKey, Source};
use millstream_testkit::{servers::Redis, started};
use serde_json::{Value, json};

use crate::support::*;

fn member(stream: &str, name: &str) -> Value {
    json!({"stream": stream, "group": {"name": "g", "member": name}})
}

fn impatient(stream: &str, name: &str, idle: &str) -> Value {
    json!({"stream": stream, "group": {"name": "g", "member": name, "claim_idle": idle}})
}

fn pending(redis: &Redis, stream: &str) -> usize {
    redis.cli(&["XPENDING", stream, "g"]).lines().next().unwrap().parse().unwrap()
}

async fn commit(source: &mut dyn Source) {
    let position = source.position().unwrap();
    source.commit(&position, None).await.unwrap();
}

#[tokio::test]
async fn what_is_committed_is_acknowledged_and_nothing_else() {
    let redis = started!(Redis::shared());
    let k = key();
    fill(redis, &k, 0..30).await;
    let mut options = member(&k, "a");
    options["batch"] = json!({"count": 2});
    let mut source_a = source(redis, options).await;
    assert_eq!(take(&mut *source_a, 10).await, numbered(0..10));
    let ten = source_a.position().unwrap();
    assert_eq!(take(&mut *source_a, 10).await, numbered(10..20));
    source_a.commit(&ten, None).await.unwrap();
    source_a.commit(&ten, None).await.unwrap();
    // Read ahead: up to 30 are with us, 10 are done.
    assert!((10..=20).contains(&pending(redis, &k)));
    // A crash: nothing is said to the server.
    drop(source_a);
    let mut source_a = source(redis, member(&k, "a")).await;
    let mut got = Vec::new();
    while got.len() < 20 {
        let read = next_read(&mut *source_a).await.unwrap();
        got.extend(records(&read.batch));
    }
    let order: Vec<String> =
        got.iter().map(|record| String::from_utf8_lossy(record.value.as_ref().unwrap()).into()).collect();
    assert_eq!(order, numbered(10..30));
    assert!(got[..10].iter().all(|record| record.deliveries == 2));
    commit(&mut *source_a).await;
    assert_eq!(pending(redis, &k), 0);
}

#[tokio::test]
async fn members_share_and_a_clean_end_repeats_nothing() {
    let redis = started!(Redis::shared());
    let k = key();
    fill(redis, &k, 0..5000).await;
    let unnamed = json!({"stream": k, "group": "g", "batch": {"count": 50}});
    let mut one = source(redis, unnamed.clone()).await;
    let mut two = source(redis, unnamed).await;
    let mut got = Vec::new();
    for _ in 0..5 {
        for source in [&mut one, &mut two] {
            got.extend(values(&next_read(&mut **source).await.unwrap().batch));
        }
    }
    for source in [&mut one, &mut two] {
        commit(&mut **source).await;
    }
    one.close().await.unwrap();
    while got.len() < 5000 {
        let read = next_read(&mut *two).await.unwrap();
        assert!(records(&read.batch).iter().all(|record| record.deliveries == 1));
        got.extend(values(&read.batch));
    }
    commit(&mut *two).await;
    two.close().await.unwrap();
    let unique: BTreeSet<&String> = got.iter().collect();
    assert_eq!((unique.len(), got.len()), (5000, 5000));
    assert_eq!(pending(redis, &k), 0);
    // Names that were made up do not stay.
    assert_eq!(redis.cli(&["XINFO", "CONSUMERS", &k, "g"]), "");
}

#[tokio::test]
async fn a_dead_members_records_are_taken_over_with_their_count() {
    let redis = started!(Redis::shared());
    let k = key();
    fill(redis, &k, 0..100).await;
    let mut dead = source(redis, member(&k, "dead")).await;
    take(&mut *dead, 100).await;
    drop(dead);
    let mut heir = source(redis, impatient(&k, "heir", "300ms")).await;
    let mut got = Vec::new();
    while got.len() < 100 {
        got.extend(records(&next_read(&mut *heir).await.unwrap().batch));
    }
    assert!(got.iter().all(|record| record.deliveries == 2));
    // Into our own name.
    assert!(redis.cli(&["XPENDING", &k, "g"]).contains("heir"));
    commit(&mut *heir).await;
    assert_eq!(pending(redis, &k), 0);
}

#[tokio::test]
async fn however_much_a_dead_member_held_it_is_taken_over_in_time() {
    let redis = started!(Redis::shared());
    let k = key();
    fill(redis, &k, 0..20_000).await;
    let mut dead = source(redis, member(&k, "dead")).await;
    take(&mut *dead, 20_000).await;
    drop(dead);
    let died = Instant::now();
    let mut heir = source(redis, impatient(&k, "heir", "3s")).await;
    let mut got = take(&mut *heir, 20_000).await;
    assert!(died.elapsed() < Duration::from_secs(3 + 5), "{:?}", died.elapsed());
    commit(&mut *heir).await;
    got.sort_by_key(|value| value[1..].parse::<usize>().unwrap());
    assert_eq!(got, numbered(0..20_000));
    assert_eq!(pending(redis, &k), 0);
}

#[tokio::test]
async fn what_is_new_comes_between_what_is_taken_over() {
    let redis = started!(Redis::shared());
    let (k, quiet) = (key(), key());
    fill(redis, &k, 0..20_000).await;
    let mut dead = source(redis, member(&k, "dead")).await;
    take(&mut *dead, 20_000).await;
    drop(dead);
    fill(redis, &quiet, 0..1).await;
    let mut options = impatient("", "heir", "100ms");
    options["stream"] = json!([k, quiet]);
    let mut heir = source(redis, options).await;
    let mut before = 0;
    loop {
        let read = next_read(&mut *heir).await.unwrap();
        if read.batch.iter().any(|record| *record.origin().stream == *quiet) {
            break;
        }
        before += read.batch.len();
    }
    assert!(before < 10_000, "{before} records came first");
}

#[tokio::test]
async fn slow_is_not_dead() {
    let redis = started!(Redis::shared());
    let k = key();
    fill(redis, &k, 0..10).await;
    let mut slow = source(redis, impatient(&k, "slow", "600ms")).await;
    take(&mut *slow, 10).await;
    let mut greedy = source(redis, impatient(&k, "greedy", "600ms")).await;
    for _ in 0..8 {
        quiet(&mut *greedy, Duration::from_millis(200)).await;
        slow.keep_alive().await.unwrap();
    }
    commit(&mut *slow).await;
    assert_eq!(pending(redis, &k), 0);
}

#[tokio::test]
async fn a_record_that_kills_its_consumer_five_times_is_given_up_and_drags_no_other_with_it() {
    let redis = started!(Redis::shared());
    let k = key();
    fill(redis, &k, 0..20).await;
    let (mut done, mut deaths, mut given_up) = (BTreeSet::new(), 0, Vec::new());
    while done.len() + given_up.len() < 20 {
        let mut source = source(redis, member(&k, "a")).await;
        loop {
            let read = next_read(&mut *source).await.unwrap();
            given_up.extend(
                read.failed.iter().map(|(row, error)| (values(&read.batch)[*row as usize].clone(), error.clone())),
            );
            let failed: Vec<u32> = read.failed.iter().map(|(row, _)| *row).collect();
            let healthy: Vec<String> = values(&read.batch)
                .into_iter()
                .enumerate()
                .filter(|(row, _)| !failed.contains(&(*row as u32)))
                .map(|(_, value)| value)
                .collect();
            assert!(!read.alone || read.batch.len() == 1);
            if healthy.contains(&"v7".to_owned()) {
                deaths += 1;
                break;
            }
            if read.alone {
                quiet(&mut *source, Duration::from_millis(30)).await;
            }
            done.extend(healthy);
            commit(&mut *source).await;
            if done.len() + given_up.len() >= 20 {
                break;
            }
        }
    }
    assert_eq!(deaths, 5);
    assert_eq!(given_up.len(), 1);
    assert_eq!(given_up[0].0, "v7");
    assert!(given_up[0].1.message().contains("5 times"), "{:?}", given_up[0].1);
    assert_eq!(pending(redis, &k), 0);
}

#[tokio::test]
async fn single_records_can_be_acknowledged() {
    let redis = started!(Redis::shared());
    let k = key();
    fill(redis, &k, 0..10).await;
    let mut source = source(redis, member(&k, "a")).await;
    let batch = next_read(&mut *source).await.unwrap().batch;
    take(&mut *source, 10 - batch.len()).await;
    source.acknowledge(&batch.select(vec![0, 2])).await.unwrap();
    assert_eq!(pending(redis, &k), 8);
    commit(&mut *source).await;
    assert_eq!(pending(redis, &k), 0);
}

#[tokio::test]
async fn what_is_given_back_is_not_acknowledged_and_comes_to_others_at_once_as_if_for_the_first_time() {
    let redis = started!(Redis::shared());
    let k = key();
    fill(redis, &k, 0..100).await;
    let mut options = member(&k, "a");
    options["batch"] = json!({"count": 20});
    let mut one = source(redis, options).await;
    let batch = next_read(&mut *one).await.unwrap().batch;
    one.give_back(&batch.slice(1, batch.len())).await.unwrap();
    // What is given back is renewed by nobody and covered by no commit.
    one.keep_alive().await.unwrap();
    commit(&mut *one).await;
    let mut got = numbered(0..1);
    let mut other = source(redis, member(&k, "b")).await;
    while got.len() < batch.len() {
        let read = next_read(&mut *other).await.unwrap();
        assert!(records(&read.batch).iter().all(|record| record.deliveries == 1));
        got.extend(values(&read.batch));
    }
    one.close().await.unwrap();
    while got.len() < 100 {
        let read = next_read(&mut *other).await.unwrap();
        assert!(records(&read.batch).iter().all(|record| record.deliveries == 1));
        got.extend(values(&read.batch));
    }
    let unique: BTreeSet<&String> = got.iter().collect();
    assert_eq!((unique.len(), got.len()), (100, 100));
    commit(&mut *other).await;
    assert_eq!(pending(redis, &k), 0);
}

#[tokio::test]
async fn who_ends_leaves_no_name_behind() {
    let redis = started!(Redis::shared());
    let k = key();
    let names = || redis.cli(&["XINFO", "CONSUMERS", &k, "g"]);
    fill(redis, &k, 0..100).await;
    let options = json!({"stream": k, "group": "g", "batch": {"count": 10}});
    let of = |store| Resume { stamp: Some(stamp(store)), ..Resume::default() };
    let mut first = source_at(redis, options.clone(), of("s1")).await;
    take(&mut *first, 10).await;
    first.close().await.unwrap();
    assert!(!names().contains("s1") && pending(redis, &k) > 0, "{}", names());
    let mut second = source_at(redis, options, of("s2")).await;
    take(&mut *second, 100).await;
    commit(&mut *second).await;
    assert_eq!(pending(redis, &k), 0);
    second.close().await.unwrap();
    assert_eq!(names(), "");
}

#[tokio::test]
async fn without_acks_redis_keeps_nothing() {
    let redis = started!(Redis::shared());
    let k = key();
    fill(redis, &k, 0..10).await;
    let options_none = json!({"stream": k, "group": {"name": "g", "ack": "none"}});
    assert_eq!(plan_source(&options(redis, options_none.clone())).unwrap().capabilities().owner, Owner::Nobody);
    let mut source = source(redis, options_none).await;
    assert_eq!(take(&mut *source, 10).await, numbered(0..10));
    assert_eq!(pending(redis, &k), 0);
    commit(&mut *source).await;
}

#[tokio::test]
async fn a_group_begins_where_it_is_told_and_streams_are_made_on_request() {
    let redis = started!(Redis::shared());
    let (k, made, late) = (key(), key(), key());
    fill(redis, &k, 0..5).await;
    let mut from_end = source_at(redis, member(&k, "a"), start(SeekTo::End)).await;
    quiet(&mut *from_end, Duration::from_millis(200)).await;
    fill(redis, &k, 5..6).await;
    assert_eq!(take(&mut *from_end, 1).await, ["v5"]);
    let mkstream = json!({"stream": made, "group": {"name": "g", "mkstream": true}});
    let mut makes = source(redis, mkstream).await;
    quiet(&mut *makes, Duration::from_millis(200)).await;
    assert_eq!(redis.cli(&["EXISTS", &made]), "1");
    fill(redis, &made, 0..1).await;
    assert_eq!(take(&mut *makes, 1).await, ["v0"]);
    let mut waits = source_at(redis, member(&late, "a"), start(SeekTo::End)).await;
    waits_for(&mut *waits, &late).await;
    quiet(&mut *waits, Duration::from_millis(200)).await;
    assert_eq!(redis.cli(&["EXISTS", &late]), "0");
    fill(redis, &late, 0..3).await;
    assert_eq!(take(&mut *waits, 3).await, numbered(0..3));
    let error = waits.seek(&SeekTo::Beginning, None).await.unwrap_err();
    assert_eq!(error.kind(), millstream_core::ErrorKind::Unsupported);
}

#[tokio::test]
async fn the_end_of_a_group_is_where_it_was_also_while_others_write_on() {
    let redis = started!(Redis::shared());
    for ack in ["epoch", "none"] {
        let k = key();
        fill(redis, &k, 0..300).await;
        let options = json!({"stream": k, "group": {"name": "g", "ack": ack}, "batch": {"count": 50}});
        let mut ends = source_at(redis, options.clone(), until_end()).await;
        let (mut got, mut written) = (Vec::new(), 300);
        while let Some(read) = next_read(&mut *ends).await {
            got.extend(values(&read.batch));
            // Each time more than one read takes.
            fill(redis, &k, written..written + 60).await;
            written += 60;
            assert!(got.len() < 1000, "no end");
        }
        if ack == "epoch" {
            assert_eq!(got, numbered(0..300));
        }
        commit(&mut *ends).await;
        ends.close().await.unwrap();
        // What lies behind the end is there for others, as if for the first time.
        let mut rest = source(redis, options).await;
        while got.len() < written {
            let read = next_read(&mut *rest).await.unwrap();
            assert!(records(&read.batch).iter().all(|record| record.deliveries == 1));
            got.extend(values(&read.batch));
        }
        let unique: BTreeSet<&String> = got.iter().collect();
        assert_eq!((unique.len(), got.len()), (written, written));
        commit(&mut *rest).await;
        assert_eq!(pending(redis, &k), 0);
    }
}

#[tokio::test]
async fn a_pipeline_that_is_started_again_goes_on_under_its_name() {
    let redis = started!(Redis::shared());
    let k = key();
    fill(redis, &k, 0..10).await;
    let options = json!({"stream": k, "group": "g"});
    let resume = Resume { stamp: Some(stamp("s1")), ..Resume::default() };
    let mut first = source_at(redis, options.clone(), resume.clone()).await;
    take(&mut *first, 10).await;
    let old = first.position().unwrap();
    drop(first);
    let mut other = source_at(redis, options.clone(), Resume { stamp: Some(stamp("s2")), ..Resume::default() }).await;
    quiet(&mut *other, Duration::from_millis(200)).await;
    let resumed = Resume { position: Some(old.clone()), ..resume };
    let mut again = source_at(redis, options, resumed).await;
    assert_eq!(take(&mut *again, 10).await, numbered(0..10));
    // A position of its former life says nothing of this one.
    again.commit(&old, None).await.unwrap();
    assert_eq!(pending(redis, &k), 10);
    commit(&mut *again).await;
    assert_eq!(pending(redis, &k), 0);
}

#[tokio::test]
async fn an_entry_at_fault_does_not_stay_pending() {
    let redis = started!(Redis::shared());
    let k = key();
    redis.cli(&["XADD", &k, "*", "other", "x"]);
    redis.cli(&["XADD", &k, "*", "msg", "y"]);
    let mut source = source(redis, member(&k, "a")).await;
    let read = next_read(&mut *source).await.unwrap();
    assert_eq!((read.failed.len(), read.batch.len()), (1, 2));
    commit(&mut *source).await;
    assert_eq!(pending(redis, &k), 0);
}

#[tokio::test]
async fn dropping_next_of_a_group_loses_nothing() {
    let redis = started!(Redis::shared());
    let k = key();
    fill(redis, &k, 0..5000).await;
    let mut options = member(&k, "a");
    options["batch"] = json!({"count": 13});
    let mut source = source_at(redis, options, until_end()).await;
    let mut got = Vec::new();
    for wait in (0..).map(|i| Duration::from_micros(i % 50)) {
        match tokio::time::timeout(wait, source.next()).await {
            Ok(Ok(Event::Batch(read))) => got.extend(values(&read.batch)),
            Ok(Ok(Event::End)) => break,
            Ok(other) => panic!("{other:?}"),
            Err(_) => {}
        }
        if got.len() % 7 == 0 {
            commit(&mut *source).await;
        }
    }
    assert_eq!(got, numbered(0..5000));
    commit(&mut *source).await;
    assert_eq!(pending(redis, &k), 0);
    assert_eq!(source.shards(), [ShardKey::new(k.as_str(), 0)]);
}
