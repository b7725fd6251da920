//! Source and sink against real brokers.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad_input;
mod changing;
mod conformance;
mod crash;
mod ending;
mod exact;
mod faults;
mod groups;
mod hosting;
mod interop;
mod lag;
mod members;
mod pipeline;
mod reading;
mod runs;
mod seeking;
mod support;
mod wire;
mod writing;
