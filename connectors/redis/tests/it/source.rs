//! Reading by id.

use std::time::Duration;

use millstream_core::{Event, Position, Record, Resume, SeekTo, ShardKey, Timestamp};
use millstream_testkit::{servers::Redis, started};
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn what_was_written_is_read_with_key_headers_and_time() {
    let redis = started!(Redis::shared());
    let k = key();
    redis.cli(&["XADD", &k, "1700000000123-7", "_key", "K", "msg", "hello", "trace", "1", "trace", "2", "empty", ""]);
    redis.cli(&["XADD", &k, "1700000000124-0", "_null", "1", "_key", "gone"]);
    let mut source = source_at(redis, json!({"stream": k}), until_end()).await;
    let read = next_read(&mut *source).await.unwrap();
    assert!(read.failed.is_empty(), "{:?}", read.failed);
    let all = records(&read.batch);
    assert_eq!(all[0].origin, ShardKey::new(k.as_str(), 0));
    assert_eq!(all[0].sequence, (1_700_000_000_123 << 16) | 7);
    assert_eq!(all[0].time, Some(Timestamp::from_millis(1_700_000_000_123)));
    assert_eq!(all[0].key.as_deref(), Some(b"K".as_slice()));
    assert_eq!(all[0].value.as_deref(), Some(b"hello".as_slice()));
    let header = |name: &str, value: &'static str| (name.to_owned(), Some(value.into()));
    assert_eq!(all[0].headers, [header("trace", "1"), header("trace", "2"), header("empty", "")]);
    assert_eq!((all[1].key.as_deref(), all[1].value.as_deref()), (Some(b"gone".as_slice()), None));
    assert!(next_read(&mut *source).await.is_none());
}

#[tokio::test]
async fn ids_of_any_size_have_sequences_that_lead_back_to_them() {
    let redis = started!(Redis::shared());
    let k = key();
    let ids = ["0-65536", "0-65537", "7-1", "7-90000", "8-0", "1700000000000000000-3", "1700000000000000001-70000"];
    ids.iter().for_each(|id| drop(redis.cli(&["XADD", &k, id, "msg", id])));
    let mut source = source_at(redis, json!({"stream": k}), until_end()).await;
    let (mut sequences, mut values_read) = (Vec::new(), Vec::new());
    while let Some(read) = next_read(&mut *source).await {
        sequences.extend(records(&read.batch).into_iter().map(|record| record.sequence));
        values_read.extend(values(&read.batch));
    }
    assert_eq!(values_read, ids);
    for (i, sequence) in sequences.iter().enumerate() {
        let resume = millstream_core::Resume { start: SeekTo::At(*sequence), ..until_end() };
        let mut source = source_at(redis, json!({"stream": k}), resume).await;
        assert_eq!(all(&mut *source).await, ids[i..], "from {}", ids[i]);
    }
}

#[tokio::test]
async fn reading_goes_on_behind_any_position() {
    let redis = started!(Redis::shared());
    let k = key();
    fill(redis, &k, 0..2500).await;
    let mut source_one = source(redis, json!({"stream": k})).await;
    let mut got = 0;
    while got < 2500 {
        let read = next_read(&mut *source_one).await.unwrap();
        got += read.batch.len();
        let resume = millstream_core::Resume { until_end: true, ..from(source_one.position().unwrap()) };
        let mut source_two = source_at(redis, json!({"stream": k}), resume).await;
        assert_eq!(all(&mut *source_two).await, numbered(got..2500));
    }
}

