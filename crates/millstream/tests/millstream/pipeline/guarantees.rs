//! What holds whatever fails, and whenever: order by key, barriers, what can be saved, limits that change.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use millstream::core::{GROUPS, group};
use millstream::{BatchOf, Batching, Ended, Error, ErrorKind, ErrorRule, RateLimit, Result, Retry, Span, Worker};
use millstream_testkit::{FakeSink, FakeSource};
use serde::{Deserialize, Serialize, Serializer};
use tokio::sync::Semaphore;

use super::bed::{Bed, texts, until};

fn retry() -> ErrorRule {
    ErrorRule::any().retry(Retry::forever().delay(Duration::from_millis(1)))
}

fn not_now() -> Error {
    Error::new(ErrorKind::Unavailable, "not now")
}

/// Says of each thing that it fails now: some never, some up to four times, always the same ones.
#[derive(Clone, Default)]
struct Trouble(Arc<Mutex<HashMap<u64, u64>>>);

impl Trouble {
    fn with(&self, n: u64) -> bool {
        let mut tries = self.0.lock().unwrap();
        let tries = tries.entry(n).or_default();
        *tries += 1;
        *tries <= (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) % 6 && *tries < 5
    }
}

type Seen = Arc<Mutex<Vec<u64>>>;

/// Each key has its numbers in the order in which they came.
#[track_caller]
fn in_order(seen: &[u64], keys: u64, end: u64) {
    for key in 0..keys {
        let of_key: Vec<u64> = seen.iter().copied().filter(|n| n % keys == key).collect();
        assert_eq!(of_key, (key..end).step_by(keys as usize).collect::<Vec<u64>>(), "key {key}");
    }
}

fn delivered(bed: &Bed) -> Vec<u64> {
    bed.delivered().iter().map(|n| n.parse().unwrap()).collect()
}

