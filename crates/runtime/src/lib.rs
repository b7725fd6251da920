//! Spec to plan to running pipeline: the engine.

mod rules;
mod spec;

pub use rules::{ErrorRule, Match, Retry, Rules, Then, Verdict};
pub use spec::{CheckpointSpec, DeadLetterSpec, Entry, LimitsSpec, PipelineSpec, StateSpec, Written};
