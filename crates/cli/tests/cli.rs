//! The real binary with real files, pipes and signals.

#[path = "cli/bad_input.rs"]
mod bad_input;
#[path = "cli/commands.rs"]
mod commands;
#[path = "cli/examples.rs"]
mod examples;
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
