//! What becomes of records for which a buffer has no room.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use millstream::{
    Home,
    core::{ErrorKind, SinkPlan, Size},
    runtime::{Entry, OnFailed, WhenFull},
    state::read_dead_letters,
};
use millstream_testkit::{FakeSink, FakeSource};

use super::{EXACTLY_ONCE, run, sink, spec, start, until};

/// More than a buffer of 1 MiB holds, in small batches.
fn much() -> FakeSource {
    FakeSource::of((0..300).map(|i| format!("{i:03}{}", "x".repeat(10_000)))).in_batches_of(3)
}

fn heads(sink: &FakeSink) -> Vec<usize> {
    sink.values().iter().map(|value| value[..3].parse().unwrap()).collect()
}

/// Runs it with a dead sink until the pipeline has finished, then with the sink back.
fn through(when_full: WhenFull, home: &Home, sink_: &FakeSink) -> millstream::GroupSummary {
    through_entry(sink("slow", sink_, Some(when_full)), home, sink_)
}

fn through_entry(entry: Entry<dyn SinkPlan>, home: &Home, sink_: &FakeSink) -> millstream::GroupSummary {
    let mut spec = spec(much());
    spec.sinks = vec![entry];
    sink_.stall(true);
    run(async {
        let group = start(&spec, home).await;
        let pipeline = group.handle().pipeline().unwrap().clone();
        until("the pipeline to be over", || matches!(pipeline.status().phase, millstream::runtime::Phase::Over)).await;
        let figures = group.handle().status().buffers["slow"].figures.clone();
        assert!(figures.disk_bytes <= Size(1 << 20).0, "{figures:?}");
        sink_.stall(false);
        group.wait().await.unwrap()
    })
}

#[test]
fn drop_newest_drops_and_counts_what_comes_last() {
    let folder = tempfile::tempdir().unwrap();
    let (home, slow) = (Home::new(folder.path()), FakeSink::plain());
    let summary = through(WhenFull::DropNewest, &home, &slow);
    let kept = heads(&slow);
    assert_eq!(kept, (0..kept.len()).collect::<Vec<_>>());
    let stage = &summary.pipeline.as_ref().unwrap().stages["slow"];
    assert_eq!((stage.dropped as usize + kept.len(), stage.dead, stage.in_flight()), (300, 0, 0));
    assert!(stage.dropped > 150, "{stage:?}");
}

#[test]
fn dead_letter_keeps_what_has_no_room_with_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let (home, slow) = (Home::new(folder.path()), FakeSink::plain());
    let heard = Arc::new(AtomicUsize::new(0));
    let hears = heard.clone();
    let mut entry = sink("slow", &slow, Some(WhenFull::DeadLetter));
    entry.on_failed = Some(OnFailed(Arc::new(move |_, _, error, _| {
        hears.fetch_add(usize::from(error.kind() == ErrorKind::Full), Ordering::Relaxed);
    })));
    let summary = through_entry(entry, &home, &slow);
    let kept = heads(&slow).len();
    let letters = read_dead_letters(&home.pipeline("p"), 1, 1000).unwrap();
    assert_eq!(summary.pipeline.unwrap().stages["slow"].dead as usize, letters.len());
    assert_eq!((kept + letters.len(), heard.load(Ordering::Relaxed)), (300, letters.len()));
    let letter = &letters[0].1;
    assert_eq!(letter.code, "E_FULL");
    assert!(letter.causes[0].contains("the buffer of `slow` is full"), "{letter:?}");
}

#[test]
fn drop_oldest_keeps_the_newest_and_counts_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let (home, slow) = (Home::new(folder.path()), FakeSink::plain());
    through(WhenFull::DropOldest, &home, &slow);
    let kept = heads(&slow);
    // What the sink had been given before it died comes first.
    assert!(kept.is_sorted(), "{kept:?}");
    assert_eq!(kept.last(), Some(&299));
    let dropped = millstream::buffer::inspect::info(&home.pipeline("p.slow").join("buffer")).unwrap().dropped;
    assert_eq!(dropped as usize + kept.len(), 300);
}

#[test]
fn block_lets_the_pipeline_wait_says_why_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (home, slow, live) = (Home::new(folder.path()), FakeSink::truncating(), FakeSink::truncating());
    let mut spec = spec(much());
    spec.delivery = EXACTLY_ONCE;
    spec.sinks = vec![sink("live", &live, None), sink("slow", &slow, Some(WhenFull::Block))];
    slow.stall(true);
    run(async {
        let group = start(&spec, &home).await;
        let handle = group.handle();
        until("the pipeline to wait", || handle.status().buffers["slow"].waiting.is_some()).await;
        let waiting = handle.status().buffers["slow"].waiting.clone().unwrap_or_default();
        assert!(waiting.contains("the buffer of `slow` is full"), "{waiting}");
        slow.stall(false);
        let summary = group.wait().await.unwrap();
        assert_eq!(summary.left["slow"], 0);
    });
    assert_eq!(heads(&slow), (0..300).collect::<Vec<_>>());
    assert_eq!(heads(&live), (0..300).collect::<Vec<_>>());
}
