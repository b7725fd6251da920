//! Streams that part and meet.

use millstream::{Error, ErrorKind, ErrorRule, Pipeline, Stream};
use millstream_testkit::{FakeSink, FakeSource};

use super::bed::{Bed, dead, texts, until};

behaviours! {
    async fn branch_sends_each_record_to_one_side() {
        let bed = Bed::new();
        let other = FakeSink::plain();
        let (even, odd) = bed.numbers(10).branch(|n| n % 2 == 0);
        bed.collect(even);
        bed.deliver(odd, &other);
        bed.run().await;
        assert_eq!((bed.delivered(), other.values()), (texts([0, 2, 4, 6, 8]), texts([1, 3, 5, 7, 9])));
    }

    async fn route_sends_each_record_to_the_output_of_its_name() {
        let bed = Bed::new();
        let other = FakeSink::plain();
        let [small, large] = bed.numbers(6).route(["small", "large"], |n| if *n < 2 { "small" } else { "large" });
        bed.collect(small);
        bed.deliver(large, &other);
        bed.run().await;
        assert_eq!((bed.delivered(), other.values()), (texts([0, 1]), texts([2, 3, 4, 5])));
    }

    async fn an_unknown_route_fails_the_record_and_says_which() {
        let bed = Bed::new();
        let [a, b] = bed.numbers(3).route(["a", "b"], |n| ["a", "c", "b"][*n as usize]);
        bed.collect(a.merge(b));
        bed.run().await;
        assert_eq!(bed.sorted(), ["0", "2"]);
        assert_eq!(bed.dead(), [dead("1", "E_DATA")]);
        assert!(bed.letters()[0].2.contains("`c`"), "{:?}", bed.letters());
    }

    async fn a_clone_is_a_second_reader_of_every_record() {
        let bed = Bed::new();
        let other = FakeSink::plain();
        let numbers = bed.numbers(1000);
        bed.deliver(numbers.clone().map(|n| n + 1), &other);
        bed.collect(numbers);
        bed.run().await;
        assert_eq!((bed.delivered(), other.values()), (texts(0..1000), texts(1..1001)));
    }

    async fn merge_has_the_records_of_both_each_in_order() {
        let bed = Bed::new();
        let (low, high) = (bed.numbers(100), bed.pipeline.values(1000..1100u64));
        bed.collect(low.merge(high));
        bed.run().await;
        let (low, high): (Vec<_>, Vec<_>) = bed.delivered().into_iter().partition(|n| n.len() < 4);
        assert_eq!((low, high), (texts(0..100), texts(1000..1100)));
    }

    async fn sources_steps_and_merges_are_streams_of_one_type() {
        fn shifted(numbers: Stream<u64>, by: u64) -> Stream<u64> {
            numbers.map(move |n| n + by)
        }

        let bed = Bed::new();
        let mut all: Vec<Stream<u64>> = vec![bed.numbers(2), shifted(bed.numbers(2), 10), bed.numbers(1).map(|_| 20)];
        all.push(bed.numbers(1).map_async(|_| async { Ok::<u64, Error>(30) }).into());
        let merged = all.into_iter().reduce(Stream::merge).unwrap();
        bed.collect(shifted(merged, 100));
        bed.run().await;
        assert_eq!(bed.sorted(), texts([100, 101, 110, 111, 120, 130]));
    }

    async fn a_setting_where_nothing_has_it_is_told_by_the_plan() {
        let refused = |build: &dyn Fn(Stream<u64>, Stream<u64>) -> Stream<u64>| {
            let pipeline = Pipeline::new("settings");
            build(pipeline.values([1u64]), pipeline.values([2u64])).drop();
            pipeline.plan().unwrap_err().chain()
        };
        let told = refused(&|one, other| one.concurrency(4).merge(other));
        assert!(told.contains("`concurrency`") && told.contains("only a step has workers"), "{told}");
        for (setting, told) in [
            ("name", refused(&|one, other| one.merge(other).name("both"))),
            ("concurrency", refused(&|one, other| one.merge(other).concurrency(2))),
            ("on_error", refused(&|one, other| one.merge(other).on_error(ErrorRule::any()))),
            ("on_failed", refused(&|one, other| one.merge(other).on_failed(|_, _, _| {}))),
        ] {
            assert!(told.contains(&format!("`{setting}`")) && told.contains("`merge` only joins"), "{told}");
        }
    }

    async fn a_source_that_has_ended_does_not_hold_up_the_other_one() {
        let bed = Bed::new();
        let live = FakeSource::live();
        bed.collect(bed.texts(&FakeSource::of(["a"])).merge(bed.texts(&live)));
        let mut running = bed.start();
        until("the one that ends", || bed.delivered() == ["\"a\""]).await;
        live.push(None, "b");
        until("the one that lives", || bed.delivered() == ["\"a\"", "\"b\""]).await;
        bed.drain(&mut running).await;
    }

    async fn a_stalled_reader_holds_up_the_others_no_more_than_its_buffers() {
        let bed = Bed::new();
        let slow = FakeSink::plain();
        slow.stall(true);
        let numbers = bed.numbers(100);
        bed.deliver(numbers.clone(), &slow);
        bed.collect(numbers);
        let mut running = bed.start();
        until("the free reader", || bed.delivered().len() == 100).await;
        assert!(slow.values().is_empty());
        slow.stall(false);
        running.wait().await.unwrap();
        assert_eq!(slow.values(), texts(0..100));
    }

    async fn entries_without_a_name_are_called_by_what_they_do() {
        let bed = Bed::new();
        bed.collect(bed.numbers(1).map(|n| n + 1).map(|n| n + 1).filter(|_| true));
        let summary = bed.run().await;
        let names: Vec<&str> = summary.stages.keys().map(String::as_str).filter(|name| !name.starts_with("dead")).collect();
        assert_eq!(names, ["custom", "filter", "map", "map-2", "to_json", "values"]);
    }
}

#[test]
fn streams_of_two_pipelines_cannot_be_merged() {
    let (one, two) = (Pipeline::new("one"), Pipeline::new("two"));
    one.values([1]).merge(two.values([2])).drop();
    assert_eq!(one.plan().unwrap_err().kind(), ErrorKind::Plan);
}

#[test]
fn a_stream_that_nobody_reads_is_told_by_the_plan() {
    let pipeline = Pipeline::new("unread");
    let (yes, _no) = pipeline.values([1]).branch(|_| true);
    yes.drop();
    let error = pipeline.plan().unwrap_err();
    assert!(error.message().contains("nobody reads `branch.no`"), "{error:?}");
}
