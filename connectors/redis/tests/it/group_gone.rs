//! Groups and streams that are deleted while a member reads.

use millstream_core::{Event, Resume, SeekTo, Source};
use millstream_testkit::{
    servers::{Proxy, Redis},
    started,
};
use serde_json::json;

use crate::support::*;

/// What it says that waits for a stream; other errors pass.
async fn said_to_wait(source: &mut dyn Source, stream: &str) {
    loop {
        match tokio::time::timeout(PATIENCE, source.next()).await.expect("a word in time") {
            Err(error) if error.message().contains("there is no such stream") => {
                assert!(error.facts().retry && error.message().contains(&format!("`{stream}`")), "{error:?}");
                return;
            }
            Err(error) => assert!(error.facts().retry, "{error:?}"),
            Ok(Event::Batch(read)) => panic!("unexpected {:?}", values(&read.batch)),
            Ok(_) => {}
        }
    }
}

#[tokio::test]
async fn with_keyed_state_a_member_reads_when_it_is_alone() {
    let redis = started!(Redis::shared());
    let k = key();
    fill(redis, &k, 0..1).await;
    let keyed = Resume { keyed: true, ..Resume::default() };
    let member = |name: &str| json!({"stream": k, "group": {"name": "g", "member": name, "claim_idle": "1s"}});
    let mut first = source_at(redis, member("first"), keyed.clone()).await;
    assert_eq!(take(&mut *first, 1).await, ["v0"]);
    let mut second = source_at(redis, member("second"), keyed).await;
    let error = tokio::time::timeout(PATIENCE, second.next()).await.unwrap().unwrap_err();
    assert!(error.facts().retry && error.message().contains("`first`"), "{error:?}");
    first.close().await.unwrap();
    drop(first);
    assert_eq!(next_again(&mut *second).await.map(|read| values(&read.batch)).unwrap(), ["v0"]);
    // One that comes later, and keeps no state, is seen as well.
    let mut third = source_at(redis, member("third"), Resume::default()).await;
    let seen = async {
        loop {
            tokio::select! {
                _ = third.next() => {}
                said = second.next() => if let Err(error) = said { break error },
            }
        }
    };
    let error = tokio::time::timeout(PATIENCE, seen).await.unwrap();
    assert!(error.facts().retry && error.message().contains("`third`"), "{error:?}");
    second.close().await.unwrap();
}

#[tokio::test]
async fn a_stream_that_is_deleted_is_waited_for_while_the_others_are_read() {
    let redis = started!(Redis::shared());
    let (stays, goes) = (key(), key());
    fill(redis, &stays, 0..1).await;
    fill(redis, &goes, 0..1).await;
    let options = json!({"stream": [stays, goes], "group": "g", "discover": "50ms"});
    let mut source = source(redis, options).await;
    assert_eq!(take(&mut *source, 2).await, ["v0", "v0"]);
    let position = source.position().unwrap();
    redis.cli(&["DEL", &goes]);
    said_to_wait(&mut *source, &goes).await;
    source.commit(&position, None).await.unwrap();
    source.keep_alive().await.unwrap();
    fill(redis, &stays, 1..2).await;
    assert_eq!(next_again(&mut *source).await.map(|read| values(&read.batch)).unwrap(), ["v1"]);
    assert_eq!(source.shards().len(), 1);
    fill(redis, &goes, 2..4).await;
    assert_eq!(take(&mut *source, 2).await, ["v2", "v3"]);
    let position = source.position().unwrap();
    source.commit(&position, None).await.unwrap();
    for stream in [&stays, &goes] {
        assert!(redis.cli(&["XPENDING", stream, "g"]).starts_with('0'), "{stream}");
    }
    source.close().await.unwrap();
}

#[tokio::test]
async fn a_shard_in_the_middle_that_is_deleted_is_found_when_it_comes_back() {
    let redis = started!(Redis::shared());
    let k = key();
    let shards = ["0", "1", "70"].map(|shard| format!("{k}:{shard}"));
    for shard in &shards {
        fill(redis, shard, 0..1).await;
    }
    let mut source = source(redis, json!({"stream": k, "group": "g", "discover": "50ms"})).await;
    take(&mut *source, 3).await;
    redis.cli(&["DEL", &shards[1]]);
    said_to_wait(&mut *source, &shards[1]).await;
    fill(redis, &shards[1], 5..6).await;
    assert_eq!(take(&mut *source, 1).await, ["v5"]);
}

#[tokio::test]
async fn a_group_that_began_at_the_end_and_is_gone_does_not_begin_there_again() {
    let redis = started!(Redis::shared());
    let (proxy, k) = (Proxy::start(&redis.address()), key());
    fill(redis, &k, 0..1).await;
    let mut options = options(redis, json!({"stream": k, "group": {"name": "g", "member": "m"}}));
    options["url"] = format!("redis://{}", proxy.address()).into();
    let mut source = plan_source(&options).unwrap().create().unwrap();
    source.open(&start(SeekTo::End)).await.unwrap();
    quiet(&mut *source, std::time::Duration::from_millis(100)).await;
    fill(redis, &k, 1..2).await;
    assert_eq!(take(&mut *source, 1).await, ["v1"]);
    // As a server does that comes back without it; with some records that come before anybody is back.
    let lose_group = async |more| {
        proxy.cut();
        redis.cli(&["XGROUP", "DESTROY", &k, "g"]);
        fill(redis, &k, more).await;
    };
    lose_group(2..3).await;
    let read = next_again(&mut *source).await.unwrap();
    // What its members had not acknowledged nobody knows: all of it comes.
    assert_eq!(values(&read.batch), numbered(0..3));
    let position = source.position().unwrap();
    drop(source);
    lose_group(3..4).await;
    let mut source = plan_source(&options).unwrap().create().unwrap();
    source.open(&Resume { position: Some(position), ..start(SeekTo::End) }).await.unwrap();
    assert_eq!(values(&next_again(&mut *source).await.unwrap().batch), numbered(0..4));
}
