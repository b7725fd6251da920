//! Words that must not stand in the files of the project.

use super::{Problem, Source};
use crate::scan::{code_only, line_of};

/// In no file. Written in two parts, so that this one does not hold them.
const NOWHERE: [(&str, &str); 3] = [
    (concat!("FIX", "ME"), "do it now, or write an issue"),
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/ro", "ot/"), "a path of one machine"),
];

/// In no code; comments and texts may name them.
const NOT_IN_CODE: [(&str, &str); 3] = [
    (concat!("to", "do!"), "write it, or leave it out"),
    (concat!("unimple", "mented!"), "write it, or leave it out"),
    (concat!("un", "safe"), "nothing here needs it; ask first"),
];

/// Files whose code may be unsafe, each with its reason.
const MAY_BE_UNSAFE: [(&str, &str); 4] = [
    (
        "connectors/kafka/src/native.rs",
        "what the binding of librdkafka has no call for: all records of a queue at once, at more than twice the speed",
    ),
    ("connectors/kafka/src/native/brokers.rs", "gives brokers to a client that has lost all, which rdkafka cannot"),
    ("connectors/kafka/src/native/ends.rs", "asks where partitions end without waiting, which rdkafka cannot"),
    ("connectors/kafka/src/native/outbox.rs", "the same for records on their way out, and for their reports"),
];

/// The one registry that everybody can reach.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks words.
pub(super) fn check(sources: &[Source]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for source in sources {
        problems.extend(words(source, &source.text, &NOWHERE, |_| true));
        if source.extension() == "rs" {
            let exempt = MAY_BE_UNSAFE.iter().any(|(path, _)| *path == source.path);
            // `unsafe_code` is the name of a lint.
            let whole = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_');
            let words = words(source, &code_only(&source.text), &NOT_IN_CODE, whole);
            problems
                .extend(words.into_iter().filter(|problem| !(exempt && problem.message.contains(NOT_IN_CODE[2].0))));
        }
        if source.name() == "Cargo.lock" {
            problems.extend(foreign_registries(source));
        }
        if source.path.contains(".cargo/config") {
            let lines = source.text.lines().enumerate();
            let named = |line: &str| line.starts_with("[source") || line.starts_with("[registr");
            let found = lines.filter(|(_, line)| named(line));
            problems.extend(found.map(|(n, _)| {
                Problem::at(&source.path, n + 1, "registries belong to the machine, not to the project")
            }));
        }
    }
    problems
}

fn words(source: &Source, text: &str, words: &[(&str, &str)], whole: impl Fn(&str) -> bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (word, why) in words {
        for (at, _) in text.match_indices(word).filter(|(at, word)| whole(&text[at + word.len()..])) {
            problems.push(Problem::at(&source.path, line_of(text, at), format!("`{word}`: {why}")));
        }
    }
    problems
}

fn foreign_registries(lock: &Source) -> Vec<Problem> {
    let lines = lock.text.lines().enumerate();
    let origin = |line: &str| line.strip_prefix("source = \"").map(|rest| rest.trim_end_matches('"').to_owned());
    let foreign = lines.filter_map(|(n, line)| Some((n, origin(line)?))).filter(|(_, origin)| origin != REGISTRY);
    foreign
        .map(|(n, origin)| Problem::at(&lock.path, n + 1, format!("`{origin}` is not the public registry")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        check(&[Source { path: path.to_owned(), text: text.to_owned() }]).len()
    }

    #[test]
    fn words_count_where_they_mean_something() {
        let (unsafe_word, todo) = (NOT_IN_CODE[2].0, NOT_IN_CODE[0].0);
        assert_eq!(found("a.rs", &format!("{unsafe_word} {{ }}")), 1);
        assert_eq!(found("a.rs", &format!("// {unsafe_word}\n#![allow({unsafe_word}_code)]")), 0);
        assert_eq!(found("a.rs", &format!("{todo}()")), 1);
        assert_eq!(found("a.md", &format!("never write {todo}()")), 0);
        assert_eq!(found("a.md", &format!("cd {}x", NOWHERE[1].0)), 1);
    }

    #[test]
    fn only_the_public_registry_is_locked() {
        assert_eq!(found("Cargo.lock", &format!("source = \"{REGISTRY}\"\n")), 0);
        assert_eq!(found("Cargo.lock", "source = \"registry+https://mirror.example/index\"\n"), 1);
    }
}
