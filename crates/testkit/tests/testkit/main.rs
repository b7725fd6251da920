//! Fuzzing with what the testkit has for it, and the servers that it starts.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod fuzz;
mod servers;