#[tokio::test]
async fn it_begins_at_a_place_or_a_time_and_seeks() {
    let redis = started!(Redis::shared());
    let k = key();
    (1..=9).for_each(|ms| drop(redis.cli(&["XADD", &k, &format!("{ms}-0"), "msg", &format!("v{ms}")])));
    let options = json!({"stream": k});
    let time = |ms| SeekTo::Time(Timestamp::from_millis(ms));
    for (to, first) in
        [(SeekTo::Beginning, 1), (SeekTo::At(5 << 16), 5), (time(7), 7), (SeekTo::Time(Timestamp(6_500_000)), 7)]
    {
        let mut source = source_at(redis, options.clone(), start(to.clone())).await;
        assert_eq!(take(&mut *source, 10 - first).await, numbered(first..10), "{to}");
    }
    let mut source = source_at(redis, options, start(SeekTo::End)).await;
    quiet(&mut *source, Duration::from_millis(200)).await;
    redis.cli(&["XADD", &k, "*", "msg", "new"]);
    assert_eq!(take(&mut *source, 1).await, ["new"]);
    for (to, first) in [(SeekTo::At(8 << 16), "v8"), (time(3), "v3"), (SeekTo::Beginning, "v1")] {
        source.seek(&to, None).await.unwrap();
        assert_eq!(take(&mut *source, 1).await[0], first);
    }
    assert!(source.seek(&SeekTo::Committed, None).await.is_err());
}

#[tokio::test]
async fn one_shard_of_several_is_moved() {
    let redis = started!(Redis::shared());
    let k = key();
    for shard in ["0", "1"] {
        (1..=2).for_each(|ms| {
            drop(redis.cli(&["XADD", &format!("{k}:{shard}"), &format!("{ms}-0"), "msg", &format!("{shard}{ms}")]))
        });
    }
    let mut source = source(redis, json!({"stream": k})).await;
    assert_eq!(take(&mut *source, 4).await, ["01", "02", "11", "12"]);
    assert_eq!(source.shards(), [ShardKey::new(k.as_str(), 0), ShardKey::new(k.as_str(), 1)]);
    source.seek(&SeekTo::Beginning, Some(&[ShardKey::new(k.as_str(), 1)])).await.unwrap();
    assert_eq!(take(&mut *source, 2).await, ["11", "12"]);
    quiet(&mut *source, Duration::from_millis(200)).await;
}

#[tokio::test]
async fn shards_are_numbers_and_new_ones_are_found_while_running() {
    let redis = started!(Redis::shared());
    let k = key();
    redis.cli(&["XADD", &format!("{k}:0"), "*", "msg", "a"]);
    redis.cli(&["XADD", &format!("{k}:meta"), "*", "msg", "not ours"]);
    redis.cli(&["XADD", &format!("{k}:07"), "*", "msg", "not ours"]);
    redis.cli(&["SET", &format!("{k}:5"), "not ours"]);
    let mut source = source_at(redis, json!({"stream": k, "discover": "50ms"}), start(SeekTo::Beginning)).await;
    assert_eq!(take(&mut *source, 1).await, ["a"]);
    quiet(&mut *source, Duration::from_millis(200)).await;
    redis.cli(&["XADD", &format!("{k}:1"), "*", "msg", "b"]);
    redis.cli(&["XADD", &format!("{k}:900"), "*", "msg", "c"]);
    let mut got = take(&mut *source, 2).await;
    got.sort();
    assert_eq!(got, ["b", "c"]);
    assert_eq!(source.shards().iter().map(|shard| shard.shard).collect::<Vec<_>>(), [0, 1, 900]);
    redis.cli(&["XADD", &k, "*", "msg", "twice"]);
    let error = loop {
        if let Err(error) = tokio::time::timeout(PATIENCE, source.next()).await.unwrap() {
            break error;
        }
    };
    assert!(error.message().contains(&format!("`{k}`")) && error.message().contains(&format!("`{k}:0`")), "{error}");
    let mut again = plan_source(&options(redis, json!({"stream": k}))).unwrap().create().unwrap();
    assert!(again.open(&millstream_core::Resume::default()).await.is_err());
}

#[tokio::test]
async fn a_stream_that_is_not_there_yet_is_waited_for_and_read_from_its_beginning() {
    let redis = started!(Redis::shared());
    let k = key();
    let mut source = source_at(redis, json!({"stream": k}), start(SeekTo::End)).await;
    waits_for(&mut *source, &k).await;
    quiet(&mut *source, Duration::from_millis(100)).await;
    redis.cli(&["XADD", &k, "*", "msg", "first"]);
    assert_eq!(take(&mut *source, 1).await, ["first"]);
}

