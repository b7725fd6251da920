//! Files that rotate, compress and are renamed while they are read.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    path::Path,
};

use millstream::{
    Delivery, End, Pipeline,
    runtime::{Plan, Step},
};
use serde_json::{Value, json};

use super::{
    Place, base, same,
    steps::{bracket, bracketed, kill_at},
    until,
};

pub(crate) fn plan(job: &str, folder: &Path) -> Option<Plan> {
    let path = |name: &str| folder.join(name).display().to_string();
    let sink = match job {
        "once-rotate" => {
            json!({ "path": path("out.txt"), "rotate": { "size": "2KiB", "name": "{stem}-{n}{ext}" } })
        }
        "once-turns" => rotated_streams(&path("out.ss")),
        "feed" => rotated_streams(&path("in.ss")),
        "once-zstd" => json!({ "path": path("out.txt.zst"), "existing": "append" }),
        "live-rotated" | "once-series" => json!({ "path": path("out.txt"), "existing": "append" }),
        _ => return None,
    };
    let input = if job == "once-series" { "in-*.ss" } else { "in.txt" };
    let input = json!({ "path": path(input), "follow": true, "start": "beginning" });
    let lines = base(job, Delivery::ExactlyOnce).source_with("file", input);
    let lines = if job == "feed" { lines } else { lines.map(bracket) };
    Some(lines.sink_with("file", sink).plan().unwrap())
}

fn rotated_streams(path: &str) -> Value {
    let rotate = json!({ "size": "2KiB", "name": "{stem}-{n}{ext}" });
    json!({ "path": path, "stream": "out", "beacon_interval": "1KiB", "rotate": rotate })
}

/// Rotated files of this stem, in order of their numbers; all but the last have their names.
fn rotated(place: &Place, stem: &str, what: &str) -> Vec<String> {
    let number = |name: &str| name.strip_prefix(stem)?.split('.').next()?.parse::<u32>().ok();
    let names = std::fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.filter_map(|name| name.into_string().ok());
    let mut files: Vec<(u32, String)> = names.filter_map(|name| Some((number(&name)?, name))).collect();
    files.sort_unstable();
    assert!(files.len() > 5, "{files:?}");
    let (last, finished) = files.split_last().unwrap();
    assert!(last.1.ends_with(".part"), "the last file is still written: {last:?}");
    for (_, name) in finished {
        let bytes = std::fs::metadata(place.path(name)).unwrap().len();
        assert!(!name.ends_with(".part") && bytes <= 2048, "{what}: {name} has its name and {bytes} bytes");
    }
    files.into_iter().map(|(_, name)| name).collect()
}

#[test]
fn exactly_once_holds_over_rotated_outputs_at_every_step() {
    for step in Step::ALL {
        let mut place = Place::new();
        kill_at(&mut place, "once-rotate", step);
        let files = rotated(&place, "out-", &format!("{step:?}"));
        let lines: Vec<String> = files.iter().flat_map(|name| place.lines(name)).collect();
        same(&lines, &bracketed(0..2100), &format!("{step:?}"));
    }
}

#[test]
fn exactly_once_holds_over_rotated_stream_files_at_every_step() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for step in Step::ALL {
        let mut place = Place::new();
        kill_at(&mut place, "once-turns", step);
        rotated(&place, "out-", &format!("{step:?}"));
        let read = Pipeline::new("read")
            .in_memory()
            .source_with("file", json!({ "path": place.path("out-*.ss") }))
            .sink_with("file", json!({ "path": place.path("out.txt") }));
        runtime.block_on(read.run()).unwrap();
        same(&place.lines("out.txt"), &bracketed(0..2100), &format!("{step:?}"));
    }
}

#[test]
fn no_record_is_lost_or_doubled_while_stream_files_that_are_read_rotate_at_every_step() {
    for step in Step::ALL {
        let mut place = Place::new();
        let feed = |place: &mut Place| {
            place.grow(500);
            let feed = place.run("feed", step, 0);
            assert!(feed.status.success(), "{}", String::from_utf8_lossy(&feed.stderr));
        };
        let mut killed = 0;
        for nth in 1..=3 {
            // While it is down, and while it runs.
            feed(&mut place);
            let child = place.start("once-series", step, nth);
            feed(&mut place);
            let output = child.wait_with_output().unwrap();
            match output.status.signal() {
                Some(_) => killed += 1,
                None => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
            }
        }
        assert!(killed > 0, "{step:?} was never reached");
        let output = place.run("once-series", step, 0);
        assert!(output.status.success(), "after {step:?}: {}", String::from_utf8_lossy(&output.stderr));
        rotated(&place, "in-", &format!("{step:?}"));
        same(&place.lines("out.txt"), &bracketed(0..3000), &format!("{step:?}"));
    }
}

