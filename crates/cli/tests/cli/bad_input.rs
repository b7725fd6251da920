//! Whatever is wrong is told with its place, and never by a panic.

use std::os::unix::fs::PermissionsExt as _;

use crate::support::{Folder, is_root};

/// A pipeline file that is wrong, and what must be said of it.
const WRONG: &[(&str, &str, &[&str])] = &[
    ("no YAML", "source: { file: { path: x }\nsink: [", &["p.yaml:"]),
    ("a tab", "source:\n\tfile: {}\n", &["p.yaml:2:"]),
    ("no mapping", "- a\n- b\n", &["p.yaml:1:1"]),
    ("nothing", "", &["p.yaml"]),
    (
        "unknown key",
        "source: { values: { values: [] } }\nsnik: { drop: {} }\n",
        &["p.yaml:2:1", "did you mean `sink`?"],
    ),
    (
        "unknown step",
        "source: { values: { values: [] } }\nsteps:\n  - fliter: 'true'\nsink: { drop: {} }\n",
        &["p.yaml:3:5", "did you mean `filter`?"],
    ),
    ("unknown option", "source: { file: { pth: x } }\nsink: { drop: {} }\n", &["p.yaml:1:19", "did you mean `path`?"]),
    (
        "wrong value",
        "source: { values: { values: [] } }\nsink: { drop: {} }\ncheckpoint: { every: soon }\n",
        &["p.yaml:3:", "duration"],
    ),
    ("no source", "sink: { drop: {} }\n", &["p.yaml", "source"]),
    (
        "an expression",
        "source: { values: { values: [] } }\nsteps:\n  - map: '. = foo(.)'\nsink: { drop: {} }\n",
        &["p.yaml:3:15"],
    ),
    (
        "a loop",
        "sources: { s: { values: { values: [] } } }\nsteps: { a: { from: b, filter: 'true' }, b: { from: a, filter: 'true' } }\nsinks: { d: { from: a, drop: {} } }\n",
        &["p.yaml"],
    ),
    ("unknown stage", "source: { values: { values: [] } }\nsink: { from: x, drop: {} }\n", &["p.yaml:2:", "x"]),
    (
        "an endless source",
        "source: { stdin: {} }\nsteps: [ { name: c, aggregate: { key: ., fields: { n: count() }, emit: end } } ]\nsink: { file: { path: x } }\ndelivery: exactly_once\n",
        &["p.yaml"],
    ),
];

#[test]
fn wrong_files_are_told_with_their_place() {
    for (what, text, said) in WRONG {
        for command in ["check", "run", "graph"] {
            let folder = Folder::new();
            folder.write("p.yaml", text);
            let done = folder.run(&format!("{command} p.yaml")).code(2);
            for part in *said {
                assert!(done.err.contains(part), "{what}: no `{part}` in\n{}", done.err);
            }
            assert!(!folder.path(".millstream").exists(), "{what}: something was started");
        }
    }
}

#[test]
fn files_that_cannot_be_read() {
    let folder = Folder::new();
    folder.write("junk.yaml", [0xff, 0xfe, 0x00, 0x9f, 0x92]);
    folder.write("nul.yaml", "a: \0\n");
    std::fs::create_dir(folder.path("empty")).unwrap();
    for command in ["check", "run", "graph"] {
        folder.run(&format!("{command} none.yaml")).code(2).says("none.yaml").says("No such file");
        folder.run(&format!("{command} junk.yaml")).code(2).says("junk.yaml");
        folder.run(&format!("{command} nul.yaml")).code(2).says("nul.yaml");
        folder.run(&format!("{command} empty")).code(2).says("no pipeline file is in the folder");
        folder.run(command).code(2);
    }
}

#[test]
fn no_permission() {
    if is_root() {
        println!("skipped: root may read everything");
        return;
    }
    let folder = Folder::new();
    let file = folder.write("p.yaml", "source: { values: { values: [] } }\nsink: { drop: {} }\n");
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o000)).unwrap();
    folder.run("run p.yaml").code(2).says("Permission denied");
}

#[test]
fn check_finds_all_prints_json_and_mends() {
    let folder = Folder::new();
    folder.write("good.yaml", "source: { values: { values: [] } }\nsteps: [ { aggregate: { key: ., fields: { n: count() }, emit: end } } ]\nsink: { drop: {} }\n");
    folder.run("check good.yaml").code(0).says("warning").says("1 pipeline checked: 1 warning");
    folder.run("check good.yaml --deny-warnings").code(2);
    folder.write("two.yaml", "source: { file: { pth: x } }\nsink: { dorp: {} }\n");
    let done = folder.run("check two.yaml --format json").code(2).silent_but("1 error");
    let lines: Vec<serde_json::Value> = done.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["line"] == 2 && line["column"] == 9), "{lines:?}");
    folder.write(
        "bare.yaml",
        "source: { values: { values: [] } }\nsteps:\n  - filter: !contains(string!(.), \"x\")\nsink: { drop: {} }\n",
    );
    folder.run("check bare.yaml").code(2).says("quote this expression");
    folder.run("check --fix bare.yaml").code(0).says("mended");
    assert!(folder.read("bare.yaml").contains('\''), "{}", folder.read("bare.yaml"));
}

