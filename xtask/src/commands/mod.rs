//! Runs what documents and examples tell people to type, and compares what is printed with what they promise.
//!
//! - Each block marked `sh` in the README files below is one script of bash; it must end with 0. If a block marked `text`
//!   comes next, the script must print exactly that on standard output; a line `...` in it stands for any lines.
//! - Each `examples/NAME.yaml` must pass `millstream check`, and where there is a file `examples/expected/NAME.*`, `run` must
//!   print that, twice; lines of an `.ndjson` in any order, because keys have none among each other.
//! - Each `examples/NAME.sh` must end with 0, and print what is expected in the same way. Other files in `examples/expected` are
//!   for tests of the program that look at more than what is printed.
//!
//! Where everything is run, `docs/connectors.md` is also compared with what the program says of itself.
//!
//! All of it happens in a copy of the project's files, so that nothing is left behind; `cargo run` there runs the program
//! that was built here.

mod sandbox;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    docs,
    markdown::{Block, blocks},
    workspace::Workspace,
};
use sandbox::Sandbox;
pub(crate) use sandbox::copy;

/// Longer than any example takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(900);

/// Lines of a script that are not for this place: they test or measure everything, or fetch and install.
const NOT_HERE: [&str; 6] = ["cargo xtask ", "cargo bench", "cargo install ", "git clone ", "cd ", "sudo "];

/// Lines of what was expected and printed that a failure shows.
const LINES_SHOWN: usize = 30;

/// Something to run, and what it must print.
#[derive(Debug, PartialEq, Eq)]
struct Promise {
    /// Where it stands.
    place: String,
    script: String,
    output: Option<Output>,
}

/// What must be printed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Output {
    text: String,
    /// Lines may come in any order.
    any_order: bool,
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
        Some(expected) if !expected.fits(&ran.stdout) => bail!(
            "--- expected\n{}--- printed\n{}--- standard error\n{}",
            head(&expected.text),
            head(&ran.stdout),
            ran.stderr
        ),
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
    promises.extend(of_examples(workspace, &files)?);
    Ok(promises)
}

/// Every pipeline file is right, every script ends well, and what is expected is printed.
fn of_examples(workspace: &Workspace, files: &[String]) -> Result<Vec<Promise>> {
    let own = |extension: &str| {
        let name = |file: &String| Some(file.strip_prefix("examples/")?.strip_suffix(extension)?.to_owned());
        files.iter().filter_map(name).filter(|name| !name.contains('/')).collect::<Vec<_>>()
    };
    let (pipelines, scripts) = (own(".yaml"), own(".sh"));
    let mut promises = Vec::new();
    for name in &pipelines {
        let script = format!("cargo run --release -- check examples/{name}.yaml\n");
        promises.push(Promise { place: format!("examples/{name}.yaml (check)"), script, output: None });
    }
    let mut expected = BTreeMap::new();
    for file in files.iter().filter(|file| file.starts_with("examples/expected/")) {
        let name = file.rsplit('/').next().and_then(|name| name.split('.').next()).unwrap_or_default();
        let output = Output { text: workspace.read(file)?, any_order: file.ends_with(".ndjson") };
        expected.insert(name.to_owned(), output);
    }
    for name in pipelines.iter().filter(|name| expected.contains_key(*name)) {
        let script = format!("cargo run --release -- run examples/{name}.yaml\n");
        for place in [format!("examples/{name}.yaml"), format!("examples/{name}.yaml (again)")] {
            promises.push(Promise { place, script: script.clone(), output: expected.get(name).cloned() });
        }
    }
    for name in &scripts {
        let (place, script) = (format!("examples/{name}.sh"), format!("sh examples/{name}.sh\n"));
        promises.push(Promise { place, script, output: expected.get(name).cloned() });
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
        let output =
            blocks.get(index + 1).filter(follows).map(|next| Output { text: next.text.clone(), any_order: false });
        let script = script.join("\n") + "\n";
        promises.push(Promise { place: format!("{file}:{}", block.line), script, output });
    }
    promises
}

/// The first lines of a text, and how many more there are.
fn head(text: &str) -> String {
    let more = text.lines().count().saturating_sub(LINES_SHOWN);
    let shown: String = text.lines().take(LINES_SHOWN).flat_map(|line| [line, "\n"]).collect();
    if more == 0 { shown } else { format!("{shown}... and {more} more lines\n") }
}

impl Output {
    /// Whether `printed` is that, where a line `...` stands for any number of lines. White space at the ends is ignored.
    fn fits(&self, printed: &str) -> bool {
        let lines = |text| {
            let mut lines: Vec<&str> = str::lines(str::trim_end(text)).map(str::trim_end).collect();
            if self.any_order {
                lines.sort_unstable();
            }
            lines
        };
        fit(&lines(&self.text), &lines(printed))
    }
}

fn fit(expected: &[&str], printed: &[&str]) -> bool {
    match (expected.split_first(), printed.split_first()) {
        (None, None) => true,
        (Some((&"...", after)), _) => {
            fit(after, printed) || printed.split_first().is_some_and(|(_, rest)| fit(expected, rest))
        }
        (Some((one, after)), Some((other, rest))) => one == other && fit(after, rest),
        _ => false,
    }
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
            output: output.map(|text| Output { text: text.to_owned(), any_order: false }),
        };
        let expected = [promise("R.md:1", "echo a\n", Some("a\n")), promise("R.md:14", "echo b\n", None)];
        assert_eq!(of_document("R.md", document), expected);
    }

    #[test]
    fn dots_stand_for_any_lines() {
        let fits = |text: &str, printed, any_order| Output { text: text.to_owned(), any_order }.fits(printed);
        assert!(fits("a\n...\nc\n", "a\nb\nb\nc\n", false));
        assert!(fits("a\n...\n", "a", false));
        assert!(fits("a \n\n", "a", false));
        assert!(!fits("a\n...\nc", "a\nb", false));
        assert!(!fits("a", "a\nb", false));
        assert!(fits("a\nb\n", "b\na\n", true) && !fits("a\nb\n", "b\na\n", false));
    }
}
