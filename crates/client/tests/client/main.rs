//! What consumers and producers promise: on a log whose every move the test decides, on pipes and files, and on real servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod backends;
mod conformance;
mod consumer;
mod groups;
mod idle;
mod live;
mod producer;
mod resume;
mod runtime;
mod support;
