//! The first signal drains, the second one stops at once; `kill -9` loses nothing.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
};

use rustix::process::Signal;

use crate::support::{Folder, finish, signal, until};

const FOLLOW: &str = "\
source: { file: { path: in.txt, follow: true, start: beginning, codec: lines } }
sink: { file: { path: out.txt, codec: lines } }
";

#[test]
fn the_first_signal_drains_and_commits() {
    for kind in [Signal::INT, Signal::TERM] {
        let folder = Folder::new();
        folder.write("p.yaml", FOLLOW);
        folder.write("in.txt", "a\nb\n");
        let child = folder.command(["run", "p.yaml"]).spawn().unwrap();
        until("output", || folder.read("out.txt") == "a\nb\n");
        signal(child.id(), kind);
        finish(child).code(0).says("draining").says("read 2 = wrote 2");
        folder.write("in.txt", "a\nb\nc\n");
        folder.run("run p.yaml --until-end").code(0).says("resuming epoch").says("read 1 = wrote 1");
        assert_eq!(folder.read("out.txt"), "a\nb\nc\n");
    }
}

#[test]
fn a_relay_with_an_open_pipe_drains() {
    let folder = Folder::new();
    let mut child = folder.command(["relay", "stdio:", "stdio:?format=raw"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"one\n").unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "one\n", "a lone record is not held back");
    signal(child.id(), Signal::INT);
    finish(child).code(0);
    drop(stdin);
}

#[test]
fn what_cannot_be_drained_is_left_undone_and_a_second_signal_stops_at_once() {
    for (second, code) in [(false, 3), (true, 130)] {
        let folder = Folder::new();
        // The reader of the pipe reads nothing: what has been read can never be written.
        let timeout = if second { "60s" } else { "100ms" };
        let arguments = ["relay", "stdio:", "stdio:?format=raw", "--drain-timeout", timeout];
        let mut child = folder.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let out = child.stdout.take().unwrap();
        let feeder = std::thread::spawn(move || {
            let line = [b'x'; 4096];
            while stdin.write_all(&line).and_then(|()| stdin.write_all(b"\n")).is_ok() {}
        });
        // Full is what no longer grows; how large a pipe is differs.
        let (mut before, mut same) = (0, 0);
        until("a full pipe", || {
            let waiting = rustix::io::ioctl_fionread(&out).unwrap();
            same = if waiting == before && waiting > 0 { same + 1 } else { 0 };
            before = waiting;
            same > 40
        });
        let mut err = BufReader::new(child.stderr.take().unwrap());
        signal(child.id(), Signal::INT);
        let mut said = String::new();
        err.read_line(&mut said).unwrap();
        assert!(said.contains("draining"), "{said}");
        if second {
            signal(child.id(), Signal::INT);
        }
        let done = finish(child).code(code);
        drop(out);
        feeder.join().unwrap();
        drop(done);
    }
}

#[test]
fn a_killed_run_goes_on() {
    let folder = Folder::new();
    folder.write("p.yaml", format!("checkpoint: {{ every: 20ms }}\n{FOLLOW}"));
    let mut expected = String::new();
    for round in 0..4 {
        for n in 0..500 {
            expected.push_str(&format!("{round}-{n}\n"));
        }
        folder.write("in.txt", &expected);
        let mut child = folder.command(["run", "p.yaml"]).spawn().unwrap();
        let length = expected.len() as u64;
        let half = length - length / 8;
        until("output", || std::fs::metadata(folder.path("out.txt")).is_ok_and(|file| file.len() >= half));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    folder.run("run p.yaml --until-end").code(0).says("resuming epoch");
    assert_eq!(folder.read("out.txt"), expected);
}

#[test]
fn two_runners_of_one_pipeline() {
    let folder = Folder::new();
    folder.write("p.yaml", FOLLOW);
    folder.write("in.txt", "a\n");
    let first = folder.command(["run", "p.yaml"]).spawn().unwrap();
    until("the first one", || folder.read("out.txt") == "a\n");
    let process = format!("process {}", first.id());
    folder.run("run p.yaml").code(1).says("E_LOCKED").says(&process);
    // The process that runs it is asked.
    assert!(folder.run("state show p").code(0).out.contains(&format!("\"pid\": {}", first.id())));
    folder.run("state reset p").code(1).says("E_LOCKED").says(&process);
    let list = folder.run("state list").code(0);
    assert!(list.out.contains(&format!("running ({})", first.id())), "{list:?}");
    signal(first.id(), Signal::TERM);
    finish(first).code(0);
    folder.run("state show p").code(0);
}
