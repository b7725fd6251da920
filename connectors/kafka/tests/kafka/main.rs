//! Source and sink against real brokers.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bad_input;
mod conformance;
mod faults;
mod groups;
mod hosting;
mod interop;
mod pipeline;
mod reading;
mod support;
mod writing;
