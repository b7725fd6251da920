//! Consumers and producers on the program's own runtime.

use std::time::Duration;

use millstream_client::{ConsumerOptions, ProducerOptions};
use millstream_core::{ErrorKind, SeekTo};
use millstream_testkit::process::{alone, is_alone, threads};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::support::Memory;

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn from_beginning() -> ConsumerOptions {
    ConsumerOptions { start: Some(SeekTo::Beginning), ..ConsumerOptions::real_time() }
}

#[test]
fn they_need_no_thread_of_their_own_there() {
    if !is_alone() {
        return alone("runtime::they_need_no_thread_of_their_own_there");
    }
    let memory = Memory::new();
    memory.log.numbers(0..3);
    runtime().block_on(async {
        let streamer = memory.streamer().on_runtime(Handle::current());
        let mut consumer = streamer.create_consumer(&["s"], from_beginning()).unwrap();
        let producer = streamer.create_producer("out", ProducerOptions::default()).unwrap();
        for _ in 0..3 {
            let value = consumer.next().await.unwrap().unwrap().value.unwrap();
            producer.send(value).await.unwrap().await.unwrap();
        }
        consumer.close().await.unwrap();
        producer.end().await.unwrap();
    });
    assert_eq!(memory.sink.records().len(), 3);
    assert!(!threads().iter().any(|name| name.starts_with("millstream")), "{:?}", threads());
}

#[test]
fn a_runtime_that_ends_before_them_is_an_error_and_not_silence() {
    let memory = Memory::new();
    let theirs = runtime();
    let streamer = memory.streamer().on_runtime(theirs.handle().clone());
    let mut consumer = streamer.create_consumer(&["nothing"], from_beginning()).unwrap();
    let producer = streamer.create_producer("out", ProducerOptions::default()).unwrap();
    memory.sink.stall(true);
    theirs.block_on(consumer.opened()).unwrap();
    let receipt = theirs.block_on(producer.send("x")).unwrap();
    drop(theirs);
    runtime().block_on(async {
        let soon = Duration::from_secs(10);
        let error = tokio::time::timeout(soon, receipt).await.expect("an answer").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
        let error = tokio::time::timeout(soon, producer.flush()).await.expect("an answer").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
        let error = tokio::time::timeout(soon, consumer.next()).await.expect("an answer").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
    });
    memory.sink.stall(false);
}
