//! The client API on real servers: systems by type, shards, native clients. The conformance suites of the connectors hold the rest.

mod again;
mod members;
mod native;
mod shards;
mod support;
mod typed;
