//! Times of batches, and steps that hang.

use std::time::{Duration, Instant};

use millstream::{BatchOf, Batching, Class, Error, ErrorRule, Result, Stream, Trigger, Worker};
use millstream_testkit::FakeSource;

use super::bed::{Bed, Gate, Seen, dead, retry, texts, until};

const LINGER: Duration = Duration::from_millis(120);
const SOON: Duration = Duration::from_millis(30);

/// The first value, the trigger and the time of each batch.
fn timed(stream: Stream<String>, batching: Batching<String>) -> (Stream<String>, Seen<(String, Trigger, Instant)>) {
    let seen = Seen::new();
    let log = seen.clone();
    let handled = stream.batch(batching).handle(move |batch: BatchOf<String>| {
        log.add((batch[0].clone(), batch.trigger(), Instant::now()));
        async move { batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>() }
    });
    (handled.name("batch").into(), seen)
}

/// Hangs at "2".
struct Hangs;

impl Worker<String> for Hangs {
    type Output = String;
    type Error = millstream::Error;

    async fn handle(&mut self, text: String) -> Result<String> {
        if text == "2" {
            std::future::pending::<()>().await;
        }
        Ok(text)
    }
}

behaviours! {
    async fn the_timer_of_a_batch_starts_at_its_first_record_and_not_at_the_last_flush() {
        let (bed, source) = (Bed::new(), FakeSource::live());
        let (batches, seen) = timed(bed.texts(&source), Batching::count(2).linger(LINGER));
        bed.collect(batches);
        let mut running = bed.start();
        source.push(None, "a");
        source.push(None, "b");
        until("the full batch", || seen.len() == 1).await;
        // Most of the time of a timer that had started at that flush.
        tokio::time::sleep(LINGER * 3 / 4).await;
        let pushed = Instant::now();
        source.push(None, "c");
        until("the batch by time", || seen.len() == 2).await;
        let (first, trigger, at) = seen.all().remove(1);
        assert_eq!((first.as_str(), trigger), ("c", Trigger::Linger));
        assert!(at - pushed >= LINGER, "after {:?}", at - pushed);
        bed.drain(&mut running).await;
    }

    async fn a_further_record_does_not_put_the_time_of_its_batch_off() {
        let (bed, source) = (Bed::new(), FakeSource::live());
        let (batches, seen) = timed(bed.texts(&source), Batching::every(LINGER));
        bed.collect(batches);
        let mut running = bed.start();
        // Never so long without a record as a timer would need that starts anew with each.
        while seen.len() == 0 {
            source.push(None, "a");
            tokio::time::sleep(LINGER / 20).await;
        }
        assert_eq!(seen.all()[0].1, Trigger::Linger);
        bed.drain(&mut running).await;
    }

    async fn each_key_has_a_timer_of_its_own() {
        let (bed, source) = (Bed::new(), FakeSource::live());
        let (batches, seen) = timed(bed.texts(&source), Batching::every(LINGER).key(|text: &String| text.clone()));
        bed.collect(batches);
        let mut running = bed.start();
        source.push(None, "a");
        tokio::time::sleep(LINGER / 2).await;
        let pushed = Instant::now();
        source.push(None, "b");
        until("both", || seen.len() == 2).await;
        let all = seen.all();
        assert_eq!((all[0].0.as_str(), all[1].0.as_str()), ("a", "b"));
        assert!(all[1].2 - pushed >= LINGER && all.iter().all(|(_, trigger, _)| *trigger == Trigger::Linger));
        bed.drain(&mut running).await;
    }

    async fn an_object_that_hangs_times_out_and_goes_on_with_the_next_record() {
        let bed = Bed::new();
        bed.collect(bed.texts(&FakeSource::of(texts(0..5))).step(|| Hangs).timeout(SOON));
        bed.run().await;
        assert_eq!((bed.numbers_delivered(), bed.dead()), (vec![0, 1, 3, 4], vec![dead("\"2\"", "E_TIMEOUT")]));
    }

    async fn the_end_of_a_stream_that_hangs_times_out() {
        let bed = Bed::new();
        bed.numbers(5).for_each(|n| async move {
            if n == 2 {
                std::future::pending::<()>().await;
            }
        }).timeout(SOON).name("end");
        let summary = bed.run().await;
        assert_eq!((summary.stages["end"].records_out, bed.dead()), (4, vec![dead("2", "E_TIMEOUT")]));
    }

    async fn a_look_up_that_hangs_times_out_with_its_set() {
        let bed = Bed::new();
        let lookup = |numbers: Vec<u64>| async move {
            if numbers.contains(&2) {
                std::future::pending::<()>().await;
            }
            Ok::<_, Error>(())
        };
        bed.collect(bed.numbers(6).prepare(lookup).at_most(2).map(|n, ()| Ok::<_, Error>(*n)).timeout(SOON));
        bed.run().await;
        assert_eq!(bed.delivered(), texts([0, 1, 4, 5]));
        assert_eq!(bed.dead(), [dead("2", "E_TIMEOUT"), dead("3", "E_TIMEOUT")]);
    }

    async fn a_function_on_a_thread_that_takes_too_long_fails_and_the_other_threads_go_on() {
        let (bed, gate) = (Bed::new(), Gate::default());
        let wait = gate.clone();
        bed.collect(bed.numbers(20).map_blocking(move |n| {
            while *n == 2 && !wait.is_open() {
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok::<_, Error>(*n)
        }).in_flight(2).timeout(Duration::from_millis(400)));
        bed.run().await;
        gate.open();
        assert_eq!((bed.delivered(), bed.dead()), (texts((0..20).filter(|n| *n != 2)), vec![dead("2", "E_TIMEOUT")]));
    }

    async fn what_timed_out_can_be_tried_again() {
        let (bed, tries) = (Bed::new(), Seen::new());
        let log = tries.clone();
        let again = retry(5, Duration::from_millis(1));
        bed.collect(bed.numbers(3).map_async(move |n| {
            log.add(n);
            let hangs = n == 1 && log.all().iter().filter(|of| **of == 1).count() < 3;
            async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                Ok::<_, Error>(n)
            }
        }).timeout(SOON).on_error(ErrorRule::of(Class::Timeout).retry(again)));
        bed.run().await;
        assert_eq!((bed.sorted(), bed.dead().len(), tries.len()), (texts(0..3), 0, 5));
    }
}
