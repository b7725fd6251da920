//! Receipts, order, flush, end, back-pressure.

use std::collections::BTreeMap;

use futures::{FutureExt as _, future::join_all};
use millstream_client::ProducerOptions;
use millstream_core::ErrorKind;
use tokio::task::unconstrained;

use super::{
    Setting,
    scene::{Scene, next, number, numbers, record, send, take},
};

/// The sequence in a receipt is the one that a reader gets, where the system tells it.
pub async fn a_receipt_tells_the_sequence_that_readers_see(setting: &Setting) {
    let scene = Scene::new(setting).await;
    let mut reader = scene.reader().await;
    let receipts = send(&scene.producer(), 0..500).await;
    let told: Vec<Option<u128>> =
        join_all(receipts).await.into_iter().map(|delivered| delivered.unwrap().sequence).collect();
    let read: Vec<u128> = take(&mut reader, 500).await.iter().map(|record| record.sequence).collect();
    assert!(read.is_sorted_by(|a, b| a < b));
    match setting.sink(&scene.stream).sequences {
        true => assert_eq!(told, read.into_iter().map(Some).collect::<Vec<_>>()),
        false => assert!(told.iter().all(Option::is_none)),
    }
}

/// When a receipt has resolved, those of the same shard before it have.
pub async fn receipts_resolve_in_the_order_of_sending(setting: &Setting) {
    let scene = Scene::new(setting).await;
    let mut receipts = send(&scene.producer(), 0..300).await;
    let last = receipts.pop().unwrap();
    last.await.unwrap();
    assert!(
        receipts
            .into_iter()
            .all(|receipt| unconstrained(receipt).now_or_never().is_some_and(|delivered| delivered.is_ok()))
    );
}

/// Records of one key go to one shard, and come in the order in which they were sent; sequences grow.
pub async fn records_of_a_shard_arrive_in_order(setting: &Setting) {
    const KEYS: u64 = 7;
    let scene = Scene::with_shards(setting, 3).await;
    let mut reader = scene.reader().await;
    let producer = scene.producer();
    let keyed = setting.sink(&scene.stream).keys;
    for value in 0..3_000u64 {
        let mut record = record(value.to_string());
        record.key = keyed.then(|| format!("key {}", value % KEYS).into());
        drop(producer.send(record).await.unwrap());
    }
    producer.flush().await.unwrap();
    let (mut last, mut shards) = (BTreeMap::new(), BTreeMap::new());
    for record in take(&mut reader, 3_000).await {
        let value = number(&record);
        if let Some(before) = last.insert(if keyed { value % KEYS } else { 0 }, value) {
            assert!(before < value, "{value} after {before}");
        }
        if let Some(before) = shards.insert(record.origin.clone(), record.sequence) {
            assert!(before < record.sequence, "{} after {before}", record.sequence);
        }
    }
    assert!(shards.len() == 1 || setting.able.shards && shards.len() <= 3, "{shards:?}");
}

/// All records of all clones arrive, those of one clone in its order.
pub async fn clones_of_a_producer_write_side_by_side(setting: &Setting) {
    let scene = Scene::new(setting).await;
    let mut reader = scene.reader().await;
    let producer = scene.producer();
    let writers = (0..4u64).map(|nth| {
        let producer = producer.clone();
        tokio::spawn(async move { drop(send(&producer, nth * 1_000..nth * 1_000 + 250).await) })
    });
    join_all(writers).await.into_iter().for_each(|writer| writer.unwrap());
    producer.flush().await.unwrap();
    let mut read = numbers(&mut reader, 1_000).await;
    for nth in 0..4 {
        assert!(read.iter().filter(|value| **value / 1_000 == nth).is_sorted());
    }
    read.sort_unstable();
    read.dedup();
    assert_eq!(read.len(), 1_000);
}

/// Behind `flush` everything is there, also without a look at a receipt.
pub async fn flush_waits_for_everything(setting: &Setting) {
    let scene = Scene::new(setting).await;
    let mut early = match setting.able.keeps {
        true => None,
        false => Some(scene.reader().await),
    };
    scene.write(0..1_000).await;
    let mut reader = match early.take() {
        Some(reader) => reader,
        None => scene.reader().await,
    };
    assert_eq!(numbers(&mut reader, 1_000).await, (0..1_000).collect::<Vec<_>>());
}

/// `end` ends all clones; `send` and `flush` say so.
pub async fn what_is_sent_after_the_end_is_refused(setting: &Setting) {
    let scene = Scene::new(setting).await;
    let producer = scene.producer();
    let other = producer.clone();
    drop(producer.send("1").await.unwrap());
    producer.end().await.unwrap();
    assert_eq!(other.send("2").await.unwrap_err().kind(), ErrorKind::Closed);
}

/// A `send` that is dropped has accepted the record or not: what arrives has no holes of half records.
pub async fn a_send_that_is_given_up_is_whole_or_nothing(setting: &Setting) {
    let scene = Scene::new(setting).await;
    let mut reader = scene.reader().await;
    let options = ProducerOptions { pending_records_max: 8, ..ProducerOptions::default() };
    let producer = scene.producer_with(options);
    let mut accepted = Vec::new();
    for value in 0..2_000u64 {
        // Ready at once, or given up.
        if let Some(sent) = producer.send(value.to_string()).now_or_never() {
            drop(sent.unwrap());
            accepted.push(value);
        } else {
            tokio::task::yield_now().await;
        }
    }
    producer.flush().await.unwrap();
    drop(producer.send("999999").await.unwrap());
    producer.flush().await.unwrap();
    accepted.push(999_999);
    assert_eq!(numbers(&mut reader, accepted.len()).await, accepted);
}

/// What is accepted is bounded: a full budget is an error of `try_send`, and a wait of `send`.
pub async fn a_producer_waits_when_its_budget_is_full(setting: &Setting) {
    let scene = Scene::new(setting).await;
    let mut reader = scene.reader().await;
    let options = ProducerOptions { pending_records_max: 4, ..ProducerOptions::default() };
    let producer = scene.producer_with(options);
    let mut refused = 0;
    for value in 0..1_000u64 {
        match producer.try_send(value.to_string()) {
            Ok(receipt) => drop(receipt),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Full, "{}", error.chain());
                refused += 1;
                drop(producer.send(value.to_string()).await.unwrap());
            }
        }
    }
    assert!(refused > 0);
    producer.flush().await.unwrap();
    for value in 0..1_000 {
        assert_eq!(number(&next(&mut reader).await), value);
    }
}
