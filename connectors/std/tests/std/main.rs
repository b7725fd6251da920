//! Standard streams, generated records and channels within the process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::result_large_err,
    reason = "a test fails by panicking"
)]

mod collector;
mod components;
mod orders;
mod stdin;
mod stdout;
mod support;

// What `src/channel/queue.rs` is made of in `orders`.
use orders::locks;