#[test]
fn check_connects_and_leaves_everything_as_it_was() {
    let folder = Folder::new();
    folder.write("p.yaml", "source: { file: { path: in.txt } }\nsink: { file: { path: out.txt } }\n");
    folder.run("check p.yaml").code(0);
    folder.run("check --connect p.yaml").code(1).says("in.txt");
    folder.write("in.txt", "a\nb\n");
    folder.run("run p.yaml").code(0);
    folder.run("check --connect p.yaml").code(0);
    assert_eq!(folder.read("out.txt"), "a\nb\n");
}

#[test]
fn urls_and_options() {
    let folder = Folder::new();
    let table = [
        ("relay nourl drop:", 2, "has no scheme"),
        ("relay carrier://x/y drop:", 2, "no source has the scheme `carrier:`"),
        ("relay stdio: dorp:", 2, "did you mean `drop`?"),
        ("relay stdio: drop: -o hedders=off", 2, "did you mean `headers`?"),
        ("relay stdio: drop: -o headers", 2, "NAME=VALUE"),
        ("relay stdio: drop: --start 5", 2, "--start"),
        ("relay stdio: drop: --start soon", 2, "no place in a stream"),
        ("consume stdio: --group g", 2, "group"),
        ("consume redis://h/s?group=a --group b", 2, "different groups"),
        ("consume redis://h/s?group.name=a --group b", 2, "different groups"),
        ("consume stdio: --format xml", 2, "xml"),
        ("relay stdio: drop: --filter .a>", 2, "--filter:1:"),
        ("relay file:none.txt drop: --until-end", 1, "none.txt"),
        ("relay file:. drop: --until-end", 2, "is a folder"),
        ("relay stdio: file:/none/x.txt", 1, "/none/x.txt"),
        ("relay stdio: file:.", 2, ""),
        ("clock drop: --interval 0s", 2, "without a pause"),
        ("clock drop: --interval 5", 2, "not a duration"),
        ("run p.yaml --drain-timeout x", 2, "not a duration"),
        ("schema fliter", 2, "did you mean `filter`?"),
        ("schema file", 2, "source.file"),
        ("man rnu", 2, "did you mean `run`?"),
        ("state show nobody", 1, "there is no pipeline `nobody`"),
        ("state reset nobody", 1, "there is no pipeline `nobody`"),
        ("dlq show ../x", 1, "there is no pipeline"),
        ("frobnicate", 2, "unrecognized subcommand"),
        ("", 2, "Usage"),
    ];
    for (arguments, code, said) in table {
        let done = folder.run(arguments).code(code);
        assert!(done.err.contains(said), "`{arguments}`: no `{said}` in\n{}", done.err);
        assert_eq!(done.out, "", "{arguments}");
    }
}

#[test]
fn secrets_are_never_printed() {
    let folder = Folder::new();
    for url in
        ["carrier://me:hunter2@host/x", "file://me:hunter2@host/x", "1x://me:hunter2@host/x", "stdio:?password=hunter2"]
    {
        for command in ["relay URL drop:", "relay stdio: URL", "consume URL", "produce URL", "clock URL"] {
            let done = folder.run(&format!("-vvv {}", command.replace("URL", url))).code(2);
            assert!(!done.err.contains("hunter2"), "{url}: {done:?}");
        }
    }
    folder.write(
        "p.yaml",
        "vars: { PASS: { secret: true } }\nsource: { values: { values: ['${PASS}'] } }\nsink: { file: { path: '/none/${PASS}/x' } }\n",
    );
    for arguments in ["check p.yaml", "run p.yaml", "-vvv run p.yaml", "graph p.yaml", "run p.yaml --set PASS=hunter2"]
    {
        // The second is another text where it stands in quotes, as in a log.
        for secret in ["hunter2", "hunter2\"\\"] {
            let mut command = folder.command(arguments.split_whitespace());
            if !arguments.contains("--set") {
                command.env("PASS", secret);
            }
            let done = crate::support::finish(command.spawn().unwrap());
            assert!(!format!("{}{}", done.err, done.out).contains("hunter2"), "{arguments}: {done:?}");
        }
    }
}

#[test]
fn damaged_and_newer_stores_are_never_a_fresh_start() {
    let folder = Folder::new();
    folder.write("p.yaml", "source: { file: { path: in.txt } }\nsink: { file: { path: out.txt } }\n");
    folder.write("in.txt", "a\n");
    folder.run("run p.yaml").code(0);
    let log = std::fs::read_dir(folder.path(".millstream/p")).unwrap().flatten().map(|entry| entry.path());
    let log = log.filter(|path| path.is_file() && std::fs::metadata(path).unwrap().len() > 64).max().unwrap();
    let whole = std::fs::read(&log).unwrap();
    for at in [0, 4, 9, 20, whole.len() / 2] {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        std::fs::write(&log, bytes).unwrap();
        let done = folder.run("run p.yaml");
        assert!(done.code == Some(1) && !done.err.contains("fresh"), "byte {at}: {done:?}");
        folder.run("state list").code(1);
    }
    folder.run("state reset p").code(0);
    folder.run("run p.yaml").code(0).says("fresh");
}
