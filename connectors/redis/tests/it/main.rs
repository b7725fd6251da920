//! The connector against real servers.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cluster;
mod conformance;
mod faults;
mod group;
mod options;
mod sink;
mod source;
mod speed;
mod support;
