//! Spec to plan to running pipeline: the engine.
//!
//! A [`PipelineSpec`] says what was written, a [`Plan`] what that means (checked, no I/O), and [`Running`] does it.
//! Everything commits at an epoch boundary; `ARCHITECTURE.md` follows one batch and one barrier through these files:
//!
//! ```text
//! source_task ──► stage_task ──► sink_task          batches and barriers, over channel + align
//!      │               │              │
//!      └───────────────┴─── reports ──┴──► coordinate ──► decide: our store or a host ──► everybody is told
//!                                              ▲
//!        recover, open ◄──── supervise ────────┘  failure: again from the checkpoint
//! ```

mod align;
mod chain;
mod change;
mod channel;
mod condemn;
mod coordinate;
mod dead_letter_task;
mod decide;
mod dispatch;
mod ended;
mod ending;
mod handle;
mod lag;
mod lease;
mod metrics;
mod open;
mod pace;
mod park;
mod plan;
mod probe;
mod queues;
mod rate;
mod recover;
mod retain;
mod rules;
mod run;
mod shards;
mod signal;
mod sink_task;
mod source_task;
mod span;
mod spec;
mod stage_task;
mod supervise;
mod tap;
mod task;
mod wait;
mod wire;

// For `signal.rs`: a model checker has its own.
use std::sync::atomic as atomics;

pub use dead_letter_task::DeadLetterCause;
pub use handle::{Graph, GraphStage, Handle, Happening};
pub use metrics::StageFigures;
pub use millstream_buffer::{BufferSpec, WhenFull};
pub use plan::{Node, Plan, PlanOptions, Planned};
pub use probe::{Probe, Step};
pub use queues::QueueFigures;
pub use rules::{ErrorRule, Match, Retry, Rules, Then, Verdict};
pub use run::{Ended, Phase, RunOptions, Running, Start, Status, Summary};
pub use span::batch_span;
pub use spec::{
    CheckpointSpec, DeadLetterSpec, Dispatch, Entry, LimitsSpec, OnFailed, PipelineSpec, RateLimit, StateSpec, Written,
};
pub use tap::Tap;