#[tokio::test]
async fn a_quiet_stream_does_not_starve_beside_a_busy_one() {
    let redis = started!(Redis::shared());
    let (busy, calm) = (key(), key());
    fill(redis, &busy, 0..50_000).await;
    fill(redis, &calm, 0..1).await;
    let mut source = source(redis, json!({"stream": [busy, calm]})).await;
    let mut before = 0;
    loop {
        let read = next_read(&mut *source).await.unwrap();
        let origins = records(&read.batch);
        if origins.iter().any(|record| *record.origin.stream == *calm) {
            break;
        }
        before += origins.len();
    }
    assert!(before <= 2000, "{before}");
}

#[tokio::test]
async fn an_entry_at_fault_is_named_and_its_neighbours_are_read() {
    let redis = started!(Redis::shared());
    let k = key();
    redis.cli(&["XADD", &k, "*", "msg", "good"]);
    redis.cli(&["XADD", &k, "*", "other", "no value"]);
    redis.cli(&["XADD", &k, "*", "msg", "1", "msg", "2"]);
    redis.cli(&["XADD", &k, "*", "msg", "1", "_null", "1"]);
    redis.cli(&["XADD", &k, "*", "msg", "1", "\\xff", "x"]);
    redis.cli(&["EVAL", "redis.call('XADD', KEYS[1], '*', 'msg', 'x', '\\255\\254', 'y')", "1", &k]);
    redis.cli(&["XADD", &k, "*", "msg", "also good"]);
    let mut source = source_at(redis, json!({"stream": k}), until_end()).await;
    let (mut failed, mut read) = (Vec::new(), 0);
    while let Some(next) = next_read(&mut *source).await {
        failed.extend(next.failed.iter().map(|(row, _)| read + *row as usize));
        read += next.batch.len();
    }
    assert_eq!((failed, read), (vec![1, 2, 3, 5], 7));
}

#[tokio::test]
async fn dropping_next_at_any_time_loses_nothing() {
    let redis = started!(Redis::shared());
    let k = key();
    fill(redis, &k, 0..20_000).await;
    let mut source = source_at(redis, json!({"stream": k, "batch": {"count": 7}}), until_end()).await;
    let mut got = Vec::new();
    for wait in (0..).map(|i| Duration::from_micros(i % 40)) {
        let before = source.position().unwrap();
        match tokio::time::timeout(wait, source.next()).await {
            Ok(Ok(Event::Batch(read))) => got.extend(values(&read.batch)),
            Ok(Ok(Event::End)) => break,
            Ok(other) => panic!("{other:?}"),
            Err(_) => assert_eq!(source.position().unwrap(), before),
        }
    }
    assert_eq!(got, numbered(0..20_000));
}

#[tokio::test]
async fn records_of_all_sizes_are_read_and_answers_stay_small() {
    let redis = started!(Redis::shared());
    let k = key();
    let mut sink = sink(redis, json!({"stream": k})).await;
    let sizes = [0, 1, 100, 70_000, 1 << 20, 30 << 20, 3, 2 << 20, 0];
    let all_records: Vec<Record> = sizes.iter().map(|size| Record::new("in", vec![b'x'; *size])).collect();
    for record in &all_records {
        assert!(put(&mut *sink, std::slice::from_ref(record)).await.rejected.is_empty());
    }
    let mut source = source_at(redis, json!({"stream": k}), until_end()).await;
    let mut got = Vec::new();
    while let Some(read) = next_read(&mut *source).await {
        got.extend(read.batch.iter().map(|record| record.value().unwrap().len()));
    }
    assert_eq!(got, sizes);
}

