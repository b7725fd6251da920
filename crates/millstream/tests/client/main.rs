//! Systems by URL and by type: the example, and pipelines that choose the shards of their sinks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod example;
mod shards;
