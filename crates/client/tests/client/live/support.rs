//! Streams of their own, and reading with a deadline.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use millstream_bundle::systems::{kafka::Kafka, redis::RedisStreams};
use millstream_client::{Backend, Consumer, ConsumerOptions, Streamer};
use millstream_core::{Record, SeekTo, ShardKey};
use millstream_testkit::servers;

/// Longer than anything here takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A name that nobody else has in this run.
pub(crate) fn name(of: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{of}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A system by its URL.
pub(crate) fn connect(url: &str) -> Streamer {
    Streamer::connect(url, millstream_bundle::registry()).unwrap()
}

/// A topic that no other test has.
pub(crate) fn topic(kafka: &servers::Kafka, partitions: usize) -> String {
    let name = name("topic");
    kafka.create_topic(&name, partitions, &[]);
    name
}

pub(crate) fn kafka(kafka: &servers::Kafka) -> Kafka {
    Kafka::at(&format!("kafka://{}", kafka.bootstrap())).unwrap()
}

pub(crate) fn redis(redis: &servers::Redis) -> RedisStreams {
    RedisStreams::at(&redis.url()).unwrap()
}

pub(crate) fn from_beginning() -> ConsumerOptions {
    ConsumerOptions { start: Some(SeekTo::Beginning), ..ConsumerOptions::real_time() }
}

/// A reader of all that a stream has held.
pub(crate) fn reader(streamer: &Streamer, streams: &[&str]) -> Consumer {
    streamer.create_consumer(streams, from_beginning()).unwrap()
}

pub(crate) async fn next(consumer: &mut Consumer) -> Record {
    match tokio::time::timeout(LONG, consumer.next()).await {
        Ok(record) => record.unwrap().expect("a record"),
        Err(_) => panic!("no record within {LONG:?}: {:?}", consumer.state()),
    }
}

pub(crate) async fn take(consumer: &mut Consumer, count: usize) -> Vec<Record> {
    let mut records = Vec::new();
    while records.len() < count {
        records.push(next(consumer).await);
    }
    records
}

pub(crate) fn text(record: &Record) -> String {
    String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned()
}

/// A record for a shard of a stream; an empty one: the producer's.
pub(crate) fn to(stream: &str, shard: u64, value: &str) -> Record {
    Record { origin: ShardKey::new(stream, shard), ..Record::new("", value.to_owned()) }
}

/// Where the records of some streams lie: `stream/shard value`, sorted.
pub(crate) async fn places(system: impl Backend, streams: &[&str], count: usize) -> Vec<String> {
    let mut reader = reader(&Streamer::of(system), streams);
    let read = take(&mut reader, count).await;
    let mut places: Vec<String> = read.iter().map(|record| format!("{} {}", record.origin, text(record))).collect();
    places.sort();
    places
}
