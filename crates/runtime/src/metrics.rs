//! Figures of a running pipeline: the books of each stage, and how busy it is.
//!
//! Every figure is added to once a batch, never once a record.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use millstream_core::Epoch;
use serde::Serialize;

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
        let ended =
            self.records_out + self.absorbed + self.filtered + self.dropped + self.dead + self.returned + self.parked;
        (self.records_in + self.created) as i64 - ended as i64
    }
}

impl StageMetrics {
    /// Remembers the figures at the barrier of `epoch`.
    pub(crate) fn mark(&self, epoch: Epoch) {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).push_back((epoch, self.read()));
    }

    /// Marks of epochs before `epoch` are not needed any more.
    fn decided(&self, epoch: Epoch) {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _)| *of >= epoch);
    }

    /// Back to the figures at the barrier of `epoch`: what came after it will come again.
    fn roll_back(&self, epoch: Epoch) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let figures = marks.iter().find(|(of, _)| *of == epoch).map(|(_, figures)| *figures).unwrap_or_default();
        marks.retain(|(of, _)| *of == epoch);
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
    stages: BTreeMap<String, Arc<StageMetrics>>,
    pub(crate) epochs: Figure,
    pub(crate) epoch_ns: Figure,
    pub(crate) restarts: Figure,
    pub(crate) checkpoint: Figure,
}

impl PipelineMetrics {
    pub(crate) fn new<'a>(stages: impl Iterator<Item = &'a str>) -> Self {
        let stages = stages.map(|name| (name.to_owned(), Arc::default())).collect();
        PipelineMetrics { stages, ..PipelineMetrics::default() }
    }

    /// The figures of a stage that `new` was told of.
    pub(crate) fn stage(&self, name: &str) -> Arc<StageMetrics> {
        self.stages.get(name).cloned().unwrap_or_default()
    }

    /// The epoch counts.
    pub(crate) fn decided(&self, epoch: Epoch) {
        self.checkpoint.set(epoch);
        self.stages.values().for_each(|stage| stage.decided(epoch));
    }

    /// The pipeline goes back to the checkpoint of `epoch`, and its books with it.
    pub(crate) fn roll_back(&self, epoch: Epoch) {
        self.stages.values().for_each(|stage| stage.roll_back(epoch));
    }

    pub(crate) fn read(&self) -> BTreeMap<String, StageFigures> {
        self.stages.iter().map(|(name, stage)| (name.clone(), stage.read())).collect()
    }
}
