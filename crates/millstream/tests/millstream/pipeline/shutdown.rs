//! Drain, stop, and what the next run finds.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use millstream::{
    BatchOf, Batching, Ended, Error, ErrorKind, Stream, Then, Trigger,
    runtime::{Phase, Start},
};
use millstream_testkit::{Dice, FakeSink, FakeSource, budget};

use super::bed::{Bed, Crowd, Gate, Seen, balanced, in_order_by_key, retry, rule, until};

const SHORT: Duration = Duration::from_millis(100);

fn push(source: &FakeSource, numbers: std::ops::Range<u64>) {
    numbers.for_each(|n| source.push(None, n.to_string()));
}

/// Batches by their sizes and triggers.
fn batched(stream: Stream<String>, batching: Batching<String>) -> (Stream<String>, Seen<(usize, Trigger)>) {
    let seen = Seen::new();
    let log = seen.clone();
    let handled = stream.batch(batching).handle(move |batch: BatchOf<String>| {
        log.add((batch.len(), batch.trigger()));
        async move { batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>() }
    });
    (handled.name("batch").into(), seen)
}

/// Lets records pass when the gate is open; `begun` counts those that wait there.
fn gated(stream: Stream<String>, gate: &Gate, begun: &Crowd) -> Stream<String> {
    let (gate, begun) = (gate.clone(), begun.clone());
    let gated = stream.map_async(move |text| {
        let (gate, begun) = (gate.clone(), begun.clone());
        async move {
            let _begun = begun.enter();
            gate.passed().await;
            Ok::<_, Error>(text)
        }
    });
    gated.into()
}

