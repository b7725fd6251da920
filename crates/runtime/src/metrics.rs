//! Figures of a running pipeline: the books of each stage, and how busy it is.
//!
//! Every figure is added to once a batch, never once a record.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use millstream_core::Epoch;
use serde::Serialize;

use crate::lease::lock;

macro_rules! figures {
    ($( $(#[$doc:meta])* $name:ident, )*) => {
        /// Figures of one stage, added to by its task.
        #[derive(Debug, Default)]
        pub(crate) struct StageMetrics {
            $( pub(crate) $name: Figure, )*
            /// The figures at each barrier that is not yet decided, and at the newest that is.
            marks: Mutex<VecDeque<(Epoch, StageFigures)>>,
        }

        /// Figures of one stage at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct StageFigures { $( $(#[$doc])* pub $name: u64, )* }

        impl std::ops::AddAssign for StageFigures {
            fn add_assign(&mut self, other: Self) {
                // Wrapping: when workers change, one may count off what another had counted; the sum is right.
                $( self.$name = self.$name.wrapping_add(other.$name); )*
            }
        }

        impl StageMetrics {
            pub(crate) fn read(&self) -> StageFigures {
                StageFigures { $( $name: self.$name.get(), )* }
            }

            fn write(&self, figures: &StageFigures) {
                $( self.$name.set(figures.$name); )*
            }
        }
    };
}

figures! {
    /// Records that came in; for a source, records read.
    records_in,
    /// Bytes that came in.
    bytes_in,
    /// Outputs beyond one for each input.
    created,
    /// Records that left by an output; for a sink, records delivered.
    records_out,
    /// Records that live on in the stage's state.
    absorbed,
    /// Records left out on purpose.
    filtered,
    /// Records dropped by an error rule.
    dropped,
    /// Records that became dead letters.
    dead,
    /// Records given back to their queue.
    returned,
    /// Records that wait for another try.
    parked,
    /// Failures of records and of connections, retried ones too.
    failures,
    /// Nanoseconds spent working.
    busy_ns,
    /// Nanoseconds spent waiting for room in the next queue.
    blocked_ns,
    /// Batches that came in.
    batches,
}

impl StageFigures {
    /// Records that came in and have not come to an end yet. The books balance when nothing is under way and this is 0.
    pub fn in_flight(&self) -> i64 {
        let ways =
            [self.records_out, self.absorbed, self.filtered, self.dropped, self.dead, self.returned, self.parked];
        // Wrapping: the figures of a pipeline that runs are read one after the other.
        let ended = ways.into_iter().fold(0, u64::wrapping_add);
        self.records_in.wrapping_add(self.created).wrapping_sub(ended) as i64
    }
}

impl StageMetrics {
    /// Remembers the figures at the barrier of `epoch`.
    pub(crate) fn mark(&self, epoch: Epoch) {
        lock(&self.marks).push_back((epoch, self.read()));
    }

    /// Marks before the newest one up to `epoch` are not needed any more. That may be older than `epoch`: of a worker that has
    /// gone, it is the last.
    fn decided(&self, epoch: Epoch) {
        let mut marks = lock(&self.marks);
        let newest = marks.iter().map(|(of, _)| *of).filter(|of| *of <= epoch).max().unwrap_or(0);
        marks.retain(|(of, _)| *of >= newest);
    }

    /// Back to the figures at the barrier of `epoch`: what came after it will come again.
    fn roll_back(&self, epoch: Epoch) {
        let mut marks = lock(&self.marks);
        marks.retain(|(of, _)| *of <= epoch);
        let figures = marks.back().map(|(_, figures)| *figures).unwrap_or_default();
        self.write(&figures);
    }
}

/// One figure.
#[derive(Debug, Default)]
pub(crate) struct Figure(AtomicU64);

impl Figure {
    pub(crate) fn add(&self, more: u64) {
        if more != 0 {
            self.0.fetch_add(more, Relaxed);
        }
    }

    pub(crate) fn sub(&self, less: u64) {
        self.0.fetch_sub(less, Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn add_time(&self, time: Duration) {
        self.add(time.as_nanos() as u64);
    }
}

/// Figures of a whole pipeline, shared by its tasks and handles.
#[derive(Debug, Default)]
pub(crate) struct PipelineMetrics {
    /// Of each worker that a stage has had.
    stages: BTreeMap<String, Mutex<Vec<Arc<StageMetrics>>>>,
    pub(crate) epochs: Figure,
    pub(crate) epoch_ns: Figure,
    pub(crate) restarts: Figure,
    pub(crate) checkpoint: Figure,
}

impl PipelineMetrics {
    pub(crate) fn new<'a>(stages: impl Iterator<Item = &'a str>) -> Self {
        let stages = stages.map(|name| (name.to_owned(), Mutex::new(vec![Arc::default()]))).collect();
        PipelineMetrics { stages, ..PipelineMetrics::default() }
    }

    /// The figures of a worker of a stage that `new` was told of.
    pub(crate) fn worker(&self, name: &str, worker: usize) -> Arc<StageMetrics> {
        let Some(workers) = self.stages.get(name) else { return Arc::default() };
        let mut workers = lock(workers);
        if workers.len() <= worker {
            workers.resize_with(worker + 1, Arc::default);
        }
        workers[worker].clone()
    }

    /// The epoch counts.
    pub(crate) fn decided(&self, epoch: Epoch) {
        self.checkpoint.set(epoch);
        self.each(|worker| worker.decided(epoch));
    }

    /// The pipeline goes back to the checkpoint of `epoch`, and its books with it.
    pub(crate) fn roll_back(&self, epoch: Epoch) {
        self.each(|worker| worker.roll_back(epoch));
    }

    fn each(&self, act: impl Fn(&StageMetrics)) {
        self.stages.values().for_each(|workers| lock(workers).iter().for_each(|worker| act(worker)));
    }

    /// The figures of a stage, of all its workers together.
    pub(crate) fn stage(&self, name: &str) -> StageFigures {
        self.stages.get(name).map(sum).unwrap_or_default()
    }

    pub(crate) fn read(&self) -> BTreeMap<String, StageFigures> {
        self.stages.iter().map(|(name, workers)| (name.clone(), sum(workers))).collect()
    }
}

fn sum(workers: &Mutex<Vec<Arc<StageMetrics>>>) -> StageFigures {
    let mut sum = StageFigures::default();
    lock(workers).iter().for_each(|worker| sum += worker.read());
    sum
}
