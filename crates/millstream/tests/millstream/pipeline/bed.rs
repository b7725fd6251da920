//! A pipeline in a folder of its own, with what it has delivered and what became a dead letter.

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use millstream::{
    Data, Ended, ErrorRule, Home, Pipeline, Raw, Retry, Running, Stream, Summary, Then, core::DeadLetter,
    runtime::RunOptions,
};
use millstream_testkit::{FakeSink, FakeSource, budget};
use tokio::sync::watch;

/// Longer than anything here takes on a busy machine.
pub(crate) fn patience() -> Duration {
    Duration::from_secs(budget(60, 1200))
}

/// Each behaviour twice: on one thread and on several.
macro_rules! behaviours {
    ($( $(#[$meta:meta])* async fn $name:ident() $body:block )*) => {
        $( $(#[$meta])* async fn $name() $body )*

        mod on_one_thread {
            $( #[test] fn $name() { $crate::pipeline::bed::on_one_thread(super::$name()); } )*
        }

        mod on_several_threads {
            $( #[test] fn $name() { $crate::pipeline::bed::on_several_threads(super::$name()); } )*
        }
    };
}

pub(crate) fn on_one_thread(behaviour: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(patience(), behaviour).await.expect("it comes to an end") });
}

pub(crate) fn on_several_threads(behaviour: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(patience(), behaviour).await.expect("it comes to an end") });
}

/// Asks again and again, until it is so.
#[track_caller]
pub(crate) fn until(what: &str, so: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let (what, mut so, began) = (what.to_owned(), so, Instant::now());
    async move {
        while !so() {
            assert!(began.elapsed() < patience(), "waited in vain for: {what}");
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

    /// The same with other settings.
    pub(crate) fn with(self, set: impl FnOnce(Pipeline) -> Pipeline) -> Self {
        let pipeline = set(self.pipeline);
        Bed { pipeline, ..self }
    }

    /// The numbers from 0 up to `end`.
    pub(crate) fn numbers(&self, end: u64) -> Stream<u64> {
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

    /// Starts it with options that differ from the usual ones.
    pub(crate) fn start_with(&self, set: impl FnOnce(&mut RunOptions)) -> Running {
        let plan = self.pipeline.plan().unwrap();
        let mut options = Home::new(self.folder.path()).options(&plan);
        set(&mut options);
        Running::start(plan, options)
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
        let summary = running.drain(patience()).await.unwrap();
        assert_eq!(summary.ended, Ended::Drained);
        balanced(&summary);
        summary
    }

    /// What was delivered, in order.
    pub(crate) fn delivered(&self) -> Vec<String> {
        self.sink.values()
    }

    /// What was delivered, as numbers, in order.
    pub(crate) fn numbers_delivered(&self) -> Vec<u64> {
        self.delivered().iter().map(|n| n.trim_matches('"').parse().unwrap()).collect()
    }

    /// The same, sorted.
    pub(crate) fn sorted(&self) -> Vec<String> {
        let mut all = self.delivered();
        all.sort();
        all
    }

    /// The dead letters, in order.
    pub(crate) fn dead_letters(&self) -> Vec<DeadLetter> {
        let letters = millstream::state::read_dead_letters(&self.folder.path().join("bed"), 0, 1_000_000).unwrap();
        letters.into_iter().map(|(_, letter)| letter).collect()
    }

    /// Value, code and message of each dead letter.
    pub(crate) fn letters(&self) -> Vec<(String, String, String)> {
        let text = |letter: DeadLetter| {
            let value = String::from_utf8_lossy(letter.record.value.as_deref().unwrap_or_default()).into_owned();
            (value, letter.code, letter.causes.join(": "))
        };
        self.dead_letters().into_iter().map(text).collect()
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

/// Waits until a figure has not changed for a while; answers with it.
pub(crate) async fn still<T: PartialEq + Copy>(what: &str, mut figure: impl FnMut() -> T) -> T {
    let (mut before, mut same) = (figure(), 0);
    until(what, || {
        let now = figure();
        same = if std::mem::replace(&mut before, now) == now { same + 1 } else { 0 };
        same > 50
    })
    .await;
    before
}

/// Each number below `end` is there once, and those of each key `n % keys` are in order.
#[track_caller]
pub(crate) fn in_order_by_key(numbers: &[u64], keys: u64, end: u64) {
    for key in 0..keys {
        let of_key: Vec<u64> = numbers.iter().copied().filter(|n| n % keys == key).collect();
        assert_eq!(of_key, (key..end).step_by(keys as usize).collect::<Vec<u64>>(), "key {key}");
    }
}

/// Some turns of the scheduler, more or fewer by number: futures end in another order than they began.
pub(crate) async fn dawdle(n: u64) {
    for _ in 0..n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60 {
        tokio::task::yield_now().await;
    }
}

/// Tries again this often, always after the same time.
pub(crate) fn retry(attempts: impl Into<Option<u32>>, delay: Duration) -> Retry {
    Retry { attempts: attempts.into(), ..Retry::forever().delay(delay).backoff(1.0).jitter(0.0) }
}

/// A rule for every error.
pub(crate) fn rule(retry: impl Into<Option<Retry>>, then: impl Into<Option<Then>>) -> ErrorRule {
    ErrorRule { retry: retry.into(), then: then.into(), ..ErrorRule::any() }
}

/// Shut until the test opens it.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }

    pub(crate) fn is_open(&self) -> bool {
        *self.0.borrow()
    }

    pub(crate) async fn passed(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }
}

/// What was seen, in order.
pub(crate) struct Seen<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Seen(self.0.clone())
    }
}

impl<T: Clone> Seen<T> {
    pub(crate) fn new() -> Self {
        Seen(Arc::default())
    }

    pub(crate) fn add(&self, one: T) {
        self.0.lock().unwrap().push(one);
    }

    pub(crate) fn all(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// Counts how many are inside, and what the most was.
#[derive(Clone, Default)]
pub(crate) struct Crowd(Arc<(AtomicUsize, AtomicUsize)>);

impl Crowd {
    pub(crate) fn enter(&self) -> impl Drop + use<> {
        struct Inside(Crowd);
        impl Drop for Inside {
            fn drop(&mut self) {
                self.0.0.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let now = self.0.0.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.1.fetch_max(now, Ordering::SeqCst);
        Inside(self.clone())
    }

    pub(crate) fn now(&self) -> usize {
        self.0.0.load(Ordering::SeqCst)
    }

    pub(crate) fn most(&self) -> usize {
        self.0.1.load(Ordering::SeqCst)
    }
}
