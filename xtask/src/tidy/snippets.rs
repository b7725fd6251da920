//! Rust in the README is Rust that is compiled: each block is a piece of an example.

use super::{Problem, Source};
use crate::markdown::blocks;

/// The document whose blocks are checked.
const README: &str = "README.md";

/// Checks that each block marked `rust` stands in an example, line by line.
pub(super) fn check(sources: &[Source]) -> Vec<Problem> {
    let is_example = |source: &&Source| source.extension() == "rs" && source.path.contains("/examples/");
    let examples: Vec<Vec<&str>> = sources.iter().filter(is_example).map(|example| lines(&example.text)).collect();
    let readme = sources.iter().find(|source| source.path == README).map_or("", |source| &source.text);
    let mut problems = Vec::new();
    for block in blocks(readme).into_iter().filter(|block| block.info == "rust") {
        let wanted = lines(&block.text);
        let holds = |example: &Vec<&str>| example.windows(wanted.len().max(1)).any(|window| window == wanted);
        if !examples.iter().any(holds) {
            problems.push(Problem::at(
                README,
                block.line,
                "this Rust stands in no file of `examples`, so nobody compiles it",
            ));
        }
    }
    problems
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}
