//! What a pipeline file says, and what is said of one that is wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod any_input;
mod bad_files;
mod buffers;
mod fake;
mod folders;
mod interpolation;
mod places;
mod spec_page;
