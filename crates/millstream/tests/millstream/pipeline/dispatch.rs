//! How records get to the workers of a step, and what is promised of their order.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use millstream::{
    BatchOf, Batching, Error, ErrorKind, Result, Worker,
    runtime::{Dispatch, Happening},
};
use millstream_testkit::{FakeSink, FakeSource};

use super::bed::{Bed, Crowd, Gate, Seen, dawdle, in_order_by_key, retry, rule, texts, until};

/// The numbers below `end` as texts, few at a time; the key is the rest of a division by `keys`.
fn keyed(keys: u64, end: u64) -> FakeSource {
    let source = FakeSource::live().in_batches_of(64);
    push(&source, keys, 0..end);
    source
}

fn push(source: &FakeSource, keys: u64, numbers: std::ops::Range<u64>) {
    numbers.for_each(|n| source.push(Some(&(n % keys).to_string()), n.to_string()));
}

fn number(text: &str) -> u64 {
    text.parse().unwrap()
}

/// Writes down which worker has seen what; one that sees `stuck` waits at a gate.
struct Numbered {
    worker: usize,
    seen: Seen<(usize, u64)>,
    stuck: Option<(u64, Gate)>,
}

impl Worker<String> for Numbered {
    type Output = String;
    type Error = millstream::Error;

    async fn handle(&mut self, text: String) -> Result<String> {
        let n = number(&text);
        if let Some((_, gate)) = self.stuck.as_ref().filter(|(stuck, _)| *stuck == n) {
            gate.passed().await;
        }
        dawdle(n).await;
        self.seen.add((self.worker, n));
        Ok(text)
    }
}

fn numbered(seen: &Seen<(usize, u64)>, stuck: Option<(u64, Gate)>) -> impl Fn() -> Numbered + Send + Sync + 'static {
    let (seen, crowd) = (seen.clone(), Seen::new());
    move || {
        crowd.add(());
        Numbered { worker: crowd.len(), seen: seen.clone(), stuck: stuck.clone() }
    }
}

/// How many workers have seen something.
fn workers(seen: &Seen<(usize, u64)>) -> usize {
    seen.all().into_iter().map(|(worker, _)| worker).collect::<BTreeSet<_>>().len()
}

