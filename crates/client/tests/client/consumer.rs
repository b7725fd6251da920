//! What a consumer promises.

use std::time::Duration;

use futures::{FutureExt, StreamExt, executor::block_on, future::join};
use millstream_client::{Consumer, ConsumerOptions, ConsumerState, Retry};
use millstream_core::{Error, ErrorKind, SeekTo, ShardKey, SourceCapabilities, Timestamp};

use crate::support::{Chance, Memory, eventually, everywhere, number, quick, text, unavailable};

fn from_beginning() -> ConsumerOptions {
    ConsumerOptions { start: Some(SeekTo::Beginning), retry: quick(), ..ConsumerOptions::real_time() }
}

async fn numbers(consumer: &mut Consumer, count: usize) -> Vec<usize> {
    let mut all = Vec::new();
    while all.len() < count {
        all.push(number(&consumer.next().await.unwrap().unwrap()));
    }
    all
}

#[test]
fn records_come_in_order_one_at_a_time_and_then_the_end_on_any_executor() {
    everywhere(|| async {
        let memory = Memory::new();
        memory.log.numbers(0..100);
        memory.log.end();
        let mut consumer = memory.streamer().create_consumer(&["s"], from_beginning()).unwrap();
        assert_eq!(numbers(&mut consumer, 100).await, (0..100).collect::<Vec<_>>());
        assert!(consumer.next().await.unwrap().is_none());
        assert!(consumer.next().await.unwrap().is_none());
        assert!(matches!(consumer.state(), ConsumerState::Ended));
    });
}

#[test]
fn batches_and_single_records_can_be_mixed() {
    block_on(async {
        let memory = Memory::new();
        memory.log.numbers(0..20);
        memory.log.end();
        let mut consumer = memory.streamer().create_consumer(&[], from_beginning()).unwrap();
        assert_eq!(numbers(&mut consumer, 3).await, [0, 1, 2]);
        assert_eq!(consumer.next_batch().await.unwrap().unwrap().len(), 13);
        assert_eq!(numbers(&mut consumer, 1).await, [16]);
        assert_eq!(consumer.next_batch().await.unwrap().unwrap().len(), 3);
        assert!(consumer.next_batch().await.unwrap().is_none());
    });
}

