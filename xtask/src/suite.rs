//! `cargo xtask test`: everything that has to be right, step by step, up to the first failure.

use std::{env, process::Command, time::Instant};

use anyhow::{Context, Result, bail};

use crate::{
    commands, connector, packages,
    tally::Tally,
    tidy,
    workspace::{Workspace, show},
};

/// A step of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Packages,
    Fmt,
    Clippy,
    Tidy,
    Test,
    Commands,
    Template,
}

impl Step {
    /// All, in the order in which they run: what is cheap and fails often comes first.
    const ALL: [(Step, &str, &str); 7] = [
        (Step::Packages, "packages", "install what tests need and the machine does not have"),
        (Step::Fmt, "fmt", "source is formatted"),
        (Step::Clippy, "clippy", "no warnings"),
        (Step::Tidy, "tidy", "walls, names and links"),
        (Step::Test, "test", "all tests"),
        (Step::Commands, "commands", "examples and README commands print what they say"),
        (Step::Template, "template", "a new connector compiles and passes its tests"),
    ];

    fn named(name: &str) -> Result<Step> {
        let found = Step::ALL.iter().find(|(_, known, _)| *known == name);
        found.map(|(step, ..)| *step).with_context(|| {
            let known: Vec<_> = Step::ALL.iter().map(|(_, name, _)| *name).collect();
            format!("there is no step `{name}`; known are {}", known.join(", "))
        })
    }
}

/// Where property tests begin their random choices.
const CHANCE: &str = "PROPTEST_RNG_SEED";

/// What `cargo xtask test` was asked.
#[derive(Debug, Default)]
pub(crate) struct SuiteOptions {
    long: bool,
    dry_run: bool,
    only: Vec<Step>,
    packages: Vec<String>,
}

impl SuiteOptions {
    /// Reads the arguments behind `test`.
    pub(crate) fn parse(args: Vec<String>) -> Result<Self> {
        let mut options = SuiteOptions::default();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("`{arg}` needs a value"));
            match arg.as_str() {
                "--long" => options.long = true,
                "--dry-run" => options.dry_run = true,
                "--only" => options.only.push(Step::named(&value()?)?),
                "--package" | "-p" => options.packages.push(value()?),
                _ => bail!("unknown argument `{arg}`; see `cargo xtask --help`"),
            }
        }
        Ok(options)
    }

    /// `--workspace`, or the packages that were asked for.
    fn scope(&self, everything: &str) -> Vec<String> {
        match self.packages.as_slice() {
            [] => vec![everything.to_owned()],
            some => some.iter().flat_map(|name| ["--package".to_owned(), name.clone()]).collect(),
        }
    }
}

/// Runs the steps; the first that fails is the last.
pub(crate) fn run(workspace: &Workspace, options: &SuiteOptions) -> Result<()> {
    let all = Instant::now();
    let mut tally = None;
    let wanted = |step: &Step| options.only.is_empty() || options.only.contains(step);
    for (step, name, what) in Step::ALL.iter().filter(|(step, ..)| wanted(step)) {
        println!("==> {name}: {what}");
        let start = Instant::now();
        let result = run_step(workspace, options, *step, &mut tally);
        let seconds = start.elapsed().as_secs_f32();
        match result {
            Ok(()) => println!("==> {name}: ok, {seconds:.1} s"),
            Err(error) => {
                println!("==> {name}: FAILED, {seconds:.1} s");
                tally.iter().for_each(|tally| println!("{}", tally.line()));
                return Err(error.context(format!("step `{name}` failed; again with `cargo xtask test --only {name}`")));
            }
        }
    }
    println!("==> all steps: ok, {:.1} s", all.elapsed().as_secs_f32());
    tally.iter().for_each(|tally| println!("{}", tally.line()));
    Ok(())
}

fn run_step(workspace: &Workspace, options: &SuiteOptions, step: Step, tally: &mut Option<Tally>) -> Result<()> {
    match step {
        Step::Packages => packages::install(workspace, options.dry_run),
        Step::Fmt => {
            let mut fmt = workspace.cargo();
            fmt.arg("fmt").args(options.scope("--all")).arg("--check");
            run_or_show(workspace, options, &mut fmt)
        }
        Step::Clippy => {
            let mut clippy = workspace.cargo();
            clippy.arg("clippy").args(options.scope("--workspace")).args(["--all-targets", "--locked"]);
            run_or_show(workspace, options, clippy.args(["--", "-D", "warnings"]))
        }
        Step::Test => {
            let mut test = workspace.cargo();
            test.arg("test").args(options.scope("--workspace")).args(["--locked", "--no-fail-fast"]);
            if options.long {
                test.env("MILLSTREAM_LONG", "1");
            } else if env::var_os(CHANCE).is_none() {
                // A commit that is green stays green; chance is for the long mode, which finds what nobody thought of.
                test.env(CHANCE, "2026");
            }
            // What passing tests print is where they say `skipped: why`.
            test.args(["--", "--show-output"]);
            if options.dry_run {
                println!("    {}", show(&test));
                return Ok(());
            }
            let tally = tally.insert(Tally::of(&mut test)?);
            tally.print_notes();
            tally.verdict(in_ci())
        }
        _ if options.dry_run => Ok(()),
        Step::Tidy => tidy::run(workspace),
        Step::Commands => commands::run(workspace, ""),
        Step::Template => connector::check_template(workspace),
    }
}

fn run_or_show(workspace: &Workspace, options: &SuiteOptions, command: &mut Command) -> Result<()> {
    println!("    {}", show(command));
    if options.dry_run { Ok(()) } else { workspace.run(command) }
}

/// Whether a machine runs us that is meant to have everything that tests need.
fn in_ci() -> bool {
    env::var("CI").is_ok_and(|value| !matches!(value.as_str(), "" | "0" | "false"))
}
