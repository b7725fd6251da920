//! Long files and functions: no fault, but a question: which second idea lives there?

use super::Source;
use crate::scan::{code_only, functions};

/// Past this many lines a file probably holds two ideas.
const FILE_LINES_MAX: usize = 500;

/// Past this many lines a function does not fit on a screen.
const FUNCTION_LINES_MAX: usize = 70;

/// What is longer than that, the longest first.
pub(super) fn long_ones(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.extension() == "rs") {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            found.push((lines, format!("{} has {lines} lines", source.path)));
        }
        for (name, line, lines) in functions(&code_only(&source.text)) {
            if lines > FUNCTION_LINES_MAX {
                found.push((lines, format!("{}:{line} `{name}` has {lines} lines", source.path)));
            }
        }
    }
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, note)| note).collect()
}
