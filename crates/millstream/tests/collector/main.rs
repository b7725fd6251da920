//! A source that the program pushes into, on a runtime of one thread and on one of several.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[macro_use]
#[path = "../pipeline/bed.rs"]
#[allow(dead_code, reason = "not all of it is used here")]
mod bed;

mod behaviour;
mod web;
