use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use millstream_core::{ErrorKind, Form, Record, Resume, ShardKey, Timestamp};
use serde_json::json;

use crate::support::{batch, kafka, opened, read, read_to_end, sink, texts, topic, topic_with, values, write_all};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_arrive_with_key_headers_time_and_tombstones() {
    let topic = topic(1);
    let full = Record {
        key: Some("k".into()),
        headers: vec![("a".into(), Some("1".into())), ("a".into(), None), ("b".into(), Some("".into()))],
        time: Some(Timestamp::from_millis(1_700_000_000_123)),
        ..Record::new("x", "value")
    };
    let tombstone = Record { value: None, key: Some("gone".into()), ..Record::new("x", "") };
    let empty = Record { key: Some("".into()), ..Record::new("x", "") };
    let raw = Record { key: Some(vec![0xff, 0].into()), ..Record::new("x", vec![0u8, 255, 10]) };
    let records = [full, tombstone, empty, raw];
    write_all(&topic, json!({}), &records).await;

    let read = read_to_end(&topic, json!({})).await;
    assert_eq!(read.len(), 4);
    for (i, (read, written)) in read.iter().zip(&records).enumerate() {
        assert_eq!((&read.key, &read.value, &read.headers), (&written.key, &written.value, &written.headers));
        assert_eq!((read.sequence, &read.origin), (i as u128, &ShardKey::new(topic.as_str(), 0)));
    }
    assert_eq!(read[0].time, records[0].time);
    assert!(read[1].time.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_tells_the_offsets_that_readers_see() {
    let topic = topic(1);
    let mut sink = sink(&topic, json!({})).await;
    let first = sink.write(batch(&values(0, 3))).await.unwrap();
    let second = sink.write(batch(&values(3, 5))).await.unwrap();
    let outcomes = sink.flush().await.unwrap();
    assert_eq!(outcomes.sequences, [(first, vec![0, 1, 2]), (second, vec![3, 4])]);
    assert!(outcomes.rejected.is_empty());
    assert!(sink.flush().await.unwrap().sequences.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_too_large_fails_alone() {
    let topic = topic_with(1, &[("max.message.bytes", "2000")]);
    let mut sink = sink(&topic, json!({})).await;
    let mut records = values(0, 500);
    records[7] = Record::new("x", vec![b'x'; 2000]);
    let id = sink.write(batch(&records)).await.unwrap();
    let outcomes = sink.flush().await.unwrap();
    let rejected: Vec<_> = outcomes.rejected.iter().map(|(write, row, error)| (*write, *row, error.kind())).collect();
    assert_eq!(rejected, [(id, 7, ErrorKind::TooLarge)]);
    let read = texts(&read_to_end(&topic, json!({})).await);
    records.remove(7);
    assert_eq!(read, texts(&records));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_record_that_the_topic_takes_is_taken_and_one_byte_more_is_not() {
    let topic = topic_with(1, &[("max.message.bytes", "100000")]);
    let mut sink = sink(&topic, json!({})).await;
    // Overhead of a batch with one record without key and headers: 61 + 3 for its length + 3 + 1 + 3 + 1.
    let largest = 100_000 - 61 - 3 - 8;
    for (size, refused) in [(largest, 0), (largest + 1, 1)] {
        sink.write(batch(&[Record::new("x", vec![b'x'; size])])).await.unwrap();
        assert_eq!(sink.flush().await.unwrap().rejected.len(), refused, "{size}");
    }
    assert_eq!(read_to_end(&topic, json!({})).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_limit_counts_too() {
    let topic = topic(1);
    let mut sink = sink(&topic, json!({"record_bytes_max": "10B"})).await;
    sink.write(batch(&[Record::new("x", "0123456789"), Record::new("x", "0123456789x")])).await.unwrap();
    let outcomes = sink.flush().await.unwrap();
    assert_eq!(
        outcomes.rejected.iter().map(|(_, row, error)| (*row, error.kind())).collect::<Vec<_>>(),
        [(1, ErrorKind::TooLarge)]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_come_from_the_header_or_the_stream() {
    let (first, second, default) = (topic(1), topic(1), topic(1));
    let mut by_header = sink(&default, json!({"topic_by": {"header": "topic"}})).await;
    let to = |topic: &str, value: &str| Record {
        headers: vec![("topic".into(), Some(topic.to_owned().into()))],
        ..Record::new("x", value.to_owned())
    };
    by_header
        .write(batch(&[
            to(&first, "1"),
            to(&second, "2"),
            Record::new("x", "3"),
            to("nowhere-at-all", "4"),
            to("no topic", "5"),
        ]))
        .await
        .unwrap();
    let outcomes = by_header.flush().await.unwrap();
    let rejected: Vec<_> = outcomes.rejected.iter().map(|(_, row, error)| (*row, error.kind())).collect();
    assert_eq!(rejected, [(3, ErrorKind::NotFound), (4, ErrorKind::NotFound)]);
    write_all(
        "",
        json!({"topic_by": "stream"}),
        &[Record::new(first.as_str(), "6"), Record::new(second.as_str(), "7")],
    )
    .await;
    for (topic, expected) in [(&first, vec!["1", "6"]), (&second, vec!["2", "7"]), (&default, vec!["3"])] {
        assert_eq!(texts(&read_to_end(topic, json!({})).await), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_chosen_as_asked() {
    let of = |records: Vec<Record>| -> BTreeMap<u64, usize> {
        let mut counts = BTreeMap::new();
        records.iter().for_each(|record| *counts.entry(record.origin.shard).or_default() += 1);
        counts
    };
    let counts = |all: &[(u64, usize)]| all.iter().copied().collect::<BTreeMap<_, _>>();

    let round = topic(3);
    write_all(&round, json!({"partition": "round_robin"}), &values(0, 9)).await;
    assert_eq!(of(read_to_end(&round, json!({})).await), counts(&[(0, 3), (1, 3), (2, 3)]));

    let fixed = topic(3);
    write_all(&fixed, json!({"partition": 2}), &values(0, 5)).await;
    assert_eq!(of(read_to_end(&fixed, json!({})).await), counts(&[(2, 5)]));

    let origin = topic(2);
    let from = |shard: u64| Record { origin: ShardKey::new("elsewhere", shard), ..Record::new("x", "v") };
    let mut to_origin = sink(&origin, json!({"partition": "origin"})).await;
    to_origin.write(batch(&[from(1), from(0), from(1), from(2)])).await.unwrap();
    let outcomes = to_origin.flush().await.unwrap();
    assert_eq!(
        outcomes.rejected.iter().map(|(_, row, error)| (*row, error.kind())).collect::<Vec<_>>(),
        [(3, ErrorKind::Rejected)]
    );
    assert_eq!(of(read_to_end(&origin, json!({})).await), counts(&[(0, 1), (1, 2)]));

    let sticky = topic(2);
    let mut to_one = sink(&sticky, json!({"partition": "sticky"})).await;
    for i in 0..4 {
        to_one.write(batch(&values(i * 10, i * 10 + 10))).await.unwrap();
    }
    to_one.flush().await.unwrap();
    assert_eq!(of(read_to_end(&sticky, json!({})).await), counts(&[(0, 20), (1, 20)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_compression_is_built_in() {
    for compression in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = topic(1);
        let records = values(0, 1000);
        write_all(&topic, json!({"compression": compression}), &records).await;
        assert_eq!(texts(&read_to_end(&topic, json!({})).await), texts(&records), "{compression}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_become_what_the_codec_says() {
    let topic = topic(1);
    let text = Record { form: Form::Text, ..Record::new("x", "a \"b\"") };
    let json = Record { form: Form::Json, ..Record::new("x", "{\"a\":1}") };
    write_all(&topic, json!({"codec": "json"}), &[text, json]).await;
    let read = read_to_end(&topic, json!({"codec": "json"})).await;
    assert_eq!(texts(&read), ["\"a \\\"b\\\"\"", "{\"a\":1}"]);
    assert!(read.iter().all(|record| record.form == Form::Json));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_makes_writing_wait_and_keeps_the_order() {
    let topic = topic(1);
    let records: Vec<Record> = (0..40_000).map(|i| Record::new("x", format!("{i:0>100}"))).collect();
    write_all(&topic, json!({"buffer": "1MiB"}), &records).await;
    assert_eq!(texts(&read_to_end(&topic, json!({})).await), texts(&records));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_and_idempotence_are_choices() {
    for more in [json!({"acks": 0}), json!({"acks": 1}), json!({"acks": "all", "idempotent": false})] {
        let topic = topic(1);
        write_all(&topic, more.clone(), &values(0, 100)).await;
        // With `acks: 0` the broker may not have them yet.
        let mut read = Vec::new();
        for _ in 0..100 {
            read = read_to_end(&topic, json!({})).await;
            if read.len() == 100 {
                break;
            }
        }
        assert_eq!(texts(&read), texts(&values(0, 100)), "{more}");
    }
    assert!(!kafka().bootstrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_record_is_sent_at_once() {
    let topic = topic(3);
    let mut sink = sink(&topic, json!({})).await;
    // Each alone: waiting for others would take 50 ms.
    let all = async {
        for i in 0..200 {
            sink.write(batch(&values(i, i + 1))).await.unwrap();
            sink.flush().await.unwrap();
        }
    };
    tokio::time::timeout(200 * Duration::from_millis(50), all).await.expect("records wait for others that do not come");
    assert_eq!(read_to_end(&topic, json!({})).await.len(), 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_record_waits_for_others_as_long_as_it_may() {
    let topic = topic(1);
    let mut source = opened(&topic, json!({}), &Resume::default()).await;
    let mut sink = sink(&topic, json!({"batch": {"linger": "700ms"}})).await;
    let since = Instant::now();
    sink.write(batch(&values(0, 1))).await.unwrap();
    assert_eq!(texts(&read(&mut *source, 1).await), ["0"]);
    assert!(since.elapsed() >= Duration::from_millis(600), "{:?}", since.elapsed());
    // A full batch does not wait.
    let mut full = self::sink(&topic, json!({"batch": {"linger": "60s", "count": 2}})).await;
    full.write(batch(&values(1, 3))).await.unwrap();
    assert_eq!(texts(&read(&mut *source, 2).await), ["1", "2"]);
}
