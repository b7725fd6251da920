//! Names of files: the same everywhere for the same thing, and none that says nothing.

use super::{Problem, Source};
use crate::metadata::Metadata;

/// Names that say nothing about what is in a file.
const EMPTY_NAMES: [&str; 10] =
    ["util", "utils", "common", "helper", "helpers", "manager", "managers", "misc", "type", "types"];

/// Files with such a name that say with it what they are about, and what that is.
const NAMED_FOR_A_REASON: [(&str, &str); 1] = [("crates/codec/src/csv/types.rs", "the option `types` of csv")];

/// What every connector has: a file, or a file somewhere under `src`.
const IN_EVERY_CONNECTOR: [(&str, &str); 4] = [
    ("src/lib.rs", "what it is, and its guarantee in four lines"),
    ("options.rs", "its options"),
    ("tests/", "its tests"),
    ("README.md", "what users and operators should know"),
];

/// Other words for the files of a connector, and the word to use.
const SYNONYMS: [(&str, &str); 12] = [
    ("config", "options"),
    ("settings", "options"),
    ("opts", "options"),
    ("errors", "error"),
    ("reader", "source"),
    ("consumer", "source"),
    ("input", "source"),
    ("writer", "sink"),
    ("producer", "sink"),
    ("output", "sink"),
    ("connection", "client"),
    ("connector", "client"),
];

/// Checks names of files.
pub(super) fn check(metadata: &Metadata, sources: &[Source]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for source in sources {
        let exempt = NAMED_FOR_A_REASON.iter().any(|(path, _)| *path == source.path);
        let stems = source.path.split('/').map(|part| part.split('.').next().unwrap_or_default());
        if let Some(name) = stems.clone().find(|stem| !exempt && EMPTY_NAMES.contains(stem)) {
            problems.push(Problem::of(&source.path, format!("`{name}` says nothing; name it after the idea in it")));
        }
    }
    for package in metadata.packages.iter().filter(|package| package.within("connectors")) {
        problems.extend(connector(&package.folder, sources));
    }
    problems
}

fn connector(folder: &str, sources: &[Source]) -> Vec<Problem> {
    let files: Vec<&str> =
        sources.iter().filter_map(|source| source.path.strip_prefix(folder)?.strip_prefix('/')).collect();
    let mut problems = Vec::new();
    for (name, what) in IN_EVERY_CONNECTOR {
        let has = |file: &&str| match name.strip_suffix('/') {
            Some(_) => file.starts_with(name),
            None => {
                let folder = name.replace(".rs", "/mod.rs");
                let named = |file: &str| file.ends_with(&format!("/{name}")) || file.ends_with(&format!("/{folder}"));
                *file == name || (file.starts_with("src/") && named(file))
            }
        };
        if !files.iter().any(has) {
            problems.push(Problem::of(folder, format!("`{name}` is missing: {what}")));
        }
    }
    for (synonym, word) in SYNONYMS {
        let wrong = [format!("src/{synonym}.rs"), format!("src/{synonym}/mod.rs")];
        for file in files.iter().filter(|file| wrong.iter().any(|wrong| wrong == *file)) {
            problems.push(Problem::of(&format!("{folder}/{file}"), format!("connectors call it `{word}`")));
        }
    }
    problems
}
