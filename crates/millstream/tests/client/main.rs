//! Systems by URL and by type: the example, and pipelines that choose the shards of their sinks.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod example;
mod shards;
