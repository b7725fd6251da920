//! What is said, and how.

use crate::support::Folder;

const PIPELINE: &str = "source: { values: { values: [a] } }\nsink: { stdout: {} }\n";

#[test]
fn colours_only_where_they_are_wanted() {
    let folder = Folder::new();
    let plain = folder.run("relay foo: drop:").code(2);
    assert!(!plain.err.contains('\u{1b}'), "{plain:?}");
    let coloured = folder.run("--color always relay foo: drop:").code(2);
    assert!(coloured.err.contains("\u{1b}["), "{coloured:?}");
    let never = folder.run("--color never relay foo: drop:").code(2);
    assert!(!never.err.contains('\u{1b}'), "{never:?}");
    let help = folder.run("--color always --help").code(0);
    assert!(help.out.contains("\u{1b}["), "{help:?}");
}

#[test]
fn a_terminal_gets_colours_and_a_bar_unless_no_color() {
    let folder = Folder::new();
    folder.write("p.yaml", PIPELINE);
    // `script` gives the program a terminal.
    if folder.shell("command -v script").code != Some(0) {
        println!("skipped: `script` is not installed");
        return;
    }
    let run = "script -qec '\"$MILLSTREAM\" relay foo: drop:' /dev/null";
    assert!(folder.shell(run).out.contains("\u{1b}[1;31m"));
    assert!(!folder.shell(&format!("export NO_COLOR=1; {run}")).out.contains("\u{1b}[1;31m"));
    let bar = "script -qec 'yes | \"$MILLSTREAM\" relay stdio: drop: --count 30000000' /dev/null";
    let shown = folder.shell(bar).code(0);
    assert!(shown.out.contains("records") && shown.out.contains("/s"), "{shown:?}");
}

#[test]
fn quiet_pipes() {
    let folder = Folder::new();
    folder.feed("relay stdio: drop:", b"a\nb\n").code(0).silent().prints("");
    folder.feed("produce drop:", b"a\nb\n").code(0).silent();
    folder.run("clock drop: --count 2 --interval 1ms").code(0).silent();
}

#[test]
fn json_for_machines() {
    let folder = Folder::new();
    folder.write("p.yaml", PIPELINE);
    let done = folder.run("--log-format json -v run p.yaml").code(0);
    let lines: Vec<serde_json::Value> = done.err.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(
        lines.iter().any(|line| line["message"].as_str().is_some_and(|text| text.starts_with("p: read 1 = wrote 1")))
    );
    let failed = folder.run("--log-format json relay foo: drop:").code(2);
    let error: serde_json::Value = serde_json::from_str(&failed.err).unwrap();
    assert_eq!((&error["code"], &error["level"]), (&"E_OPTION".into(), &"ERROR".into()));
}

#[test]
fn every_command_has_help_with_exit_codes() {
    let folder = Folder::new();
    let commands =
        "run check graph relay produce consume clock list schema completions man state dlq file top status tap";
    let below =
        ["state list", "state show", "state seek", "state reset", "dlq list", "dlq show", "file info", "file decode"];
    for command in commands.split_whitespace().chain(below).chain(["file verify", "file repair", "file tail"]) {
        let help = folder.run(&format!("{command} --help")).code(0).silent();
        assert!(help.out.contains("130  stopped at once"), "{command}: {help:?}");
    }
}