#[tokio::test]
async fn a_stream_that_went_back_is_found() {
    let redis = started!(Redis::shared());
    let k = key();
    redis.cli(&["XADD", &k, "9-0", "msg", "v"]);
    let mut source = source(redis, json!({"stream": k})).await;
    take(&mut *source, 1).await;
    let position = source.position().unwrap();
    redis.cli(&["DEL", &k]);
    redis.cli(&["XADD", &k, "5-0", "msg", "older"]);
    let mut source = source_at(redis, json!({"stream": k}), from(position)).await;
    let error = tokio::time::timeout(PATIENCE, source.next()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), millstream_core::ErrorKind::StateMismatch, "{error:?}");
}

/// A stream of the entries 1 to 10, and the position behind so many.
async fn read_up_to(redis: &Redis, entries: usize) -> (String, Position) {
    let k = key();
    (1..=10).for_each(|ms| drop(redis.cli(&["XADD", &k, &format!("{ms}-0"), "msg", &format!("v{ms}")])));
    let mut source = source(redis, json!({"stream": k, "batch": {"count": 1}})).await;
    take(&mut *source, entries).await;
    (k, source.position().unwrap())
}

#[tokio::test]
async fn records_that_were_trimmed_before_they_were_read_are_not_passed_over_in_silence() {
    let redis = started!(Redis::shared());
    let (k, position) = read_up_to(redis, 3).await;
    redis.cli(&["XTRIM", &k, "MINID", "8"]);
    let at = |on_missing| json!({"stream": k, "on_missing": on_missing});
    let mut fails = source_at(redis, at("fail"), from(position.clone())).await;
    let error = tokio::time::timeout(PATIENCE, fails.next()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), millstream_core::ErrorKind::StateMismatch, "{error:?}");
    assert!(error.message().contains("3-0") && error.message().contains("from 8-0 up to 10-0"), "{error:?}");
    let rest = Resume { until_end: true, ..from(position) };
    let mut beginning = source_at(redis, at("beginning"), rest.clone()).await;
    assert_eq!(all(&mut *beginning).await, ["v8", "v9", "v10"]);
    let mut end = source_at(redis, at("end"), rest).await;
    assert!(all(&mut *end).await.is_empty());
    redis.cli(&["XTRIM", &k, "MAXLEN", "0"]);
    let mut empty = source_at(redis, json!({"stream": k}), fails.position().map(from).unwrap()).await;
    let error = tokio::time::timeout(PATIENCE, empty.next()).await.unwrap().unwrap_err();
    assert!(error.message().contains("it is empty"), "{error:?}");
}

#[tokio::test]
async fn what_was_trimmed_or_deleted_after_it_was_read_is_no_loss() {
    let redis = started!(Redis::shared());
    // What was read was trimmed, but for its last; all of it, and nothing came since; single entries were deleted.
    let changes: [(usize, &[&str], usize); 5] = [
        (3, &["XTRIM", "MINID", "3"], 7),
        // And its last, too: just as many are gone as were read.
        (3, &["XTRIM", "MINID", "4"], 7),
        (10, &["XTRIM", "MAXLEN", "0"], 0),
        (3, &["XDEL", "5-0"], 6),
        (1, &["XDEL", "1-0"], 9),
    ];
    for (read, change, left) in changes {
        let (k, position) = read_up_to(redis, read).await;
        let mut words = change.to_vec();
        words.insert(1, &k);
        redis.cli(&words);
        let rest = Resume { until_end: true, ..from(position) };
        let mut source = source_at(redis, json!({"stream": k}), rest).await;
        assert_eq!(all(&mut *source).await.len(), left, "{change:?}");
    }
}