behaviours! {
    async fn records_go_to_whoever_has_room() {
        let (bed, gate, seen) = (Bed::new(), Gate::default(), Seen::new());
        let source = FakeSource::of(texts(0..100)).in_batches_of(1);
        bed.collect(bed.texts(&source).step(numbered(&seen, Some((0, gate.clone())))).concurrency(2));
        let mut running = bed.start();
        // All but those that are in the queue of the one that is stuck.
        until("the others", || bed.delivered().len() >= 90).await;
        assert!(!bed.numbers_delivered().contains(&0));
        gate.open();
        running.wait().await.unwrap();
        let mut all = bed.numbers_delivered();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..100));
    }

    async fn workers_in_turn_get_every_record_once() {
        let (bed, seen) = (Bed::new(), Seen::new());
        let source = FakeSource::of(texts(0..2000)).in_batches_of(16);
        bed.collect(bed.texts(&source).step(numbered(&seen, None)).concurrency(4));
        bed.run().await;
        let mut all: Vec<u64> = seen.all().into_iter().map(|(_, n)| n).collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..2000));
        assert_eq!((workers(&seen), bed.delivered().len()), (4, 2000));
    }

    async fn the_keys_of_a_log_count_right_after_the_source() {
        let (bed, source) = (Bed::new(), keyed(7, 1400));
        source.end();
        let raw = bed.pipeline.source_of(source).partition_by_key();
        bed.collect(raw.text().concurrency(3).map_async(|text| async move {
            dawdle(number(&text)).await;
            Ok::<_, Error>(text)
        }).unordered());
        bed.run().await;
        in_order_by_key(&bed.numbers_delivered(), 7, 1400);
    }

    async fn the_order_of_each_key_is_kept_through_all_later_stages_whatever_the_speed_of_their_workers() {
        let (bed, seen) = (Bed::new(), Seen::new());
        let first = bed.numbers(2600).partition_by(|n| n % 13).map_async(|n| async move {
            dawdle(n).await;
            Ok::<_, Error>(n.to_string())
        }).concurrency(4).unordered();
        let second = first.flat_map(|text| [text.clone()]).step(numbered(&seen, None)).concurrency(3);
        bed.collect(second.batch(Batching::count(7).by_key()).handle(|batch: BatchOf<String>| async move {
            dawdle(number(&batch[0]) + 1).await;
            batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>()
        }).concurrency(2).in_flight(3));
        bed.run().await;
        in_order_by_key(&seen.all().into_iter().map(|(_, n)| n).collect::<Vec<_>>(), 13, 2600);
        in_order_by_key(&bed.numbers_delivered(), 13, 2600);
    }

    async fn two_records_of_a_key_are_never_under_way_together() {
        let (bed, all) = (Bed::new(), Crowd::default());
        let keys: Vec<Crowd> = (0..5).map(|_| Crowd::default()).collect();
        let (inside, each) = (all.clone(), keys.clone());
        bed.collect(bed.numbers(300).partition_by(|n| n % 5).map_blocking(move |n| {
            let _inside = (inside.enter(), each[*n as usize % 5].enter());
            std::thread::sleep(Duration::from_micros(200));
            Ok::<_, Error>(*n)
        }).concurrency(3).in_flight(4));
        bed.run().await;
        assert!(keys.iter().all(|key| key.most() == 1));
        assert!(all.most() > 1, "other keys are");
        in_order_by_key(&bed.numbers_delivered(), 5, 300);
    }

    async fn all_records_of_a_key_go_to_one_worker() {
        let (bed, seen, source) = (Bed::new(), Seen::new(), keyed(20, 1000));
        source.end();
        bed.collect(bed.texts(&source).partition_by_key().step(numbered(&seen, None)).concurrency(4));
        bed.run().await;
        let mut of_key: BTreeMap<u64, BTreeSet<usize>> = BTreeMap::new();
        for (worker, n) in seen.all() {
            of_key.entry(n % 20).or_default().insert(worker);
        }
        assert!(of_key.len() == 20 && of_key.values().all(|workers| workers.len() == 1), "{of_key:?}");
        assert!(workers(&seen) > 1);
    }

    async fn records_without_a_key_go_to_any_worker() {
        let (bed, seen) = (Bed::new(), Seen::new());
        let source = FakeSource::of(texts(0..800)).in_batches_of(8);
        let keyless = bed.texts(&source).partition_by(|_| None::<u64>);
        bed.collect(keyless.step(numbered(&seen, None)).concurrency(3));
        bed.run().await;
        assert_eq!((bed.delivered().len(), workers(&seen)), (800, 3));
    }

    async fn a_key_is_kept_until_a_merge_or_another_key() {
        let bed = Bed::new();
        let keyed = bed.numbers(10).partition_by(|n| n % 3).map(|n| n + 1).concurrency(3).name("keyed");
        let behind = keyed.map_async(|n| async move { Ok::<_, Error>(n) }).concurrency(2).name("behind");
        let merged = behind.merge(bed.numbers(10)).map(|n| *n).concurrency(2).name("merged");
        bed.collect(merged);
        let graph = bed.pipeline.plan().unwrap().graph();
        let of = |name: &str| {
            let stage = graph.stages.iter().find(|stage| stage.name == name).unwrap();
            (stage.workers, stage.dispatch)
        };
        assert_eq!((of("keyed"), of("behind")), ((3, Dispatch::Key), (2, Dispatch::Key)));
        assert_eq!(of("merged"), (2, Dispatch::RoundRobin));
        bed.run().await;
    }

    async fn a_broadcast_copies_no_value() {
        let (bed, other, one, two) = (Bed::new(), FakeSink::plain(), Seen::new(), Seen::new());
        let long = bed.numbers(100).map(|n| format!("a text with memory of its own: {n}"));
        let (log, second) = (one.clone(), two.clone());
        bed.deliver(long.clone().inspect(move |text| second.add(text.as_ptr() as usize)), &other);
        bed.collect(long.inspect(move |text| log.add(text.as_ptr() as usize)));
        bed.run().await;
        assert_eq!((one.len(), one.all()), (100, two.all()));
        assert_eq!(bed.delivered(), other.values());
    }

    async fn a_key_that_is_tried_again_parks_its_own_records_and_nobody_elses() {
        let (bed, gate) = (Bed::new(), Gate::default());
        let well = gate.clone();
        let work = bed.numbers(200).partition_by(|n| n % 4).try_map(move |n| match n {
            1 if !well.is_open() => Err(Error::new(ErrorKind::Unavailable, "not now")),
            _ => Ok(*n),
        });
        bed.collect(work.concurrency(3).name("work").on_error(rule(retry(None, Duration::from_millis(3)), None)));
        let mut running = bed.start();
        until("the other keys", || bed.delivered().len() == 150).await;
        assert!(bed.numbers_delivered().iter().all(|n| n % 4 != 1));
        until("its key to wait", || running.handle().status().stages["work"].parked == 50).await;
        gate.open();
        running.wait().await.unwrap();
        in_order_by_key(&bed.numbers_delivered(), 4, 200);
    }

    async fn a_record_without_a_key_that_is_tried_again_holds_up_nobody() {
        let (bed, gate) = (Bed::new(), Gate::default());
        let well = gate.clone();
        bed.collect(bed.numbers(100).try_map(move |n| match n {
            1 if !well.is_open() => Err(Error::new(ErrorKind::Unavailable, "not now")),
            _ => Ok(*n),
        }).on_error(rule(retry(None, Duration::from_millis(3)), None)));
        let mut running = bed.start();
        until("the others", || bed.delivered() == texts((0..100).filter(|n| *n != 1))).await;
        gate.open();
        running.wait().await.unwrap();
        assert_eq!(bed.delivered().last().unwrap(), "1");
    }

    async fn the_order_of_each_key_is_kept_while_workers_come_and_go_under_load() {
        let (bed, source) = (Bed::new(), keyed(7, 350));
        let work = bed.texts(&source).partition_by_key().map_async(|text| async move {
            dawdle(number(&text)).await;
            Ok::<_, Error>(text)
        });
        bed.collect(work.unordered().concurrency(1).name("work"));
        let mut running = bed.start();
        let (handle, mut events) = (running.handle(), running.handle().events());
        for (round, workers) in [4, 2, 8, 1, 3].into_iter().enumerate() {
            push(&source, 7, 350 * (round as u64 + 1)..350 * (round as u64 + 2));
            handle.set_concurrency("work", workers).await.unwrap();
        }
        until("all records", || bed.delivered().len() == 2100).await;
        bed.drain(&mut running).await;
        in_order_by_key(&bed.numbers_delivered(), 7, 2100);
        let changes = std::iter::from_fn(|| events.try_recv().ok()).filter(|e| matches!(e, Happening::Concurrency(..)));
        assert_eq!(changes.count(), 5);
    }

    async fn open_batches_go_with_their_keys_when_workers_come_and_go() {
        let (bed, source, sizes) = (Bed::new(), keyed(5, 10), Seen::new());
        let log = sizes.clone();
        let batches = bed.texts(&source).partition_by_key().batch(Batching::count(3).by_key());
        bed.collect(batches.handle(move |batch: BatchOf<String>| {
            log.add(batch.len());
            async move { batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>() }
        }).concurrency(1).name("batch"));
        let mut running = bed.start();
        let handle = running.handle();
        until("two of each key", || handle.status().stages["batch"].absorbed == 10).await;
        handle.set_concurrency("batch", 4).await.unwrap();
        push(&source, 5, 10..15);
        until("whole batches", || bed.delivered().len() == 15).await;
        bed.drain(&mut running).await;
        assert_eq!(sizes.all(), [3; 5]);
        in_order_by_key(&bed.numbers_delivered(), 5, 15);
    }

    async fn a_parked_key_stays_in_order_when_it_gets_another_worker() {
        let (bed, source, gate) = (Bed::new(), keyed(6, 30), Gate::default());
        let well = gate.clone();
        let work = bed.texts(&source).partition_by_key().map_async(move |text| {
            let bad = text == "3" && !well.is_open();
            async move { if bad { Err(Error::new(ErrorKind::Unavailable, "not now")) } else { Ok(text) } }
        });
        bed.collect(work.concurrency(4).name("work").on_error(rule(retry(None, Duration::from_millis(3)), None)));
        let mut running = bed.start();
        let handle = running.handle();
        until("the others", || bed.delivered().len() == 25).await;
        for workers in [1, 3] {
            handle.set_concurrency("work", workers).await.unwrap();
        }
        assert_eq!(bed.delivered().len(), 25);
        gate.open();
        until("all records", || bed.delivered().len() == 30).await;
        bed.drain(&mut running).await;
        in_order_by_key(&bed.numbers_delivered(), 6, 30);
    }

    async fn several_batchers_have_names_and_a_record_chooses_by_its_route() {
        let bed = Bed::new();
        let [small, large] = bed.numbers(100).route(["small", "large"], |n| if *n < 20 { "small" } else { "large" });
        let (few, many) = (Seen::new(), Seen::new());
        for (stream, name, count, log) in [(small, "a few", 5, few.clone()), (large, "many", 40, many.clone())] {
            stream.batch(Batching::count(count)).handle(move |batch: BatchOf<u64>| {
                log.add(batch.len());
                async {}
            }).name(name).drop();
        }
        let summary = bed.run().await;
        assert_eq!((few.all(), many.all()), (vec![5; 4], vec![40, 40]));
        assert_eq!((summary.stages["a few"].records_out, summary.stages["many"].records_out), (20, 80));
    }
}
