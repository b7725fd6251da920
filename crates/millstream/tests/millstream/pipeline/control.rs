//! Watching and steering a pipeline while it runs.

use std::time::{Duration, Instant};

use millstream::{
    BatchOf, BatchWorker, Batching, Error, ErrorKind, RateLimit, Result, Span, Stream, Then, Trigger, Worker,
    core::Role,
    runtime::{Dispatch, Happening, Phase},
};
use millstream_testkit::FakeSource;
use serde_json::json;

use super::bed::{Bed, Crowd, Gate, Seen, balanced, rule, texts, until};

fn limit(records: u64, per: Duration) -> RateLimit {
    RateLimit { records, per: Span(per), by_key: false }
}

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

fn push(source: &FakeSource, numbers: std::ops::Range<u64>) {
    numbers.for_each(|n| source.push(None, n.to_string()));
}

/// Records wait inside until the gate opens.
fn crowded(stream: Stream<String>, crowd: &Crowd, gate: &Gate) -> Stream<String, millstream::at::Async> {
    let (crowd, gate) = (crowd.clone(), gate.clone());
    stream.map_async(move |text| {
        let (crowd, gate) = (crowd.clone(), gate.clone());
        async move {
            let _inside = crowd.enter();
            gate.passed().await;
            Ok::<_, Error>(text)
        }
    })
}

/// Answers with what it is given.
struct Same;

impl Worker<String> for Same {
    type Output = String;
    type Error = Error;

    async fn handle(&mut self, text: String) -> Result<String> {
        Ok(text)
    }
}

impl BatchWorker<String> for Same {
    type Answer = Vec<Result<String>>;
    type Error = Error;

    async fn handle(&mut self, batch: BatchOf<String>) -> Vec<Result<String>> {
        batch.into_iter().map(Ok).collect()
    }
}

