//! A pipeline in a folder of its own, with what it has delivered and what became a dead letter.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use millstream::{Data, Ended, Home, Pipeline, Raw, Running, Stream, Summary, at};
use millstream_testkit::{FakeSink, FakeSource};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// Each behaviour twice: on one thread and on several.
macro_rules! behaviours {
    ($( $(#[$meta:meta])* async fn $name:ident() $body:block )*) => {
        $( $(#[$meta])* async fn $name() $body )*

        mod on_one_thread {
            $( #[test] fn $name() { $crate::bed::on_one_thread(super::$name()); } )*
        }

        mod on_several_threads {
            $( #[test] fn $name() { $crate::bed::on_several_threads(super::$name()); } )*
        }
    };
}

pub(crate) fn on_one_thread(behaviour: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LONG, behaviour).await.expect("it comes to an end") });
}

pub(crate) fn on_several_threads(behaviour: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LONG, behaviour).await.expect("it comes to an end") });
}

/// Asks again and again, until it is so.
#[track_caller]
pub(crate) fn until(what: &str, so: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let (what, mut so, began) = (what.to_owned(), so, Instant::now());
    async move {
        while !so() {
            assert!(began.elapsed() < LONG, "waited in vain for: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// A pipeline in the making, its folder, and what comes out of it.
pub(crate) struct Bed {
    pub(crate) pipeline: Pipeline,
    pub(crate) sink: FakeSink,
    folder: tempfile::TempDir,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pipeline = Pipeline::new("bed").in_memory().home(Home::new(folder.path()));
        Bed { pipeline, sink: FakeSink::plain(), folder }
    }

    /// The numbers from 0 up to `end`.
    pub(crate) fn numbers(&self, end: u64) -> Stream<u64, at::Source> {
        self.pipeline.values(0..end)
    }

    /// What a scripted source gives, as text.
    pub(crate) fn texts(&self, source: &FakeSource) -> Stream<String> {
        self.pipeline.source_of(source.clone()).text()
    }

    /// Delivers a stream to the bed's sink, as JSON.
    pub(crate) fn collect<T: Data, K>(&self, stream: Stream<T, K>) {
        self.deliver(stream, &self.sink);
    }

    /// Delivers a stream to a sink, as JSON.
    pub(crate) fn deliver<T: Data, K>(&self, stream: Stream<T, K>, sink: &FakeSink) {
        let bytes: Stream<Raw> = stream.to_json();
        bytes.sink_of(sink.clone());
    }

    pub(crate) fn start(&self) -> Running {
        self.pipeline.start().unwrap()
    }

    /// Runs it to its end, and checks the books.
    pub(crate) async fn run(&self) -> Summary {
        let summary = self.pipeline.run().await.unwrap();
        assert_eq!(summary.ended, Ended::Finished);
        balanced(&summary);
        summary
    }

    /// Drains it, and checks the books.
    pub(crate) async fn drain(&self, running: &mut Running) -> Summary {
        let summary = running.drain(LONG).await.unwrap();
        assert_eq!(summary.ended, Ended::Drained);
        balanced(&summary);
        summary
    }

    /// What was delivered, in order.
    pub(crate) fn delivered(&self) -> Vec<String> {
        self.sink.values()
    }

    /// The same, sorted.
    pub(crate) fn sorted(&self) -> Vec<String> {
        let mut all = self.delivered();
        all.sort();
        all
    }

    /// Value, code and message of each dead letter.
    pub(crate) fn letters(&self) -> Vec<(String, String, String)> {
        let letters = millstream::state::read_dead_letters(&self.folder.path().join("bed"), 0, 10_000).unwrap();
        let text = |letter: millstream::core::DeadLetter| {
            let value = String::from_utf8_lossy(letter.record.value.as_deref().unwrap_or_default()).into_owned();
            (value, letter.code, letter.causes.join(": "))
        };
        letters.into_iter().map(|(_, letter)| text(letter)).collect()
    }

    /// Values and codes of the dead letters, sorted.
    pub(crate) fn dead(&self) -> Vec<(String, String)> {
        let mut dead: Vec<_> = self.letters().into_iter().map(|(value, code, _)| (value, code)).collect();
        dead.sort();
        dead
    }
}

/// Every record is accounted for, at every stage.
#[track_caller]
pub(crate) fn balanced(summary: &Summary) {
    for (name, stage) in &summary.stages {
        assert_eq!(stage.in_flight(), 0, "the books of `{name}` balance: {stage:?}");
    }
}

pub(crate) fn texts<T: ToString>(values: impl IntoIterator<Item = T>) -> Vec<String> {
    values.into_iter().map(|value| value.to_string()).collect()
}

pub(crate) fn dead(value: &str, code: &str) -> (String, String) {
    (value.to_owned(), code.to_owned())
}
