//! Writing.

use millstream_core::{ErrorKind, Form, Record, Timestamp};
use millstream_testkit::{servers::Redis, started};
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn redis_cli_reads_what_is_written() {
    let redis = started!(Redis::shared());
    let k = key();
    let mut sink = sink(redis, json!({"stream": k})).await;
    let mut record = Record::new("in", "hello");
    record.key = Some("K".into());
    record.time = Some(Timestamp::from_millis(1_700_000_000_123));
    record.headers = vec![("a".into(), Some("1".into())), ("a".into(), Some("2".into()))];
    let mut tombstone = Record::new("in", "");
    (tombstone.value, tombstone.key) = (None, Some("K".into()));
    let outcomes = put(&mut *sink, &[record, tombstone]).await;
    assert!(outcomes.rejected.is_empty());
    let text = redis.cli(&["XRANGE", &k, "-", "+"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..9], ["1700000000123-0", "_key", "K", "a", "1", "a", "2", "msg", "hello"]);
    assert_eq!(lines[10..], ["_key", "K", "_null", "1"]);
    assert_eq!(outcomes.sequences[0].1[0], 1_700_000_000_123 << 16);
}

#[tokio::test]
async fn records_come_back_as_they_were_given() {
    let redis = started!(Redis::shared());
    let k = key();
    let mut sink = sink(redis, json!({"stream": k})).await;
    let mut all_records = Vec::new();
    for i in 0..3000u32 {
        let mut record = Record::new("in", vec![(i % 256) as u8; (i % 300) as usize]);
        record.key = (i % 3 == 0).then(|| format!("key {i}").into());
        record.value = record.value.filter(|_| i % 7 != 0);
        record.headers = (0..i % 4).map(|n| (format!("h{}", n % 2), Some(vec![n as u8, 0, 255].into()))).collect();
        all_records.push(record);
    }
    let mut sequences = Vec::new();
    for some in all_records.chunks(700) {
        sink.write(batch(some)).await.unwrap();
    }
    for (_, some) in sink.flush().await.unwrap().sequences {
        sequences.extend(some);
    }
    let mut source = source_at(redis, json!({"stream": k}), until_end()).await;
    let mut got = Vec::new();
    while let Some(read) = next_read(&mut *source).await {
        assert!(read.failed.is_empty());
        got.extend(records(&read.batch));
    }
    assert_eq!(got.iter().map(|record| record.sequence).collect::<Vec<_>>(), sequences);
    assert_eq!(got.len(), all_records.len());
    for (got, given) in got.iter().zip(&all_records) {
        assert_eq!((&got.key, &got.headers, &got.value), (&given.key, &given.headers, &given.value));
    }
}

#[tokio::test]
async fn one_record_is_refused_and_its_neighbours_are_written() {
    let redis = started!(Redis::shared());
    let (k, wrong) = (key(), key());
    redis.cli(&["SET", &wrong, "a string"]);
    let mut sink = sink(redis, json!({"stream": "{header:to}"})).await;
    let to = |to: Option<&str>, value: &str| {
        let mut record = Record::new("in", value.to_owned());
        record.headers = to.map(|to| ("to".to_owned(), Some(to.to_owned().into()))).into_iter().collect();
        record
    };
    let mut collides = to(Some(&k), "collides");
    collides.headers.push(("msg".into(), Some("x".into())));
    let outcomes =
        put(&mut *sink, &[to(Some(&k), "a"), to(Some(&wrong), "b"), to(None, "c"), collides, to(Some(&k), "d")]).await;
    let rejected: Vec<_> = outcomes.rejected.iter().map(|(_, row, error)| (*row, error.kind())).collect();
    assert_eq!(rejected, [(1, ErrorKind::Rejected), (2, ErrorKind::Data), (3, ErrorKind::Data)]);
    assert!(outcomes.rejected[0].2.message().contains("WRONGTYPE"));
    let mut source = source_at(redis, json!({"stream": k}), until_end()).await;
    assert_eq!(all(&mut *source).await, ["a", "d"]);
}

#[tokio::test]
async fn shards_are_chosen_by_key_or_in_turn() {
    let redis = started!(Redis::shared());
    let (k, turn) = (key(), key());
    let mut by_key = sink(redis, json!({"stream": k, "shards": 4})).await;
    let mut in_turn = sink(redis, json!({"stream": turn, "shards": 4, "sharder": "round_robin"})).await;
    let all_records: Vec<Record> = (0..400)
        .map(|i| {
            let mut record = Record::new("in", format!("v{i}"));
            record.key = Some(format!("key{}", i % 20).into());
            record
        })
        .collect();
    put(&mut *by_key, &all_records).await;
    put(&mut *in_turn, &all_records).await;
    let mut source = source_at(redis, json!({"stream": k}), until_end()).await;
    let mut shard_of = std::collections::HashMap::new();
    let mut count = 0;
    while let Some(read) = next_read(&mut *source).await {
        for record in records(&read.batch) {
            count += 1;
            assert_eq!(*shard_of.entry(record.key.clone()).or_insert(record.origin.shard), record.origin.shard);
        }
    }
    assert_eq!((count, shard_of.len()), (400, 20));
    for shard in 0..4 {
        assert_eq!(redis.cli(&["XLEN", &format!("{turn}:{shard}")]), "100");
    }
    let mut plain = plan_sink(&options(redis, json!({"stream": k}))).unwrap().create().unwrap();
    let error = plain.open(&[]).await.unwrap_err();
    assert!(error.message().contains(&format!("`{k}:0`")), "{error}");
}

