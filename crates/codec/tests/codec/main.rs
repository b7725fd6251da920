//! Codecs and compression: any bytes, in any blocks, and back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::result_large_err,
    reason = "a test fails by panicking"
)]

mod compression;
mod csv;
mod lines;
mod ss;
mod ss_model;
mod stdio_lines;
mod support;