behaviours! {
    async fn a_paused_pipeline_reads_nothing_and_commits_what_it_has_read() {
        let (mut bed, source) = (Bed::new(), FakeSource::live());
        bed.sink = millstream_testkit::FakeSink::truncating();
        bed.collect(bed.texts(&source));
        let mut running = bed.start();
        let handle = running.handle();
        push(&source, 0..5);
        until("the records", || bed.delivered().len() == 5).await;
        handle.pause();
        until("the pause", || matches!(handle.status().phase, Phase::Paused)).await;
        push(&source, 5..10);
        // This epoch passes all tasks: who would still read has read by then.
        handle.checkpoint().await.unwrap();
        until("the sink to hear of it", || bed.sink.committed() == 5).await;
        assert_eq!(bed.delivered().len(), 5);
        handle.resume();
        until("the others", || bed.delivered().len() == 10).await;
        bed.drain(&mut running).await;
    }

    async fn a_checkpoint_on_request_covers_all_that_was_read() {
        let (mut bed, source) = (Bed::new(), FakeSource::live());
        bed.sink = millstream_testkit::FakeSink::truncating();
        bed.collect(bed.texts(&source));
        let mut running = bed.start();
        push(&source, 0..5);
        until("the records", || bed.delivered().len() == 5).await;
        let first = running.handle().checkpoint().await.unwrap();
        let second = running.handle().checkpoint().await.unwrap();
        assert!(second > first && running.handle().status().epoch >= second);
        assert!(source.committed().is_some());
        until("the sink to hear of it", || bed.sink.committed() == 5).await;
        bed.drain(&mut running).await;
    }

    async fn a_rate_limit_spreads_the_records_of_a_source() {
        let bed = Bed::new();
        bed.collect(bed.numbers(200).rate_limit(limit(1000, SECOND)));
        let began = Instant::now();
        bed.run().await;
        // Less the time that may be made up for.
        assert!(began.elapsed() >= Duration::from_millis(180), "{:?}", began.elapsed());
        assert_eq!(bed.delivered(), texts(0..200));
    }

    async fn a_rate_limit_of_a_step_is_smooth() {
        let (bed, at) = (Bed::new(), Seen::new());
        let log = at.clone();
        let look = bed.numbers(60).map(|n| n + 1).inspect(move |_| log.add(Instant::now()));
        bed.collect(look.rate_limit(limit(300, SECOND)));
        bed.run().await;
        let at = at.all();
        // In no window there are more than its share and what may be made up for: no burst at the turn of an interval.
        for (first, last) in at.iter().zip(&at[30..]) {
            assert!(*last - *first >= Duration::from_millis(80), "30 records in {:?}", *last - *first);
        }
        assert_eq!(at.len(), 60);
    }

    async fn a_rate_limit_that_changes_counts_at_once_for_those_that_wait() {
        let bed = Bed::new();
        bed.collect(bed.numbers(100).map(|n| *n).name("slow").rate_limit(limit(1, HOUR)));
        let mut running = bed.start();
        let handle = running.handle();
        until("the first", || bed.delivered().len() == 1).await;
        handle.set_rate_limit("slow", &limit(1_000_000, SECOND)).unwrap();
        balanced(&running.wait().await.unwrap());
        assert_eq!(bed.delivered(), texts(0..100));
    }

    async fn a_rate_limit_by_key_lets_other_keys_pass() {
        let bed = Bed::new();
        let keyed = bed.numbers(100).key_by(|n| if n % 2 == 0 { 0 } else { *n });
        bed.collect(keyed.map(|n| *n).rate_limit(RateLimit { by_key: true, ..limit(1, HOUR) }));
        let mut running = bed.start();
        until("one of each key", || bed.delivered().len() == 51).await;
        assert_eq!(bed.numbers_delivered().into_iter().filter(|n| n % 2 == 0).collect::<Vec<_>>(), [0]);
        running.handle().stop();
        running.wait().await.unwrap();
    }

    async fn a_rate_limit_is_refused_where_none_was_planned_or_nothing_could_pass() {
        let (bed, source) = (Bed::new(), FakeSource::live());
        let free = bed.texts(&source).map(String::clone).name("free");
        bed.collect(free.map(String::clone).name("slow").rate_limit(limit(1, HOUR)));
        let running = bed.start();
        let handle = running.handle();
        for (stage, limit) in [("free", limit(1, SECOND)), ("nobody", limit(1, SECOND)), ("slow", limit(0, SECOND))] {
            assert_eq!(handle.set_rate_limit(stage, &limit).unwrap_err().kind(), ErrorKind::Option, "{stage}");
        }
        handle.stop();
    }

    async fn how_many_are_under_way_changes_while_it_runs() {
        let (bed, source, gate, crowd) = (Bed::new(), FakeSource::live(), Gate::default(), Crowd::default());
        push(&source, 0..100);
        bed.collect(crowded(bed.texts(&source), &crowd, &gate).in_flight(2).name("work"));
        let mut running = bed.start();
        let handle = running.handle();
        until("two", || crowd.now() == 2).await;
        handle.set_option("work", "in_flight", &json!(7)).unwrap();
        // Though none of them is done.
        until("seven", || crowd.now() == 7).await;
        gate.open();
        until("the others", || bed.delivered().len() == 100).await;
        assert_eq!(crowd.most(), 7);
        for wrong in [json!(0), json!("many")] {
            assert_eq!(handle.set_option("work", "in_flight", &wrong).unwrap_err().kind(), ErrorKind::Option);
        }
        bed.drain(&mut running).await;
    }

    async fn how_many_batches_are_under_way_changes_while_it_runs() {
        let (bed, source, gate, crowd) = (Bed::new(), FakeSource::live(), Gate::default(), Crowd::default());
        push(&source, 0..20);
        let (inside, shut) = (crowd.clone(), gate.clone());
        bed.collect(bed.texts(&source).batch(Batching::count(2)).handle(move |batch: BatchOf<String>| {
            let (inside, shut) = (inside.clone(), shut.clone());
            async move {
                let _inside = inside.enter();
                shut.passed().await;
                batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>()
            }
        }).name("work"));
        let mut running = bed.start();
        let handle = running.handle();
        until("one", || crowd.now() == 1).await;
        handle.set_option("work", "in_flight", &json!(3)).unwrap();
        until("three", || crowd.now() == 3).await;
        gate.open();
        until("the others", || bed.delivered().len() == 20).await;
        assert_eq!(crowd.most(), 3);
        bed.drain(&mut running).await;
    }

    async fn what_has_one_thing_under_way_refuses_to_have_more() {
        let (bed, source) = (Bed::new(), FakeSource::live());
        let first = bed.texts(&source).step(|| Same).name("step");
        let second = first.batch(Batching::count(1)).step(|| Same).name("batches");
        let keyed = second.partition_by(String::clone).prepare(|_| async { Ok::<_, Error>(()) });
        let prepared = keyed.map(|text, ()| Ok::<_, Error>(text.clone())).name("prepare");
        bed.collect(prepared.batch(Batching::count(1)).handle(|_| async {}).name("any"));
        let mut running = bed.start();
        let handle = running.handle();
        for step in ["step", "batches", "prepare", "any"] {
            let refused = handle.set_option(step, "in_flight", &json!(2)).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unsupported, "{step}");
            handle.set_option(step, "timeout", &json!("1s")).unwrap();
        }
        bed.drain(&mut running).await;
    }

    async fn an_open_batch_that_has_enough_now_does_not_wait_for_the_next_record() {
        for (option, value, parts) in [("batch.count", json!(4), vec![4, 4, 2]), ("batch.bytes", json!("6B"), vec![3, 3, 3, 1])] {
            let (bed, source, seen) = (Bed::new(), FakeSource::live(), Seen::new());
            let log = seen.clone();
            bed.collect(bed.texts(&source).batch(Batching::count(100)).handle(move |batch: BatchOf<String>| {
                log.add(batch.len());
                async move { batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>() }
            }).name("batch"));
            let mut running = bed.start();
            let handle = running.handle();
            // As MessagePack each text has two bytes.
            push(&source, 0..10);
            until("an open batch", || handle.status().stages.get("batch").is_some_and(|at| at.absorbed == 10)).await;
            handle.set_option("batch", option, &value).unwrap();
            until("all of it", || bed.delivered().len() == 10).await;
            assert_eq!((seen.all(), bed.delivered()), (parts, texts((0..10).map(|n| format!("\"{n}\"")))));
            bed.drain(&mut running).await;
        }
    }

    async fn the_time_out_of_a_step_changes_while_it_runs() {
        let (bed, source, gate, crowd) = (Bed::new(), FakeSource::live(), Gate::default(), Crowd::default());
        bed.collect(crowded(bed.texts(&source), &crowd, &gate).name("work"));
        let mut running = bed.start();
        let handle = running.handle();
        handle.set_option("work", "timeout", &json!("20ms")).unwrap();
        push(&source, 0..1);
        until("the failure", || handle.status().stages["work"].dead == 1).await;
        bed.drain(&mut running).await;
        assert_eq!(bed.letters()[0].1, "E_TIMEOUT");
    }

    async fn time_and_bytes_of_batches_change_while_it_runs() {
        let (bed, source, seen) = (Bed::new(), FakeSource::live(), Seen::new());
        let log = seen.clone();
        bed.collect(bed.texts(&source).batch(Batching::count(100).linger(HOUR)).handle(move |batch: BatchOf<String>| {
            log.add((batch.len(), batch.trigger()));
            async move { batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>() }
        }).name("batch"));
        let mut running = bed.start();
        let handle = running.handle();
        handle.started().await;
        handle.set_option("batch", "batch.linger", &json!("10ms")).unwrap();
        push(&source, 0..3);
        until("a batch by time", || bed.delivered().len() == 3).await;
        handle.set_option("batch", "linger", &json!("1h")).unwrap();
        handle.set_option("batch", "batch.bytes", &json!("4B")).unwrap();
        push(&source, 3..7);
        until("batches by bytes", || bed.delivered().len() == 7).await;
        // As MessagePack each text has two bytes.
        assert_eq!(seen.all(), [(3, Trigger::Linger), (2, Trigger::Bytes), (2, Trigger::Bytes)]);
        bed.drain(&mut running).await;
    }

    async fn a_change_of_what_is_not_there_is_refused_and_the_pipeline_goes_on() {
        let (bed, source) = (Bed::new(), FakeSource::live());
        bed.collect(bed.texts(&source).map_async(|text| async move { Ok::<_, Error>(text) }).name("work"));
        let mut running = bed.start();
        let handle = running.handle();
        assert_eq!(handle.set_concurrency("nobody", 2).await.unwrap_err().kind(), ErrorKind::Option);
        assert_eq!(handle.set_concurrency("work", 0).await.unwrap_err().kind(), ErrorKind::Option);
        assert_eq!(handle.set_option("work", "colour", &json!(1)).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(handle.set_option("nobody", "timeout", &json!("1s")).unwrap_err().kind(), ErrorKind::Option);
        push(&source, 0..1);
        until("the record", || bed.delivered().len() == 1).await;
        bed.drain(&mut running).await;
        assert_eq!(handle.set_concurrency("work", 2).await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(handle.checkpoint().await.unwrap_err().kind(), ErrorKind::Closed);
        assert_eq!(handle.status().stages["work"].records_in, 1, "figures can be read behind the end");
    }

    async fn all_that_happens_is_told() {
        let (bed, source) = (Bed::new(), FakeSource::live());
        bed.collect(bed.texts(&source).map(String::clone).name("work"));
        let mut running = bed.start();
        let handle = running.handle();
        handle.started().await;
        // When this is answered, everything about the beginning has been told.
        handle.checkpoint().await.unwrap();
        let mut events = handle.events();
        handle.set_concurrency("work", 2).await.unwrap();
        handle.pause();
        handle.pause();
        handle.resume();
        push(&source, 0..1);
        until("the record", || bed.delivered().len() == 1).await;
        let epoch = handle.checkpoint().await.unwrap();
        bed.drain(&mut running).await;
        let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
        assert!(told.iter().any(|event| matches!(event, Happening::Committed(of, _) if *of == epoch)), "{told:?}");
        let rest: Vec<_> = told.into_iter().filter(|event| !matches!(event, Happening::Committed(..))).collect();
        let expected = [
            Happening::Concurrency("work".to_owned(), 2),
            Happening::Paused,
            Happening::Resumed,
            Happening::Draining,
            Happening::Over(None),
        ];
        assert!(matches!(rest[0], Happening::Running(_)) && rest[1..] == expected, "{rest:?}");
    }

    async fn a_restart_and_a_failure_are_told_with_the_stage_and_the_cause() {
        let bed = Bed::new();
        let work = bed.numbers(3).try_map(|_| Err::<u64, _>("no way on")).name("work");
        bed.collect(work.on_error(rule(None, Then::Restart)));
        let mut running = bed.start_with(|options| options.restarts_per_minute_max = 1);
        let mut events = running.handle().events();
        running.wait().await.unwrap_err();
        let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
        let restarted = |event: &Happening| {
            matches!(event, Happening::Restarting(stage, cause) if stage == "work" && cause.contains("no way on"))
        };
        assert!(told.iter().any(restarted), "{told:?}");
        assert!(matches!(told.last(), Some(Happening::Over(Some(cause))) if cause.contains("no way on")), "{told:?}");
    }

    async fn the_graph_is_a_value() {
        let bed = Bed::new();
        let (even, odd) = bed.numbers(10).name("in").branch(|n| n % 2 == 0);
        let even = even.partition_by(|n| *n).map(|n| *n).concurrency(2).name("even");
        even.merge(odd).to_json().name("json").sink_of(bed.sink.clone()).name("out");
        let graph = bed.pipeline.plan().unwrap().graph();
        let told: Vec<_> = graph.stages.iter().map(|stage| {
            (stage.name.as_str(), stage.role, stage.workers, stage.reads.iter().map(String::as_str).collect::<Vec<_>>())
        }).collect();
        assert_eq!(told, [
            ("in", Role::Source, 1, vec![]),
            ("branch", Role::Step, 1, vec!["in"]),
            ("key_by", Role::Step, 1, vec!["branch"]),
            ("even", Role::Step, 2, vec!["key_by"]),
            ("json", Role::Step, 2, vec!["even", "branch"]),
            ("out", Role::Sink, 1, vec!["json"]),
        ]);
        assert_eq!(graph.stages[3].dispatch, Dispatch::Key);
        let mut running = bed.start();
        assert_eq!(running.handle().graph(), graph);
        running.wait().await.unwrap();
    }

    async fn figures_are_values_of_each_stage() {
        let (bed, source, gate, crowd) = (Bed::new(), FakeSource::live(), Gate::default(), Crowd::default());
        push(&source, 0..30);
        let check = bed.texts(&source).try_map(|text| if text == "7" { Err("seven") } else { Ok(text.clone()) });
        let long = check.name("check").filter(|text| text.len() == 2).name("long");
        bed.collect(crowded(long, &crowd, &gate).name("work"));
        let mut running = bed.start();
        let handle = running.handle();
        until("all under way", || crowd.now() == 20).await;
        let stages = handle.status().stages;
        assert_eq!((stages["check"].records_in, stages["check"].dead, stages["check"].failures), (30, 1, 1));
        assert_eq!((stages["long"].records_in, stages["long"].filtered, stages["long"].records_out), (29, 9, 20));
        assert_eq!((stages["work"].records_in, stages["work"].in_flight()), (20, 20));
        assert!(handle.status().epoch_age.is_some(), "what is in flight is not committed");
        gate.open();
        until("the records", || bed.delivered().len() == 20).await;
        handle.checkpoint().await.unwrap();
        let status = handle.status();
        assert!(status.epochs > 0 && status.epoch_latency > Duration::ZERO && status.restarts == 0);
        assert!(status.stages["check"].busy_ns > 0 && status.stages["work"].in_flight() == 0);
        bed.drain(&mut running).await;
        assert!(matches!(handle.status().phase, Phase::Over));
    }

    async fn a_tap_shows_what_passes_a_point() {
        let (bed, source) = (Bed::new(), FakeSource::live());
        bed.collect(bed.texts(&source).map(|text| format!("<{text}>")).name("bracket"));
        let mut running = bed.start();
        let handle = running.handle();
        handle.started().await;
        let mut taps = ["bracket.in", "bracket.out"].map(|point| handle.tap(point).unwrap());
        push(&source, 0..1);
        for (tap, expected) in taps.iter_mut().zip(["\"0\"", "\"<0>\""]) {
            let batch = tap.next().await.unwrap().into_bytes();
            assert_eq!(batch.get(0).value().map(String::from_utf8_lossy).as_deref(), Some(expected));
        }
        assert!(handle.tap("nobody").is_err());
        bed.drain(&mut running).await;
        for tap in &mut taps {
            assert!(tap.next().await.is_none(), "a tap ends with the pipeline");
        }
    }
}
