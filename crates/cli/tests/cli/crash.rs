//! `kill -9` of `run` and `relay` at random moments, while the input grows.
//!
//! What is asked of a run that was killed again and again is what is asked of one that was not: every record is there once,
//! in order, and the state has counted each record once.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::Write as _,
    path::PathBuf,
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Folder, finish, signal, until};

/// A budget: more with MILLSTREAM_LONG=1.
pub(crate) fn budget(usual: u64, long: u64) -> u64 {
    if std::env::var_os("MILLSTREAM_LONG").is_some_and(|value| value == "1") { long } else { usual }
}

/// Chance that MILLSTREAM_SEED repeats. A test that fails tells its seed.
pub(crate) struct Dice {
    seed: u64,
    state: u64,
}

impl Dice {
    pub(crate) fn new() -> Self {
        let chosen = std::env::var("MILLSTREAM_SEED").ok().map(|seed| seed.parse().expect("MILLSTREAM_SEED is a number"));
        let seed = chosen.unwrap_or_else(|| {
            use std::hash::{BuildHasher as _, Hasher as _};
            std::hash::RandomState::new().build_hasher().finish()
        });
        Dice { seed, state: seed }
    }

    /// A number from 0 to `most - 1`.
    pub(crate) fn below(&mut self, most: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % most
    }

    /// Another one, for another thread.
    fn fork(&mut self) -> Dice {
        let seed = self.below(u64::MAX);
        Dice { seed, state: seed }
    }
}

impl Drop for Dice {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("MILLSTREAM_SEED={} repeats the same choices", self.seed);
        }
    }
}

/// Record `i` as a line of the input.
fn line(i: u64) -> String {
    format!("{{\"i\":{i},\"k\":\"k{}\"}}\n", i * i % 7)
}

/// A file that somebody else writes all the time, in pieces that end anywhere.
struct Growing {
    stop: Arc<AtomicBool>,
    writer: JoinHandle<u64>,
}

impl Growing {
    fn new(path: PathBuf, mut dice: Dice) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let writer = std::thread::spawn(move || {
            let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
            let (mut records, mut text) = (0, String::new());
            while !stopped.load(Ordering::Relaxed) {
                for _ in 0..dice.below(40) {
                    text.push_str(&line(records));
                    records += 1;
                }
                let piece: String = text.drain(..dice.below(text.len() as u64 + 1) as usize).collect();
                file.write_all(piece.as_bytes()).unwrap();
                std::thread::sleep(Duration::from_micros(1000 + dice.below(4000)));
            }
            file.write_all(text.as_bytes()).unwrap();
            records
        });
        Growing { stop, writer }
    }

    /// Ends the last line, and answers with the number of records.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.writer.join().unwrap()
    }
}

/// How often what was done, and how far the pipeline was each time.
#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    drains: u64,
    /// The epochs at which runs said to resume.
    resumed: Vec<u64>,
}

/// Starts a command again and again, and ends it at random: killed in the middle of starting or of working, or drained.
/// `out` is what grows while it works.
fn kill_at_random(folder: &Folder, command: &str, out: &str, kills: u64, dice: &mut Dice) -> Tally {
    let mut tally = Tally::default();
    while tally.kills < kills {
        let length = || std::fs::metadata(folder.path(out)).map_or(0, |metadata| metadata.len());
        let before = length();
        let errors = File::create(folder.path("err.txt")).unwrap();
        let mut child = folder.command(command.split_whitespace()).stderr(errors).spawn().unwrap();
        match dice.below(5) {
            0 => {
                until("the promise", || told(folder).contains("at ") || told(folder).contains("exactly once"));
                let more = before + dice.below(2000);
                until("output", || length() >= more);
                signal(child.id(), Signal::TERM);
                let done = finish(child);
                assert_eq!(done.code, Some(0), "a drain ends well: {}", told(folder));
                tally.drains += 1;
            }
            // Also before it has opened anything.
            1 | 2 => std::thread::sleep(Duration::from_micros(dice.below(150_000))),
            _ => {
                let more = before + 1 + dice.below(4000);
                until("output", || length() >= more || has_ended(&mut child));
                std::thread::sleep(Duration::from_micros(dice.below(30_000)));
            }
        }
        if !has_been_drained(&tally) {}
        tally.note(folder);
    }
    tally
}