#[test]
fn futures_dropped_at_random_lose_and_repeat_nothing() {
    everywhere(|| async {
        let memory = Memory::new();
        let mut consumer = memory.streamer().create_consumer(&["s"], from_beginning()).unwrap();
        let log = memory.log.clone();
        let pusher = std::thread::spawn(move || {
            for i in 0..2000 {
                log.push("s", 0, i.to_string());
                if i % 50 == 0 {
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
            log.end();
        });
        let (mut chance, mut got) = (Chance(7), Vec::new());
        loop {
            // Polled once and dropped, more often than not.
            let next = match chance.below(4) {
                0 => Some(consumer.next().await),
                1 => match consumer.next_batch().now_or_never() {
                    Some(batch) => {
                        let batch = batch.unwrap();
                        got.extend(
                            batch
                                .iter()
                                .flat_map(|batch| batch.iter().map(|r| number(&r.to_record())).collect::<Vec<_>>()),
                        );
                        if batch.is_none() {
                            break;
                        }
                        None
                    }
                    None => None,
                },
                _ => consumer.next().now_or_never(),
            };
            match next {
                Some(Ok(Some(record))) => got.push(number(&record)),
                Some(Ok(None)) => break,
                Some(Err(error)) => panic!("{error:?}"),
                None => {}
            }
        }
        pusher.join().unwrap();
        assert_eq!(got, (0..2000).collect::<Vec<_>>());
    });
}

#[test]
fn a_record_at_fault_is_an_error_and_the_next_call_goes_on() {
    block_on(async {
        let memory = Memory::new();
        ["a", "bad", "b", "bad"].iter().for_each(|value| memory.log.push("s", 0, *value));
        memory.log.end();
        let mut consumer = memory.streamer().create_consumer(&[], from_beginning()).unwrap();
        let mut seen = Vec::new();
        loop {
            match consumer.next().await {
                Ok(Some(record)) => seen.push(text(&record)),
                Ok(None) => break,
                Err(error) => seen.push(error.to_string()),
            }
        }
        assert_eq!(seen, ["a", "it is bad", "b", "it is bad"]);
        consumer.rewind(SeekTo::Beginning).await.unwrap();
        assert_eq!(consumer.next_batch().await.unwrap().unwrap().len(), 1);
        assert_eq!(consumer.next_batch().await.unwrap_err().kind(), ErrorKind::Decode);
        assert_eq!(consumer.next_batch().await.unwrap().unwrap().len(), 1);
    });
}

#[test]
fn the_stream_is_owned_and_goes_on_behind_a_record_at_fault() {
    let memory = Memory::new();
    ["a", "bad", "b"].iter().for_each(|value| memory.log.push("s", 0, *value));
    memory.log.end();
    let stream = memory.streamer().create_consumer(&[], from_beginning()).unwrap().into_stream();
    let thread = std::thread::spawn(move || block_on(stream.collect::<Vec<_>>()));
    let all = thread.join().unwrap();
    assert_eq!(all.iter().map(|item| item.is_ok()).collect::<Vec<_>>(), [true, false, true]);
}

#[test]
fn a_real_time_consumer_reads_from_now_on() {
    block_on(async {
        let memory = Memory::new();
        memory.log.numbers(0..10);
        let mut consumer = memory.streamer().create_consumer(&[], ConsumerOptions::real_time()).unwrap();
        consumer.opened().await.unwrap();
        memory.log.numbers(10..13);
        assert_eq!(numbers(&mut consumer, 3).await, [10, 11, 12]);
        assert_eq!(consumer.commit().await.unwrap_err().kind(), ErrorKind::Unsupported);
    });
}

#[test]
fn it_stops_at_the_end_as_it_was_when_asked_to() {
    block_on(async {
        let memory = Memory::new();
        memory.log.numbers(0..10);
        let options = ConsumerOptions { until_end: true, ..ConsumerOptions::real_time() };
        let mut consumer = memory.streamer().create_consumer(&[], options).unwrap();
        assert_eq!(numbers(&mut consumer, 10).await.len(), 10);
        assert!(consumer.next().await.unwrap().is_none());
    });
}

#[test]
fn seek_and_rewind_are_inclusive_and_no_older_record_follows() {
    block_on(async {
        let memory = Memory::new();
        memory.log.numbers(1..201);
        let mut consumer = memory.streamer().create_consumer(&["s"], from_beginning()).unwrap();
        assert_eq!(numbers(&mut consumer, 5).await, [1, 2, 3, 4, 5]);
        consumer.rewind(SeekTo::At(150)).await.unwrap();
        assert_eq!(numbers(&mut consumer, 2).await, [150, 151]);
        consumer.seek(Timestamp::from_millis(30_000)).await.unwrap();
        assert_eq!(numbers(&mut consumer, 2).await, [30, 31]);
        consumer.seek(Timestamp::from_millis(30_001)).await.unwrap();
        assert_eq!(numbers(&mut consumer, 1).await, [31]);
        consumer.rewind(SeekTo::Beginning).await.unwrap();
        assert_eq!(numbers(&mut consumer, 1).await, [1]);
        consumer.rewind(SeekTo::End).await.unwrap();
        memory.log.numbers(201..203);
        assert_eq!(numbers(&mut consumer, 2).await, [201, 202]);
    });
}

#[test]
fn a_consumer_that_has_ended_can_go_back() {
    block_on(async {
        let memory = Memory::new();
        memory.log.numbers(1..4);
        memory.log.end();
        let mut consumer = memory.streamer().create_consumer(&[], from_beginning()).unwrap();
        numbers(&mut consumer, 3).await;
        assert!(consumer.next().await.unwrap().is_none());
        consumer.rewind(SeekTo::At(2)).await.unwrap();
        assert_eq!(numbers(&mut consumer, 2).await, [2, 3]);
        assert!(consumer.next().await.unwrap().is_none());
    });
}

#[test]
fn a_seek_that_fails_is_an_error_and_leaves_the_consumer_where_it_was() {
    block_on(async {
        let mut memory = Memory::new();
        memory.log.capabilities = SourceCapabilities { seek_time: false, ..SourceCapabilities::LOG };
        memory.log.numbers(0..100);
        memory.log.end();
        let mut consumer = memory.streamer().create_consumer(&[], from_beginning()).unwrap();
        let mut got = numbers(&mut consumer, 7).await;
        memory.log.fail_seeks([Error::new(ErrorKind::NotFound, "it is expired"), unavailable()]);
        assert_eq!(consumer.rewind(SeekTo::At(3)).await.unwrap_err().kind(), ErrorKind::NotFound);
        got.extend(numbers(&mut consumer, 20).await);
        assert_eq!(consumer.rewind(SeekTo::At(3)).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(consumer.seek(Timestamp::from_millis(0)).await.unwrap_err().kind(), ErrorKind::Unsupported);
        got.extend(numbers(&mut consumer, 73).await);
        assert_eq!(got, (0..100).collect::<Vec<_>>());
        assert!(consumer.next().await.unwrap().is_none());
    });
}

#[test]
fn a_seek_that_is_dropped_loses_nothing_and_mixes_nothing() {
    block_on(async {
        let memory = Memory::new();
        memory.log.numbers(1..1001);
        let mut consumer = memory.streamer().create_consumer(&[], from_beginning()).unwrap();
        let mut chance = Chance(3);
        let mut last = 0;
        for _ in 0..200 {
            let to = 1 + chance.below(500) as usize;
            let dropped = consumer.rewind(SeekTo::At(to as u128)).now_or_never().is_none();
            for got in numbers(&mut consumer, 1 + chance.below(40) as usize).await {
                // On from where it was, or from where it was told to go: never anywhere else.
                assert!(got == last + 1 || got == to, "{got} behind {last}, told to go to {to}, dropped: {dropped}");
                last = got;
            }
            // Until the dropped one is known to be done.
            consumer.rewind(SeekTo::At(to as u128)).await.unwrap();
            assert_eq!(numbers(&mut consumer, 1).await, [to]);
            last = to;
        }
    });
}

#[test]
fn shards_can_be_chosen_and_put_aside_and_go_on_where_they_were() {
    block_on(async {
        let memory = Memory::new();
        for i in 0..50 {
            memory.log.push("s", 0, format!("a{i}"));
            memory.log.push("s", 1, format!("b{i}"));
        }
        let (a, b) = (ShardKey::new("s", 0), ShardKey::new("s", 1));
        let mut consumer = memory.streamer().create_consumer(&["s"], from_beginning()).unwrap();
        consumer.opened().await.unwrap();
        assert_eq!(consumer.shards(), [a.clone(), b.clone()]);
        let mut got = Vec::new();
        for _ in 0..5 {
            got.push(text(&consumer.next().await.unwrap().unwrap()));
        }
        consumer.unassign(std::slice::from_ref(&b)).await.unwrap();
        for _ in 0..20 {
            let record = consumer.next().await.unwrap().unwrap();
            assert_eq!(record.origin, a);
            got.push(text(&record));
        }
        consumer.assign(std::slice::from_ref(&b)).await.unwrap();
        memory.log.end();
        while let Some(record) = consumer.next().await.unwrap() {
            got.push(text(&record));
        }
        for shard in ["a", "b"] {
            let of: Vec<_> = got.iter().filter(|value| value.starts_with(shard)).cloned().collect();
            assert_eq!(of, (0..50).map(|i| format!("{shard}{i}")).collect::<Vec<_>>());
        }
    });
}

#[test]
fn the_first_assignment_reads_only_that() {
    block_on(async {
        let memory = Memory::new();
        for i in 0..30 {
            memory.log.push("s", i % 3, i.to_string());
        }
        memory.log.end();
        let mut consumer = memory.streamer().create_consumer(&["s"], from_beginning()).unwrap();
        consumer.assign(&[ShardKey::new("s", 1)]).await.unwrap();
        let got = numbers(&mut consumer, 10).await;
        assert!(got.iter().all(|i| i % 3 == 1), "{got:?}");
        assert!(consumer.next().await.unwrap().is_none());
        consumer.assign(&[ShardKey::new("s", 2)]).await.unwrap();
        assert_eq!(numbers(&mut consumer, 10).await, (0..10).map(|i| 3 * i + 2).collect::<Vec<_>>());
    });
}

#[test]
fn an_error_that_can_pass_is_waited_out_and_shown() {
    block_on(async {
        let memory = Memory::new();
        memory.log.fail_opens([unavailable(), unavailable()]);
        memory.log.numbers(0..3);
        let slow = Retry { delay: Duration::from_millis(100), ..quick() };
        let options = ConsumerOptions { retry: Retry { delay_max: slow.delay, ..slow }, ..from_beginning() };
        let mut consumer = memory.streamer().create_consumer(&[], options).unwrap();
        eventually("it retries", || matches!(consumer.state(), ConsumerState::Retrying(_)));
        assert_eq!(numbers(&mut consumer, 3).await, [0, 1, 2]);
        memory.log.fail([unavailable(), Error::new(ErrorKind::Timeout, "too slow")]);
        memory.log.numbers(3..5);
        eventually("it retries", || matches!(consumer.state(), ConsumerState::Retrying(of) if of.attempts == 2));
        assert_eq!(numbers(&mut consumer, 2).await, [3, 4]);
        assert!(matches!(consumer.state(), ConsumerState::Reading));
    });
}

#[test]
fn any_other_error_ends_it_behind_what_was_read() {
    everywhere(|| async {
        let memory = Memory::new();
        memory.log.numbers(0..3);
        let mut consumer = memory.streamer().create_consumer(&[], from_beginning()).unwrap();
        consumer.opened().await.unwrap();
        eventually("all is read", || memory.log.handed() == 3);
        memory.log.fail([Error::new(ErrorKind::Permission, "access was taken away")]);
        assert_eq!(numbers(&mut consumer, 3).await, [0, 1, 2]);
        for _ in 0..2 {
            assert_eq!(consumer.next().await.unwrap_err().kind(), ErrorKind::Permission);
        }
        assert!(matches!(consumer.state(), ConsumerState::Failed(_)));
        let results: Vec<_> = consumer.into_stream().collect().await;
        assert_eq!(results.len(), 1);
    });
}

#[test]
fn a_source_that_cannot_be_opened_answers_everything_with_the_cause() {
    block_on(async {
        let memory = Memory::new();
        memory.log.fail_opens([unavailable(), unavailable(), unavailable()]);
        let retry = Retry { attempts_max: Some(2), ..quick() };
        let mut consumer =
            memory.streamer().create_consumer(&[], ConsumerOptions { retry, ..from_beginning() }).unwrap();
        assert_eq!(consumer.opened().await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(consumer.next().await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(consumer.rewind(SeekTo::End).await.unwrap_err().kind(), ErrorKind::Unavailable);
        consumer.close().await.unwrap();
    });
}

#[test]
fn what_is_read_ahead_is_bounded_in_records_and_bytes() {
    block_on(async {
        for (records, bytes) in [(40, usize::MAX), (usize::MAX, 2000)] {
            let memory = Memory::new();
            memory.log.numbers(0..10_000);
            let options = ConsumerOptions { buffer_records_max: records, buffer_bytes_max: bytes, ..from_beginning() };
            let mut consumer = memory.streamer().create_consumer(&[], options).unwrap();
            eventually("it has read", || memory.log.handed() > 0);
            std::thread::sleep(Duration::from_millis(50));
            let first = memory.log.handed();
            assert!(first <= 120, "{first}");
            assert_eq!(numbers(&mut consumer, 1000).await.len(), 1000);
            std::thread::sleep(Duration::from_millis(50));
            assert!(memory.log.handed() <= 1000 + 120 + 16, "{}", memory.log.handed());
        }
    });
}

#[test]
fn consumers_of_one_streamer_wait_side_by_side() {
    block_on(async {
        let memory = Memory::new();
        let streamer = memory.streamer();
        let mut quiet = streamer.create_consumer(&["quiet"], from_beginning()).unwrap();
        let mut busy = streamer.create_consumer(&["s"], from_beginning()).unwrap();
        let log = memory.log.clone();
        let both = join(quiet.next(), async {
            log.numbers(0..500);
            let got = numbers(&mut busy, 500).await;
            log.push("quiet", 0, "hush");
            got
        });
        let (hush, got) = both.await;
        assert_eq!(text(&hush.unwrap().unwrap()), "hush");
        assert_eq!(got.len(), 500);
    });
}

#[test]
fn dropping_it_closes_the_source_also_without_the_streamer() {
    let memory = Memory::new();
    let streamer = memory.streamer();
    let consumer = streamer.create_consumer(&[], from_beginning()).unwrap();
    drop(streamer);
    block_on(consumer.opened()).unwrap();
    assert_eq!(memory.log.open(), 1);
    drop(consumer);
    eventually("the source is closed", || memory.log.open() == 0);
}

#[test]
fn everything_can_be_dropped_on_an_async_thread() {
    let many = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    many.block_on(async {
        tokio::spawn(async {
            for _ in 0..20 {
                let memory = Memory::new();
                let streamer = memory.streamer();
                let mut consumer = streamer.create_consumer(&[], from_beginning()).unwrap();
                let _ = consumer.next().now_or_never();
                drop(streamer);
                drop(consumer);
            }
        })
        .await
        .unwrap();
    });
}
