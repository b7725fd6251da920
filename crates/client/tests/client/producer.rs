//! What a producer promises.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use futures::{FutureExt, executor::block_on, future::join_all};
use millstream_client::{Backend, Durability, Producer, ProducerOptions, ProducerState, Retry, Streamer};
use millstream_core::{
    Batch, Epoch, Error, ErrorKind, Last, Outcomes, PlanContext, Record, Result, ShardKey, Sink, SinkCapabilities,
    SinkPlan, SourcePlan, Token, Way, WriteId,
};
use millstream_testkit::FakeSink;

use crate::support::{Chance, Memory, eventually, everywhere, quick, unavailable};

fn quickly() -> ProducerOptions {
    ProducerOptions { retry: quick(), ..ProducerOptions::default() }
}

fn producer(memory: &Memory) -> Producer {
    memory.streamer().create_producer("out", quickly()).unwrap()
}

#[test]
fn values_keys_and_whole_records_can_be_sent() {
    everywhere(|| async {
        let memory = Memory::new();
        let producer = producer(&memory);
        drop(producer.send("plain").await.unwrap());
        drop(producer.send(("key", b"bytes")).await.unwrap());
        let record = Record {
            origin: ShardKey::new("elsewhere", 3),
            headers: vec![("h".to_owned(), None)],
            value: None,
            ..Record::new("", "")
        };
        producer.send(record).await.unwrap().await.unwrap();
        let records = memory.sink.records();
        assert_eq!(records[0].origin, ShardKey::new("out", 0));
        assert_eq!(records[1].key.as_deref(), Some(&b"key"[..]));
        assert_eq!((records[2].origin.clone(), records[2].value.clone()), (ShardKey::new("elsewhere", 3), None));
        assert_eq!(records[2].headers.len(), 1);
    });
}

#[test]
fn records_arrive_in_the_order_in_which_they_were_accepted_and_in_batches() {
    everywhere(|| async {
        let memory = Memory::new();
        let producer = producer(&memory);
        memory.sink.stall(true);
        let mut receipts = Vec::new();
        for i in 0..1000 {
            receipts.push(producer.send(i.to_string()).await.unwrap());
        }
        memory.sink.stall(false);
        for receipt in receipts {
            receipt.await.unwrap();
        }
        assert_eq!(memory.sink.values(), (0..1000).map(|i| i.to_string()).collect::<Vec<_>>());
        assert!(memory.sink.largest_write() > 100, "{}", memory.sink.largest_write());
    });
}

#[test]
fn a_lone_record_goes_at_once() {
    block_on(async {
        let memory = Memory::new();
        let producer = producer(&memory);
        drop(producer.send("alone").await.unwrap());
        eventually("it is written", || memory.sink.values() == ["alone"]);
    });
}

#[test]
fn a_receipt_waits_until_the_record_is_durable() {
    block_on(async {
        let memory = Memory::new();
        let producer = producer(&memory);
        memory.sink.stall(true);
        let mut receipt = producer.send("x").await.unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert!((&mut receipt).now_or_never().is_none());
        memory.sink.stall(false);
        assert_eq!(receipt.await.unwrap().sequence, None);
    });
}

#[test]
fn sending_waits_only_when_the_budget_is_full_and_a_dropped_send_sends_nothing() {
    block_on(async {
        let memory = Memory::new();
        let options = ProducerOptions { pending_bytes_max: 2000, ..quickly() };
        let producer = memory.streamer().create_producer("out", options).unwrap();
        memory.sink.stall(true);
        let mut accepted = Vec::new();
        let mut chance = Chance(9);
        for i in 0..100 {
            match producer.send(i.to_string()).now_or_never() {
                Some(receipt) => accepted.push((i, receipt.unwrap())),
                None => assert_eq!(producer.try_send("no").unwrap_err().kind(), ErrorKind::Full),
            }
        }
        assert!((5..50).contains(&accepted.len()), "{}", accepted.len());
        memory.sink.stall(false);
        for i in 100..500 {
            if chance.below(3) == 0 {
                if let Some(receipt) = producer.send(i.to_string()).now_or_never() {
                    accepted.push((i, receipt.unwrap()));
                }
            } else {
                accepted.push((i, producer.send(i.to_string()).await.unwrap()));
            }
        }
        // Larger than the budget: alone.
        accepted.push((500, producer.send(vec![b'x'; 5000]).await.unwrap()));
        let mut expected: Vec<String> = Vec::new();
        for (i, receipt) in accepted {
            receipt.await.unwrap();
            expected.push(if i == 500 { "x".repeat(5000) } else { i.to_string() });
        }
        assert_eq!(memory.sink.values(), expected);
    });
}

