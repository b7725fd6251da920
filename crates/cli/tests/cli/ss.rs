//! `.ss` stream files: info, decode, verify, repair, tail.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
};

use crate::support::{Folder, finish, until};

/// Another implementation's file; it lies outside of the repository.
const FOREIGN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/fixtures/sample-1.ss");

fn filled(folder: &Folder) {
    let lines: String = (1..=2000).map(|n| format!("value {n}\n")).collect();
    folder.feed("relay stdio: file:x.ss/events -o beacon_interval=1KiB", lines.as_bytes()).code(0).silent();
}

#[test]
fn info_verify_and_decode_agree() {
    let folder = Folder::new();
    filled(&folder);
    let info = folder.run("file info x.ss").code(0);
    assert!(info.out.contains("events      0     2,000"), "{info:?}");
    let json = folder.run("file info --json x.ss").code(0);
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["streams"][0]["sequence"], 2000);
    let verified = folder.run("file verify x.ss").code(0);
    assert!(verified.out.contains("whole: 2,000 messages"), "{verified:?}");
    let raw = folder.run("file decode x.ss --format raw").code(0).silent();
    assert_eq!(raw.out, (1..=2000).map(|n| format!("value {n}\n")).collect::<String>());
    folder.run("file decode x.ss --format raw --start 1999").code(0).prints("value 1999\nvalue 2000\n");
    folder.run("file decode x.ss --format raw --start 7 --count 2").code(0).prints("value 7\nvalue 8\n");
    folder.run("file decode x.ss --format raw --stream other").code(0).prints("");
    folder.run("consume file:x.ss/events --until-end --start 2000 --format raw").code(0).prints("value 2000\n");
    let log = folder.run("file decode x.ss --count 1").code(0);
    assert!(log.out.ends_with(" | events | 1 | 0] value 1\n"), "{log:?}");
}

#[test]
fn damage_is_found_and_the_rest_saved() {
    let folder = Folder::new();
    filled(&folder);
    let mut bytes = std::fs::read(folder.path("x.ss")).unwrap();
    let value = bytes.windows(10).position(|part| part == b"value 1000").unwrap();
    bytes[value] ^= 0x40;
    folder.write("x.ss", &bytes);
    let verified = folder.run("file verify x.ss").code(1);
    assert!(verified.out.starts_with("damaged at "), "{verified:?}");
    folder.run("file repair x.ss").code(0).says("everything that is whole is in x.repaired.ss");
    let again = folder.run("file verify x.repaired.ss");
    assert!(again.out.contains("messages, "), "{again:?}");
    let saved = folder.run("file decode x.repaired.ss --format raw").out.lines().count();
    assert_eq!(saved, 1999);
    folder.run("file repair x.ss").code(1).says("E_EXISTS");
    assert_eq!(std::fs::read(folder.path("x.ss")).unwrap(), bytes, "the old file was touched");
}

#[test]
fn files_that_are_none() {
    let folder = Folder::new();
    folder.write("empty.ss", "");
    folder.write("junk.ss", [0x9f; 4096]);
    folder.write("newer.ss", [&b"Ss\x02"[..], &[0; 200]].concat());
    for command in ["info", "verify", "decode", "repair", "tail"] {
        folder.run(&format!("file {command} none.ss")).code(1).says("E_NOT_FOUND").says("none.ss");
        folder.run(&format!("file {command} junk.ss")).code(1).says("E_CORRUPT").says("junk.ss");
        folder.run(&format!("file {command} empty.ss")).code(1).says("empty.ss");
        folder.run(&format!("file {command} newer.ss")).code(1).says("E_VERSION");
        folder.run(&format!("file {command} .")).code(2).says("no regular file");
    }
}

#[test]
fn a_live_reader_sees_ticks_as_they_come() {
    let folder = Folder::new();
    folder.run("clock file:c.ss/clock --count 1 --interval 1ms").code(0);
    let mut tail = folder.command(["file", "tail", "c.ss", "--format", "raw"]).spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let clock = folder.command(["clock", "file:c.ss/clock", "--interval", "20ms"]).spawn().unwrap();
    let first = lines.next().unwrap().unwrap();
    assert!(first.starts_with("{\"tick\":"), "{first}");
    lines.next().unwrap().unwrap();
    crate::support::signal(clock.id(), rustix::process::Signal::INT);
    finish(clock).code(0);
    crate::support::signal(tail.id(), rustix::process::Signal::INT);
    finish(tail).code(0);
}

#[test]
fn the_end_of_a_stream_ends_its_readers() {
    let folder = Folder::new();
    folder.feed("relay stdio: file:x.ss/a -o end_of_stream=true", b"1\n2\n").code(0).silent();
    let child = folder.command(["consume", "file:x.ss", "--format", "raw"]).spawn().unwrap();
    finish(child).code(0).prints("1\n2\n");
}

#[test]
fn a_second_writer_is_told() {
    let folder = Folder::new();
    let clock = folder.command(["clock", "file:c.ss/clock", "--interval", "10ms"]).spawn().unwrap();
    until("the file", || folder.path("c.ss").exists());
    folder.feed("relay stdio: file:c.ss/other", b"x\n").code(1).says("E_LOCKED");
    crate::support::signal(clock.id(), rustix::process::Signal::TERM);
    finish(clock).code(0);
}

#[test]
fn a_foreign_file_is_read() {
    if !Path::new(FOREIGN).exists() {
        println!("skipped: no fixture at {FOREIGN}");
        return;
    }
    let folder = Folder::new();
    let info = folder.command(["file", "info", FOREIGN]).spawn().unwrap();
    let info = finish(info).code(0);
    assert!(info.out.contains("event"), "{info:?}");
    let decoded =
        finish(folder.command(["file", "decode", FOREIGN, "--stream", "event", "--format", "ndjson"]).spawn().unwrap())
            .code(0);
    let sequences: Vec<u64> = decoded
        .out
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["sequence"].as_u64().unwrap())
        .collect();
    assert_eq!(sequences, (1..=22).collect::<Vec<_>>());
}
