//! Steps that wait for each record: asynchronous and blocking ones, look-ups.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use millstream::{Error, ErrorKind, ErrorRule, Retry};
use millstream_testkit::FakeSource;
use tokio::sync::Semaphore;

use super::bed::{Bed, Crowd, dead, texts, until};

/// Some turns of the scheduler, more or fewer by number: futures end in another order than they began.
async fn dawdle(n: u64) {
    for _ in 0..n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60 {
        tokio::task::yield_now().await;
    }
}

fn retry(attempts: u32) -> ErrorRule {
    ErrorRule::any().retry(Retry::times(attempts).delay(Duration::from_millis(1)))
}

behaviours! {
    async fn a_record_that_waits_for_a_thread_is_not_too_slow() {
        let (bed, limit) = (Bed::new(), Duration::from_millis(50));
        let (open, shut) = std::sync::mpsc::channel::<()>();
        let shut = Mutex::new(shut);
        let source = FakeSource::of(texts(0..2)).in_batches_of(1);
        let blocked = bed.texts(&source).map_blocking(move |text: &String| {
            // The first one has the only thread of both workers.
            let _ = shut.lock().unwrap().recv();
            Ok::<_, Error>(text.clone())
        });
        bed.collect(blocked.concurrency(2).in_flight(1).timeout(limit).name("blocked"));
        let mut running = bed.start();
        let handle = running.handle();
        until("the first to be too slow", || handle.status().stages.get("blocked").is_some_and(|at| at.dead == 1)).await;
        tokio::time::sleep(3 * limit).await;
        drop(open);
        running.wait().await.unwrap();
        assert_eq!((bed.delivered().len(), bed.dead().len()), (1, 1));
    }

    async fn map_async_keeps_the_order_of_records_whatever_their_futures_take() {
        let bed = Bed::new();
        bed.collect(bed.numbers(5000).map_async(|n| async move {
            dawdle(n).await;
            Ok::<_, Error>(n)
        }));
        bed.run().await;
        assert_eq!(bed.delivered(), texts(0..5000));
    }

    async fn unordered_lets_a_quick_record_pass_a_slow_one() {
        let bed = Bed::new();
        let gate = Arc::new(Semaphore::new(0));
        let wait = gate.clone();
        bed.collect(bed.numbers(10).map_async(move |n| {
            let wait = wait.clone();
            async move {
                if n == 0 {
                    wait.acquire().await.unwrap().forget();
                }
                Ok::<_, Error>(n)
            }
        }).unordered());
        let mut running = bed.start();
        until("the others", || bed.sorted() == texts(1..10)).await;
        gate.add_permits(1);
        running.wait().await.unwrap();
        assert_eq!(bed.delivered().last().unwrap(), "0");
    }

    async fn no_more_than_in_flight_are_under_way() {
        let bed = Bed::new();
        let crowd = Crowd::default();
        let inside = crowd.clone();
        bed.collect(bed.numbers(500).map_async(move |n| {
            let inside = inside.clone();
            async move {
                let _inside = inside.enter();
                tokio::task::yield_now().await;
                Ok::<_, Error>(n)
            }
        }).in_flight(7));
        bed.run().await;
        assert_eq!((bed.delivered().len(), crowd.most()), (500, 7));
    }

    async fn a_record_that_takes_too_long_times_out_alone() {
        let bed = Bed::new();
        bed.collect(bed.numbers(5).map_async(|n| async move {
            if n == 2 {
                std::future::pending::<()>().await;
            }
            Ok::<_, Error>(n)
        }).timeout(Duration::from_millis(20)));
        bed.run().await;
        assert_eq!(bed.delivered(), texts([0, 1, 3, 4]));
        assert_eq!(bed.dead(), [dead("2", "E_TIMEOUT")]);
    }

    async fn a_panic_of_a_future_costs_only_its_record() {
        let bed = Bed::new();
        bed.collect(bed.numbers(5).map_async(|n| {
            assert!(n != 1, "before it waits");
            async move {
                tokio::task::yield_now().await;
                assert!(n != 3, "after it waited");
                Ok::<_, Error>(n)
            }
        }));
        bed.run().await;
        assert_eq!(bed.delivered(), texts([0, 2, 4]));
        assert_eq!(bed.dead(), [dead("1", "E_PANIC"), dead("3", "E_PANIC")]);
    }

    async fn records_of_a_key_are_handled_in_order_and_one_at_a_time_those_of_others_beside_them() {
        let bed = Bed::new();
        let seen = Arc::new(Mutex::new(HashMap::<u64, Vec<u64>>::new()));
        let (all, keys) = (Crowd::default(), (0..10).map(|_| Crowd::default()).collect::<Vec<_>>());
        let (log, inside, each) = (seen.clone(), all.clone(), keys.clone());
        bed.collect(bed.numbers(3000).partition_by(|n| n % 10).map_async(move |n| {
            let (log, inside, each) = (log.clone(), inside.clone(), each[n as usize % 10].clone());
            async move {
                let (_inside, _each) = (inside.enter(), each.enter());
                dawdle(n).await;
                log.lock().unwrap().entry(n % 10).or_default().push(n);
                Ok::<_, Error>(n)
            }
        }).concurrency(3).unordered());
        bed.run().await;
        for (key, numbers) in seen.lock().unwrap().iter() {
            assert_eq!(*numbers, (*key..3000).step_by(10).collect::<Vec<u64>>());
        }
        assert!(keys.iter().all(|key| key.most() == 1) && all.most() > 1, "{}", all.most());
        for key in 0..10 {
            let of_key = |n: &String| n.parse::<u64>().unwrap() % 10 == key;
            let delivered: Vec<_> = bed.delivered().into_iter().filter(of_key).collect();
            assert_eq!(delivered, texts((key..3000).step_by(10)));
        }
    }

    async fn a_record_that_is_tried_again_goes_before_the_others_of_its_key() {
        let bed = Bed::new();
        let tries = Arc::new(AtomicUsize::new(0));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (count, log) = (tries.clone(), seen.clone());
        bed.collect(bed.numbers(40).partition_by(|n| n % 4).map_async(move |n| {
            let (count, log) = (count.clone(), log.clone());
            async move {
                dawdle(n).await;
                if n == 5 && count.fetch_add(1, Ordering::SeqCst) < 3 {
                    return Err(Error::new(ErrorKind::Unavailable, "not now"));
                }
                log.lock().unwrap().push(n);
                Ok(n)
            }
        }).on_error(retry(10)));
        bed.run().await;
        let of_key: Vec<u64> = seen.lock().unwrap().iter().copied().filter(|n| n % 4 == 1).collect();
        assert_eq!(of_key, (1..40).step_by(4).collect::<Vec<u64>>());
        let delivered: Vec<_> = bed.delivered().into_iter().filter(|n| n.parse::<u64>().unwrap() % 4 == 1).collect();
        assert_eq!((delivered, tries.load(Ordering::SeqCst)), (texts((1..40).step_by(4)), 4));
        assert_eq!(bed.delivered().len(), 40);
    }

    async fn what_is_under_way_is_finished_by_a_drain() {
        let bed = Bed::new();
        let source = millstream_testkit::FakeSource::live();
        (0..50).for_each(|n| source.push(None, n.to_string()));
        let crowd = Crowd::default();
        let inside = crowd.clone();
        bed.collect(bed.texts(&source).map_async(move |text| {
            let inside = inside.clone();
            async move {
                let _inside = inside.enter();
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok::<_, Error>(text)
            }
        }));
        let mut running = bed.start();
        until("some under way", || crowd.most() > 0).await;
        bed.drain(&mut running).await;
        assert_eq!(bed.delivered().len(), 50);
    }

    async fn map_blocking_works_beside_the_runtime_on_no_more_threads_than_it_may() {
        let bed = Bed::new();
        let crowd = Crowd::default();
        let inside = crowd.clone();
        let main = std::thread::current().id();
        bed.collect(bed.numbers(40).map_blocking(move |n| {
            let _inside = inside.enter();
            assert_ne!(std::thread::current().id(), main);
            std::thread::sleep(Duration::from_millis(1));
            if *n == 7 { Err("seven") } else { Ok(n * 2) }
        }).in_flight(3));
        bed.run().await;
        assert_eq!(bed.delivered(), texts((0..40).filter(|n| *n != 7).map(|n| n * 2)));
        assert_eq!(bed.dead(), [dead("7", "E_DATA")]);
        assert!((2..=3).contains(&crowd.most()), "{}", crowd.most());
    }

    async fn a_panic_on_a_thread_costs_only_its_record() {
        let bed = Bed::new();
        bed.collect(bed.numbers(3).map_blocking(|n| {
            assert!(*n != 1, "one");
            Ok::<_, Error>(*n)
        }));
        bed.run().await;
        assert_eq!((bed.delivered(), bed.dead()), (texts([0, 2]), vec![dead("1", "E_PANIC")]));
    }

    async fn for_each_is_the_end_of_each_record() {
        let bed = Bed::new();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        bed.numbers(5).for_each(move |n| {
            let log = log.clone();
            async move {
                if n == 2 {
                    return Err("two");
                }
                log.lock().unwrap().push(n);
                Ok(())
            }
        }).name("end").in_flight(1);
        let summary = bed.run().await;
        assert_eq!(*seen.lock().unwrap(), [0, 1, 3, 4]);
        assert_eq!((summary.stages["end"].dead, summary.stages["end"].records_out), (1, 4));
    }

    async fn prepare_looks_up_once_for_records_that_come_together() {
        let bed = Bed::new();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let lookup = move |numbers: Vec<u64>| {
            count.fetch_add(1, Ordering::SeqCst);
            async move { Ok::<_, Error>(numbers.into_iter().map(|n| (n, n * n)).collect::<HashMap<_, _>>()) }
        };
        bed.collect(bed.numbers(1000).prepare(lookup).at_most(250).map(|n, squares| match n {
            3 => Err("three"),
            _ => squares.get(n).copied().ok_or("not found"),
        }));
        bed.run().await;
        assert_eq!(bed.delivered(), texts((0..1000).filter(|n| *n != 3).map(|n| n * n)));
        assert_eq!((asked.load(Ordering::SeqCst), bed.dead()), (4, vec![dead("3", "E_DATA")]));
    }

    async fn a_look_up_that_fails_fails_all_of_its_records() {
        let bed = Bed::new();
        let lookup = |numbers: Vec<u64>| async move {
            if numbers.contains(&4) { Err(Error::new(ErrorKind::Rejected, "no such table")) } else { Ok(()) }
        };
        bed.collect(bed.numbers(9).prepare(lookup).at_most(3).map(|n, ()| Ok::<_, Error>(*n)));
        bed.run().await;
        assert_eq!(bed.delivered(), texts([0, 1, 2, 6, 7, 8]));
        assert_eq!(bed.dead(), [dead("3", "E_REJECTED"), dead("4", "E_REJECTED"), dead("5", "E_REJECTED")]);
    }
}
