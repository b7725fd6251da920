//! Rounds of start, load and end, in a process of its own, leave no thread behind.
//!
//! A pipeline has no threads of its own. What blocks, in steps, stores and buffers, runs on those that tokio has for it; each of
//! them goes when it has had nothing to do for a while, which is a short one here. So one that stays is held by something.

use std::{
    panic::{self, AssertUnwindSafe},
    path::Path,
    time::Duration,
};

use millstream::{
    BatchOf, Batching, Error, Home, Pipeline,
    core::Size,
    runtime::{BufferSpec, Phase, WhenFull},
};
use millstream_testkit::{
    Dice, FakeSink, FakeSource, budget,
    process::{alone, is_alone, threads},
};
use tokio::runtime::{Builder, Handle};

use super::bed::{Crowd, Gate, patience, until};

/// After this time without work a thread goes.
const IDLE: Duration = Duration::from_millis(20);

/// Threads of the blocking step.
const THREADS: usize = 3;

/// Records of a round.
const EACH: u64 = 60;

/// Name of all threads of the runtime.
const OURS: &str = "ours";

/// A step on threads, which wait at the gate; one by key in several workers; batches; dead letters on disk, and a buffer there.
fn pipeline(folder: &Path, source: &FakeSource, sink: &FakeSink, gate: &Gate, inside: &Crowd) -> Pipeline {
    let pipeline = Pipeline::new("threads").home(Home::new(folder));
    let (gate, inside) = (gate.clone(), inside.clone());
    let blocking = pipeline.source_of(source.clone()).text().map_blocking(move |text: &String| {
        let _inside = inside.enter();
        Handle::current().block_on(gate.passed());
        if text.ends_with('7') { Err("seven") } else { Ok(text.clone()) }
    });
    let keyed = blocking.in_flight(THREADS).partition_by(|text| text.len());
    let work = keyed.map_async(|text| async move { Ok::<_, Error>(text) }).concurrency(2);
    let batches = work.batch(Batching::count(4).by_key());
    let handled = batches
        .handle(|batch: BatchOf<String>| async move { batch.into_iter().map(Ok::<_, Error>).collect::<Vec<_>>() });
    let buffer = BufferSpec { disk: Size(1 << 20), when_full: WhenFull::Block };
    handled.to_json().sink_of(sink.clone()).name("sink").buffer(buffer);
    pipeline
}

/// How a round ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// A drain at any moment.
    Drain,
    /// A drain, while all threads are at work.
    DrainAtWork,
    /// A stop, which waits for none of the threads at work.
    StopAtWork,
}

async fn rounds(workers: usize) {
    until("the workers", || threads().iter().filter(|name| *name == OURS).count() == workers).await;
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = (threads(), tasks());
    let (folder, source, sink) = (tempfile::tempdir().unwrap(), FakeSource::live().in_batches_of(7), FakeSink::plain());
    let (rounds, mut dice) = (budget(9, 90), Dice::new(0x5eed));
    for (round, end) in (0..rounds).zip([End::Drain, End::DrainAtWork, End::StopAtWork].into_iter().cycle()) {
        let (gate, inside) = (Gate::default(), Crowd::default());
        let group = pipeline(folder.path(), &source, &sink, &gate, &inside).start_group().await.unwrap();
        let handle = group.handle();
        (round * EACH..(round + 1) * EACH).for_each(|n| source.push(None, n.to_string()));
        if end == End::Drain {
            gate.open();
            for _ in 0..dice.roll(300) {
                tokio::task::yield_now().await;
            }
        } else {
            until("all threads to be at work", || inside.now() == THREADS).await;
            assert!(threads().len() >= before.0.len() + THREADS, "{:?}", threads());
        }
        if end == End::StopAtWork {
            handle.stop();
        } else {
            handle.drain(patience());
        }
        if end == End::DrainAtWork {
            let phase = || handle.status().pipeline.map(|status| status.phase);
            until("the drain", || matches!(phase(), Some(Phase::Draining))).await;
            gate.open();
        }
        group.wait().await.unwrap();
        if end == End::StopAtWork {
            // They are at work until their functions return.
            assert_eq!(inside.now(), THREADS);
            gate.open();
        }
        until("the last task and thread", || (threads(), tasks()) == before).await;
    }
    let gate = Gate::default();
    gate.open();
    source.end();
    let group = pipeline(folder.path(), &source, &sink, &gate, &Crowd::default()).start_group().await.unwrap();
    group.wait().await.unwrap();
    until("the last task and thread of all", || (threads(), tasks()) == before).await;
    let numbers = sink.values().iter().map(|text| text.trim_matches('"').parse().unwrap()).collect::<Vec<u64>>();
    // What a stop has cut off may come twice.
    let numbers = std::collections::BTreeSet::from_iter(numbers);
    assert!(numbers.into_iter().eq((0..rounds * EACH).filter(|n| n % 10 != 7)));
}

/// Runs the rounds in a process where nothing else has threads.
fn apart(test: &str, mut runtime: Builder, workers: usize) {
    if !is_alone() {
        return alone(&format!("pipeline::threads::{test}"));
    }
    let runtime = runtime.enable_all().thread_name(OURS).thread_keep_alive(IDLE).build().unwrap();
    let rounds = || runtime.block_on(async { tokio::time::timeout(2 * patience(), rounds(workers)).await });
    let ended = panic::catch_unwind(AssertUnwindSafe(rounds));
    // A thread that is held does not hold up the failure.
    runtime.shutdown_background();
    ended.unwrap_or_else(|cause| panic::resume_unwind(cause)).expect("it comes to an end");
}

#[test]
fn rounds_of_load_leave_no_thread_behind_on_one_thread() {
    apart("rounds_of_load_leave_no_thread_behind_on_one_thread", Builder::new_current_thread(), 0);
}

#[test]
fn rounds_of_load_leave_no_thread_behind_on_several_threads() {
    let mut runtime = Builder::new_multi_thread();
    runtime.worker_threads(3);
    apart("rounds_of_load_leave_no_thread_behind_on_several_threads", runtime, 3);
}