/// A value that cannot be written down where it is 3.
#[derive(Clone, Debug, Deserialize)]
struct Secret(u64);

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        match self.0 {
            3 => Err(serde::ser::Error::custom("it must not be written down")),
            n => to.serialize_u64(n),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Unit,
    Newtype(u128),
    Tuple(i8, String),
    Struct { wide: i128, text: Option<String> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Tagged {
    Empty,
    Full { values: Vec<(u8, char)> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Anything {
    shapes: Vec<Shape>,
    by_number: BTreeMap<u32, f64>,
    by_pair: BTreeMap<(i32, i32), ()>,
    tagged: Tagged,
    wait: Duration,
    folder: std::path::PathBuf,
    none: Option<Vec<Option<u8>>>,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    left_out: Option<String>,
}

fn anything(n: u64) -> Anything {
    Anything {
        shapes: vec![
            Shape::Unit,
            Shape::Newtype(u128::MAX),
            Shape::Tuple(-1, "t".into()),
            Shape::Struct { wide: i128::MIN, text: None },
        ],
        by_number: [(7, f64::INFINITY), (8, -0.0), (9, f64::MIN_POSITIVE)].into(),
        by_pair: [((1, -2), ())].into(),
        tagged: if n == 0 { Tagged::Empty } else { Tagged::Full { values: vec![(1, 'ß')] } },
        wait: Duration::new(1, 2),
        folder: "/a/b".into(),
        none: Some(vec![None, Some(3)]),
        rest: [("deep".to_owned(), serde_json::json!({ "a": [1, null, 2.5, "x"] }))].into(),
        left_out: None,
    }
}

struct Made;

impl Worker<u64> for Made {
    type Output = u64;
    type Error = millstream::Error;

    async fn handle(&mut self, n: u64) -> Result<u64> {
        Ok(n)
    }
}

behaviours! {
    async fn batches_that_fail_as_a_whole_keep_the_order_of_each_key() {
        let bed = Bed::new();
        let (trouble, seen) = (Trouble::default(), Seen::default());
        let log = seen.clone();
        let batches = bed.numbers(400).partition_by(|n| n % 5).batch(Batching::count(4).by_key());
        let handled = batches.handle(move |batch: BatchOf<u64>| {
            let outcome = if trouble.with(batch[0]) { Err(not_now()) } else { Ok(()) };
            if outcome.is_ok() {
                log.lock().unwrap().extend(batch.iter());
            }
            let values = batch.into_values();
            async move { outcome.map(|()| values.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>()) }
        });
        bed.collect(handled.in_flight(3).on_error(retry()));
        bed.run().await;
        in_order(&seen.lock().unwrap(), 5, 400);
        in_order(&delivered(&bed), 5, 400);
    }

    async fn records_that_wait_for_their_futures_keep_the_order_of_each_key_whatever_fails() {
        let bed = Bed::new();
        let (trouble, seen) = (Trouble::default(), Seen::default());
        let (first, log) = (trouble.clone(), seen.clone());
        let behind = Trouble::default();
        let waited = bed.numbers(600).partition_by(|n| n % 7).map_async(move |n| {
            let (fails, log) = (first.with(n), log.clone());
            async move {
                for _ in 0..n % 5 {
                    tokio::task::yield_now().await;
                }
                if fails {
                    return Err(not_now());
                }
                log.lock().unwrap().push(n);
                Ok(n)
            }
        }).in_flight(20).concurrency(2).on_error(retry());
        bed.collect(waited.try_map(move |n| if behind.with(*n) { Err(not_now()) } else { Ok(*n) }).on_error(retry()));
        bed.run().await;
        in_order(&seen.lock().unwrap(), 7, 600);
        in_order(&delivered(&bed), 7, 600);
    }

    async fn an_epoch_waits_for_what_was_behind_a_record_that_failed_for_good() {
        let bed = Bed::new();
        let source = FakeSource::live();
        ["first", "second", "third"].into_iter().for_each(|text| source.push(None, text));
        let (gates, begun) = (Arc::new([Semaphore::new(0), Semaphore::new(0)]), Arc::new(AtomicUsize::new(0)));
        let (wait, count) = (gates.clone(), begun.clone());
        let waited = bed.texts(&source).partition_by(|_| "key").map_async(move |text| {
            let (wait, count) = (wait.clone(), count.clone());
            async move {
                count.fetch_add(1, Ordering::SeqCst);
                let first = text == "first";
                wait[usize::from(!first)].acquire().await.unwrap().forget();
                if first { Err("never") } else { Ok(text) }
            }
        });
        bed.collect(waited);
        let mut running = bed.start();
        let handle = running.handle();
        until("the first one", || begun.load(Ordering::SeqCst) == 1).await;
        let mut epoch = Box::pin(handle.checkpoint());
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut epoch).await.is_err());
        gates[0].add_permits(1);
        until("the second one", || begun.load(Ordering::SeqCst) == 2).await;
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut epoch).await.is_err(), "it is nowhere else");
        gates[1].add_permits(2);
        epoch.await.unwrap();
        assert_eq!(bed.delivered().len(), 2);
        bed.drain(&mut running).await;
    }

    async fn a_value_that_cannot_be_saved_costs_only_its_record() {
        let bed = Bed::new();
        let source = FakeSource::live();
        (0..6).for_each(|n| source.push(None, n.to_string()));
        let secrets = bed.texts(&source).map(|text| Secret(text.parse().unwrap()));
        let handled = secrets.batch(Batching::open()).handle(|batch: BatchOf<Secret>| async move {
            batch.into_iter().map(|secret| Ok::<_, Error>(secret.0)).collect::<Vec<_>>()
        });
        bed.collect(handled.name("batch"));
        let mut running = bed.start();
        let handle = running.handle();
        until("the records", || handle.status().stages["batch"].absorbed == 6).await;
        handle.checkpoint().await.unwrap();
        let summary = bed.drain(&mut running).await;
        assert_eq!(bed.delivered(), texts([0, 1, 2, 4, 5]));
        assert_eq!(summary.stages["batch"].dead, 1);
    }

    async fn a_value_that_cannot_be_kept_for_another_try_is_not_tried_again() {
        let bed = Bed::new();
        let secrets = bed.numbers(6).map(|n| Secret(*n));
        let trouble = Arc::new(Mutex::new(HashMap::<u64, u64>::new()));
        let tried = secrets.try_map(move |secret| {
            let mut tries = trouble.lock().unwrap();
            let tries = tries.entry(secret.0).or_default();
            *tries += 1;
            if *tries == 1 { Err(not_now()) } else { Ok(secret.0) }
        });
        bed.collect(tried.name("tried").on_error(retry()));
        let summary = bed.run().await;
        assert_eq!(bed.sorted(), texts([0, 1, 2, 4, 5]));
        assert_eq!(summary.stages["tried"].dead, 1);
    }

    async fn values_of_any_shape_are_the_same_at_another_try() {
        let bed = Bed::new();
        let tries = Arc::new(AtomicUsize::new(0));
        let shapes = bed.numbers(2).map(|n| anything(*n));
        let waited = shapes.map_async(move |shape| {
            let again = tries.fetch_add(1, Ordering::SeqCst) >= 2;
            async move { if again { Ok(shape) } else { Err(not_now()) } }
        });
        let same = waited.on_error(retry()).map(|shape| [0, 1].iter().any(|n| *shape == anything(*n)));
        bed.collect(same);
        bed.run().await;
        assert_eq!(bed.delivered(), texts([true, true]));
    }

    async fn an_open_batch_hears_of_its_linger_when_nothing_else_comes() {
        let bed = Bed::new();
        let source = FakeSource::live();
        source.push(None, "only");
        let handled = bed.texts(&source).batch(Batching::count(100)).handle(|batch: BatchOf<String>| async move {
            batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>()
        });
        bed.collect(handled.name("batch"));
        let mut running = bed.start();
        let handle = running.handle();
        until("the record", || handle.status().stages["batch"].absorbed == 1).await;
        handle.checkpoint().await.unwrap();
        handle.set_option("batch", "linger", &serde_json::json!("1ms")).unwrap();
        until("the batch", || bed.delivered().len() == 1).await;
        bed.drain(&mut running).await;
    }

    async fn a_faster_rate_is_one_for_keys_that_nothing_waits_of_too() {
        let bed = Bed::new();
        let source = FakeSource::live();
        let slow = RateLimit { records: 1, per: Span(Duration::from_secs(3600)), by_key: true };
        let keyed = bed.texts(&source).partition_by(|text| text[..1].to_owned());
        let same = keyed.map(|text| text.clone()).name("same").rate_limit(slow);
        bed.collect(same);
        let mut running = bed.start();
        let handle = running.handle();
        ["a1", "b1", "b2"].into_iter().for_each(|text| source.push(None, text));
        until("the first ones", || bed.delivered().len() == 2).await;
        let fast = RateLimit { records: 1000, per: Span(Duration::from_secs(1)), by_key: true };
        handle.set_rate_limit("same", &fast).unwrap();
        until("what waited", || bed.delivered().len() == 3).await;
        source.push(None, "a2");
        until("what came later", || bed.delivered().len() == 4).await;
        bed.drain(&mut running).await;
    }

    async fn the_longest_times_that_there_are_are_no_panic() {
        let bed = Bed::new();
        let source = FakeSource::live();
        (0..3).for_each(|n| source.push(None, n.to_string()));
        let longest = ErrorRule::any().retry(Retry::forever().delay(Duration::MAX).delay_max(Duration::MAX));
        let waited = bed.texts(&source).map_async(|text| async move {
            if text == "1" { Err(not_now()) } else { Ok(text) }
        });
        let limited = waited.name("waited").timeout(Duration::MAX).on_error(longest);
        let handled = limited.batch(Batching::count(2).linger(Duration::MAX)).handle(|batch: BatchOf<String>| async move {
            batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>()
        });
        bed.collect(handled);
        let mut running = bed.start();
        let handle = running.handle();
        until("the others", || bed.delivered().len() == 2).await;
        assert_eq!(handle.status().stages["waited"].parked, 1);
        handle.drain(Duration::MAX);
        until("the drain", || matches!(handle.status().phase, millstream::runtime::Phase::Draining)).await;
        handle.stop();
        running.wait().await.unwrap();
    }

    async fn an_object_that_cannot_be_made_stops_the_pipeline_with_the_cause() {
        let bed = Bed::new();
        let made = bed.numbers(3).step(|| -> Made { panic!("no connection string") });
        bed.collect(made.name("made"));
        let error = bed.pipeline.run().await.unwrap_err();
        assert!(error.chain().contains("no connection string"), "{}", error.chain());
    }

    async fn a_batch_that_fails_at_the_end_is_handled_again_before_the_end_goes_on() {
        for failures in [1, 3] {
            let (bed, tries) = (Bed::new(), Arc::new(AtomicUsize::new(0)));
            let handled = bed.numbers(10).batch(Batching::count(100)).handle(move |batch: BatchOf<u64>| {
                let fails = tries.fetch_add(1, Ordering::SeqCst) < failures;
                let values = batch.into_values();
                async move { if fails { Err(not_now()) } else { Ok(values.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>()) } }
            });
            let sums = handled.on_error(retry()).key_by(|_| 0).fold("sum", |sum: &mut u64, n| *sum += n, |_, sum| *sum);
            bed.collect(sums);
            bed.run().await;
            assert_eq!(bed.delivered(), ["45"], "{failures} failures");
        }
    }

    async fn a_fold_hears_of_the_end_behind_what_failed_on_its_way_from_the_last_batch() {
        let (bed, trouble) = (Bed::new(), Trouble::default());
        let handled = bed.numbers(40).partition_by(|n| n % 4).batch(Batching::count(100)).handle(|batch: BatchOf<u64>| async move {
            batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>()
        });
        let tried = handled.try_map(move |n| if trouble.with(*n) { Err(not_now()) } else { Ok(*n) }).on_error(retry());
        bed.collect(tried.fold("sum", |sum: &mut u64, n| *sum += n, |_, sum| *sum));
        bed.run().await;
        assert_eq!(bed.sorted(), texts([180, 190, 200, 210]));
    }

    async fn records_without_a_key_stay_while_their_worker_changes_and_others_have_ended() {
        let (bed, source) = (Bed::new(), FakeSource::live().bounded());
        // One key for each of two workers.
        let key_of = |first: bool| (b'a'..=b'z').find(|key| (group(&[*key]) < GROUPS / 2) == first).unwrap() as char;
        let (late, early) = (key_of(true), key_of(false));
        (0..100).for_each(|n| source.push(None, n.to_string()));
        source.push(None, late.to_string());
        source.push(None, early.to_string());
        source.end();
        let ready = Arc::new(AtomicBool::new(false));
        let now = ready.clone();
        let keyed = bed.texts(&source).partition_by(|text| text.parse::<u64>().is_err().then(|| text.clone()));
        let batching = Batching::count(1_000).by_key().flush_on(move |text| *text == late.to_string());
        let handled = keyed.batch(batching).handle(move |batch: BatchOf<String>| {
            let fails = batch[0] == late.to_string() && !now.load(Ordering::SeqCst);
            async move {
                if fails { Err(not_now()) } else { Ok(batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>()) }
            }
        });
        bed.collect(handled.name("batch").concurrency(2).on_error(retry()));
        let mut running = bed.start();
        until("the end of a worker", || bed.delivered().contains(&format!("\"{early}\""))).await;
        running.handle().set_concurrency("batch", 3).await.unwrap();
        running.handle().set_concurrency("batch", 1).await.unwrap();
        ready.store(true, Ordering::SeqCst);
        assert_eq!(running.wait().await.unwrap().ended, Ended::Finished);
        let mut expected: Vec<String> = (0..100).map(|n| n.to_string()).chain([late.to_string(), early.to_string()]).map(|text| format!("\"{text}\"")).collect();
        expected.sort();
        assert_eq!(bed.sorted(), expected);
    }

    async fn without_a_key_each_worker_has_open_batches_which_survive_a_change_of_their_number() {
        let (bed, source, sizes) = (Bed::new(), FakeSource::live().in_batches_of(1), Seen::default());
        let log = sizes.clone();
        bed.collect(bed.texts(&source).batch(Batching::count(25)).handle(move |batch: BatchOf<String>| {
            log.lock().unwrap().push(batch.len() as u64);
            async move { batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>() }
        }).concurrency(4).name("batch"));
        let mut running = bed.start();
        let handle = running.handle();
        (0..40).for_each(|n| source.push(Some(&format!("k{n}")), n.to_string()));
        // None of the four has 25 of them.
        until("open batches", || handle.status().stages["batch"].absorbed == 40).await;
        handle.set_concurrency("batch", 3).await.unwrap();
        handle.set_concurrency("batch", 1).await.unwrap();
        until("a whole batch", || bed.delivered().len() == 25).await;
        bed.drain(&mut running).await;
        let mut delivered = bed.numbers_delivered();
        delivered.sort_unstable();
        assert!(delivered.into_iter().eq(0..40));
        assert_eq!(*sizes.lock().unwrap(), [25, 15]);
    }

    async fn a_batch_of_what_two_workers_had_open_is_no_larger_than_it_may_be() {
        let (bed, source, sizes) = (Bed::new(), FakeSource::live(), Seen::default());
        let log = sizes.clone();
        let batches = bed.texts(&source).partition_by(|text| text.clone()).batch(Batching::count(25));
        bed.collect(batches.handle(move |batch: BatchOf<String>| {
            log.lock().unwrap().push(batch.len() as u64);
            async move { batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>() }
        }).concurrency(4).name("batch"));
        let mut running = bed.start();
        let handle = running.handle();
        (0..40).for_each(|n| source.push(None, n.to_string()));
        until("open batches", || handle.status().stages["batch"].absorbed == 40).await;
        handle.set_concurrency("batch", 1).await.unwrap();
        until("a whole batch", || bed.delivered().len() == 25).await;
        source.push(None, "40");
        until("one more", || handle.status().stages["batch"].absorbed == 41).await;
        bed.drain(&mut running).await;
        assert_eq!(*sizes.lock().unwrap(), [25, 16]);
    }

    async fn a_limit_gives_no_workers_to_a_step_that_can_only_have_one() {
        let bed = Bed::new();
        let slow = RateLimit { records: 100_000, per: Span(Duration::from_secs(1)), by_key: false };
        let batches = bed.numbers(40).map(|n| *n).concurrency(3).batch(Batching::count(10));
        let handled = batches.handle(|batch: BatchOf<u64>| async move {
            batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>()
        });
        bed.collect(handled.rate_limit(slow));
        bed.run().await;
        assert_eq!(bed.delivered().len(), 40);
    }

    async fn totals_are_told_once_whatever_drains_come_behind_the_end_of_their_source() {
        let (bed, other, totals) = (Bed::new(), FakeSource::live().bounded(), FakeSink::plain());
        let sums = bed.numbers(10).key_by(|n| n % 2).fold("sum", |sum: &mut u64, n| *sum += n, |_, sum| *sum);
        bed.deliver(sums, &totals);
        bed.collect(bed.texts(&other));
        let mut first = bed.start();
        until("the totals", || totals.values().len() == 2).await;
        bed.drain(&mut first).await;
        // Nothing is read, so nobody says again that the numbers are over.
        let mut second = bed.start();
        second.handle().pause();
        second.handle().started().await;
        second.handle().checkpoint().await.unwrap();
        bed.drain(&mut second).await;
        other.end();
        bed.run().await;
        assert_eq!(totals.values().len(), 2);
    }

    async fn records_without_a_key_that_fail_together_are_tried_again_in_their_order() {
        let (bed, seen) = (Bed::new(), Arc::new(Mutex::new(BTreeSet::new())));
        let tried = bed.numbers(50).try_map(move |n| if seen.lock().unwrap().insert(*n) { Err(not_now()) } else { Ok(*n) });
        let at_once = Retry::forever().delay(Duration::from_millis(1)).jitter(0.0);
        bed.collect(tried.on_error(ErrorRule::any().retry(at_once)));
        bed.run().await;
        assert_eq!(delivered(&bed), (0..50).collect::<Vec<u64>>());
    }

    async fn records_of_one_look_up_keep_the_order_of_each_key_whatever_fails() {
        let (bed, trouble) = (Bed::new(), Trouble::default());
        let found = bed.numbers(200).partition_by(|n| n % 5).prepare(|_| async { Ok::<_, Error>(1) });
        let handled = found.map(move |n, _: &i32| if trouble.with(*n) { Err(not_now()) } else { Ok(*n) });
        bed.collect(handled.on_error(retry()));
        bed.run().await;
        in_order(&delivered(&bed), 5, 200);
    }

    async fn a_map_to_its_own_type_writes_in_place_where_nobody_else_sees_the_records() {
        type Places = Arc<Mutex<Vec<usize>>>;
        let look = |places: &Places| {
            let places = places.clone();
            move |n: &u64| places.lock().unwrap().push(std::ptr::from_ref(n).addr())
        };
        let (bed, before, behind, beside) = (Bed::new(), Places::default(), Places::default(), FakeSink::plain());
        let numbers = bed.numbers(50).inspect(look(&before));
        bed.collect(numbers.map(|n| n + 100).inspect(look(&behind)));
        bed.run().await;
        assert_eq!(*before.lock().unwrap(), *behind.lock().unwrap());
        assert_eq!(delivered(&bed), (100..150).collect::<Vec<u64>>());
        let bed = Bed::new();
        let numbers = bed.numbers(50);
        bed.deliver(numbers.clone(), &beside);
        bed.collect(numbers.map(|n| n + 100));
        bed.run().await;
        assert_eq!((delivered(&bed), beside.values()), ((100..150).collect(), texts(0..50)));
    }
}