#[test]
fn a_rejected_record_is_the_error_of_its_receipt_and_of_the_next_flush() {
    block_on(async {
        let memory = Memory::new();
        let producer = producer(&memory);
        memory.sink.reject("2", 1, Error::new(ErrorKind::Rejected, "not that one"));
        let receipts: Vec<_> = join_all((0..5).map(|i| producer.send(i.to_string()))).await;
        let mut results = Vec::new();
        for receipt in receipts {
            results.push(receipt.unwrap().await.map_err(|error| error.kind()).is_ok());
        }
        assert_eq!(results, [true, true, false, true, true]);
        assert_eq!(producer.flush().await.unwrap_err().kind(), ErrorKind::Rejected);
        producer.flush().await.unwrap();
        memory.sink.reject("3", 1, Error::new(ErrorKind::Rejected, "nor that"));
        drop(producer.send("3").await.unwrap());
        assert!(producer.end().await.is_err());
    });
}

#[test]
fn flush_waits_for_everything_before_it_also_that_of_clones() {
    everywhere(|| async {
        let memory = Memory::new();
        let producer = producer(&memory);
        let clone = producer.clone();
        for i in 0..100 {
            drop(if i % 2 == 0 { &producer } else { &clone }.send(i.to_string()).await.unwrap());
        }
        producer.flush().await.unwrap();
        assert_eq!(memory.sink.values().len(), 100);
        // A flush that is dropped changes nothing.
        let _ = producer.flush().now_or_never();
        producer.flush().await.unwrap();
    });
}

#[test]
fn dropping_all_clones_writes_what_was_accepted() {
    let memory = Memory::new();
    let streamer = memory.streamer();
    let producer = streamer.create_producer("out", quickly()).unwrap();
    memory.sink.stall(true);
    let clone = producer.clone();
    (0..99).for_each(|i| drop(block_on(producer.send(i.to_string())).unwrap()));
    let receipt = block_on(clone.send("99")).unwrap();
    drop((producer, clone, streamer));
    memory.sink.stall(false);
    block_on(receipt).unwrap();
    assert_eq!(memory.sink.values().len(), 100);
}

#[test]
fn a_producer_without_handles_gives_up_in_the_end() {
    let memory = Memory::new();
    let options = ProducerOptions { drain_timeout: Duration::from_millis(20), ..quickly() };
    let producer = memory.streamer().create_producer("out", options).unwrap();
    memory.sink.stall(true);
    let receipt = block_on(producer.send("x")).unwrap();
    drop(producer);
    assert_eq!(block_on(receipt).unwrap_err().kind(), ErrorKind::Interrupted);
}

