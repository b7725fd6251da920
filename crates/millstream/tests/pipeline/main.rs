//! What a pipeline that is built in Rust does: one behaviour each, on a runtime of one thread and on one of several.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[macro_use]
mod bed;

mod batches;
mod collector;
mod envelope;
mod graph;
mod misuse;
mod steps;
mod waiting;
mod workers;