#[tokio::test]
async fn ids_are_times_or_nanoseconds_or_the_servers() {
    let redis = started!(Redis::shared());
    let at = |ns| {
        let mut record = Record::new("in", "v");
        record.time = Some(Timestamp(ns));
        record
    };
    let (nano, auto, time) = (key(), key(), key());
    let mut sink_nano = sink(redis, json!({"stream": nano, "ids": "nanoseconds"})).await;
    put(&mut *sink_nano, &[at(1_700_000_000_123_456_789), at(1_700_000_000_123_456_789)]).await;
    let text = redis.cli(&["XRANGE", &nano, "-", "+"]);
    assert!(text.starts_with("1700000000123456789-0\n") && text.contains("\n1700000000123456789-1\n"), "{text}");
    let mut source = source_at(redis, json!({"stream": nano, "ids": "nanoseconds"}), until_end()).await;
    let read = next_read(&mut *source).await.unwrap();
    assert_eq!(read.batch.get(1).time(), Some(Timestamp(1_700_000_000_123_456_789)));
    let mut sink_auto = sink(redis, json!({"stream": auto, "ids": "auto"})).await;
    put(&mut *sink_auto, &[at(5_000_000)]).await;
    assert!(!redis.cli(&["XRANGE", &auto, "-", "+"]).starts_with("5-"));
    let mut sink_time = sink(redis, json!({"stream": time})).await;
    let outcomes = put(&mut *sink_time, &[at(5_000_000), at(4_000_000), at(-1), at(6_000_000)]).await;
    let rejected: Vec<_> = outcomes.rejected.iter().map(|(_, row, error)| (*row, error.kind())).collect();
    assert_eq!(rejected, [(1, ErrorKind::Rejected), (2, ErrorKind::Data)]);
    assert_eq!(redis.cli(&["XLEN", &time]), "2");
}

#[tokio::test]
async fn old_entries_are_trimmed_while_writing() {
    let redis = started!(Redis::shared());
    let (k, aged) = (key(), key());
    let mut sink_count = sink(redis, json!({"stream": k, "trim": {"count": 200}})).await;
    put(&mut *sink_count, &records(&value_batch(0..2000))).await;
    let left: usize = redis.cli(&["XLEN", &k]).parse().unwrap();
    assert!((200..500).contains(&left), "{left}");
    (1..500).for_each(|ms| drop(redis.cli(&["XADD", &aged, &format!("{ms}-0"), "msg", "old"])));
    let mut sink_age = sink(redis, json!({"stream": aged, "trim": {"age": "1h"}})).await;
    put(&mut *sink_age, &records(&value_batch(0..10))).await;
    let left: usize = redis.cli(&["XLEN", &aged]).parse().unwrap();
    assert!((10..200).contains(&left), "{left}");
}

#[tokio::test]
async fn many_writes_are_under_way_before_the_outcomes_are_asked_for() {
    let redis = started!(Redis::shared());
    let k = key();
    let mut sink = sink(redis, json!({"stream": k, "in_flight": "10KiB"})).await;
    let ids: Vec<u64> = {
        let mut ids = Vec::new();
        for i in 0..50 {
            ids.push(sink.write(value_batch(i * 200..(i + 1) * 200)).await.unwrap());
        }
        ids
    };
    let outcomes = sink.flush().await.unwrap();
    assert_eq!(outcomes.sequences.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ids);
    let sequences: Vec<u128> = outcomes.sequences.into_iter().flat_map(|(_, all)| all).collect();
    assert!(sequences.is_sorted() && sequences.len() == 10_000);
    let mut source = source_at(redis, json!({"stream": k}), until_end()).await;
    assert_eq!(all(&mut *source).await, numbered(0..10_000));
}

#[tokio::test]
async fn a_server_without_memory_refuses_records_and_takes_them_later() {
    let redis = started!(Redis::setup().max_memory("3mb").start());
    let mut sink = sink(&redis, json!({"stream": "k"})).await;
    let big = Record::new("in", vec![b'x'; 1 << 20]);
    let outcomes = put(&mut *sink, &vec![big.clone(); 8]).await;
    let error = &outcomes.rejected.last().expect("a rejected record").2;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("OOM") && error.hint_text().unwrap().contains("maxmemory"), "{error:?}");
    redis.cli(&["CONFIG", "SET", "maxmemory", "100mb"]);
    assert!(put(&mut *sink, &[big]).await.rejected.is_empty());
}

#[tokio::test]
async fn values_become_what_the_codec_says() {
    let redis = started!(Redis::shared());
    let text = Record { form: Form::Text, ..Record::new("in", "a \"b\"") };
    let json = Record { form: Form::Json, ..Record::new("in", "{\"a\":1}") };
    let tombstone = Record { value: None, ..text.clone() };
    for (codec, expected) in [("json", "\"a \\\"b\\\"\""), ("bytes", "a \"b\"")] {
        let k = key();
        let mut sink = sink(redis, json!({"stream": k, "codec": codec})).await;
        assert!(put(&mut *sink, &[text.clone(), json.clone(), tombstone.clone()]).await.rejected.is_empty());
        let mut source = source_at(redis, json!({"stream": k}), until_end()).await;
        assert_eq!(all(&mut *source).await, [expected, "{\"a\":1}", "<none>"]);
    }
}
