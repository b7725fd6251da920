//! Runs what documents and examples tell people to type, and compares what is printed with what they promise.
//!
//! - Each block marked `sh` in the README files below is one script of bash; it must end with 0. If a block marked `text`
//!   comes next, the script must print exactly that on standard output; a line `...` in it stands for any lines.
//! - Each `examples/NAME.yaml` with a file `examples/NAME.expected` beside it is run by `millstream run`, twice: the second
//!   run must print the same.
//!
//! Where everything is run, `docs/connectors.md` is also compared with what the program says of itself.
//!
//! All of it happens in a copy of the project's files, so that nothing is left behind; `cargo run` there runs the program
//! that was built here.

mod sandbox;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{
    docs,
    markdown::{Block, blocks},
    workspace::Workspace,
};
use sandbox::Sandbox;
pub(crate) use sandbox::copy;

/// Longer than any example takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// Lines of a script that are not for this place: they test or measure everything, or fetch and install.
const NOT_HERE: [&str; 6] = ["cargo xtask ", "cargo bench", "cargo install ", "git clone ", "cd ", "sudo "];

/// Something to run, and what it must print.
#[derive(Debug, PartialEq, Eq)]
struct Promise {
    /// Where it stands.
    place: String,
    script: String,
    output: Option<String>,
}

/// Runs all promises whose place contains `filter`.
pub(crate) fn run(workspace: &Workspace, filter: &str) -> Result<()> {
    let promises = promises(workspace)?;
    let wanted: Vec<_> = promises.iter().filter(|promise| promise.place.contains(filter)).collect();
    if wanted.is_empty() {
        bail!("nothing to run: no README command or example has `{filter}` in its place");
    }
    workspace.run(workspace.cargo().args(["build", "--release", "--locked"]))?;
    if filter.is_empty() {
        docs::check(workspace)?;
    }
    let sandbox = Sandbox::new(workspace)?;
    for promise in &wanted {
        let start = Instant::now();
        let kept = keep(&sandbox, promise);
        let seconds = start.elapsed().as_secs_f32();
        println!("    {} {}, {seconds:.1} s", promise.place, if kept.is_ok() { "ok" } else { "FAILED" });
        kept.with_context(|| format!("{} does not do what it says:\n{}", promise.place, promise.script))?;
    }
    println!("    {} commands and examples", wanted.len());
    Ok(())
}

fn keep(sandbox: &Sandbox, promise: &Promise) -> Result<()> {
    let ran = sandbox.run(&promise.script, PATIENCE)?;
    if let Some(failure) = ran.failure {
        bail!("{failure}\n--- standard output\n{}--- standard error\n{}", ran.stdout, ran.stderr);
    }
    match &promise.output {
        Some(expected) if !matches(expected, &ran.stdout) => {
            bail!("--- expected\n{expected}--- printed\n{}--- standard error\n{}", ran.stdout, ran.stderr)
        }
        _ => Ok(()),
    }
}

/// All promises of the project.
fn promises(workspace: &Workspace) -> Result<Vec<Promise>> {
    let files = workspace.files()?;
    let mut promises = Vec::new();
    let is_guide =
        |file: &&String| *file == "README.md" || (file.starts_with("examples/") && file.ends_with("README.md"));
    for file in files.iter().filter(is_guide) {
        promises.extend(of_document(file, &workspace.read(file)?));
    }
    for file in files.iter().filter(|file| file.starts_with("examples/")) {
        let Some(example) = file.strip_suffix(".expected") else { continue };
        let yaml = format!("{example}.yaml");
        if !files.contains(&yaml) {
            bail!("`{file}` says what an example prints, but there is no `{yaml}`");
        }
        let script = format!("cargo run --release -- run {yaml}\n");
        let output = Some(workspace.read(file)?);
        promises.push(Promise { place: yaml.clone(), script: script.clone(), output: output.clone() });
        promises.push(Promise { place: format!("{yaml} (again)"), script, output });
    }
    Ok(promises)
}

fn of_document(file: &str, document: &str) -> Vec<Promise> {
    let blocks = blocks(document);
    let lines: Vec<_> = document.lines().collect();
    let mut promises = Vec::new();
    for (index, block) in blocks.iter().enumerate().filter(|(_, block)| block.info == "sh") {
        let here = |line: &&str| !NOT_HERE.iter().any(|start| line.starts_with(start)) && !line.trim().is_empty();
        let script: Vec<_> = block.text.lines().filter(here).collect();
        if script.iter().all(|line| line.starts_with('#')) {
            continue;
        }
        let follows = |next: &&Block| {
            let between = lines.get(block.end - 1..next.line - 1).unwrap_or_default();
            next.info == "text" && between.iter().all(|line| line.trim().is_empty())
        };
        let output = blocks.get(index + 1).filter(follows).map(|next| next.text.clone());
        let script = script.join("\n") + "\n";
        promises.push(Promise { place: format!("{file}:{}", block.line), script, output });
    }
    promises
}

/// Whether `printed` is `expected`, where a line `...` stands for any number of lines. White space at the ends is ignored.
fn matches(expected: &str, printed: &str) -> bool {
    fn lines<'a>(expected: &[&'a str], printed: &[&'a str]) -> bool {
        match (expected.first(), printed.first()) {
            (None, None) => true,
            (Some(&"..."), _) => {
                lines(&expected[1..], printed) || printed.split_first().is_some_and(|(_, rest)| lines(expected, rest))
            }
            (Some(e), Some(p)) => e == p && lines(&expected[1..], &printed[1..]),
            _ => false,
        }
    }
    let expected: Vec<_> = expected.trim_end().lines().map(str::trim_end).collect();
    let printed: Vec<_> = printed.trim_end().lines().map(str::trim_end).collect();
    lines(&expected, &printed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_promise_what_their_blocks_say() {
        let document = "```sh\ngit clone x\ncd x\necho a\n```\n\n```text\na\n```\n\n```sh\ncargo xtask test\n```\n\
            ```sh\necho b\n```\nprose\n```text\nc\n```\n";
        let promise = |place: &str, script: &str, output: Option<&str>| Promise {
            place: place.to_owned(),
            script: script.to_owned(),
            output: output.map(str::to_owned),
        };
        let expected = [promise("R.md:1", "echo a\n", Some("a\n")), promise("R.md:14", "echo b\n", None)];
        assert_eq!(of_document("R.md", document), expected);
    }

    #[test]
    fn dots_stand_for_any_lines() {
        assert!(matches("a\n...\nc\n", "a\nb\nb\nc\n"));
        assert!(matches("a\n...\n", "a"));
        assert!(matches("a \n\n", "a"));
        assert!(!matches("a\n...\nc", "a\nb"));
        assert!(!matches("a", "a\nb"));
    }
}
