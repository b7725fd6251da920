//! What the behaviours have in common: a stream of their own, records with numbers, and reading with a deadline.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use millstream_client::{Consumer, ConsumerOptions, Producer, ProducerOptions, Receipt, Streamer};
use millstream_core::{Record, SeekTo};

use super::Setting;

/// How long a record that must come may take.
pub(super) const SOON: Duration = Duration::from_secs(45);

/// A stream of its own, with a reader and a writer.
pub(super) struct Scene<'a> {
    pub(super) setting: &'a Setting,
    pub(super) streamer: Streamer,
    pub(super) stream: String,
    /// Stays: in some systems a stream ends with its last producer.
    producer: OnceLock<Producer>,
}

/// A name that nothing else has.
pub(super) fn fresh(what: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nth = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{what}-{}-{nth}", std::process::id())
}

impl<'a> Scene<'a> {
    /// One shard.
    pub(super) async fn new(setting: &'a Setting) -> Self {
        Scene::with_shards(setting, 1).await
    }

    /// So many shards, or one where there are no more.
    pub(super) async fn with_shards(setting: &'a Setting, shards: u64) -> Self {
        let stream = fresh("stream");
        (setting.make_stream)(stream.clone(), if setting.able.shards { shards } else { 1 }).await;
        Scene { setting, streamer: setting.streamer(), stream, producer: OnceLock::new() }
    }

    pub(super) fn producer(&self) -> Producer {
        let make = || self.streamer.create_producer(&self.stream, ProducerOptions::default()).unwrap();
        self.producer.get_or_init(make).clone()
    }

    /// A producer with other options, instead of the usual one: some systems have one writer at a time.
    pub(super) fn producer_with(&self, options: ProducerOptions) -> Producer {
        self.streamer.create_producer(&self.stream, options).unwrap()
    }

    /// A consumer that is open.
    pub(super) async fn consumer(&self, options: ConsumerOptions) -> Consumer {
        let consumer = self.streamer.create_consumer(&[&self.stream], options).unwrap();
        consumer.opened().await.unwrap();
        consumer
    }

    /// A consumer that reads everything.
    pub(super) async fn reader(&self) -> Consumer {
        self.consumer(from_beginning(ConsumerOptions::real_time())).await
    }

    /// Sends numbers as text, and waits until they are there.
    pub(super) async fn write(&self, numbers: std::ops::Range<u64>) {
        let producer = self.producer();
        send(&producer, numbers).await;
        producer.flush().await.unwrap();
    }
}

/// Reads from the beginning where nothing is kept.
pub(super) fn from_beginning(options: ConsumerOptions) -> ConsumerOptions {
    ConsumerOptions { start: Some(SeekTo::Beginning), ..options }
}

/// Sends numbers as text.
pub(super) async fn send(producer: &Producer, numbers: std::ops::Range<u64>) -> Vec<Receipt> {
    let mut receipts = Vec::new();
    for number in numbers {
        receipts.push(producer.send(number.to_string()).await.unwrap());
    }
    receipts
}

/// A record with this value, for the producer's stream.
pub(super) fn record(value: impl Into<Bytes>) -> Record {
    Record::new("", value)
}

/// The value as the number that it was written as.
pub(super) fn number(record: &Record) -> u64 {
    text(record).parse().unwrap_or_else(|_| panic!("no number: {record:?}"))
}

/// The value as text.
pub(super) fn text(record: &Record) -> String {
    String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned()
}

/// The next record, which must come.
pub(super) async fn next(consumer: &mut Consumer) -> Record {
    match tokio::time::timeout(SOON, consumer.next()).await {
        Ok(Ok(Some(record))) => record,
        Ok(Ok(None)) => panic!("the stream has ended too early"),
        Ok(Err(error)) => panic!("cannot read: {}", error.chain()),
        Err(_) => panic!("no record within {SOON:?}; {:?}", consumer.state()),
    }
}

/// The next records, which must come.
pub(super) async fn take(consumer: &mut Consumer, count: usize) -> Vec<Record> {
    let mut records = Vec::with_capacity(count);
    while records.len() < count {
        records.push(next(consumer).await);
    }
    records
}

/// The next values as numbers.
pub(super) async fn numbers(consumer: &mut Consumer, count: usize) -> Vec<u64> {
    take(consumer, count).await.iter().map(number).collect()
}

/// Whether nothing comes for a while.
pub(super) async fn silent(consumer: &mut Consumer) -> bool {
    tokio::time::timeout(Duration::from_millis(300), consumer.next()).await.is_err()
}
