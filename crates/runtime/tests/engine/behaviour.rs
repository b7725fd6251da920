//! One behaviour each.

use std::{sync::Arc, time::Duration};

use millstream_core::{Class, Delivery, Error, ErrorKind, Registry};
use millstream_runtime::{
    Ended, Entry, ErrorRule, Match, Plan, PlanOptions, Probe, Retry, Start, Step as EpochStep, Then,
};
use millstream_testkit::{FakeSink, FakeSource};

use crate::{Bench, MapFn, balanced, named, numbers, spec, until};

#[tokio::test]
async fn records_go_through_in_order_and_everything_is_committed() {
    let (source, sink, bench) = (FakeSource::of(numbers(10_000)), FakeSink::truncating(), Bench::new());
    let spec =
        spec(&source, &[|v| Ok(Some(format!("<{v}>"))), |v| Ok((!v.ends_with("7>")).then(|| v.to_owned()))], &sink);
    let summary = bench.start(&spec).wait().await.unwrap();
    let expected: Vec<_> = (0..10_000).filter(|i| i % 10 != 7).map(|i| format!("<{i}>")).collect();
    assert_eq!(sink.values(), expected);
    assert_eq!((summary.ended, sink.committed(), sink.finished()), (Ended::Finished, 9000, true));
    assert_eq!(summary.stages["custom-3"].filtered, 1000);
    assert!(source.committed().is_some());
    balanced(&summary);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_works_on_a_multi_thread_runtime_too() {
    let (source, sink, bench) = (FakeSource::of(numbers(50_000)).in_batches_of(100), FakeSink::plain(), Bench::new());
    let summary = bench.start(&spec(&source, &[|v| Ok(Some(v.to_owned()))], &sink)).wait().await.unwrap();
    assert_eq!(sink.values(), numbers(50_000));
    balanced(&summary);
}

#[tokio::test]
async fn a_failed_record_becomes_a_dead_letter_with_its_original_and_the_others_go_on() {
    let (source, sink, bench) = (FakeSource::of(numbers(100)), FakeSink::plain(), Bench::new());
    let fail: MapFn =
        |v| if v == "<5>" { Err(Error::new(ErrorKind::Data, "cannot stand five")) } else { Ok(Some(v.to_owned())) };
    let mut spec = spec(&source, &[|v| Ok(Some(format!("<{v}>"))), fail], &sink);
    let letters = FakeSink::truncating();
    spec.dead_letter =
        Some(millstream_runtime::DeadLetterSpec { sink: Some(named(&letters, "letters")), stop_after: None });
    let summary = bench.start(&spec).wait().await.unwrap();
    assert_eq!(sink.values().len(), 99);
    let letter = &letters.records()[0];
    assert_eq!(letter.value.as_deref(), Some(&b"5"[..]), "the original value");
    let header = |name: &str| {
        let found = letter.headers.iter().find(|(key, _)| key == name).and_then(|(_, value)| value.clone());
        String::from_utf8(found.unwrap().to_vec()).unwrap()
    };
    assert_eq!(header("millstream-error-code"), "E_DATA");
    assert_eq!(header("millstream-error-stage"), "custom-3");
    assert_eq!(header("millstream-error-id"), "fake/0@5:custom-3");
    assert_eq!((summary.dead(), letters.committed()), (1, 1));
    assert_eq!(summary.causes[0].message, "cannot stand five");
    balanced(&summary);
}

#[tokio::test]
async fn a_drained_run_goes_on_where_it_was() {
    let (source, sink, bench) = (FakeSource::live(), FakeSink::truncating(), Bench::new());
    let spec = spec(&source, &[], &sink);
    numbers(10).into_iter().for_each(|v| source.push(None, v));
    let mut running = bench.start(&spec);
    until("ten records", || sink.values().len() == 10).await;
    let summary = running.drain(Duration::from_secs(5)).await.unwrap();
    assert_eq!((summary.ended, sink.committed()), (Ended::Drained, 10));
    source.push(None, "more");
    let mut running = bench.start(&spec);
    assert!(matches!(running.handle().started().await, Some(Start::Resuming(_))));
    until("the eleventh record", || sink.values().len() == 11).await;
    running.drain(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_finished_run_starts_anew_or_goes_on_when_asked() {
    let (source, sink, bench) = (FakeSource::of(numbers(3)), FakeSink::plain(), Bench::new());
    let spec = spec(&source, &[], &sink);
    bench.start(&spec).wait().await.unwrap();
    let mut again = bench.start(&spec);
    assert_eq!(again.handle().started().await, Some(Start::Anew));
    again.wait().await.unwrap();
    assert_eq!(sink.values().len(), 6);
    source.push(None, "new");
    bench.start_with(&spec, |options| options.go_on = true).wait().await.unwrap();
    assert_eq!(sink.values().last().map(String::as_str), Some("new"));
    assert_eq!(sink.values().len(), 7);
}

#[tokio::test]
async fn a_sink_that_cannot_be_reached_is_tried_again_and_nothing_is_lost_or_doubled() {
    let (source, sink, bench) = (FakeSource::of(numbers(1000)).in_batches_of(10), FakeSink::truncating(), Bench::new());
    let mut spec = spec(&source, &[], &sink);
    spec.errors = vec![fast_retry(Class::Unavailable, None)];
    let down = || Error::new(ErrorKind::Unavailable, "connection refused");
    sink.fail_writes((0..20).map(|_| down()));
    let summary = bench.start(&spec).wait().await.unwrap();
    assert_eq!(sink.values(), numbers(1000));
    balanced(&summary);
}

#[tokio::test(start_paused = true)]
async fn a_failed_flush_restarts_from_the_checkpoint_and_the_sink_is_cut() {
    let (source, sink, bench) = (FakeSource::of(numbers(5000)).in_batches_of(10), FakeSink::truncating(), Bench::new());
    let mut spec = spec(&source, &[|v| Ok(Some(v.to_owned()))], &sink);
    spec.delivery = Delivery::ExactlyOnce;
    spec.checkpoint.count = Some(500);
    sink.fail_flushes((0..3).map(|_| Error::new(ErrorKind::Unavailable, "sync failed")));
    let mut running = bench.start(&spec);
    let summary = running.wait().await.unwrap();
    assert_eq!(sink.values(), numbers(5000));
    assert!(running.handle().status().restarts >= 3);
    balanced(&summary);
}

fn fast_retry(class: Class, attempts: Option<u32>) -> ErrorRule {
    let retry = Retry { attempts, delay: "1ms".parse().unwrap(), backoff: 1.0, jitter: 0.0, ..Retry::default() };
    ErrorRule {
        matches: Match { class: Some(class), ..Match::default() },
        retry: Some(retry),
        then: Some(Then::DeadLetter),
    }
}

#[tokio::test]
async fn a_parked_record_holds_up_its_key_and_nobody_else() {
    let (source, sink, bench) = (FakeSource::live(), FakeSink::plain(), Bench::new());
    let mut spec = spec(&source, &[], &sink);
    spec.checkpoint.every = "20ms".parse().unwrap();
    let retry = Retry { attempts: Some(3), delay: "300ms".parse().unwrap(), jitter: 0.0, ..Retry::default() };
    spec.errors = vec![ErrorRule { matches: Match::default(), retry: Some(retry), then: None }];
    sink.reject("a1", 1, Error::new(ErrorKind::Rejected, "not now"));
    source.push(Some("a"), "a1");
    source.push(Some("b"), "b1");
    let mut running = bench.start(&spec);
    let handle = running.handle();
    until("a1 to be parked", || handle.status().stages["sink"].parked == 1).await;
    assert!(handle.status().waiting["sink"].contains("not now"), "{:?}", handle.status().waiting);
    for (key, value) in [("a", "a2"), ("b", "b2"), ("a", "a3")] {
        source.push(Some(key), value);
    }
    until("b to pass", || sink.values().contains(&"b2".to_owned())).await;
    let epoch = handle.status().epoch;
    until("an epoch to pass what is parked", || handle.status().epoch > epoch).await;
    until("a to come", || sink.values().contains(&"a3".to_owned())).await;
    let of_a: Vec<_> = sink.values().into_iter().filter(|value| value.starts_with('a')).collect();
    assert_eq!(of_a, ["a1", "a2", "a3"]);
    until("nothing to wait", || handle.status().waiting.is_empty()).await;
    source.end();
    balanced(&running.wait().await.unwrap());
}

#[tokio::test]
async fn parked_records_survive_a_stop() {
    let (source, sink, bench) = (FakeSource::live(), FakeSink::plain(), Bench::new());
    let mut spec = spec(&source, &[], &sink);
    let retry = Retry { attempts: Some(9), delay: "3s".parse().unwrap(), jitter: 0.0, ..Retry::default() };
    spec.errors = vec![ErrorRule { matches: Match::default(), retry: Some(retry), then: None }];
    sink.reject("x", 1, Error::new(ErrorKind::Rejected, "not now"));
    source.push(None, "x");
    let mut running = bench.start(&spec);
    let handle = running.handle();
    until("x to be parked", || handle.status().stages["sink"].parked == 1).await;
    let summary = running.drain(Duration::from_millis(50)).await.unwrap();
    assert_eq!((summary.parked(), sink.values().len()), (1, 0));
    balanced(&summary);
    source.end();
    let summary = bench.start(&spec).wait().await.unwrap();
    assert_eq!(sink.values(), ["x"]);
    balanced(&summary);
}

#[tokio::test]
async fn what_nobody_remembers_is_given_again_after_a_restart_inside_the_process() {
    let (source, sink, bench) =
        (FakeSource::of(numbers(1000)).in_batches_of(10).forgetful(), FakeSink::truncating(), Bench::new());
    let spec = spec(&source, &[], &sink);
    sink.fail_flushes([Error::new(ErrorKind::Unavailable, "sync failed")]);
    let summary = bench.start(&spec).wait().await.unwrap();
    assert_eq!(sink.values(), numbers(1000));
    assert_eq!(source.opened(), 1, "it goes on with the same source");
    balanced(&summary);
}

#[tokio::test]
async fn at_most_once_commits_before_it_hands_on() {
    let (source, sink, bench) = (FakeSource::of(numbers(1000)).in_batches_of(10), FakeSink::plain(), Bench::new());
    let mut spec = spec(&source, &[], &sink);
    spec.delivery = Delivery::AtMostOnce;
    let handed = sink.clone();
    let probe = Probe::new(move |step, epoch| {
        if step == EpochStep::BeforeRecord && epoch <= 2 {
            assert_eq!(handed.values().len(), 0, "nothing is handled before its position counts");
        }
    });
    let summary = bench.start_with(&spec, |options| options.probe = probe).wait().await.unwrap();
    assert_eq!(sink.values(), numbers(1000));
    balanced(&summary);
}

#[tokio::test]
async fn two_sinks_get_every_record_and_the_books_say_so() {
    let (source, a, b, bench) = (FakeSource::of(numbers(100)), FakeSink::plain(), FakeSink::truncating(), Bench::new());
    let mut spec = spec(&source, &[], &a);
    spec.sinks.push(named(&b, "other"));
    let summary = bench.start(&spec).wait().await.unwrap();
    assert_eq!((a.values(), b.values()), (numbers(100), numbers(100)));
    assert_eq!(summary.stages["custom"].created, 100);
    balanced(&summary);
}

#[tokio::test]
async fn two_sources_meet_in_one_sink() {
    let (one, two, sink, bench) =
        (FakeSource::of(numbers(500)), FakeSource::of(numbers(500)), FakeSink::truncating(), Bench::new());
    let mut spec = spec(&one, &[], &sink);
    spec.delivery = Delivery::ExactlyOnce;
    spec.checkpoint.count = Some(50);
    spec.sources.push(Entry::ready(Arc::new(two)));
    spec.sinks[0].from = vec!["custom".into(), "custom-2".into()];
    let summary = bench.start(&spec).wait().await.unwrap();
    let (mut values, mut expected) = (sink.values(), [numbers(500), numbers(500)].concat());
    values.sort();
    expected.sort();
    assert_eq!(values, expected);
    balanced(&summary);
}

#[tokio::test]
async fn a_count_stops_and_the_next_run_goes_on_behind_it() {
    let (source, sink, bench) = (FakeSource::of(numbers(100)), FakeSink::plain(), Bench::new());
    let spec = spec(&source, &[], &sink);
    let summary = bench.start_with(&spec, |options| options.count = Some(30)).wait().await.unwrap();
    assert_eq!((summary.ended, sink.values()), (Ended::Drained, numbers(30)));
    bench.start(&spec).wait().await.unwrap();
    assert_eq!(sink.values(), numbers(100));
}

#[tokio::test(start_paused = true)]
async fn an_idle_pipeline_cuts_no_epoch() {
    let (source, sink, bench) = (FakeSource::live(), FakeSink::plain(), Bench::new());
    source.push(None, "one");
    let running = bench.start(&spec(&source, &[], &sink));
    let handle = running.handle();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let epochs = handle.status().epochs;
    assert_eq!(sink.committed(), 1);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(handle.status().epochs, epochs);
    handle.stop();
}

#[tokio::test]
async fn a_stalled_sink_stops_the_source_and_a_drain_ends_at_its_deadline() {
    let (source, sink, bench) =
        (FakeSource::of((0..100_000).map(|i| format!("{i:0100}"))), FakeSink::plain(), Bench::new());
    let mut spec = spec(&source, &[], &sink);
    spec.limits.memory = "1MiB".parse().unwrap();
    sink.stall(true);
    let mut running = bench.start(&spec);
    let handle = running.handle();
    let read = || handle.status().stages["custom"].records_in;
    until("the source to wait", || handle.status().stages["custom"].blocked_ns > 0 || read() > 0).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(read() < 50_000, "read {}", read());
    let error = running.drain(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.facts().exit, 3);
    sink.stall(false);
    bench.start(&spec).wait().await.unwrap();
    assert_eq!(sink.values().iter().collect::<std::collections::BTreeSet<_>>().len(), 100_000);
}

#[tokio::test]
async fn a_checkpoint_on_request_covers_what_was_read() {
    let (source, sink, bench) = (FakeSource::live(), FakeSink::plain(), Bench::new());
    let mut spec = spec(&source, &[], &sink);
    spec.checkpoint.every = "1h".parse().unwrap();
    let running = bench.start(&spec);
    let handle = running.handle();
    source.push(None, "one");
    until("the record", || sink.values().len() == 1).await;
    handle.checkpoint().await.unwrap();
    until("the commit", || sink.committed() == 1).await;
    handle.stop();
}

#[tokio::test]
async fn a_fenced_runner_ends_and_is_not_restarted() {
    let (source, sink, bench) = (FakeSource::live(), FakeSink::plain(), Bench::new());
    let mut first = bench.start(&spec(&source, &[], &sink));
    first.handle().started().await.unwrap();
    let second = bench.start(&spec(&source, &[], &FakeSink::plain()));
    second.handle().started().await.unwrap();
    source.push(None, "one");
    let error = tokio::time::timeout(Duration::from_secs(20), first.wait()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    second.handle().stop();
}

#[test]
fn a_plan_that_cannot_keep_the_mode_is_refused_with_reason_and_alternative() {
    let mut spec = spec(&FakeSource::live().forgetful(), &[], &FakeSink::plain());
    spec.delivery = Delivery::ExactlyOnce;
    let errors = Plan::new(&spec, &Registry::default(), PlanOptions::default()).unwrap_err();
    let text: Vec<_> = errors.iter().map(|error| error.to_string()).collect();
    assert!(text.iter().any(|text| text.contains("sink `sink`")), "{text:?}");
    assert!(text.iter().any(|text| text.contains("source `custom`")), "{text:?}");
    assert!(errors.iter().all(|error| error.hint_text().is_some()));
}

#[test]
fn names_are_looked_up_and_suggested() {
    let mut spec = spec(&FakeSource::live(), &[], &FakeSink::plain());
    spec.sinks[0].from = vec!["custum".into()];
    let errors = Plan::new(&spec, &Registry::default(), PlanOptions::default()).unwrap_err();
    assert_eq!(errors[0].hint_text(), Some("did you mean `custom`?"));
}

#[tokio::test]
async fn a_count_that_dies_before_its_last_epoch_ends_nothing_for_the_next_run() {
    for dies_at in 2..=4 {
        let (source, sink, bench) = (FakeSource::of(numbers(100)), FakeSink::truncating(), Bench::new());
        let mut spec = spec(&source, &[], &sink);
        spec.checkpoint.count = Some(10);
        let probe = Probe::new(move |step, epoch| {
            assert!(step != EpochStep::BeforeRecord || epoch != dies_at, "dies");
        });
        let first = bench.start_with(&spec, |options| (options.count, options.probe) = (Some(30), probe)).wait().await;
        assert!(first.is_err() || dies_at > 2);
        bench.start(&spec).wait().await.unwrap();
        assert_eq!(sink.values(), numbers(100), "died at {dies_at}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_behind_the_last_decision_does_not_run_the_pipeline_twice() {
    let (source, sink, bench) = (FakeSource::of(numbers(10)), FakeSink::truncating(), Bench::new());
    let away = || Error::new(ErrorKind::Unavailable, "cannot rename");
    let (failing, fails) = (sink.clone(), std::sync::atomic::AtomicBool::new(true));
    let probe = Probe::new(move |step, epoch| {
        if step == EpochStep::BeforeSinkCommit && epoch > 1 && fails.swap(false, std::sync::atomic::Ordering::SeqCst) {
            failing.fail_commits([away()]);
        }
    });
    let mut running = bench.start_with(&spec(&source, &[], &sink), |options| options.probe = probe);
    let summary = running.wait().await.unwrap();
    assert_eq!((sink.values(), sink.finished()), (numbers(10), true));
    assert_eq!((summary.ended, running.handle().status().restarts), (Ended::Finished, 1));
    balanced(&summary);
}

#[tokio::test(start_paused = true)]
async fn a_fresh_start_is_fresh_once_and_not_at_every_restart() {
    let (source, sink, bench) = (FakeSource::live(), FakeSink::plain(), Bench::new());
    let running = bench.start_with(&spec(&source, &[], &sink), |options| options.fresh = true);
    let handle = running.handle();
    source.push(None, "first");
    until("the record", || sink.values() == ["first"]).await;
    handle.checkpoint().await.unwrap();
    sink.fail_flushes([Error::new(ErrorKind::Unavailable, "away")]);
    source.push(None, "second");
    until("a restart", || handle.status().restarts == 1).await;
    until("the record again", || sink.values() == ["first", "second", "second"]).await;
    handle.stop();
}

#[tokio::test(start_paused = true)]
async fn letters_of_a_later_epoch_do_not_block_those_of_this_one() {
    let (good, bad, sink, bench) =
        (FakeSource::of(numbers(10)).in_batches_of(1), FakeSource::live(), FakeSink::plain(), Bench::new());
    let fail: MapFn = |_| Err(Error::new(ErrorKind::Data, "always"));
    let mut spec = spec(&bad, &[fail], &FakeSink::plain());
    spec.sources[0].name = Some("bad".into());
    let mut second = Entry::ready(Arc::new(good) as Arc<dyn millstream_core::SourcePlan>);
    second.name = Some("good".into());
    spec.sources.push(second);
    spec.steps[0].from = vec!["bad".into()];
    let mut rejecting = named(&sink, "rejecting");
    rejecting.from = vec!["good".into()];
    spec.sinks.push(rejecting);
    spec.checkpoint.count = Some(20);
    numbers(10).iter().for_each(|value| sink.reject(value, 1, Error::new(ErrorKind::Rejected, "no")));
    sink.stall(true);
    let mut running = bench.start(&spec);
    running.handle().started().await.unwrap();
    // Far more letters of the epochs that follow than fit into the queue.
    numbers(1000).into_iter().for_each(|value| bad.push(None, value));
    tokio::time::sleep(Duration::from_secs(5)).await;
    sink.stall(false);
    bad.end();
    let summary = tokio::time::timeout(Duration::from_secs(60), running.wait()).await.unwrap().unwrap();
    assert_eq!(summary.dead(), 1010);
    balanced(&summary);
}

#[tokio::test]
async fn a_fresh_start_forgets_what_does_not_fit_and_anything_else_is_a_mismatch() {
    let (source, sink, bench) = (FakeSource::of(numbers(10)), FakeSink::two_phase(), Bench::new());
    let spec = spec(&source, &[], &sink);
    bench.start_with(&spec, |options| options.count = Some(5)).wait().await.unwrap();
    // The same pipeline on a system that has lost everything.
    let lost = FakeSink::two_phase();
    let mut other = spec.clone();
    other.sinks = vec![named(&lost, "sink")];
    let error = bench.start(&other).wait().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StateMismatch);
    bench.start_with(&other, |options| options.fresh = true).wait().await.unwrap();
    assert_eq!(lost.values(), numbers(10));
}