behaviours! {
    async fn a_drain_stops_the_sources_finishes_what_is_in_flight_and_commits_it() {
        let (mut bed, source, gate, begun) = (Bed::new(), FakeSource::live(), Gate::default(), Crowd::default());
        bed.sink = FakeSink::truncating();
        push(&source, 0..50);
        bed.collect(gated(bed.texts(&source), &gate, &begun));
        let mut running = bed.start();
        let handle = running.handle();
        until("all under way", || begun.now() == 50).await;
        handle.drain(Duration::from_secs(50));
        until("the drain", || matches!(handle.status().phase, Phase::Draining)).await;
        gate.open();
        let summary = running.wait().await.unwrap();
        balanced(&summary);
        assert_eq!((summary.ended, bed.numbers_delivered().len(), bed.sink.committed()), (Ended::Drained, 50, 50));
        assert!(source.committed().is_some() && handle.status().epoch == summary.epoch);
    }

    async fn what_comes_after_a_drain_is_read_by_the_next_run() {
        let (bed, source) = (Bed::new(), FakeSource::live());
        bed.collect(bed.texts(&source));
        let mut running = bed.start();
        push(&source, 0..10);
        until("the records", || bed.delivered().len() == 10).await;
        bed.drain(&mut running).await;
        push(&source, 10..20);
        let mut running = bed.start();
        assert!(matches!(running.handle().started().await, Some(Start::Resuming(_))));
        until("the others", || bed.delivered().len() == 20).await;
        bed.drain(&mut running).await;
        assert!(bed.numbers_delivered().into_iter().eq(0..20));
    }

    async fn a_drain_with_full_batches_makes_no_further_ones() {
        let (bed, source) = (Bed::new(), FakeSource::live());
        push(&source, 0..30);
        let (batches, seen) = batched(bed.texts(&source), Batching::count(10));
        bed.collect(batches);
        let mut running = bed.start();
        until("the batches", || bed.delivered().len() == 30).await;
        bed.drain(&mut running).await;
        assert_eq!(seen.all(), [(10, Trigger::Count); 3]);
    }

    async fn a_drain_hands_over_partial_batches_of_every_key() {
        let (bed, source) = (Bed::new(), FakeSource::live());
        push(&source, 0..30);
        let (batches, seen) = batched(bed.texts(&source), Batching::count(10).key(|text: &String| text.len()));
        bed.collect(batches);
        let mut running = bed.start();
        // Ten of one digit, twenty of two.
        until("the whole batches", || bed.delivered().len() == 30).await;
        push(&source, 5..15);
        until("the open ones", || running.handle().status().stages["batch"].absorbed >= 10).await;
        bed.drain(&mut running).await;
        let drained: Vec<_> = seen.all().into_iter().filter(|(_, trigger)| *trigger == Trigger::Drain).collect();
        assert_eq!((seen.len(), drained), (5, vec![(5, Trigger::Drain); 2]));
        assert_eq!(bed.delivered().len(), 40);
    }

    async fn a_drain_without_records_calls_no_handler() {
        let (bed, source) = (Bed::new(), FakeSource::live());
        let (batches, seen) = batched(bed.texts(&source), Batching::count(10));
        bed.collect(batches);
        let mut running = bed.start();
        running.handle().started().await;
        bed.drain(&mut running).await;
        assert!(seen.all().is_empty() && bed.delivered().is_empty());
    }

    async fn a_drain_works_off_what_is_tried_again() {
        let (bed, source, gate) = (Bed::new(), FakeSource::live(), Gate::default());
        let well = gate.clone();
        push(&source, 0..10);
        let stream = bed.texts(&source).try_map(move |text| {
            let bad = text == "3" && !well.is_open();
            if bad { Err(Error::new(ErrorKind::Unavailable, "not now")) } else { Ok(text.clone()) }
        });
        bed.collect(stream.name("work").on_error(rule(retry(None, Duration::from_millis(3)), None)));
        let mut running = bed.start();
        let handle = running.handle();
        until("the retry", || bed.delivered().len() == 9).await;
        handle.drain(Duration::from_secs(50));
        until("a failure while it drains", || {
            matches!(handle.status().phase, Phase::Draining) && handle.status().stages["work"].failures > 5
        })
        .await;
        gate.open();
        let summary = running.wait().await.unwrap();
        balanced(&summary);
        assert_eq!((summary.parked(), summary.dead(), bed.delivered().len()), (0, 0, 10));
    }

    async fn what_is_parked_at_the_deadline_stays_for_the_next_run() {
        let (bed, source, gate) = (Bed::new(), FakeSource::live(), Gate::default());
        let well = gate.clone();
        push(&source, 0..40);
        let stream = bed.texts(&source).partition_by(|text| text.parse::<u64>().unwrap() % 4).try_map(move |text| {
            let bad = text == "1" && !well.is_open();
            if bad { Err(Error::new(ErrorKind::Unavailable, "not now")) } else { Ok(text.clone()) }
        });
        bed.collect(stream.name("work").on_error(rule(retry(None, Duration::from_millis(3)), None)));
        let mut running = bed.start();
        until("the others", || bed.delivered().len() == 30).await;
        let began = Instant::now();
        let summary = running.drain(SHORT).await.unwrap();
        assert!(began.elapsed() >= SHORT);
        balanced(&summary);
        assert_eq!((summary.ended, summary.parked(), summary.dead()), (Ended::Drained, 10, 0));
        gate.open();
        let mut running = bed.start();
        until("those of the key", || bed.delivered().len() == 40).await;
        running.drain(SHORT).await.unwrap();
        in_order_by_key(&bed.numbers_delivered(), 4, 40);
    }

    async fn a_drain_that_cannot_end_gives_up_after_its_deadline_and_the_next_run_has_all() {
        let (bed, source, gate, begun) = (Bed::new(), FakeSource::live(), Gate::default(), Crowd::default());
        push(&source, 0..10);
        bed.collect(gated(bed.texts(&source), &gate, &begun));
        let mut running = bed.start();
        until("all under way", || begun.now() == 10).await;
        let error = running.drain(SHORT).await.unwrap_err();
        assert_eq!((error.kind(), bed.delivered().len()), (ErrorKind::Interrupted, 0));
        gate.open();
        let mut running = bed.start();
        until("all records", || bed.delivered().len() == 10).await;
        bed.drain(&mut running).await;
        assert!(bed.numbers_delivered().into_iter().eq(0..10));
    }

    async fn a_stalled_sink_cannot_hold_up_a_drain_beyond_its_deadline() {
        let (bed, source) = (Bed::new(), FakeSource::live());
        push(&source, 0..10);
        bed.collect(bed.pipeline.source_of(source).name("in").text());
        bed.sink.stall(true);
        let mut running = bed.start();
        let handle = running.handle();
        until("the records to be read", || handle.status().stages["in"].records_in == 10).await;
        assert_eq!(running.drain(SHORT).await.unwrap_err().kind(), ErrorKind::Interrupted);
        bed.sink.stall(false);
        let mut running = bed.start();
        until("all records", || bed.delivered().len() == 10).await;
        bed.drain(&mut running).await;
    }

    async fn a_stop_loses_nothing_that_the_next_run_does_not_bring_again() {
        let (bed, source, gate, begun) = (Bed::new(), FakeSource::live(), Gate::default(), Crowd::default());
        push(&source, 0..10);
        bed.collect(gated(bed.texts(&source), &gate, &begun));
        let mut running = bed.start();
        until("all under way", || begun.now() == 10).await;
        running.handle().stop();
        assert_eq!(running.wait().await.unwrap().ended, Ended::Stopped);
        gate.open();
        push(&source, 10..20);
        let mut running = bed.start();
        until("all records", || bed.delivered().len() == 20).await;
        bed.drain(&mut running).await;
        assert!(bed.numbers_delivered().into_iter().eq(0..20));
    }

    async fn a_second_wish_to_end_stops_at_once() {
        let (bed, source, gate, begun) = (Bed::new(), FakeSource::live(), Gate::default(), Crowd::default());
        push(&source, 0..10);
        bed.collect(gated(bed.texts(&source), &gate, &begun));
        let mut running = bed.start();
        let handle = running.handle();
        until("all under way", || begun.now() == 10).await;
        handle.drain(Duration::from_secs(3600));
        handle.drain(Duration::from_secs(3600));
        until("the drain", || matches!(handle.status().phase, Phase::Draining)).await;
        handle.stop();
        assert_eq!(running.wait().await.unwrap().ended, Ended::Stopped);
        // What is over has nothing to drain, and says so without waiting.
        handle.drain(SHORT);
        handle.over().await;
    }

    async fn a_paused_pipeline_can_be_drained() {
        let (bed, source) = (Bed::new(), FakeSource::live());
        push(&source, 0..5);
        bed.collect(bed.texts(&source));
        let mut running = bed.start();
        until("the records", || bed.delivered().len() == 5).await;
        let handle = running.handle();
        handle.pause();
        until("the pause", || matches!(handle.status().phase, Phase::Paused)).await;
        // This epoch passes all tasks: who would still read has read by then.
        handle.checkpoint().await.unwrap();
        push(&source, 5..10);
        bed.drain(&mut running).await;
        // What the pause kept out comes with the next run.
        assert_eq!(bed.delivered().len(), 5);
    }

    async fn dropping_what_runs_it_does_not_stop_a_pipeline() {
        let (bed, source) = (Bed::new(), FakeSource::live());
        bed.collect(bed.texts(&source));
        let handle = {
            let running = bed.start();
            let handle = running.handle();
            drop(running.handle());
            handle
        };
        push(&source, 0..5);
        until("the records", || bed.delivered().len() == 5).await;
        handle.drain(SHORT);
        handle.over().await;
    }

    async fn dropping_the_future_of_run_stops_the_pipeline() {
        let (bed, source, inside) = (Bed::new(), FakeSource::live(), Crowd::default());
        push(&source, 0..5);
        let crowd = inside.clone();
        bed.collect(bed.texts(&source).map_async(move |_| {
            let inside = crowd.enter();
            async move {
                let _inside = inside;
                std::future::pending::<millstream::Result<u64>>().await
            }
        }));
        tokio::select! {
            ended = bed.pipeline.run() => panic!("it ends: {ended:?}"),
            () = until("all under way", || inside.now() == 5) => {}
        }
        until("nothing under way", || inside.now() == 0).await;
    }

    async fn a_pipeline_that_nobody_can_steer_any_more_still_ends_with_its_sources() {
        let (bed, source) = (Bed::new(), FakeSource::live());
        bed.collect(bed.texts(&source));
        drop(bed.start());
        push(&source, 0..5);
        source.end();
        until("the records", || bed.delivered().len() == 5).await;
    }

    async fn abort_on_drop_stops_it_at_once() {
        let (bed, source) = (Bed::new(), FakeSource::live());
        bed.collect(bed.texts(&source));
        let running = bed.start().abort_on_drop();
        let handle = running.handle();
        push(&source, 0..5);
        until("the records", || bed.delivered().len() == 5).await;
        drop(running);
        handle.over().await;
        push(&source, 5..10);
        // A second run has all that the first one has not committed, and nobody else reads.
        let mut second = bed.start();
        until("the others", || bed.numbers_delivered().contains(&9)).await;
        bed.drain(&mut second).await;
        let mut all = bed.numbers_delivered();
        all.sort_unstable();
        all.dedup();
        assert!(all.into_iter().eq(0..10));
    }

    async fn no_task_is_left_behind() {
        let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let before = alive();
        let (bed, source) = (Bed::new(), FakeSource::live());
        push(&source, 0..100);
        let keyed = bed.texts(&source).partition_by(|text| text.len());
        let work = keyed.map_async(|text| async move { Ok::<_, Error>(text) });
        let (batches, _) = batched(work.concurrency(3).into(), Batching::count(10).by_key());
        bed.collect(batches);
        for how in [Ended::Drained, Ended::Stopped] {
            let mut running = bed.start();
            running.handle().started().await;
            assert!(alive() > before);
            match how {
                Ended::Stopped => running.handle().stop(),
                _ => running.handle().drain(Duration::from_secs(9)),
            }
            assert_eq!(running.wait().await.unwrap().ended, how);
            until("the last task", || alive() == before).await;
        }
    }

    async fn a_failure_leaves_no_task_behind_either() {
        let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let (bed, before) = (Bed::new(), alive());
        bed.collect(bed.numbers(10).try_map(|_| Err::<u64, _>("no")).on_error(rule(None, Then::Stop)));
        bed.pipeline.run().await.unwrap_err();
        until("the last task", || alive() == before).await;
    }

    async fn rounds_of_start_load_and_drain_at_random_moments_lose_and_repeat_nothing() {
        let rounds = budget(15, 100);
        let (bed, source) = (Bed::new(), FakeSource::live().in_batches_of(7));
        let keyed = bed.texts(&source).partition_by(|text| text.parse::<u64>().unwrap() % 5);
        let work = keyed.map_async(|text| async move {
            super::bed::dawdle(text.parse().unwrap()).await;
            Ok::<_, Error>(text)
        });
        let (batches, _) = batched(work.concurrency(2).into(), Batching::count(4).by_key());
        bed.collect(batches);
        let (mut dice, each) = (Dice::new(0x5eed), 60);
        for round in 0..rounds {
            let mut running = bed.start();
            push(&source, round * each..(round + 1) * each);
            for _ in 0..dice.roll(300) {
                tokio::task::yield_now().await;
            }
            // Drained while it opens, it has nothing to do; so it may also be over before it has begun.
            let summary = running.drain(Duration::from_secs(50)).await.unwrap();
            assert!(matches!(summary.ended, Ended::Drained | Ended::Stopped));
            balanced(&summary);
        }
        source.end();
        bed.run().await;
        in_order_by_key(&bed.numbers_delivered(), 5, rounds * each);
    }

    async fn each_run_says_where_it_begins() {
        let (bed, source) = (Bed::new(), FakeSource::live());
        bed.collect(bed.texts(&source));
        let mut starts = Vec::new();
        for end in [false, true] {
            let mut running = bed.start();
            starts.push(running.handle().started().await.unwrap());
            if end {
                source.end();
                assert_eq!(running.wait().await.unwrap().ended, Ended::Finished);
            } else {
                running.drain(SHORT).await.unwrap();
            }
        }
        assert!(matches!(starts[..], [Start::Fresh, Start::Resuming(_)]), "{starts:?}");
        assert_eq!(bed.pipeline.run().await.unwrap().start, Start::Anew);
    }

    async fn what_nobody_can_read_again_survives_a_restart() {
        let (bed, source) = (Bed::new(), FakeSource::live().forgetful());
        let failed = Arc::new(std::sync::atomic::AtomicBool::new(false));
        bed.collect(bed.texts(&source).try_map(move |text| {
            let first = text == "5" && !failed.swap(true, std::sync::atomic::Ordering::SeqCst);
            if first { Err("the first time") } else { Ok(text.clone()) }
        }).on_error(rule(None, Then::Restart)));
        let mut running = bed.start();
        push(&source, 0..10);
        until("all records", || (0..10).all(|n| bed.numbers_delivered().contains(&n))).await;
        assert_eq!(running.handle().status().restarts, 1);
        bed.drain(&mut running).await;
        assert!(bed.dead().is_empty());
    }
}
