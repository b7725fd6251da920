//! Batches and their handlers.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use millstream::{BatchOf, Batching, Data, Error, ErrorKind, ErrorRule, Outcomes, Retry, Size, Stream, Trigger, at};
use millstream_testkit::FakeSource;

use super::bed::{Bed, dead, texts, until};

/// What handlers have seen: values, key and trigger of each batch.
type Seen<T> = Arc<Mutex<Vec<(Vec<T>, Option<String>, Trigger)>>>;

/// Writes batches down and lets their records pass.
fn seen<T: Data, K>(stream: Stream<T, K>, batching: Batching<T>) -> (Stream<T, at::Batches>, Seen<T>) {
    let seen = Seen::default();
    let log = seen.clone();
    let handled = stream.batch(batching).handle(move |batch: BatchOf<T>| {
        let key = batch.key().map(|key| String::from_utf8_lossy(key).into_owned());
        log.lock().unwrap().push((batch.to_vec(), key, batch.trigger()));
        async move { batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>() }
    });
    (handled.name("batch"), seen)
}

fn sizes<T>(seen: &Seen<T>) -> Vec<(usize, Trigger)> {
    seen.lock().unwrap().iter().map(|(values, _, trigger)| (values.len(), *trigger)).collect()
}

behaviours! {
    async fn a_batch_has_as_many_records_as_it_may_and_the_last_one_the_rest() {
        let bed = Bed::new();
        let (batches, seen) = seen(bed.numbers(250), Batching::count(100));
        bed.collect(batches);
        bed.run().await;
        assert_eq!(sizes(&seen), [(100, Trigger::Count), (100, Trigger::Count), (50, Trigger::End)]);
        assert_eq!(bed.delivered(), texts(0..250));
    }

    async fn a_batch_of_bytes_ends_with_the_record_that_comes_to_it() {
        let bed = Bed::new();
        let words = bed.numbers(5).map(|_| "123456789".to_owned());
        // As MessagePack each takes ten bytes.
        let (batches, seen) = seen(words, Batching::of_bytes(Size(20)));
        bed.collect(batches);
        bed.run().await;
        assert_eq!(sizes(&seen), [(2, Trigger::Bytes), (2, Trigger::Bytes), (1, Trigger::End)]);
    }

    async fn time_counts_from_the_first_record_of_a_batch() {
        let bed = Bed::new();
        let source = FakeSource::live();
        let linger = Duration::from_millis(200);
        let (batches, seen) = seen(bed.texts(&source), Batching::every(linger));
        bed.collect(batches);
        let mut running = bed.start();
        for nth in 1..=2 {
            let began = Instant::now();
            source.push(None, "a");
            source.push(None, "b");
            until("a batch", || seen.lock().unwrap().len() == nth).await;
            assert!(began.elapsed() >= linger, "not before its time: {:?}", began.elapsed());
        }
        assert!(sizes(&seen).iter().all(|(_, trigger)| *trigger == Trigger::Linger), "{:?}", sizes(&seen));
        bed.drain(&mut running).await;
        assert_eq!(bed.delivered().len(), 4);
    }

    async fn a_batch_never_mixes_keys_and_each_key_has_its_own() {
        let bed = Bed::new();
        let (batches, seen) = seen(bed.numbers(100), Batching::count(20).key(|n| n % 3));
        bed.collect(batches);
        bed.run().await;
        for (values, key, _) in seen.lock().unwrap().iter() {
            assert!(values.iter().all(|n| (n % 3).to_string() == *key.as_ref().unwrap()), "{values:?} {key:?}");
        }
        let mut sizes = sizes(&seen);
        sizes.sort_by_key(|(size, _)| *size);
        assert_eq!(sizes.iter().map(|(size, _)| *size).collect::<Vec<_>>(), [13, 13, 14, 20, 20, 20]);
        assert_eq!(bed.delivered().len(), 100);
    }

    async fn a_splitter_of_yours_begins_anew_with_each_batch() {
        let bed = Bed::new();
        let sums = Batching::open().split(|| {
            let mut sum = 0;
            move |n: &u64| {
                sum += n;
                sum >= 10
            }
        });
        let (batches, seen) = seen(bed.numbers(8), sums);
        bed.collect(batches);
        bed.run().await;
        let values: Vec<_> = seen.lock().unwrap().iter().map(|(values, _, trigger)| (values.clone(), *trigger)).collect();
        let split = Trigger::Split;
        assert_eq!(values, [(vec![0, 1, 2, 3, 4], split), (vec![5, 6], split), (vec![7], Trigger::End)]);
    }

    async fn a_flush_mark_closes_its_batch() {
        let bed = Bed::new();
        let (batches, seen) = seen(bed.numbers(6), Batching::count(100).flush_on(|n| *n == 2));
        bed.collect(batches);
        bed.run().await;
        assert_eq!(sizes(&seen), [(3, Trigger::FlushMark), (3, Trigger::End)]);
    }

    async fn open_batches_hold_no_more_memory_than_they_may() {
        let bed = Bed::new();
        let large = bed.numbers(100).map(|_| "x".repeat(1000));
        let (batches, seen) = seen(large, Batching::open().memory(Size(10_000)));
        bed.collect(batches);
        bed.run().await;
        assert_eq!(seen.lock().unwrap()[0].2, Trigger::Memory);
        assert_eq!(bed.delivered().len(), 100);
    }

    async fn each_record_has_its_own_outcome() {
        let bed = Bed::new();
        bed.collect(bed.numbers(4).batch(Batching::count(4)).handle(|batch| async move {
            let mut outcomes = Outcomes::new();
            for (i, n) in batch.iter().enumerate() {
                if n % 2 == 0 { outcomes.ok(i, n * 10) } else { outcomes.fail(i, Error::new(ErrorKind::Rejected, "odd")) }
            }
            outcomes
        }));
        bed.run().await;
        assert_eq!((bed.delivered(), bed.dead()), (texts([0, 20]), vec![dead("1", "E_REJECTED"), dead("3", "E_REJECTED")]));
    }

    async fn a_missing_answer_is_a_failed_record() {
        let bed = Bed::new();
        bed.collect(bed.numbers(4).batch(Batching::count(4)).handle(|batch| async move {
            batch.iter().take(2).map(|n| Ok::<_, Error>(*n)).collect::<Vec<_>>()
        }));
        bed.run().await;
        assert_eq!((bed.delivered(), bed.dead()), (texts([0, 1]), vec![dead("2", "E_DATA"), dead("3", "E_DATA")]));
        assert!(bed.letters().iter().all(|(_, _, why)| why.contains("gave no answer")), "{:?}", bed.letters());
    }

    async fn one_error_is_that_of_every_record() {
        let bed = Bed::new();
        let handled = bed.numbers(4).batch(Batching::count(2)).handle(|batch| async move {
            if batch.contains(&1) { Err(Error::new(ErrorKind::Rejected, "no")) } else { Ok(()) }
        });
        handled.drop().name("end");
        let summary = bed.run().await;
        assert_eq!(bed.dead(), [dead("0", "E_REJECTED"), dead("1", "E_REJECTED")]);
        assert_eq!(summary.stages["end"].records_in, 2);
    }

    async fn a_panic_fails_its_batch() {
        let bed = Bed::new();
        bed.collect(bed.numbers(6).batch(Batching::count(2)).handle(|batch| async move {
            assert!(!batch.contains(&3), "three");
            batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>()
        }));
        bed.run().await;
        assert_eq!((bed.delivered(), bed.dead()), (texts([0, 1, 4, 5]), vec![dead("2", "E_PANIC"), dead("3", "E_PANIC")]));
    }

    async fn a_batch_that_takes_too_long_fails() {
        let bed = Bed::new();
        let handled = bed.numbers(4).batch(Batching::count(2)).handle(|batch| async move {
            if batch.contains(&0) {
                std::future::pending::<()>().await;
            }
        });
        handled.timeout(Duration::from_millis(20)).drop();
        bed.run().await;
        assert_eq!(bed.dead(), [dead("0", "E_TIMEOUT"), dead("1", "E_TIMEOUT")]);
    }

    async fn records_that_failed_before_a_batch_never_enter_it() {
        let bed = Bed::new();
        let even = bed.numbers(6).try_map(|n| if n % 2 == 0 { Ok(*n) } else { Err("odd") });
        let (batches, seen) = seen(even, Batching::count(10));
        bed.collect(batches);
        bed.run().await;
        assert_eq!(seen.lock().unwrap()[0].0, [0, 2, 4]);
    }

    async fn a_panic_of_what_chooses_the_batch_costs_only_its_record() {
        let bed = Bed::new();
        let (batches, seen) = seen(bed.numbers(4), Batching::count(10).key(|n| {
            assert!(*n != 2, "two");
            0u8
        }));
        bed.collect(batches);
        bed.run().await;
        assert_eq!((seen.lock().unwrap()[0].0.clone(), bed.dead()), (vec![0, 1, 3], vec![dead("2", "E_PANIC")]));
    }

    async fn an_open_batch_lets_epochs_pass_and_goes_out_at_the_drain() {
        let bed = Bed::new();
        let source = FakeSource::live();
        (0..3).for_each(|n| source.push(None, n.to_string()));
        let (batches, seen) = seen(bed.texts(&source), Batching::count(100));
        bed.collect(batches);
        let mut running = bed.start();
        let handle = running.handle();
        until("the records in the batch", || handle.status().stages["batch"].absorbed == 3).await;
        let epoch = handle.checkpoint().await.unwrap();
        assert!(epoch > 0 && seen.lock().unwrap().is_empty());
        assert!(source.committed().is_some(), "its records are safe in the state");
        bed.drain(&mut running).await;
        assert_eq!((sizes(&seen), bed.delivered().len()), (vec![(3, Trigger::Drain)], 3));
    }

    async fn an_open_batch_survives_a_run_that_is_cut_short() {
        let bed = Bed::new();
        let source = FakeSource::live();
        source.push(None, "a");
        let (batches, first) = seen(bed.texts(&source), Batching::count(3));
        bed.collect(batches);
        let mut running = bed.start();
        let handle = running.handle();
        until("the record in the batch", || handle.status().stages["batch"].absorbed == 1).await;
        handle.checkpoint().await.unwrap();
        handle.stop();
        running.wait().await.unwrap();
        source.push(None, "b");
        source.push(None, "c");
        let mut running = bed.start();
        until("the whole batch", || first.lock().unwrap().len() == 1).await;
        assert_eq!(first.lock().unwrap()[0].0, ["a", "b", "c"]);
        running.drain(Duration::from_secs(9)).await.unwrap();
        assert_eq!(bed.delivered(), ["\"a\"", "\"b\"", "\"c\""]);
    }

    async fn the_size_of_batches_changes_while_it_runs() {
        let bed = Bed::new();
        let source = FakeSource::live();
        let (batches, seen) = seen(bed.texts(&source), Batching::count(2));
        bed.collect(batches);
        let mut running = bed.start();
        let handle = running.handle();
        (0..2).for_each(|n| source.push(None, n.to_string()));
        until("the first batch", || seen.lock().unwrap().len() == 1).await;
        handle.set_option("batch", "batch.count", &serde_json::json!(3)).unwrap();
        (0..3).for_each(|n| source.push(None, n.to_string()));
        until("the second batch", || seen.lock().unwrap().len() == 2).await;
        assert_eq!(sizes(&seen), [(2, Trigger::Count), (3, Trigger::Count)]);
        assert!(handle.set_option("batch", "batch.count", &serde_json::json!(0)).is_err());
        assert!(handle.set_option("batch", "colour", &serde_json::json!("red")).is_err());
        bed.drain(&mut running).await;
    }

    async fn a_batch_without_records_is_never_handled() {
        let bed = Bed::new();
        let (batches, seen) = seen(bed.numbers(10).filter(|_| false), Batching::count(2));
        bed.collect(batches);
        bed.run().await;
        assert!(seen.lock().unwrap().is_empty());
    }

    async fn a_record_of_a_batch_that_is_tried_again_keeps_those_of_its_key_behind_it() {
        let bed = Bed::new();
        let tried = Arc::new(Mutex::new(0));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (count, log) = (tried.clone(), seen.clone());
        let batches = bed.numbers(60).partition_by(|n| n % 3).batch(Batching::count(5).by_key());
        let handled = batches.handle(move |batch| {
            let mut tried = count.lock().unwrap();
            let outcomes: Vec<_> = batch.iter().map(|n| {
                if *n == 7 && *tried == 0 {
                    *tried += 1;
                    return Err(Error::new(ErrorKind::Unavailable, "not now"));
                }
                log.lock().unwrap().push(*n);
                Ok(*n)
            }).collect();
            async move { outcomes }
        });
        bed.collect(handled.on_error(ErrorRule::any().retry(Retry::times(9).delay(Duration::from_millis(1)))));
        bed.run().await;
        let key = |n: u64| (n..60).step_by(3).collect::<Vec<u64>>();
        for of in [0, 2] {
            assert_eq!(seen.lock().unwrap().iter().copied().filter(|n| n % 3 == of).collect::<Vec<_>>(), key(of));
        }
        // Those of its own batch were begun together with it; later ones wait.
        let of_key: Vec<u64> = seen.lock().unwrap().iter().copied().filter(|n| n % 3 == 1).collect();
        assert_eq!(of_key, [vec![1, 4, 10, 13, 7], (16..60).step_by(3).collect()].concat());
        assert_eq!(bed.delivered().len(), 60);
    }

    async fn a_record_that_is_tried_again_comes_alone_and_drags_no_other_with_it() {
        let bed = Bed::new();
        let log: Seen<u64> = Seen::default();
        let seen = log.clone();
        let handled = bed.numbers(12).batch(Batching::count(4)).handle(move |batch| {
            seen.lock().unwrap().push((batch.to_vec(), None, batch.trigger()));
            let answer = if batch.contains(&5) { Err(Error::new(ErrorKind::Unavailable, "five")) } else { Ok(batch.to_vec()) };
            async move { answer.map(|values| values.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>()) }
        });
        bed.collect(handled.on_error(ErrorRule::any().retry(Retry::times(3).delay(Duration::from_millis(1)))));
        bed.run().await;
        assert_eq!((bed.delivered().len(), bed.dead()), (11, vec![dead("5", "E_UNAVAILABLE")]));
        let again: Vec<_> = log.lock().unwrap().iter().filter(|(.., why)| *why == Trigger::Retry).cloned().collect();
        let of = |n: u64| again.iter().filter(|(values, ..)| *values == [n]).count();
        assert_eq!((again.len(), [4, 5, 6, 7].map(of)), (6, [1, 3, 1, 1]));
    }

    async fn a_repeatable_batch_that_fails_as_a_whole_is_handled_again_record_by_record() {
        let bed = Bed::new();
        bed.collect(bed.numbers(12).batch(Batching::count(4)).repeatable().handle(|batch| async move {
            assert!(!batch.contains(&3), "three");
            if batch.contains(&6) {
                return Err(Error::new(ErrorKind::Rejected, "six"));
            }
            assert_eq!(batch.len() == 1, batch.trigger() == Trigger::Retry);
            Ok(batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>())
        }));
        bed.run().await;
        let good = texts((0..12).filter(|n| ![3, 6].contains(n)));
        assert_eq!((bed.delivered(), bed.dead()), (good, vec![dead("3", "E_PANIC"), dead("6", "E_REJECTED")]));
    }

    async fn what_the_system_cannot_do_now_is_left_to_the_rules_by_a_repeatable_batch() {
        let (bed, calls) = (Bed::new(), Arc::new(Mutex::new(Vec::new())));
        let log = calls.clone();
        let handled = bed.numbers(4).batch(Batching::count(4)).repeatable().handle(move |batch| {
            log.lock().unwrap().push(batch.len());
            async move { Err::<(), _>(Error::new(ErrorKind::Unavailable, "away")) }
        });
        handled.on_error(ErrorRule::any().retry(Retry::times(0))).drop();
        bed.run().await;
        assert_eq!((bed.dead().len(), calls.lock().unwrap().clone()), (4, vec![4]));
    }

    async fn of_a_repeatable_batch_what_is_behind_a_failed_record_of_its_key_is_handled_again_behind_it() {
        let (bed, tried) = (Bed::new(), Arc::new(Mutex::new(0)));
        let batches = bed.numbers(60).partition_by(|n| n % 3).batch(Batching::count(20)).repeatable();
        let handled = batches.handle(move |batch| {
            let tried = tried.clone();
            async move {
                let fails = |n: u64| n == 7 && { let mut tried = tried.lock().unwrap(); *tried += 1; *tried < 3 };
                assert!(!batch.contains(&22), "twenty-two");
                let of = |n| if fails(n) { Err(Error::new(ErrorKind::Unavailable, "not now")) } else { Ok(n) };
                batch.into_iter().map(of).collect::<Vec<_>>()
            }
        });
        bed.collect(handled.on_error(ErrorRule::of(ErrorKind::Unavailable).retry(Retry::times(9).delay(Duration::from_millis(1)))));
        bed.run().await;
        let delivered = bed.numbers_delivered();
        for key in 0..3u64 {
            let of_key: Vec<u64> = delivered.iter().copied().filter(|n| n % 3 == key).collect();
            assert_eq!(of_key, (key..60).step_by(3).filter(|n| *n != 22).collect::<Vec<_>>());
        }
        assert_eq!(bed.dead(), [dead("22", "E_PANIC")]);
    }

    async fn a_batch_knows_where_its_records_come_from() {
        let bed = Bed::new();
        let numbers = bed.numbers(3).key_by(|n| n * 7);
        bed.collect(numbers.batch(Batching::count(3)).handle(|batch| async move {
            let told = |record: millstream::RecordOf<'_, u64>| {
                Ok::<_, Error>(format!("{} {}", record.id(), String::from_utf8_lossy(record.key().unwrap_or_default())))
            };
            batch.records().map(told).collect::<Vec<_>>()
        }));
        bed.run().await;
        assert_eq!(bed.delivered(), ["\"values/0@0 0\"", "\"values/0@1 7\"", "\"values/0@2 14\""]);
    }

    async fn batches_by_key_are_handled_beside_each_other_and_those_of_a_key_in_order() {
        let bed = Bed::new();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let batches = bed.numbers(2000).partition_by(|n| n % 7).batch(Batching::count(10).by_key());
        bed.collect(batches.handle(move |batch| {
            let log = log.clone();
            async move {
                for _ in 0..batch[0] % 5 {
                    tokio::task::yield_now().await;
                }
                log.lock().unwrap().extend(batch.iter().copied());
                batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>()
            }
        }).concurrency(2).in_flight(4));
        bed.run().await;
        for key in 0..7 {
            let of_key: Vec<u64> = seen.lock().unwrap().iter().copied().filter(|n| n % 7 == key).collect();
            assert_eq!(of_key, (key..2000).step_by(7).collect::<Vec<u64>>());
        }
        assert_eq!(bed.delivered().len(), 2000);
    }

    async fn many_keys_with_few_records_each_come_out_whole() {
        let bed = Bed::new();
        let (batches, seen) = seen(bed.numbers(200_000), Batching::count(100).key(|n| n % 10_000));
        bed.collect(batches);
        bed.run().await;
        assert!(seen.lock().unwrap().iter().all(|(values, ..)| values.len() == 20));
        let mut delivered: Vec<u64> = bed.delivered().iter().map(|n| n.parse().unwrap()).collect();
        delivered.sort_unstable();
        assert!(delivered.into_iter().eq(0..200_000));
    }
}
