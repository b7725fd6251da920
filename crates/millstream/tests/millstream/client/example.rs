//! One example, unchanged on all four systems.

use std::{path::Path, process::Command};

use millstream_testkit::{
    servers::{Kafka, Redis},
    started,
};

/// What the example says of a system, compared line by line with what it says of one that can do everything.
fn says_what_is_expected(url: &str, stream: &str, cannot: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    // Built with this test, beside it.
    let example = std::env::current_exe().unwrap().parent().unwrap().join("../examples/streamer");
    let run = Command::new(example).args([url, stream]).stdin(std::process::Stdio::null()).output().unwrap();
    let said = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.success(), "{url}: {said}");
    let all = std::fs::read_to_string(root.join("examples/expected/streamer.txt")).unwrap();
    let line = |line: &str| match cannot.iter().find(|what| line.starts_with(&format!("{what}:"))) {
        Some(what) => format!("{what}: not on this system\n"),
        None => format!("{line}\n"),
    };
    assert_eq!(said, all.lines().map(line).collect::<String>(), "{url}");
}

#[test]
fn the_example_runs_on_pipes() {
    says_what_is_expected("stdio:?loopback=true", "numbers", &["resumable", "rewind", "seek", "assign"]);
}

#[test]
fn the_example_runs_on_a_stream_file() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}/numbers.ss?follow=true", folder.path().display());
    says_what_is_expected(&url, "numbers", &["keys and headers"]);
}

#[test]
fn the_example_runs_on_redis() {
    let redis = started!(Redis::shared());
    says_what_is_expected(&redis.url(), "numbers", &[]);
}

#[test]
fn the_example_runs_on_kafka() {
    let kafka = started!(Kafka::shared());
    kafka.create_topic("numbers", 1, &[]);
    says_what_is_expected(&format!("kafka://{}", kafka.bootstrap()), "numbers", &[]);
}
