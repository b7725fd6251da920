//! Memory and processor time, each measured in a process of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use millstream::{Batching, Error, ErrorKind, RateLimit, Size, Span, Stream, runtime::LimitsSpec};
use millstream_testkit::{
    FakeSource, budget,
    process::{alone, is_alone, resident_kib, ticks},
};

use super::bed::{Bed, Crowd, Gate, on_several_threads, retry, rule, still, until};

/// Runs a behaviour alone in a process of its own.
fn apart(test: &str, behaviour: impl Future<Output = ()>) {
    if is_alone() { on_several_threads(behaviour) } else { alone(&format!("pipeline::limits::{test}")) }
}

/// Records between two looks at the memory.
fn records() -> u64 {
    budget(250_000, 10_000_000)
}

/// Memory does not grow by more than this from one look to the next: what is compacted now and then, and what the
/// allocator keeps. In the short run, 50 bytes that stay of each record are more.
const GROWTH_KIB_MAX: u64 = 24 << 10;

/// Lets records flow, and looks at the memory before and behind the second half of them.
async fn stays_flat(handled: &AtomicU64, records: u64) {
    until("the first half", || handled.load(Relaxed) >= records).await;
    let before = resident_kib();
    until("the second half", || handled.load(Relaxed) >= 3 * records).await;
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < GROWTH_KIB_MAX, "memory grew by {grown} KiB");
}

/// Nothing happens, and nothing is done.
async fn is_still(what: &str) {
    let (memory, before) = (resident_kib(), ticks());
    // The time over which is measured.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (memory, ticks) = (resident_kib().saturating_sub(memory), ticks() - before);
    assert!(ticks <= 8, "{what}: {ticks} ticks of processor time in 2 s are above 4 %");
    assert!(memory < 8 << 10, "{what}: memory grew by {memory} KiB");
}

#[test]
fn with_ten_thousand_keys_in_keyed_batching_memory_stays_flat() {
    apart("with_ten_thousand_keys_in_keyed_batching_memory_stays_flat", async {
        let (bed, handled) = (Bed::new(), Arc::new(AtomicU64::new(0)));
        let count = handled.clone();
        // Keys come at random, so that some batches stay open for long.
        let key = |n: &u64| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % 10_000;
        bed.numbers(4 * records())
            .batch(Batching::count(4).key(key))
            .handle(move |batch| {
                count.fetch_add(batch.len() as u64, Relaxed);
                async {}
            })
            .name("batch")
            .drop();
        let running = bed.start();
        stays_flat(&handled, records()).await;
        running.handle().stop();
    });
}

#[test]
fn with_one_hot_key_memory_stays_flat() {
    apart("with_one_hot_key_memory_stays_flat", async {
        // One at a time.
        let records = records() / 10;
        let (bed, handled) = (Bed::new(), Arc::new(AtomicU64::new(0)));
        let count = handled.clone();
        let hot = bed
            .numbers(4 * records)
            .partition_by(|_| "hot")
            .map_async(|n| async move { Ok::<_, Error>(n) })
            .concurrency(4);
        hot.inspect(move |_| {
            count.fetch_add(1, Relaxed);
        })
        .drop();
        let running = bed.start();
        stays_flat(&handled, records).await;
        running.handle().stop();
    });
}

#[test]
fn behind_a_hot_key_that_is_tried_again_the_source_waits_and_nothing_spins() {
    apart("behind_a_hot_key_that_is_tried_again_the_source_waits_and_nothing_spins", async {
        let bed = Bed::new().with(|pipeline| pipeline.limits(LimitsSpec { memory: Size(8 << 20) }));
        let hot = bed.numbers(1_000_000).name("in").partition_by(|_| "hot");
        let failing = hot.try_map(|_| Err::<u64, _>(Error::new(ErrorKind::Unavailable, "no")));
        failing.concurrency(2).on_error(rule(retry(None, Duration::from_secs(3600)), None)).name("work").drop();
        let running = bed.start();
        let handle = running.handle();
        let read = || handle.status().stages["in"].records_in;
        until("the source to read", || read() > 0).await;
        // It reads no more when so many bytes are parked, and all that it has read is.
        let parked = || handle.status().stages["work"].parked;
        loop {
            until("all to be parked", || parked() == read()).await;
            if still("the source to wait", read).await == parked() {
                break;
            }
        }
        // What is parked is saved once.
        handle.checkpoint().await.unwrap();
        is_still("parked").await;
        handle.stop();
    });
}

#[test]
fn steps_that_wait_for_anything_use_no_processor_time() {
    apart("steps_that_wait_for_anything_use_no_processor_time", async {
        let (bed, source, gate, crowd) = (Bed::new(), FakeSource::live(), Gate::default(), Crowd::default());
        let (wait, inside) = (gate.clone(), crowd.clone());
        let hour = Duration::from_secs(3600);
        let texts: Stream<String> = bed.texts(&source);
        // A record under way, one in an open batch, one that waits for its turn, a full queue before a stalled sink.
        texts.clone().for_each(move |_| {
            let (wait, inside) = (wait.clone(), inside.clone());
            async move {
                let _inside = inside.enter();
                wait.passed().await;
            }
        });
        texts.clone().batch(Batching::count(100_000).linger(hour)).handle(|_| async {}).name("batch").drop();
        let limit = RateLimit { records: 1, per: Span(hour), by_key: false };
        texts.clone().map(|text| text.len()).name("slow").rate_limit(limit).drop();
        bed.collect(texts);
        bed.sink.stall(true);
        (0..100).for_each(|n| source.push(None, n.to_string()));
        let running = bed.start();
        until("all to wait", || crowd.now() == 100).await;
        is_still("waiting").await;
        running.handle().pause();
        is_still("paused").await;
        running.handle().stop();
    });
}
