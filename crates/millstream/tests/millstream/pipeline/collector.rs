//! A source that the program pushes into: what is accepted, what is committed, and who is told what.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use millstream::{
    Collector, CollectorOptions, Ended, Error, ErrorKind, Home, Pushed, Running,
    runtime::{CheckpointSpec, Probe, Step},
};
use millstream_testkit::FakeSink;

use super::bed::{Bed, balanced, dead, texts, until};

/// A bed where no epoch is due while a test runs: it is cut because somebody waits, or never.
fn bed(sink: FakeSink) -> Bed {
    let mut bed = Bed::new();
    bed.sink = sink;
    let checkpoint = CheckpointSpec { every: "1h".parse().unwrap(), ..CheckpointSpec::default() };
    drop(bed.pipeline.clone().checkpoint(checkpoint));
    bed
}

/// Delivers what is pushed to the bed's sink.
fn collect(bed: &Bed, records_max: usize) -> Collector<u64> {
    let (collector, numbers) = bed.pipeline.collector(CollectorOptions { records_max, ..CollectorOptions::default() });
    bed.collect(numbers.name("numbers"));
    collector
}

/// Records that the collector's source has given.
fn given(running: &Running) -> u64 {
    running.handle().status().stages["numbers"].records_in
}

fn away() -> Error {
    Error::new(ErrorKind::Unavailable, "it is away")
}

