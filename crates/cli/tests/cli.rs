//! The real binary with real files, pipes and signals.
// Helpers of tests fail by panicking, like the tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "cli/admin.rs"]
mod admin;
#[path = "cli/bad_input.rs"]
mod bad_input;
#[path = "cli/book.rs"]
mod book;
#[path = "cli/brokers.rs"]
mod brokers;
#[path = "cli/buffers.rs"]
mod buffers;
#[path = "cli/commands.rs"]
mod commands;
#[path = "cli/crash.rs"]
mod crash;
#[path = "cli/crash_state.rs"]
mod crash_state;
#[path = "cli/examples.rs"]
mod examples;
#[path = "cli/fault_buffer.rs"]
mod fault_buffer;
#[path = "cli/fault_disk.rs"]
mod fault_disk;
#[path = "cli/fault_pipes.rs"]
mod fault_pipes;
#[path = "cli/fault_stall.rs"]
mod fault_stall;
#[path = "cli/pipes.rs"]
mod pipes;
#[path = "cli/runs.rs"]
mod runs;
#[path = "cli/signals.rs"]
mod signals;
#[path = "cli/ss.rs"]
mod ss;
#[path = "cli/support.rs"]
mod support;
#[path = "cli/talk.rs"]
mod talk;
#[path = "cli/terminal.rs"]
mod terminal;
#[path = "cli/watching.rs"]
mod watching;
#[path = "cli/watching_buffers.rs"]
mod watching_buffers;