#[test]
fn ending_finishes_the_stream_for_all_clones() {
    block_on(async {
        let memory = Memory { sink: FakeSink::truncating(), ..Memory::new() };
        let producer = producer(&memory);
        let clone = producer.clone();
        drop(producer.send("last").await.unwrap());
        producer.end().await.unwrap();
        assert!(memory.sink.finished());
        assert_eq!(memory.sink.committed(), 1);
        assert_eq!(clone.send("late").await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(clone.flush().await.unwrap_err().kind(), ErrorKind::Closed);
        assert!(matches!(clone.state(), ProducerState::Ended));
    });
}

#[test]
fn an_error_that_can_pass_is_waited_out_and_shown() {
    block_on(async {
        let memory = Memory::new();
        let retry =
            Retry { delay: Duration::from_millis(50), delay_max: Duration::from_millis(50), attempts_max: None };
        let producer = memory.streamer().create_producer("out", ProducerOptions { retry, ..quickly() }).unwrap();
        memory.sink.fail_writes([unavailable(), unavailable()]);
        memory.sink.fail_flushes([unavailable()]);
        let receipt = producer.send("x").await.unwrap();
        eventually("it retries", || matches!(producer.state(), ProducerState::Retrying(_)));
        receipt.await.unwrap();
        assert!(matches!(producer.state(), ProducerState::Writing));
        assert!(memory.sink.values().contains(&"x".to_owned()));
    });
}

#[test]
fn a_sink_that_cuts_is_written_again_from_its_mark_so_nothing_is_lost_or_doubled() {
    block_on(async {
        for durability in [Durability::Flushed, Durability::Committed] {
            let memory = Memory { sink: FakeSink::truncating(), ..Memory::new() };
            let options = ProducerOptions { durability, commit_every: Duration::from_millis(3), ..quickly() };
            let producer = memory.streamer().create_producer("out", options).unwrap();
            let mut chance = Chance(1);
            for i in 0..400 {
                let receipt = producer.send(i.to_string()).await.unwrap();
                match chance.below(20) {
                    0 => memory.sink.fail_flushes([unavailable()]),
                    1 => memory.sink.fail_writes([unavailable(), unavailable()]),
                    2 => receipt.await.unwrap().sequence.map_or((), |_| ()),
                    3 => std::thread::sleep(Duration::from_millis(1)),
                    _ => {}
                }
            }
            producer.end().await.unwrap();
            assert_eq!(memory.sink.values(), (0..400).map(|i| i.to_string()).collect::<Vec<_>>());
            assert_eq!(memory.sink.committed(), 400);
        }
    });
}

#[test]
fn any_other_error_ends_it_and_everybody_is_told() {
    everywhere(|| async {
        let memory = Memory::new();
        let producer = producer(&memory);
        memory.sink.fail_writes([Error::new(ErrorKind::Closed, "the reader has gone away")]);
        let sent = [producer.send("a").await, producer.send("b").await];
        for sent in sent {
            // The second may be told at once.
            let error = match sent {
                Ok(receipt) => receipt.await.unwrap_err(),
                Err(error) => error,
            };
            assert_eq!(error.kind(), ErrorKind::Closed);
        }
        eventually("it has failed", || matches!(producer.state(), ProducerState::Failed(_)));
        assert_eq!(producer.send("c").await.unwrap_err().to_string(), "the reader has gone away");
        assert_eq!(producer.flush().await.unwrap_err().to_string(), "the reader has gone away");
    });
}

/// A sink that tells sequences and has a limit; panics on the value `panic`.
#[derive(Clone, Debug, Default)]
struct Counting(Arc<Mutex<u128>>);

struct CountingSink {
    next: Arc<Mutex<u128>>,
    ids: WriteId,
    told: Vec<(WriteId, Vec<u128>)>,
}

impl Backend for Counting {
    fn source(&self, _: &[&str], _: Option<&str>) -> Result<Box<dyn SourcePlan>> {
        Err(Error::new(ErrorKind::Unsupported, "it is a sink"))
    }

    fn sink(&self, _: &str, _: &PlanContext) -> Result<Box<dyn SinkPlan>> {
        Ok(Box::new(self.clone()))
    }

    fn describe(&self) -> String {
        "counting".to_owned()
    }
}

impl SinkPlan for Counting {
    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities {
            way: Way::None,
            per_record: true,
            sequences: true,
            keys: false,
            headers: false,
            tombstones: false,
            times: false,
            record_bytes_max: Some(10),
        }
    }

    fn describe(&self) -> String {
        "counting".to_owned()
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(CountingSink { next: self.0.clone(), ids: 0, told: Vec::new() }))
    }
}

#[async_trait]
impl Sink for CountingSink {
    async fn open(&mut self, _: &[(Epoch, Token)]) -> Result<()> {
        Ok(())
    }

    async fn write(&mut self, batch: Batch) -> Result<WriteId> {
        assert!(batch.iter().all(|record| record.value() != Some(b"panic")));
        let mut next = self.next.lock().unwrap();
        self.told.push((self.ids, (*next..).take(batch.len()).collect()));
        *next += batch.len() as u128;
        self.ids += 1;
        Ok(self.ids - 1)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        Ok(Outcomes { sequences: std::mem::take(&mut self.told), ..Outcomes::default() })
    }

    async fn prepare(&mut self, _: Epoch, _: Last) -> Result<Option<Token>> {
        Ok(None)
    }
}

#[test]
fn receipts_tell_the_sequence_that_consumers_see() {
    block_on(async {
        let producer = Streamer::of(Counting::default()).create_producer("", quickly()).unwrap();
        let mut receipts = Vec::new();
        for i in 0..100 {
            receipts.push(producer.send(i.to_string()).await.unwrap());
        }
        for (i, receipt) in receipts.into_iter().enumerate() {
            assert_eq!(receipt.await.unwrap().sequence, Some(i as u128));
        }
        let error = producer.send("more than ten bytes").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert_eq!(producer.send("x").await.unwrap().await.unwrap().sequence, Some(100));
    });
}

#[test]
fn a_sink_that_panics_leaves_nobody_waiting() {
    block_on(async {
        let producer = Streamer::of(Counting::default()).create_producer("", quickly()).unwrap();
        let receipt = producer.send("panic").await.unwrap();
        assert_eq!(receipt.await.unwrap_err().kind(), ErrorKind::Bug);
        assert_eq!(producer.flush().await.unwrap_err().kind(), ErrorKind::Bug);
    });
}
