//! Whoever waits costs nothing. Alone in its process, so that only it is measured.

use std::time::Duration;

use futures::executor::block_on;
use millstream_client::{Ack, ConsumerOptions, PositionFiles, ProducerOptions};
use millstream_core::SeekTo;
use millstream_testkit::process::{alone, is_alone, ticks};

use crate::support::{Memory, eventually};

#[test]
fn waiting_for_records_for_room_for_acks_and_for_a_stalled_sink_costs_no_time() {
    if !is_alone() {
        return alone("idle::waiting_for_records_for_room_for_acks_and_for_a_stalled_sink_costs_no_time");
    }
    let folder = tempfile::tempdir().unwrap();
    let memory = Memory::new();
    memory.log.numbers(0..20_000);
    let streamer = memory.streamer();
    let beginning = ConsumerOptions { start: Some(SeekTo::Beginning), ..ConsumerOptions::real_time() };
    let idle = streamer.create_consumer(&["nothing"], beginning.clone()).unwrap();
    let full = streamer.create_consumer(&["s"], ConsumerOptions { buffer_records_max: 100, ..beginning }).unwrap();
    let mut unacked = streamer
        .create_consumer(
            &["s"],
            ConsumerOptions {
                ack: Ack::Manual,
                unacked_records_max: 50,
                positions: Some(std::sync::Arc::new(PositionFiles::within(folder.path()))),
                ..ConsumerOptions::resumable("x")
            },
        )
        .unwrap();
    block_on(async {
        idle.opened().await.unwrap();
        for _ in 0..50 {
            unacked.next().await.unwrap();
        }
    });
    let producer = streamer.create_producer("out", ProducerOptions::default()).unwrap();
    memory.sink.stall(true);
    drop(block_on(producer.send("x")).unwrap());
    eventually("the buffers are full", || memory.log.handed() >= 150);
    std::thread::sleep(Duration::from_millis(100));
    let (before, handed) = (ticks(), memory.log.handed());
    std::thread::sleep(Duration::from_secs(2));
    assert!(ticks() - before <= 4, "{} ticks", ticks() - before);
    assert_eq!(memory.log.handed(), handed);
    memory.sink.stall(false);
    drop((idle, full, unacked, producer));
}
