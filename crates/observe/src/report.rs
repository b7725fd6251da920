//! How pipelines get on, as values that travel: what `/status` answers and what `millstream top` draws.
//!
//! Unknown fields are to be ignored and missing ones have defaults, so that a newer program can look at an older one.

use millstream_core::Lag;
use millstream_runtime::{QueueFigures, StageFigures};
use serde::{Deserialize, Serialize};

/// All pipelines of a process at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The process.
    pub pid: u32,
    /// Version of the program.
    pub version: String,
    /// In the order in which they were added.
    pub pipelines: Vec<PipelineReport>,
}

/// One pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PipelineReport {
    /// Its name.
    pub name: String,
    /// Its promise, in words.
    pub delivery: String,
    /// What it is doing: `opening`, `running`, `paused`, `draining`, `restarting`, `over` or `failed`.
    pub phase: String,
    /// Why, where that is known: the cause of a restart or failure.
    pub cause: Option<String>,
    /// What keeps it from being ready; nothing if it is.
    pub unready: Option<String>,
    /// The newest epoch that counts.
    pub epoch: u64,
    /// Epochs committed by this process.
    pub epochs: u64,
    /// Mean time from cutting an epoch to its decision.
    pub epoch_latency_seconds: f64,
    /// For how long something has been under way without an epoch being decided.
    pub epoch_age_seconds: Option<f64>,
    /// Restarts from a checkpoint.
    pub restarts: u64,
    /// Rates and shares are those of about this time.
    pub over_seconds: f64,
    /// What limits it, in words.
    pub bottleneck: String,
    /// Sources, steps, sinks.
    pub stages: Vec<StageReport>,
    /// Buffers on disk in front of its sinks. What delivers each is a pipeline of its own, `PIPELINE.SINK`.
    pub buffers: Vec<BufferReport>,
}

/// One source, step or sink, or `dead letters`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StageReport {
    /// Its name.
    pub name: String,
    /// `source`, `step` or `sink`.
    pub role: String,
    /// The component's name.
    pub kind: String,
    /// What it reads: `STAGE` or `STAGE.OUTPUT`.
    pub reads: Vec<String>,
    /// Workers that share its work.
    pub workers: u32,
    /// Several workers may do its work.
    pub scales: bool,
    /// What it is waiting for, where that is not simply work.
    pub waiting: Option<String>,
    /// Records that came in and have not come to an end yet.
    pub in_flight: u64,
    /// Since the start of the process. What is done again after a restart counts again.
    pub totals: Totals,
    /// Per second, of late.
    pub rates: Rates,
    /// Of the time of late, of each worker: from 0 to 1.
    pub shares: Shares,
    /// What waits in front of it, if that is known.
    pub queue: Option<Queue>,
    /// Of a source: what is there and not yet read, where its system tells; about a second old.
    pub lag: Option<Lag>,
}

/// What happens in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rates {
    /// Records that came in.
    pub records_in: f64,
    /// Records that left.
    pub records_out: f64,
    /// Bytes that came in.
    pub bytes_in: f64,
    /// Failures.
    pub failures: f64,
}

/// What a stage does with its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Shares {
    /// Working.
    pub busy: f64,
    /// Waiting for room behind it.
    pub blocked: f64,
    /// Waiting for input, or for the world outside.
    pub idle: f64,
}

/// A buffer on disk in front of a sink.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BufferReport {
    /// The pipeline that fills it.
    pub pipeline: String,
    /// The sink behind it.
    pub sink: String,
    /// Records that count for the pipeline and are not delivered.
    pub records: u64,
    /// Bytes that are not delivered.
    pub bytes: u64,
    /// Bytes on the disk: also what is delivered and not deleted yet.
    pub disk_bytes: u64,
    /// Bytes that it may hold on the disk.
    pub disk_bytes_max: u64,
    /// How full it is, from 0 to 1: its bytes on the disk of those that it may hold.
    pub fill: f64,
    /// How long the oldest of its records has been waiting.
    pub oldest_age_seconds: Option<f64>,
    /// Records dropped unread to make room, since the buffer was made.
    pub dropped: u64,
    /// How long the pipeline has been waiting for room in it.
    pub waiting_seconds: Option<f64>,
    /// Why nothing gets into it: it is full, or its disk is.
    pub waiting: Option<String>,
}

/// What waits in front of a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Queue {
    /// Batches in it.
    pub batches: u64,
    /// Batches at most.
    pub batches_max: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes at most.
    pub bytes_max: u64,
}

impl From<&QueueFigures> for Queue {
    fn from(figures: &QueueFigures) -> Self {
        let QueueFigures { batches, batches_max, bytes, bytes_max } = *figures;
        let [batches, batches_max, bytes, bytes_max] =
            [batches, batches_max, bytes, bytes_max].map(|figure| figure as u64);
        Queue { batches, batches_max, bytes, bytes_max }
    }
}

impl Queue {
    /// How full it is, from 0 to 1.
    pub fn fill(&self) -> f64 {
        let share = |now: u64, most: u64| if most == 0 { 0.0 } else { (now as f64 / most as f64).min(1.0) };
        share(self.batches, self.batches_max).max(share(self.bytes, self.bytes_max))
    }
}

macro_rules! totals {
    ($( $(#[$doc:meta])* $name:ident, )*) => {
        /// The books of a stage, and where its time went.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct Totals {
            $( $(#[$doc])* pub $name: u64, )*
            /// Records that wait for another try, now.
            pub parked: u64,
        }

        impl Totals {
            /// Adds what has come since `last`. A pipeline that goes back to a checkpoint takes its books with it, but a
            /// counter that others watch must not: where `now` is less, nothing has come.
            pub(crate) fn grow(&mut self, last: &Totals, now: &Totals) {
                $( self.$name += now.$name.saturating_sub(last.$name); )*
                self.parked = now.parked;
            }
        }

        impl From<&StageFigures> for Totals {
            fn from(figures: &StageFigures) -> Self {
                Totals { $( $name: figures.$name, )* parked: figures.parked }
            }
        }
    };
}

totals! {
    /// Records that came in; for a source, records read.
    records_in,
    /// Bytes that came in.
    bytes_in,
    /// Batches that came in.
    batches,
    /// Records that left by an output; for a sink, records delivered.
    records_out,
    /// Outputs beyond one for each input.
    created,
    /// Records that live on in state.
    absorbed,
    /// Records left out on purpose.
    filtered,
    /// Records dropped by an error rule.
    dropped,
    /// Records that became dead letters.
    dead,
    /// Records given back to their queue.
    returned,
    /// Failures of records and connections, retried ones too.
    failures,
    /// Nanoseconds spent working.
    busy_ns,
    /// Nanoseconds spent waiting for room in the next queue.
    blocked_ns,
}
