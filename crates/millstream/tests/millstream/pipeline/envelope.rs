//! Key, time and headers.

use millstream::Timestamp;
use millstream_testkit::FakeSource;

use super::bed::{Bed, dead};

behaviours! {
    async fn key_time_and_headers_come_to_the_sink() {
        let bed = Bed::new();
        let numbers = bed.numbers(3).key_by(|n| (*n != 1).then(|| format!("k{n}")));
        let numbers = numbers.time_by(|n| Timestamp::from_millis(*n as i64)).header("h", |n| *n);
        bed.collect(numbers.header("h", |n| n * 10).header("i", |_| None::<&str>));
        bed.run().await;
        let records = bed.sink.records();
        let keys: Vec<_> = records.iter().map(|record| record.key.as_deref()).collect();
        assert_eq!(keys, [Some(&b"k0"[..]), None, Some(&b"k2"[..])]);
        assert_eq!(records[2].time, Some(Timestamp::from_millis(2)));
        assert_eq!(records[2].headers, [("h".to_owned(), Some("20".into()))]);
    }

    async fn a_panic_in_a_key_costs_only_its_record() {
        let bed = Bed::new();
        bed.collect(bed.numbers(4).filter(|n| *n > 0).key_by(|n| {
            assert!(*n != 2, "no key");
            *n
        }));
        bed.run().await;
        let keys: Vec<_> = bed.sink.records().into_iter().map(|record| (record.key.unwrap(), record.value.unwrap())).collect();
        assert_eq!(keys, [("1".into(), "1".into()), ("3".into(), "3".into())]);
        assert_eq!(bed.dead(), [dead("2", "E_PANIC")]);
    }

    async fn map_record_sees_key_origin_and_sequence() {
        let bed = Bed::new();
        let source = FakeSource::live();
        source.push(Some("k"), "a");
        source.push(None, "b");
        source.end();
        bed.collect(bed.texts(&source).map_record(|record| {
            let key = record.key().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
            format!("{} {key} {} {}", record.len(), record.value(), record.id())
        }));
        bed.run().await;
        assert_eq!(bed.delivered(), ["\"1 k a fake/0@0\"", "\"1  b fake/0@1\""]);
    }
}
