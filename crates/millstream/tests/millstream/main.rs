//! The library as a program uses it: pipelines, clients, buffers, crashes, the examples, and tests of pipelines.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod buffers;
mod client;
mod crash;
mod examples;
mod model;
mod pipeline;
mod testing;
