//! Members of groups of Redis: what a crash leaves behind, and what goes alone.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use millstream_client::{Ack, Consumer, ConsumerOptions, ProducerOptions, Streamer};
use millstream_core::SeekTo;
use millstream_testkit::{servers::Redis, started};

use super::support::{LONG, name, next, redis, take, text};

/// Writes numbers.
async fn fill(server: &Redis, stream: &str, count: usize) {
    let producer = Streamer::of(redis(server)).create_producer(stream, ProducerOptions::default()).unwrap();
    for number in 0..count {
        drop(producer.send(number.to_string()).await.unwrap());
    }
    producer.end().await.unwrap();
}

/// From the beginning, committed only by hand.
fn by_hand(options: ConsumerOptions) -> ConsumerOptions {
    ConsumerOptions { start: Some(SeekTo::Beginning), commit_every: None, ..options }
}

async fn numbers(consumer: &mut Consumer, count: usize) -> Vec<usize> {
    take(consumer, count).await.iter().map(|record| text(record).parse().unwrap()).collect()
}

#[tokio::test]
async fn a_resumable_consumer_goes_on_with_what_it_had_taken_when_it_crashed() {
    let server = started!(Redis::shared());
    let (stream, group) = (name("crashed"), name("resumes"));
    fill(server, &stream, 100).await;
    let options = by_hand(ConsumerOptions::resumable(&group));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let crashing = Streamer::of(redis(server)).on_runtime(runtime.handle().clone());
    let mut consumer = crashing.create_consumer(&[&stream], options.clone()).unwrap();
    assert_eq!(numbers(&mut consumer, 10).await, (0..10).collect::<Vec<_>>());
    consumer.commit().await.unwrap();
    assert_eq!(numbers(&mut consumer, 5).await, (10..15).collect::<Vec<_>>());
    // Nothing is said to the server.
    tokio::task::spawn_blocking(move || runtime.shutdown_timeout(LONG)).await.unwrap();
    drop(consumer);
    let mut consumer = Streamer::of(redis(server)).create_consumer(&[&stream], options).unwrap();
    let begun = Instant::now();
    let mut rest = numbers(&mut consumer, 90).await;
    assert!(begun.elapsed() < Duration::from_secs(30), "nobody waits until it counts as dead");
    assert_eq!(rest[0], 10);
    rest.sort_unstable();
    assert_eq!(rest, (10..100).collect::<Vec<_>>());
    consumer.close().await.unwrap();
    assert!(server.cli(&["XPENDING", &stream, &group]).starts_with('0'));
}

#[tokio::test]
async fn records_that_go_alone_are_committed_when_they_are_done() {
    let server = started!(Redis::shared());
    for ack in [Ack::Auto, Ack::Manual] {
        let (stream, group) = (name("alone"), name("often"));
        fill(server, &stream, 8).await;
        server.cli(&["XGROUP", "CREATE", &stream, &group, "0"]);
        let read = server.cli(&["XREADGROUP", "GROUP", &group, "dead", "COUNT", "5", "STREAMS", &stream, ">"]);
        // Twice handed out, long ago.
        for id in read.lines().filter(|line| line.split_once('-').is_some_and(|(ms, _)| ms.parse::<u64>().is_ok())) {
            let claim = ["XCLAIM", &stream, &group, "dead", "0", id, "IDLE", "999999", "RETRYCOUNT", "2", "JUSTID"];
            server.cli(&claim);
        }
        let options = ConsumerOptions { ack, ..by_hand(ConsumerOptions::load_balanced(&group)) };
        let mut consumer = Streamer::of(redis(server)).create_consumer(&[&stream], options).unwrap();
        let mut got = BTreeSet::new();
        while got.len() < 8 {
            let record = next(&mut consumer).await;
            got.insert(text(&record));
            consumer.ack(&record).unwrap();
        }
        assert_eq!(got, (0..8).map(|number| number.to_string()).collect());
        consumer.close().await.unwrap();
        assert!(server.cli(&["XPENDING", &stream, &group]).starts_with('0'));
    }
}

#[tokio::test]
async fn what_a_consumer_has_not_seen_is_not_given_up_however_often_it_is_opened() {
    let server = started!(Redis::shared());
    let (stream, group) = (name("unseen"), name("short"));
    fill(server, &stream, 40).await;
    let options = by_hand(ConsumerOptions::load_balanced(&group));
    let mut got = Vec::new();
    // More often than a record may be handed out.
    for _ in 0..8 {
        let mut consumer = Streamer::of(redis(server)).create_consumer(&[&stream], options.clone()).unwrap();
        got.extend(numbers(&mut consumer, 5).await);
        consumer.close().await.unwrap();
    }
    got.sort_unstable();
    assert_eq!(got, (0..40).collect::<Vec<_>>());
}
