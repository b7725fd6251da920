//! What becomes of a record that fails: its rules, its hook, its dead letter.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use millstream::{
    BatchOf, Batching, Class, DeadLetterSpec, Error, ErrorKind, ErrorRule, Retry, Span, Stream, Then, runtime::Entry,
};
use millstream_testkit::{FakeSink, FakeSource};

use super::bed::{Bed, Seen, dead, retry, rule, texts, until};

const SOON: Duration = Duration::from_millis(1);

/// Numbers, of which `bad` fail with that kind; each try is written down.
fn failing(
    bed: &Bed,
    end: u64,
    bad: impl Fn(u64) -> Option<ErrorKind> + Send + Sync + 'static,
) -> (Stream<u64>, Seen<u64>) {
    let tries = Seen::new();
    let log = tries.clone();
    let stream = bed.numbers(end).try_map(move |n| {
        log.add(*n);
        bad(*n).map_or(Ok(*n), |kind| Err(Error::new(kind, format!("{n} is bad"))))
    });
    (stream.name("work"), tries)
}

fn tries_of(tries: &Seen<u64>, n: u64) -> usize {
    tries.all().into_iter().filter(|of| *of == n).count()
}

behaviours! {
    async fn a_record_is_tried_again_so_many_times_and_then_becomes_a_dead_letter() {
        let bed = Bed::new();
        let (stream, tries) = failing(&bed, 3, |n| (n == 1).then_some(ErrorKind::Unavailable));
        bed.collect(stream.on_error(rule(retry(3, SOON), None)));
        let summary = bed.run().await;
        assert_eq!((bed.delivered(), bed.dead()), (texts([0, 2]), vec![dead("1", "E_UNAVAILABLE")]));
        assert_eq!((tries_of(&tries, 1), bed.dead_letters()[0].attempts, summary.stages["work"].failures), (4, 4, 4));
    }

    async fn each_wait_is_longer_than_the_one_before() {
        let (bed, at) = (Bed::new(), Seen::new());
        let log = at.clone();
        let waits = Retry { backoff: 3.0, ..retry(3, Duration::from_millis(10)) };
        bed.collect(bed.numbers(1).try_map(move |_| {
            log.add(Instant::now());
            Err::<u64, _>("never")
        }).on_error(rule(waits, None)));
        bed.run().await;
        let at = at.all();
        for (pair, least) in at.windows(2).zip([10, 30, 90]) {
            assert!(pair[1] - pair[0] >= Duration::from_millis(least), "{:?}", pair[1] - pair[0]);
        }
        assert_eq!(at.len(), 4);
    }

    async fn no_wait_is_longer_than_the_longest() {
        let bed = Bed::new();
        // Without that bound it would come to years.
        let waits = Retry { backoff: 1e9, delay_max: Span(Duration::from_millis(2)), ..retry(6, SOON) };
        let (stream, tries) = failing(&bed, 1, |_| Some(ErrorKind::Data));
        bed.collect(stream.on_error(rule(waits, None)));
        bed.run().await;
        assert_eq!((tries_of(&tries, 0), bed.dead().len()), (7, 1));
    }

    async fn each_class_of_errors_has_a_rule_of_its_own() {
        let bed = Bed::new();
        let (stream, tries) = failing(&bed, 5, |n| match n {
            1 => Some(ErrorKind::Timeout),
            2 => Some(ErrorKind::Throttled),
            3 => Some(ErrorKind::Data),
            _ => None,
        });
        let stream = stream.on_error(ErrorRule::of(Class::Timeout).then(Then::Drop));
        let again = ErrorRule::of(Class::Throttled).retry(retry(2, SOON)).then(Then::Drop);
        bed.collect(stream.on_error(again));
        let summary = bed.run().await;
        assert_eq!((bed.delivered(), bed.dead()), (texts([0, 4]), vec![dead("3", "E_DATA")]));
        assert_eq!([1, 2, 3].map(|n| tries_of(&tries, n)), [1, 3, 1]);
        assert_eq!((summary.stages["work"].dropped, summary.stages["work"].dead), (2, 1));
    }

    async fn the_first_rule_that_matches_decides_a_steps_own_before_the_pipelines() {
        let bed = Bed::new().with(|pipeline| pipeline.on_error(rule(None, Then::Drop)));
        let (stream, _) = failing(&bed, 4, |n| match n {
            1 => Some(ErrorKind::Decode),
            2 => Some(ErrorKind::Rejected),
            _ => None,
        });
        bed.collect(stream.on_error(ErrorRule::of(ErrorKind::Rejected).then(Then::DeadLetter)));
        let summary = bed.run().await;
        assert_eq!((bed.dead(), summary.stages["work"].dropped), (vec![dead("2", "E_REJECTED")], 1));
    }

    async fn a_rule_can_look_for_words_of_the_message() {
        let bed = Bed::new();
        let (stream, _) = failing(&bed, 12, |n| (n > 9).then_some(ErrorKind::Data));
        bed.collect(stream.on_error(ErrorRule::any().saying("^11 is").then(Then::Drop)));
        bed.run().await;
        assert_eq!(bed.dead(), [dead("10", "E_DATA")]);
    }

    async fn stop_ends_the_pipeline_with_the_cause_and_the_place() {
        let bed = Bed::new();
        let (stream, _) = failing(&bed, 3, |n| (n == 1).then_some(ErrorKind::Data));
        bed.collect(stream.on_error(rule(None, Then::Stop)));
        let error = bed.pipeline.run().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Data);
        let told = error.chain();
        assert!(told.contains("work") && told.contains("values/0@1") && told.contains("1 is bad"), "{told}");
        assert!(bed.dead().is_empty());
    }

    async fn restart_goes_on_from_the_checkpoint() {
        let (bed, source, failed) = (Bed::new(), FakeSource::live(), Arc::new(AtomicUsize::new(0)));
        let count = failed.clone();
        let stream = bed.texts(&source).try_map(move |text| {
            let fails = text == "b" && count.fetch_add(1, Ordering::SeqCst) == 0;
            if fails { Err("the first time") } else { Ok(text.clone()) }
        });
        bed.collect(stream.on_error(rule(None, Then::Restart)));
        let mut running = bed.start();
        let handle = running.handle();
        source.push(None, "a");
        until("the first record", || bed.delivered().len() == 1).await;
        handle.checkpoint().await.unwrap();
        source.push(None, "b");
        source.push(None, "c");
        until("the others", || bed.delivered().len() == 3).await;
        assert_eq!(handle.status().restarts, 1);
        bed.drain(&mut running).await;
        // What the checkpoint holds does not come again.
        assert_eq!((bed.delivered(), source.opened()), (texts(["\"a\"", "\"b\"", "\"c\""]), 2));
    }

    async fn a_pipeline_that_fails_again_and_again_gives_up_and_tells_why() {
        let bed = Bed::new();
        let (stream, tries) = failing(&bed, 3, |n| (n == 1).then_some(ErrorKind::Data));
        bed.collect(stream.on_error(rule(None, Then::Restart)));
        let mut running = bed.start_with(|options| options.restarts_per_minute_max = 1);
        let error = running.wait().await.unwrap_err();
        assert!(error.chain().contains("gave up after 1 restarts") && error.chain().contains("1 is bad"), "{error:?}");
        assert_eq!(tries_of(&tries, 1), 2);
    }

    async fn what_a_system_cannot_do_now_is_tried_until_it_can_where_no_rule_says_more() {
        let bed = Bed::new();
        let (stream, _) = failing(&bed, 3, |n| (n == 1).then_some(ErrorKind::Unavailable));
        bed.collect(stream);
        let running = bed.start();
        let handle = running.handle();
        until("the record to wait", || handle.status().stages["work"].parked == 1).await;
        until("the others", || bed.delivered() == texts([0, 2])).await;
        handle.stop();
        handle.over().await;
        assert!(bed.dead().is_empty());
    }

    async fn failed_records_skip_later_stages() {
        let (bed, later) = (Bed::new(), Seen::new());
        let log = later.clone();
        let (stream, _) = failing(&bed, 6, |n| (n % 2 == 1).then_some(ErrorKind::Data));
        bed.collect(stream.inspect(move |n| log.add(*n)).map_async(|n| async move { Ok::<_, Error>(n) }).name("later"));
        let summary = bed.run().await;
        assert_eq!((later.all(), summary.stages["later"].records_in), (vec![0, 2, 4], 3));
        assert_eq!(bed.dead().len(), 3);
    }

    async fn on_failed_hears_of_each_failure_before_its_rule_acts() {
        let (bed, heard) = (Bed::new(), Seen::new());
        let log = heard.clone();
        let (stream, tries) = failing(&bed, 3, |n| (n == 1).then_some(ErrorKind::Unavailable));
        let seen = tries.clone();
        bed.collect(stream.on_error(rule(retry(2, SOON), None)).on_failed(move |record, error, attempts| {
            log.add((record.id().to_string(), error.kind(), attempts, tries_of(&seen, 1)));
        }));
        bed.run().await;
        let each = |nth: u32| ("values/0@1".to_owned(), ErrorKind::Unavailable, nth, nth as usize);
        assert_eq!(heard.all(), [each(1), each(2), each(3)]);
    }

    async fn on_failed_hears_of_the_records_of_a_batch_one_by_one() {
        let (bed, heard) = (Bed::new(), Seen::new());
        let log = heard.clone();
        let handled = bed.numbers(4).batch(Batching::count(2)).handle(|batch: BatchOf<u64>| async move {
            if batch.contains(&2) { Err("the second batch") } else { Ok(()) }
        });
        handled.on_failed(move |record, error, _| log.add((record.sequence, error.message().to_owned()))).drop();
        bed.run().await;
        assert_eq!(heard.all(), [(2, "the second batch".to_owned()), (3, "the second batch".to_owned())]);
    }

    async fn on_failed_hears_of_what_a_sink_rejects() {
        let (bed, heard) = (Bed::new(), Seen::new());
        let log = heard.clone();
        bed.sink.reject("1", 1, Error::new(ErrorKind::Rejected, "no room for 1"));
        let end = bed.numbers(3).to_json().sink_of(bed.sink.clone()).name("end");
        end.on_failed(move |record, error, attempts| log.add((record.sequence, error.message().to_owned(), attempts)));
        bed.run().await;
        assert_eq!(heard.all(), [(1, "no room for 1".to_owned(), 1)]);
        assert_eq!(bed.dead(), [dead("1", "E_REJECTED")]);
    }

    async fn a_panic_of_on_failed_changes_nothing() {
        let bed = Bed::new();
        let (stream, _) = failing(&bed, 3, |n| (n == 1).then_some(ErrorKind::Data));
        bed.collect(stream.on_failed(|_, _, _| panic!("the hook itself")));
        bed.run().await;
        assert_eq!((bed.delivered(), bed.dead()), (texts([0, 2]), vec![dead("1", "E_DATA")]));
    }

    async fn a_dead_letter_keeps_the_original_bytes_those_that_failed_and_all_that_is_known() {
        let (bed, source) = (Bed::new(), FakeSource::live());
        source.push(Some("k"), "[1,  2]");
        source.end();
        let sums = bed.pipeline.source_of(source).json::<Vec<u64>>().map(|list| list.iter().sum::<u64>());
        bed.collect(sums.try_map(|_| {
            let cause = std::io::Error::other("the wire is cut");
            Err::<u64, _>(Error::new(ErrorKind::Rejected, "cannot book").caused_by(cause).hint("call them"))
        }).name("book").on_error(rule(retry(1, SOON), None)));
        bed.run().await;
        let letters = bed.dead_letters();
        let [letter] = &letters[..] else { panic!("{letters:?}") };
        assert_eq!(letter.record.value.as_deref(), Some(&b"3"[..]), "as the failing stage got it");
        assert_eq!(letter.record.original.as_deref(), Some(&b"[1,  2]"[..]), "as the source gave it");
        assert_eq!((letter.stage.as_str(), letter.code.as_str(), letter.attempts), ("book", "E_REJECTED", 2));
        assert_eq!(letter.causes, ["cannot book", "the wire is cut"]);
        assert_eq!(letter.hint.as_deref(), Some("call them"));
        assert_eq!((letter.record.id().as_str(), letter.record.key.as_deref()), ("fake/0@0", Some(&b"k"[..])));
    }

    async fn dead_letters_can_go_to_a_sink_of_yours() {
        let letters = FakeSink::plain();
        let sink = Some(Entry::ready(Arc::new(letters.clone()) as Arc<dyn millstream::core::SinkPlan>));
        let bed = Bed::new().with(|pipeline| pipeline.dead_letters_to(DeadLetterSpec { sink, stop_after: None }));
        let (stream, _) = failing(&bed, 3, |n| (n == 1).then_some(ErrorKind::Data));
        bed.collect(stream);
        let summary = bed.run().await;
        assert_eq!((summary.dead(), letters.values().len(), bed.dead().len()), (1, 1, 0));
        assert!(letters.values()[0].contains("1 is bad") || letters.values()[0] == "1", "{:?}", letters.values());
    }

    async fn so_many_dead_letters_stop_the_pipeline() {
        let three = DeadLetterSpec { sink: None, stop_after: Some(3) };
        let bed = Bed::new().with(|pipeline| pipeline.dead_letters_to(three));
        let (stream, _) = failing(&bed, 100, |_| Some(ErrorKind::Data));
        bed.collect(stream);
        let error = bed.pipeline.run().await.unwrap_err();
        assert!(error.chain().contains("dead letters"), "{}", error.chain());
    }

    async fn what_a_sink_rejects_follows_the_rule_of_the_sink() {
        let bed = Bed::new();
        for (value, times) in [("1", 2), ("2", 99)] {
            bed.sink.reject(value, times, Error::new(ErrorKind::Rejected, "not now"));
        }
        let end = bed.numbers(4).to_json().sink_of(bed.sink.clone());
        end.on_error(rule(retry(3, SOON), Then::Drop)).name("end");
        let summary = bed.run().await;
        assert_eq!((bed.sorted(), summary.stages["end"].dropped, summary.dead()), (texts([0, 1, 3]), 1, 0));
    }

    async fn a_sink_that_cannot_be_reached_is_tried_again_and_nothing_is_lost() {
        let bed = Bed::new();
        bed.sink.fail_writes((0..3).map(|_| Error::new(ErrorKind::Unavailable, "no route")));
        let end = bed.numbers(100).to_json().sink_of(bed.sink.clone());
        end.on_error(rule(retry(None, SOON), None)).name("end");
        let summary = bed.run().await;
        assert_eq!((bed.delivered(), summary.stages["end"].failures), (texts(0..100), 3));
    }

    async fn a_source_that_cannot_be_read_stops_with_its_cause_where_its_rule_says_so() {
        let (bed, source) = (Bed::new(), FakeSource::live());
        source.fail([Error::new(ErrorKind::Unavailable, "the disk is gone")]);
        bed.collect(bed.pipeline.source_of(source).on_error(rule(None, Then::Stop)).name("in").text());
        let error = bed.pipeline.run().await.unwrap_err();
        assert!(error.chain().contains("the disk is gone") && error.chain().contains("in"), "{}", error.chain());
    }
}
