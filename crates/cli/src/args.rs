//! What can be typed.

use clap::{ArgAction, Args, ColorChoice, CommandFactory as _, Parser, ValueEnum};

use crate::commands::Command;

/// Shown by every `--help`.
const EXIT_CODES: &str = "\
Exit codes:
  0    all done
  1    a pipeline or command failed
  2    bad usage, bad file or bad URL: nothing was started
  3    drained after a signal, but something was left undone
  130  stopped at once by a second signal";

/// Move and process streams of records: files, pipes and whole pipelines.
#[derive(Debug, Parser)]
#[command(name = "millstream", version, arg_required_else_help = true, infer_long_args = false)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) talk: TalkArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// How much is said on standard error, and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Talk (on standard error)")]
pub(crate) struct TalkArgs {
    /// Colours: `auto` means on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value = "auto", hide_possible_values = false)]
    pub(crate) color: When,
    /// How log lines and errors are written
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value = "text")]
    pub(crate) log_format: LogFormat,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more; twice: even more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Without a terminal: a line about the progress every 10 s
    #[arg(long, global = true)]
    pub(crate) progress: bool,
}

/// When there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// On a terminal
    Auto,
    /// Also in pipes
    Always,
    /// Not at all
    Never,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// One JSON object a line
    Json,
}

/// The whole command line, with exit codes in every help.
pub(crate) fn command() -> clap::Command {
    with_exit_codes(Cli::command()).color(early_color(std::env::args()))
}

fn with_exit_codes(command: clap::Command) -> clap::Command {
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    let command = command.after_help(EXIT_CODES);
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, with_exit_codes))
}

/// The parser's own messages are coloured too, and it has not read `--color` yet.
fn early_color(arguments: impl Iterator<Item = String>) -> ColorChoice {
    let mut choice = ColorChoice::Auto;
    let mut before = String::new();
    for argument in arguments {
        let value = argument.strip_prefix("--color=").or((before == "--color").then_some(argument.as_str()));
        choice = match value {
            Some("always") => ColorChoice::Always,
            Some("never") => ColorChoice::Never,
            Some("auto") => ColorChoice::Auto,
            _ => choice,
        };
        before = argument;
    }
    choice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_help_lists_the_exit_codes() {
        for sub in command().get_subcommands_mut() {
            assert!(sub.render_long_help().to_string().contains("130  stopped at once"), "{}", sub.get_name());
        }
    }
}
