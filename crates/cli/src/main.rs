//! The `millstream` binary: one file per command under `commands`, and what they share.
//!
//! | file | what it is |
//! |---|---|
//! | `args`, `commands` | what can be typed, and what it does |
//! | `talk` | standard error: colours, progress or not, log lines |
//! | `output` | standard output: data, and nothing when its reader has gone away |
//! | `exit` | exit codes, and how a failure is shown |
//! | `engine`, `signals`, `progress`, `story`, `books` | running pipelines and telling about it |
//! | `observing`, `asking` | being watched while running, and asking who runs |
//! | `stream`, `letters` | pipelines made from URLs, for `relay` and its kin |
//! | `system`, `table` | systems that are asked instead of read, and their answers |

mod args;
mod asking;
mod books;
mod commands;
mod count;
mod engine;
mod exit;
mod letters;
mod observing;
mod output;
mod pipelines;
mod progress;
mod reader;
mod signals;
mod story;
mod stream;
mod system;
mod table;
mod talk;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::{args::Cli, exit::Exit, talk::Talk};

/// Records go from thread to thread, and with them their memory: see `docs/decisions/012-allocator.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let matches = match args::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            // Help and version go to standard output and are no error. A reader that has gone away is none either.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.format(&mut Cli::command()).print();
            return Exit::Usage.into();
        }
    };
    let talk = Talk::new(&cli.talk);
    talk.start_log();
    commands::execute(cli.command, &talk).unwrap_or_else(|failure| failure.show(&talk)).into()
}
