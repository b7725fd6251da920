//! Developer commands: `cargo xtask COMMAND`.

mod commands;
mod connector;
mod docs;
mod markdown;
mod metadata;
mod packages;
mod scan;
mod suite;
mod tally;
mod tidy;
mod workspace;

use std::{env, process::ExitCode};

use anyhow::{Result, bail};

use crate::{suite::SuiteOptions, workspace::Workspace};

const HELP: &str = "\
cargo xtask test [--long] [--only STEP]... [--package NAME]... [--dry-run]
    everything that has to be right: install what tests need, format, clippy, tidy, all tests, examples and README
    commands, the template of connectors
      --long          more seeds, more kills, fuzz loops of a minute each (MILLSTREAM_LONG=1)
      --only STEP     packages, fmt, clippy, tidy, test, commands or template
      --package NAME  only this package of the workspace (fmt, clippy and test)
      --dry-run       say what would be done
cargo xtask tidy [--quick]
    the rules of CONTRIBUTING.md that a machine can check; also names long files and functions; then `commands`
      --quick         without `commands`: builds nothing
cargo xtask commands [FILTER]
    runs the examples and the commands in README files, and compares what they print; FILTER is a part of a place
cargo xtask new-connector NAME
    writes connectors/NAME, and enters it in the workspace and the bundle
cargo xtask bench [ARGUMENTS]
    runs the benchmarks
cargo xtask docs [--check]
    writes docs/connectors.md from what the program says of itself
";

fn main() -> ExitCode {
    match run(env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut args: Vec<String>) -> Result<()> {
    if args.is_empty() || args.iter().any(|arg| arg == "--help" || arg == "-h") {
        print!("{HELP}");
        return Ok(());
    }
    let command = args.remove(0);
    let workspace = Workspace::find()?;
    match (command.as_str(), args.as_slice()) {
        ("test", _) => suite::run(&workspace, &SuiteOptions::parse(args)?),
        ("tidy", []) => tidy::run(&workspace).and_then(|()| commands::run(&workspace, "")),
        ("tidy", [quick]) if quick == "--quick" => tidy::run(&workspace),
        ("commands", []) => commands::run(&workspace, ""),
        ("commands", [filter]) => commands::run(&workspace, filter),
        ("new-connector", [name]) => connector::create(&workspace, name),
        ("new-connector", _) => bail!("give the new connector a name: `cargo xtask new-connector NAME`"),
        ("bench", _) => workspace.run(
            workspace
                .cargo()
                .args(["run", "--release", "--locked", "--package", "millstream-bench", "--features", "peers", "--"])
                .args(args),
        ),
        ("docs", []) => docs::write(&workspace),
        ("docs", [check]) if check == "--check" => docs::check(&workspace),
        ("help", _) => {
            print!("{HELP}");
            Ok(())
        }
        _ => bail!("unknown command or arguments: `cargo xtask {command} {}`\n\n{HELP}", args.join(" ")),
    }
}
