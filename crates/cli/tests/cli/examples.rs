//! Every example prints what its expected file says.

use std::{path::PathBuf, process::Command};

use crate::support::{Folder, finish, repository};

fn expected(name: &str) -> String {
    std::fs::read_to_string(repository().join("examples/expected").join(name)).unwrap()
}

/// A command at the root of the repository, its state elsewhere.
fn at_root(folder: &Folder, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(repository());
    command.env("MILLSTREAM", env!("CARGO_BIN_EXE_millstream")).env("MILLSTREAM_STATE_DIR", folder.path("state"));
    command.stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command
}

fn millstream(folder: &Folder, arguments: &[&str]) -> Command {
    at_root(folder, env!("CARGO_BIN_EXE_millstream"), arguments)
}

fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.into_iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn words_are_counted_as_by_hand_also_the_second_time() {
    let folder = Folder::new();
    for _ in 0..2 {
        let done = finish(millstream(&folder, &["run", "examples/word-count.yaml"]).spawn().unwrap()).code(0);
        assert_eq!(sorted(&done.out), expected("word-count.ndjson"));
        let created = done.out.lines().count();
        done.says(&format!("wrote {created} "));
    }
    // The same of all documents, against the tools that everybody has.
    let documents = Folder::new();
    let script = "cat examples/*.md examples/data/*.md | tr 'A-Z' 'a-z' | tr -cs 'a-z' '\\n' | sed '/^$/d' | LC_ALL=C sort | uniq -c";
    let by_hand = finish(at_root(&folder, "sh", &["-c", script]).spawn().unwrap()).code(0);
    let by_hand = by_hand.out.lines().map(|line| {
        let (count, word) = line.trim().split_once(' ').unwrap();
        format!("{{\"key\":\"{word}\",\"count\":{count}}}\n")
    });
    let mut command = millstream(&documents, &["run", "examples/word-count.yaml"]);
    let done = finish(command.env("DOCS", "examples/**/*.md").spawn().unwrap()).code(0);
    assert_eq!(sorted(&done.out), sorted(&by_hand.collect::<String>()));
}

#[test]
fn errors_of_a_log_go_to_a_file() {
    let folder = Folder::new();
    let errors: PathBuf = folder.path("errors.log");
    let mut command = millstream(&folder, &["run", "examples/route-errors.yaml", "--until-end"]);
    finish(command.env("OUT", &errors).spawn().unwrap()).code(0).says("read 7 = wrote 2 + filtered 5");
    assert_eq!(std::fs::read_to_string(errors).unwrap(), expected("errors.log"));
}

#[test]
fn scripts_print_what_is_expected() {
    for (script, file) in [("clock.sh", "clock.txt"), ("relay.sh", "relay.txt"), ("resume.sh", "resume.txt")] {
        let folder = Folder::new();
        let done = finish(at_root(&folder, "sh", &[&format!("examples/{script}")]).spawn().unwrap()).code(0);
        assert_eq!(done.out, expected(file), "{script}: {done:?}");
    }
}

#[test]
fn all_pipeline_files_are_sound() {
    let folder = Folder::new();
    finish(millstream(&folder, &["check", "examples", "--deny-warnings"]).spawn().unwrap()).code(0);
}