#[tokio::test]
async fn a_stream_that_was_emptied_behind_its_reader_goes_on_with_what_comes_then() {
    let redis = started!(Redis::shared());
    let k = key();
    let add = |ms: usize| drop(redis.cli(&["XADD", &k, &format!("{ms}-0"), "msg", &format!("v{ms}")]));
    let empty = || drop(redis.cli(&["XTRIM", &k, "MAXLEN", "0"]));
    // Some was trimmed before anybody read, and one was deleted.
    (1..=9).for_each(add);
    redis.cli(&["XTRIM", &k, "MINID", "3"]);
    redis.cli(&["XDEL", &k, "5-0"]);
    let mut first = source(redis, json!({"stream": k})).await;
    assert_eq!(take(&mut *first, 6).await.len(), 6);
    empty();
    (10..=12).for_each(add);
    let mut second = source_at(redis, json!({"stream": k}), from(first.position().unwrap())).await;
    assert_eq!(take(&mut *second, 3).await, numbered(10..13));
    // The same where reading began at the end, and where one more is gone than was read.
    let mut third = source_at(redis, json!({"stream": k}), start(SeekTo::End)).await;
    quiet(&mut *third, Duration::from_millis(50)).await;
    add(13);
    take(&mut *third, 1).await;
    let position = third.position().unwrap();
    empty();
    (14..=15).for_each(add);
    let mut fourth = source_at(redis, json!({"stream": k}), from(position.clone())).await;
    assert_eq!(take(&mut *fourth, 2).await, numbered(14..16));
    redis.cli(&["XTRIM", &k, "MAXLEN", "1"]);
    let mut misses = source_at(redis, json!({"stream": k}), from(position)).await;
    // What is there now must not count as read because somebody looked.
    for _ in 0..2 {
        let error = tokio::time::timeout(PATIENCE, misses.next()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), millstream_core::ErrorKind::StateMismatch, "{error:?}");
        let position = misses.position().unwrap();
        misses = source_at(redis, json!({"stream": k}), from(position)).await;
    }
}

#[tokio::test]
async fn streams_that_are_not_there_are_named_and_waited_for_unless_the_end_is_asked_for() {
    let redis = started!(Redis::shared());
    let (there, late) = (key(), key());
    fill(redis, &there, 0..1).await;
    for group in [json!(null), json!("g")] {
        let mut source = source(redis, json!({"stream": [there, late], "group": group})).await;
        waits_for(&mut *source, &late).await;
        // Said once: the others are read meanwhile.
        assert_eq!(take(&mut *source, 1).await, ["v0"]);
        let mut ends =
            plan_source(&options(redis, json!({"stream": [there, late], "group": group}))).unwrap().create().unwrap();
        let error = ends.open(&until_end()).await.unwrap_err();
        assert_eq!(error.kind(), millstream_core::ErrorKind::NotFound, "{error:?}");
        assert!(
            error.message().contains(&late) && !error.message().contains(&there) && error.hint_text().is_some(),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn the_end_is_where_it_was_when_reading_began() {
    let redis = started!(Redis::shared());
    let (long, short) = (key(), key());
    fill(redis, &long, 0..5000).await;
    fill(redis, &short, 0..300).await;
    let mut source = source_at(redis, json!({"stream": [long, short], "batch": {"count": 100}}), until_end()).await;
    fill(redis, &long, 5000..6000).await;
    fill(redis, &short, 300..5000).await;
    assert_eq!(all(&mut *source).await.len(), 5300);
}

#[tokio::test]
async fn a_place_in_the_future_is_waited_for_also_after_a_restart() {
    let redis = started!(Redis::shared());
    let k = key();
    redis.cli(&["XADD", &k, "5-0", "msg", "past"]);
    let mut source_one = source_at(redis, json!({"stream": k}), start(SeekTo::At(9 << 16))).await;
    quiet(&mut *source_one, Duration::from_millis(200)).await;
    let mut source_two = source_at(redis, json!({"stream": k}), from(source_one.position().unwrap())).await;
    quiet(&mut *source_two, Duration::from_millis(200)).await;
    redis.cli(&["XADD", &k, "8-9", "msg", "still past"]);
    redis.cli(&["XADD", &k, "9-0", "msg", "now"]);
    for source in [&mut source_one, &mut source_two] {
        assert_eq!(take(&mut **source, 1).await, ["now"]);
    }
}
