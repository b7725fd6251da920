//! What is written again after an error, and what is not.

use std::time::Duration;

use millstream_bundle::systems::redis::RedisStreams;
use millstream_client::{ProducerOptions, ProducerState, Retry, Streamer};
use millstream_core::Span;
use millstream_testkit::{
    servers::{RedisCluster, wait_until},
    started,
};

use super::support::LONG;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_cluster_has_acknowledged_is_not_written_again_after_an_error() {
    let cluster = started!(RedisCluster::start());
    let mut redis = RedisStreams::at(&cluster.url()).unwrap();
    redis.sink.timeout = Span(Duration::from_millis(300));
    let retry = Retry { delay: Duration::from_millis(100), delay_max: Duration::from_millis(100), ..Retry::default() };
    let options = ProducerOptions { retry, commit_every: LONG, ..ProducerOptions::default() };
    let producer = Streamer::of(redis).create_producer("k", options).unwrap();
    for value in ["one", "two"] {
        assert!(!producer.send(value).await.unwrap().await.unwrap().repeated);
    }
    let master = cluster.master(cluster.slot("k"));
    cluster.node(master).pause();
    let receipt = producer.send("three").await.unwrap();
    let retrying = || matches!(producer.state(), ProducerState::Retrying(_));
    tokio::task::block_in_place(|| wait_until("it has failed", LONG, retrying));
    cluster.node(master).resume();
    // It was sent before, and nobody knows what became of that.
    assert!(receipt.await.unwrap().repeated);
    let written = cluster.cli(&["XRANGE", "k", "-", "+"]);
    let count = |value: &str| written.lines().filter(|line| *line == value).count();
    assert_eq!([count("one"), count("two")], [1, 1], "{written}");
    assert!(count("three") >= 1, "{written}");
}
