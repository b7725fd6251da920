//! What a running process tells of the buffers on disk in front of its sinks.

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    support::{Folder, finish, signal, until},
    watching::{Running, get},
};

/// A sink, and one that nobody answers for behind a buffer.
const FILE: &str = "\
name: p
source: { file: { path: in.txt } }
sinks:
  live: { file: { path: live.txt } }
  slow: { redis_stream: { url: \"redis://127.0.0.1:1/slow\" }, buffer: { disk: 1MiB } }
";

fn folder(lines: u64) -> Folder {
    let folder = Folder::new();
    folder.write("p.yaml", FILE);
    folder.write("in.txt", (0..lines).map(|i| format!("{i:0>99}\n")).collect::<String>());
    folder
}

fn status(folder: &Folder) -> Value {
    serde_json::from_str(&folder.run("status --json").out).unwrap_or_default()
}

fn pipeline<'a>(status: &'a Value, name: &str) -> &'a Value {
    status.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap()
}

#[test]
fn a_full_buffer_is_shown_with_its_figures_and_why_the_pipeline_waits() {
    let folder = folder(30_000);
    let mut running = Running::start(&folder, "run p.yaml --listen 127.0.0.1:0");
    let address = running.line("listening on http://").split("http://").nth(1).unwrap().to_owned();
    let address = address.split(": ").next().unwrap();
    until("the buffer to be full", || {
        status(&folder)
            .as_array()
            .is_some_and(|all| all.iter().any(|one| !one["buffers"][0]["waiting_seconds"].is_null()))
    });
    let all = status(&folder);
    let (whole, task) = (pipeline(&all, "p"), pipeline(&all, "p.slow"));
    let buffer = &whole["buffers"][0];
    assert_eq!((&buffer["pipeline"], &buffer["sink"]), (&"p".into(), &"slow".into()));
    let number = |name: &str| buffer[name].as_f64().unwrap_or_else(|| panic!("{name} of {buffer}"));
    assert!(number("records") > 1_000.0 && number("bytes") > 100.0 * number("records"), "{buffer}");
    assert!(number("disk_bytes_max") == 1_048_576.0 && number("fill") > 0.8 && number("fill") <= 1.0, "{buffer}");
    assert!(number("oldest_age_seconds") > 0.0 && number("dropped") == 0.0, "{buffer}");
    let why = buffer["waiting"].as_str().unwrap();
    assert!(why.contains("the buffer of `slow` is full") && why.contains("127.0.0.1:1"), "{why}");
    assert!(whole["bottleneck"].as_str().unwrap().contains("the buffer of `slow` is full"), "{whole:#}");
    let sink = whole["stages"].as_array().unwrap().iter().find(|stage| stage["name"] == "slow").unwrap();
    assert_eq!(sink["waiting"], "waiting for room in its buffer");
    assert_eq!(task["buffers"], Value::Array(Vec::new()), "each buffer is told once");

    let metrics = get(address, "/metrics");
    let metric = |name: &str| {
        let start = format!("millstream_buffer_{name}{{pipeline=\"p\",sink=\"slow\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse::<f64>().unwrap()
    };
    assert!(metric("records") > 1_000.0 && metric("bytes") > 100_000.0 && metric("disk_bytes") > 100_000.0);
    assert!(metric("disk_bytes_max") == 1_048_576.0 && metric("fill_ratio") > 0.8 && metric("waiting") == 1.0);
    assert!(metric("oldest_age_seconds") > 0.0 && metric("records_dropped_total") == 0.0);
    for command in ["status", "top"] {
        let shown = folder.run(command).code(0).out;
        let mut lines = shown.lines().skip_while(|line| !line.starts_with("BUFFER"));
        let (heads, row) = (lines.next().unwrap(), lines.next().unwrap());
        assert!(heads.contains("RECORDS") && heads.contains("OLDEST") && heads.contains("FILL"), "{shown}");
        assert!(row.starts_with("slow ") && row.contains("% of 1MiB"), "{shown}");
        assert!(row.contains("the buffer of `slow` is full") && row.contains("(for "), "{shown}");
    }
}

#[test]
fn a_buffer_that_is_left_behind_is_shown_while_it_is_delivered_alone() {
    let folder = folder(100);
    let start = || folder.command(["run", "p.yaml", "--drain-timeout", "1s"]).spawn().unwrap();
    let child = start();
    until("the live sink to have all", || folder.read("live.txt").lines().count() == 100);
    signal(child.id(), Signal::INT);
    finish(child).code(3);
    let child = start();
    until("its figures", || {
        let all = status(&folder);
        let of = |buffer: &Value| (buffer["pipeline"].clone(), buffer["sink"].clone(), buffer["records"].clone());
        let found = of(&all[0]["buffers"][0]);
        all[0]["name"] == "p.slow" && all[1].is_null() && found == ("p".into(), "slow".into(), 100.into())
    });
    signal(child.id(), Signal::INT);
    finish(child).code(3);
}
