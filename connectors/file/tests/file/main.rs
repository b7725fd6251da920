//! Text files and `.ss` stream files, as sources and as sinks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod follow;
mod property;
mod rotate;
mod sink;
mod source;
mod ss;
mod support;
