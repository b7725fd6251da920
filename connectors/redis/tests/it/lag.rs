//! How much there is to read.

use std::time::Duration;

use millstream_core::{Resume, SeekTo, Source};
use millstream_testkit::{servers::Redis, started};
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
    let mut source = source_at(redis, json!({"stream": k}), from(position)).await;
    assert_eq!(lag(&*source), None);
    take(&mut *source, 90).await;
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
