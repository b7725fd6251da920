//! The example counts as the pipeline file does.

use std::{collections::BTreeMap, path::Path, process::Command};

#[test]
fn the_word_count_in_rust_gives_what_the_pipeline_file_gives() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // Built with this test, beside it.
    let example = std::env::current_exe().unwrap().parent().unwrap().join("../examples/word_count");
    let run = Command::new(example).arg("examples/data/*.md").current_dir(&root).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let counted: BTreeMap<String, u64> = String::from_utf8(run.stdout)
        .unwrap()
        .lines()
        .map(|line| line.trim().split_once(' ').unwrap())
        .map(|(count, word)| (word.to_owned(), count.parse().unwrap()))
        .collect();
    let expected = std::fs::read_to_string(root.join("examples/expected/word-count.ndjson")).unwrap();
    let expected: BTreeMap<String, u64> = expected
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| (line["key"].as_str().unwrap().to_owned(), line["count"].as_u64().unwrap()))
        .collect();
    assert_eq!(counted, expected);
}