#[test]
fn a_full_stream_file_stops_the_pipeline_and_keeps_what_counts() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut place = Place::new();
    let write = |place: &Place| -> End {
        base("full", Delivery::ExactlyOnce)
            .in_memory()
            .source_with("file", json!({ "path": place.path("in.txt") }))
            .sink_with("file", json!({ "path": place.path("out.ss"), "size_max": "8KiB", "existing": "append" }))
    };
    place.grow(50);
    runtime.block_on(write(&place).run()).unwrap();
    place.grow(500);
    let error = runtime.block_on(write(&place).run()).unwrap_err().chain();
    assert!(error.contains("out.ss` is full"), "{error}");
    let read = Pipeline::new("read")
        .in_memory()
        .source_with("file", json!({ "path": place.path("out.ss") }))
        .sink_with("file", json!({ "path": place.path("out.txt") }));
    runtime.block_on(read.run()).unwrap();
    assert_eq!(place.lines("out.txt"), place.lines("in.txt")[..50], "the epoch that did not fit does not count");
    assert!(std::fs::metadata(place.path("out.ss")).unwrap().len() <= 8 << 10);
}

#[test]
fn exactly_once_holds_for_zstd_outputs_at_every_step() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for step in Step::ALL {
        let mut place = Place::new();
        kill_at(&mut place, "once-zstd", step);
        let read = Pipeline::new("read")
            .in_memory()
            .source_with("file", json!({ "path": place.path("out.txt.zst") }))
            .sink_with("file", json!({ "path": place.path("out.txt") }));
        runtime.block_on(read.run()).unwrap();
        same(&place.lines("out.txt"), &bracketed(0..2100), &format!("{step:?}"));
    }
}

/// Rotated files that are kept: more than there will be.
const KEPT: usize = 300;

/// A program that writes a log and rotates it by rename, as logrotate does.
struct Logger {
    file: File,
    written: usize,
}

impl Logger {
    fn new(place: &Place) -> Self {
        Logger { file: Logger::open(place), written: 0 }
    }

    fn open(place: &Place) -> File {
        OpenOptions::new().create(true).append(true).open(place.path("in.txt")).unwrap()
    }

    fn log(&mut self, lines: usize) {
        for i in self.written..self.written + lines {
            writeln!(self.file, "{i}").unwrap();
        }
        self.written += lines;
    }

    /// Renames all files by one; what is logged until the new file is there goes to the old one.
    fn rotate(&mut self, place: &Place) {
        for n in (1..KEPT).rev() {
            let _ = std::fs::rename(place.path(&format!("in.txt.{n}")), place.path(&format!("in.txt.{}", n + 1)));
        }
        std::fs::rename(place.path("in.txt"), place.path("in.txt.1")).unwrap();
        self.log(7);
        self.file = Logger::open(place);
    }

    /// Rotates where the reader is not far behind.
    fn rotate_if_followed(&mut self, place: &Place) -> usize {
        let near = place.lines("out.txt").len() + 400 > self.written;
        if near {
            self.rotate(place);
        }
        usize::from(near)
    }
}

#[test]
fn no_line_is_lost_or_doubled_while_the_input_is_rotated_at_every_step() {
    for step in Step::ALL {
        let place = Place::new();
        let (mut logger, mut rotations) = (Logger::new(&place), 0);
        // A file that was rotated before the first run began is none of its inputs.
        logger.log(100);
        let child = place.start("live-rotated", step, 0);
        until("the first output", || place.lines("out.txt").len() == 100);
        assert!(place.drain(child).status.success());
        for nth in 1..=3 {
            // While it is down.
            logger.log(300);
            logger.rotate(&place);
            logger.log(100);
            let mut child = place.start("live-rotated", step, nth);
            // While it runs, until it dies.
            until("the abort", || {
                logger.log(20);
                rotations += logger.rotate_if_followed(&place);
                child.try_wait().unwrap().is_some()
            });
            let output = child.wait_with_output().unwrap();
            assert!(output.status.signal().is_some(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let child = place.start("live-rotated", step, 0);
        for _ in 0..5 {
            logger.log(50);
            until("the newest output", || place.lines("out.txt").len() + 400 > logger.written);
            rotations += logger.rotate_if_followed(&place);
        }
        until("all of the output", || place.lines("out.txt").len() >= logger.written);
        let output = place.drain(child);
        assert!(output.status.success(), "after {step:?}: {}", String::from_utf8_lossy(&output.stderr));
        same(&place.lines("out.txt"), &bracketed(0..logger.written), &format!("{step:?}"));
        assert!(rotations >= 5, "{step:?}: rotated {rotations} times while it ran");
    }
}
