//! What is slow holds up what is before it, and nothing is lost or spins.

use std::time::Duration;

use millstream::{Ended, Error, Size, Stream, runtime::LimitsSpec};
use millstream_testkit::{FakeSink, FakeSource};

use super::bed::{Bed, Crowd, Gate, still, texts, until};

/// Numbers as texts, ten at a time.
fn tens(end: u64) -> FakeSource {
    FakeSource::of(texts(0..end)).in_batches_of(10)
}

behaviours! {
    async fn a_stalled_sink_holds_up_the_source() {
        let bed = Bed::new();
        bed.collect(bed.pipeline.source_of(tens(5000)).name("in").text().map(|text| format!("<{text}>")));
        bed.sink.stall(true);
        let mut running = bed.start();
        let handle = running.handle();
        until("the first", || handle.status().stages["in"].records_in > 0).await;
        let read = still("the source to wait", || handle.status().stages["in"].records_in).await;
        assert!(read < 500, "it has read {read}");
        bed.sink.stall(false);
        running.wait().await.unwrap();
        assert_eq!(bed.delivered(), texts((0..5000).map(|n| format!("\"<{n}>\""))));
    }

    async fn a_step_that_waits_takes_no_more_than_it_can_begin() {
        let (bed, gate, crowd) = (Bed::new(), Gate::default(), Crowd::default());
        let (wait, inside) = (gate.clone(), crowd.clone());
        bed.collect(bed.pipeline.source_of(tens(2000)).name("in").text().map_async(move |text| {
            let (wait, inside) = (wait.clone(), inside.clone());
            async move {
                let _inside = inside.enter();
                wait.passed().await;
                Ok::<_, Error>(text)
            }
        }).in_flight(5));
        let mut running = bed.start();
        let handle = running.handle();
        until("some under way", || crowd.now() == 5).await;
        let read = still("the source to wait", || handle.status().stages["in"].records_in).await;
        assert!(read < 300, "it has read {read}");
        gate.open();
        running.wait().await.unwrap();
        assert_eq!((bed.delivered().len(), crowd.most()), (2000, 5));
    }

    async fn with_one_slow_branch_a_broadcast_goes_at_its_pace_and_every_branch_gets_all() {
        let (bed, slow) = (Bed::new(), FakeSink::plain());
        let texts_of: Stream<String> = bed.texts(&tens(3000));
        bed.deliver(texts_of.clone(), &slow);
        bed.collect(texts_of);
        slow.stall(true);
        let mut running = bed.start();
        until("the free branch", || !bed.delivered().is_empty()).await;
        let ahead = still("the free branch to wait", || bed.delivered().len()).await;
        assert!(ahead < 500, "the free branch is {ahead} ahead");
        slow.stall(false);
        running.wait().await.unwrap();
        assert_eq!((bed.delivered().len(), slow.values()), (3000, bed.delivered()));
    }

    async fn what_is_on_its_way_is_bounded_in_bytes() {
        let bed = Bed::new().with(|pipeline| pipeline.limits(LimitsSpec { memory: Size(4 << 20) }));
        let large = FakeSource::of((0..300).map(|_| "x".repeat(64 << 10))).in_batches_of(1);
        bed.pipeline.source_of(large).name("in").filter(|_| true).sink_of(bed.sink.clone()).name("end");
        bed.sink.stall(true);
        let mut running = bed.start();
        let handle = running.handle();
        until("the first", || handle.status().stages["in"].records_in > 0).await;
        let read = still("the source to wait", || handle.status().stages["in"].bytes_in).await;
        assert!(read <= 4 << 20, "{read} bytes are on their way");
        let status = handle.status();
        assert!(status.queues.values().all(|queue| queue.bytes <= queue.bytes_max), "{:?}", status.queues);
        bed.sink.stall(false);
        running.wait().await.unwrap();
        assert_eq!(bed.delivered().len(), 300);
    }

    async fn what_waits_for_a_busy_key_is_bounded_in_bytes() {
        for workers in [1, 3] {
            let bed = Bed::new().with(|pipeline| pipeline.limits(LimitsSpec { memory: Size(4 << 20) }));
            let (gate, crowd) = (Gate::default(), Crowd::default());
            let (wait, inside) = (gate.clone(), crowd.clone());
            let text = |n: u64| format!("{n:>60000}");
            let source = bed.pipeline.source_of(FakeSource::of((0..300).map(text)).in_batches_of(1)).name("in");
            let numbers = source.text().partition_by(|_| "hot").map_async(move |text: String| {
                let (wait, inside) = (wait.clone(), inside.clone());
                async move {
                    let _inside = inside.enter();
                    wait.passed().await;
                    text.trim().parse::<u64>().map_err(|_| "no number")
                }
            });
            bed.collect(numbers.concurrency(workers));
            let mut running = bed.start();
            let handle = running.handle();
            until("the first", || crowd.now() == 1).await;
            let read = still("the source to wait", || handle.status().stages["in"].bytes_in).await;
            assert!(read <= 4 << 20, "{read} bytes are on their way to {workers} workers");
            gate.open();
            running.wait().await.unwrap();
            assert_eq!((bed.delivered(), crowd.most()), (texts(0..300), 1));
        }
    }

    async fn the_figures_show_where_it_waits() {
        let bed = Bed::new();
        let work = bed.pipeline.source_of(tens(2000)).filter(|_| true).name("work");
        work.sink_of(bed.sink.clone()).name("end");
        bed.sink.stall(true);
        let mut running = bed.start();
        let handle = running.handle();
        until("a full queue", || {
            let queues = handle.status().queues;
            queues.get("end").is_some_and(|queue| queue.batches_max > 0 && queue.batches == queue.batches_max)
        })
        .await;
        bed.sink.stall(false);
        let summary = running.wait().await.unwrap();
        let blocked = |name: &str| summary.stages[name].blocked_ns;
        assert!(blocked("work") > 0 && blocked("end") == 0, "{} {}", blocked("work"), blocked("end"));
    }

    async fn a_pipeline_that_waits_for_room_can_be_watched_and_stopped() {
        let bed = Bed::new();
        bed.collect(bed.pipeline.source_of(tens(2000)).name("in").text());
        bed.sink.stall(true);
        let mut running = bed.start();
        let handle = running.handle();
        until("the first", || handle.status().stages["in"].records_in > 0).await;
        still("the source to wait", || handle.status().stages["in"].records_in).await;
        handle.stop();
        assert_eq!(running.wait().await.unwrap().ended, Ended::Stopped);
        assert!(bed.delivered().is_empty());
    }

    async fn a_quiet_source_costs_a_busy_one_nothing() {
        let (bed, quiet) = (Bed::new(), FakeSource::live());
        bed.collect(bed.texts(&quiet).merge(bed.texts(&tens(500))));
        let mut running = bed.start();
        until("the busy one", || bed.delivered().len() == 500).await;
        quiet.push(None, "late");
        until("the quiet one", || bed.delivered().len() == 501).await;
        running.drain(Duration::from_secs(9)).await.unwrap();
    }
}
