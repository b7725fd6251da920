//! The client API on real servers: systems by type, shards, native clients. The conformance suites of the connectors hold the rest.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod native;
mod shards;
mod support;
mod typed;
