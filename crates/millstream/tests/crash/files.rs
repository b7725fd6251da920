//! Files that rotate, compress and are renamed while they are read.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    path::Path,
};

use millstream::{
    Delivery, Pipeline,
    runtime::{Plan, Step},
};
use serde_json::json;

use crate::{
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
        "once-zstd" => json!({ "path": path("out.txt.zst"), "existing": "append" }),
        "live-rotated" => json!({ "path": path("out.txt"), "existing": "append" }),
        _ => return None,
    };
    let input = json!({ "path": path("in.txt"), "follow": true, "start": "beginning" });
    let pipeline = base(job, Delivery::ExactlyOnce).source_with("file", input).map(bracket).sink_with("file", sink);
    Some(pipeline.plan().unwrap())
}

#[test]
fn exactly_once_holds_over_rotated_outputs_at_every_step() {
    for step in Step::ALL {
        let mut place = Place::new();
        kill_at(&mut place, "once-rotate", step);
        let number = |name: &str| name.strip_prefix("out-")?.split('.').next()?.parse::<u32>().ok();
        let names = std::fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name());
        let mut files: Vec<(u32, String)> = names
            .filter_map(|name| name.into_string().ok())
            .filter_map(|name| number(&name).map(|number| (number, name)))
            .collect();
        files.sort_unstable();
        assert!(files.len() > 5, "{files:?}");
        let (last, finished) = files.split_last().unwrap();
        assert!(last.1.ends_with(".part"), "the last file is still written: {last:?}");
        for (_, name) in finished {
            let bytes = std::fs::metadata(place.path(name)).unwrap().len();
            assert!(name.ends_with(".txt") && bytes <= 2048, "{step:?}: {name} has its name and {bytes} bytes");
        }
        let lines: Vec<String> = files.iter().flat_map(|(_, name)| place.lines(name)).collect();
        same(&lines, &bracketed(0..2100), &format!("{step:?}"));
    }
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
