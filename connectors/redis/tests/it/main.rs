//! The connector against real servers.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cluster;
mod conformance;
mod crash;
mod exact;
mod fake;
mod faults;
mod group;
mod group_gone;
mod host;
mod lag;
mod large;
mod late;
mod members;
mod moved;
mod options;
mod order;
mod pipeline;
mod replicas;
mod sink;
mod sinks;
mod source;
mod support;
mod too_large;
mod wire;
