//! The client API on real servers: systems by type, shards, native clients. The conformance suites of the connectors hold the rest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod native;
mod shards;
mod support;
mod typed;
