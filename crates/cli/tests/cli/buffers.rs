//! Sinks with buffers on disk, in pipeline files, and the tools that look into them.

use std::io::Write as _;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Folder, finish, signal, until};

/// A sink, and one behind a buffer.
const FILE: &str = "\
name: p
source: { file: { path: in.txt } }
sinks:
  live: { file: { path: live.txt } }
  slow: { file: { path: slow.txt }, buffer: { disk: 1MiB } }
";

fn lines() -> String {
    (0..100).map(|i| format!("{i}\n")).collect()
}

#[test]
fn a_pipeline_with_a_buffer_runs_to_its_end_and_tells_both_books() {
    let place = Folder::new();
    place.write("p.yaml", FILE);
    place.write("in.txt", lines());
    place.run("run p.yaml").code(0).says("p: at least once").says("p.slow: at least once").says("read 100 = wrote 100");
    assert_eq!((place.read("live.txt"), place.read("slow.txt")), (lines(), lines()));
    for (command, text) in [("buffer verify", "whole: "), ("buffer info", "records          0")] {
        let told = place.run(&format!("{command} p.slow")).code(0);
        assert!(told.out.contains(text), "{told:?}");
    }
    let graph = place.run("graph p.yaml").code(0);
    assert!(graph.out.contains("p.slow: at least once"), "{graph:?}");
    place.run("check p.yaml").code(0);
}

/// Runs it with a sink that nobody answers for, until all is in the live one; what the other is to get is left in its buffer.
fn left_behind() -> Folder {
    let place = Folder::new();
    let dead = "redis_stream: { url: \"redis://127.0.0.1:1/slow\" }";
    place.write("p.yaml", FILE.replace("file: { path: slow.txt }", dead));
    place.write("in.txt", lines());
    let child = place.command(["run", "p.yaml", "--drain-timeout", "1s"]).spawn().unwrap();
    until("the live sink to have all", || place.read("live.txt") == lines());
    signal(child.id(), Signal::INT);
    finish(child).code(3);
    place.write("p.yaml", FILE);
    place
}

#[test]
fn what_a_dead_sink_did_not_take_waits_and_can_be_looked_at() {
    let place = left_behind();
    assert_eq!(place.run("buffer dump p.slow --format raw").code(0).out, lines());
    assert_eq!(place.run("buffer dump p.slow --count 3").code(0).out.lines().count(), 3);
    let info: Value = serde_json::from_str(&place.run("buffer info p.slow --json").code(0).out).unwrap();
    assert_eq!(info["records"], 100);
    place.run("run p.yaml").code(0).says("p: finished before; what is left in its buffers is delivered");
    assert_eq!((place.read("live.txt"), place.read("slow.txt")), (lines(), lines()));
}

#[test]
fn damage_is_shown_with_file_and_place() {
    let place = left_behind();
    let segment = place.path(".millstream/p.slow/buffer/00000000000000000000.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let verified = place.run("buffer verify p.slow").code(1);
    let name = "00000000000000000000.seg at byte 64: a block's checksum is wrong (";
    assert!(verified.out.contains(name) && verified.out.contains("100 records cannot be read"), "{verified:?}");
    place.run("run p.yaml").code(1).says("a block's checksum is wrong").says("millstream buffer repair");
}

/// Three blocks, one for each epoch, of which nothing was delivered.
fn three_epochs() -> Folder {
    let place = Folder::new();
    let dead = "redis_stream: { url: \"redis://127.0.0.1:1/slow\" }";
    let file = FILE.replace("path: in.txt", "path: in.txt, follow: true, start: beginning");
    let every = "checkpoint: { every: 20ms }\n";
    place.write("p.yaml", file.replace("file: { path: slow.txt }", dead) + every);
    place.write("in.txt", "");
    let child = place.command(["run", "p.yaml", "--drain-timeout", "1s"]).spawn().unwrap();
    for epoch in 0..3 {
        let mut input = std::fs::OpenOptions::new().append(true).open(place.path("in.txt")).unwrap();
        input.write_all((0..10).map(|i| format!("{epoch}{i}\n")).collect::<String>().as_bytes()).unwrap();
        until("the buffer to hold them", || {
            let info = place.run("buffer info p.slow --json").out;
            let info: Value = serde_json::from_str(&info).unwrap_or_default();
            info["records"] == 10 * (epoch + 1)
        });
    }
    signal(child.id(), Signal::INT);
    finish(child).code(3).says("30 records are left in the buffer");
    place.write("p.yaml", file + every);
    place
}

#[test]
fn what_lies_behind_damage_is_printed_and_after_a_repair_delivered() {
    let place = three_epochs();
    let segment = place.path(".millstream/p.slow/buffer/00000000000000000000.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    // In the value `15`, of the second block.
    let at = bytes.windows(6).position(|window| window == b"141516").unwrap();
    bytes[at + 2] ^= 1;
    std::fs::write(&segment, bytes).unwrap();
    let text = |epochs: &[u32]| {
        epochs.iter().flat_map(|epoch| (0..10).map(move |i| format!("{epoch}{i}\n"))).collect::<String>()
    };
    let stops = place.run("buffer dump p.slow --format raw").code(1).says("a block's checksum is wrong");
    assert_eq!(stops.out, text(&[0]));
    stops.says("--skip-damaged");
    let rest = place.run("buffer dump p.slow --format raw --skip-damaged").code(0).says("a block's checksum is wrong");
    assert_eq!(rest.out, text(&[0, 2]));
    let repaired = place.run("buffer repair p.slow").code(0);
    assert!(repaired.out.contains("cut out: 10 records in "), "{repaired:?}");
    assert_eq!(place.run("buffer repair p.slow").code(0).out, "nothing is damaged\n");
    let verified = place.run("buffer verify p.slow").code(0);
    assert!(
        verified.out.contains("whole: 20 records") && verified.out.contains("10 records were lost"),
        "{verified:?}"
    );
    let done = place.run("run p.yaml --until-end").code(0);
    assert!(done.err.contains("records of the buffer were lost to damage"), "{done:?}");
    assert_eq!(place.read("slow.txt"), text(&[0, 2]));
    assert_eq!(place.read("live.txt"), text(&[0, 1, 2]));
}

#[test]
fn a_signal_drains_the_pipeline_and_then_its_buffer() {
    let place = Folder::new();
    place.write("p.yaml", FILE.replace("path: in.txt", "path: in.txt, follow: true, start: beginning"));
    place.write("in.txt", lines());
    let child = place.command(["run", "p.yaml"]).spawn().unwrap();
    until("the live sink to have all", || place.read("live.txt") == lines());
    signal(child.id(), Signal::INT);
    finish(child).code(0);
    assert_eq!(place.read("slow.txt"), lines());
}

#[test]
fn promises_that_a_buffer_breaks_are_refused_at_their_place() {
    let place = Folder::new();
    place.write("p.yaml", FILE.replace("1MiB", "1MiB, when_full: drop_newest") + "delivery: exactly_once\n");
    place.run("check p.yaml").code(2).says("p.yaml:5:").says("its buffer drops records");
    place.run("buffer info nobody.nothing").code(1).says("there is no buffer in");
}