behaviours! {
    async fn push_and_wait_returns_when_the_epoch_that_holds_the_record_counts_and_not_before() {
        let bed = bed(FakeSink::plain());
        let collector = collect(&bed, 100);
        let (log, home) = (Arc::new(Mutex::new(Vec::new())), tempfile::tempdir().unwrap());
        let plan = bed.pipeline.plan().unwrap();
        let mut options = Home::new(home.path()).options(&plan);
        let told = log.clone();
        options.probe = Probe::new(move |step, epoch| told.lock().unwrap().push((epoch, Some(step))));
        let mut running = Running::start(plan, options);
        for n in 0..20 {
            let epoch = collector.push_and_wait(n).await.unwrap();
            log.lock().unwrap().push((epoch, None));
            assert_eq!(bed.delivered(), texts(0..=n));
            assert!(running.handle().status().epoch >= epoch);
        }
        drop(collector);
        balanced(&running.wait().await.unwrap());
        let log = log.lock().unwrap();
        for at in (0..log.len()).filter(|&at| log[at].1.is_none()) {
            for step in [Step::AfterFlush, Step::AfterRecord, Step::BeforeSourceCommit] {
                assert!(log[..at].contains(&(log[at].0, Some(step))), "{step:?} comes before the answer: {log:?}");
            }
        }
    }

    async fn what_is_accepted_is_delivered_in_order_when_the_last_collector_is_dropped() {
        let bed = bed(FakeSink::plain());
        let collector = collect(&bed, 8);
        let mut running = bed.start();
        let other = collector.clone();
        for n in 0..500 {
            [&collector, &other][n as usize % 2].push(n).await.unwrap();
        }
        drop(collector);
        other.push_all(500..1000).await.unwrap();
        drop(other);
        let summary = running.wait().await.unwrap();
        assert_eq!(summary.ended, Ended::Finished);
        balanced(&summary);
        assert_eq!(bed.delivered(), texts(0..1000));
    }

    async fn a_collector_that_nobody_reads_is_full_and_gives_the_value_back() {
        let bed = bed(FakeSink::plain());
        let collector = collect(&bed, 2);
        let mut running = bed.start();
        running.handle().started().await.unwrap();
        running.handle().pause();
        let mut accepted = 0;
        let (error, back) = loop {
            // Some may be read before the pause is heard of.
            match collector.try_push(accepted) {
                Ok(()) => accepted += 1,
                Err(full) => break full,
            }
            tokio::task::yield_now().await;
        };
        assert_eq!((error.kind(), back.value), (ErrorKind::Full, accepted));
        running.handle().resume();
        collector.push(back).await.unwrap();
        collector.close();
        assert_eq!(collector.push(7).await.unwrap_err().kind(), ErrorKind::Closed);
        running.wait().await.unwrap();
        assert_eq!(bed.delivered(), texts(0..=accepted));
    }

    async fn a_receipt_is_waited_for_when_the_next_ones_have_been_pushed() {
        let bed = bed(FakeSink::plain());
        let collector = collect(&bed, 100);
        let mut running = bed.start();
        let mut receipts = Vec::new();
        for n in 0..10 {
            receipts.push(collector.push_with_receipt(n).await.unwrap());
        }
        for receipt in receipts {
            let epoch = receipt.await.unwrap();
            assert!(running.handle().status().epoch >= epoch);
        }
        assert_eq!(bed.delivered(), texts(0..10));
        drop(collector);
        balanced(&running.wait().await.unwrap());
    }

    async fn a_drain_answers_all_who_wait() {
        let bed = bed(FakeSink::plain());
        let collector = collect(&bed, 1);
        bed.sink.stall(true);
        let mut running = bed.start();
        let push = |n| { let collector = collector.clone(); tokio::spawn(async move { collector.push_and_wait(n).await }) };
        let read = push(1);
        until("it is read", || given(&running) == 1).await;
        running.handle().pause();
        until("it is paused", || format!("{:?}", running.handle().status().phase) == "Paused").await;
        // One has been accepted and one waits for room, unless the pause was heard of late.
        let later = [push(2), push(3)];
        tokio::task::yield_now().await;
        running.handle().drain(Duration::from_secs(30));
        bed.sink.stall(false);
        balanced(&running.wait().await.unwrap());
        assert!(read.await.unwrap().is_ok(), "it was read, and so committed by the last epoch");
        let delivered = bed.delivered();
        for (n, later) in [2, 3].into_iter().zip(later) {
            let answer = later.await.unwrap();
            assert_eq!(answer.is_ok(), delivered.contains(&n.to_string()), "{answer:?}");
            assert!(answer.is_ok_and(|epoch| epoch > 0) || !delivered.contains(&n.to_string()));
        }
        assert_eq!(collector.push(4).await.unwrap_err().kind(), ErrorKind::Closed);
    }

    async fn a_restart_inside_the_process_keeps_what_was_accepted_and_answers_those_who_wait() {
        for at_commit in [false, true] {
            let bed = bed(FakeSink::two_phase());
            let collector = collect(&bed, 100);
            let mut running = bed.start();
            collector.push_and_wait(0).await.unwrap();
            if at_commit {
                // The epoch has been decided when it fails: the record counts, and is not given again.
                bed.sink.fail_commits([away()]);
            } else {
                bed.sink.fail_flushes([away()]);
            }
            collector.push(1).await.unwrap();
            collector.push_and_wait(2).await.unwrap();
            collector.push(3).await.unwrap();
            drop(collector);
            let summary = running.wait().await.unwrap();
            balanced(&summary);
            assert_eq!(running.handle().status().restarts, 1, "at_commit: {at_commit}");
            assert_eq!(bed.delivered(), texts(0..4), "at_commit: {at_commit}");
        }
    }

    async fn a_run_that_never_opens_its_source_or_is_aborted_tells_those_who_wait() {
        for opens in [false, true] {
            let bed = bed(FakeSink::plain());
            let (collector, numbers) = bed.pipeline.collector::<u64>(CollectorOptions::default());
            if opens {
                bed.sink.stall(true);
                bed.collect(numbers.name("numbers"));
            } else {
                numbers.name("numbers").to_json().sink("file:/dev/null/no/such/folder.txt");
            }
            let waiting = tokio::spawn({
                let collector = collector.clone();
                async move { collector.push_and_wait(1).await }
            });
            let mut running = bed.start().abort_on_drop();
            if opens {
                until("it is read", || given(&running) == 1).await;
                drop(running);
            } else {
                assert!(running.wait().await.is_err());
            }
            assert_eq!(waiting.await.unwrap().unwrap_err().kind(), ErrorKind::Closed);
            assert_eq!(collector.push(2).await.unwrap_err().kind(), ErrorKind::Closed);
        }
    }

    async fn a_record_that_becomes_a_dead_letter_counts_as_committed() {
        let bed = bed(FakeSink::plain());
        let (collector, numbers) = bed.pipeline.collector::<u64>(CollectorOptions::default());
        bed.collect(numbers.try_map(|n| if *n == 1 { Err(Error::new(ErrorKind::Data, "one")) } else { Ok(*n) }));
        let mut running = bed.start();
        for n in 0..3 {
            collector.push_and_wait(n).await.unwrap();
        }
        drop(collector);
        running.wait().await.unwrap();
        assert_eq!((bed.delivered(), bed.dead()), (texts([0, 2]), vec![dead("1", "E_DATA")]));
    }

    async fn a_key_that_is_pushed_with_a_value_is_the_key_of_its_record() {
        let bed = bed(FakeSink::plain());
        let (collector, numbers) = bed.pipeline.collector::<u64>(CollectorOptions::default());
        bed.collect(numbers.partition_by_key().map(|n| n + 1));
        let mut running = bed.start();
        collector.push_and_wait(Pushed::new(1).key("k")).await.unwrap();
        collector.close();
        running.wait().await.unwrap();
        assert_eq!(bed.sink.records()[0].key.as_deref(), Some(&b"k"[..]));
    }

    async fn the_same_pipeline_started_again_takes_pushes_again() {
        let bed = bed(FakeSink::plain());
        let collector = collect(&bed, 100);
        for n in 0..3 {
            let mut running = bed.start();
            running.handle().started().await.unwrap();
            collector.push_and_wait(n).await.unwrap();
            bed.drain(&mut running).await;
            assert_eq!(collector.push(9).await.unwrap_err().kind(), ErrorKind::Closed);
        }
        assert_eq!(bed.delivered(), texts(0..3));
    }
}
