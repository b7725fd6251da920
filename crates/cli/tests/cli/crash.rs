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

use millstream_testkit::budget;
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Folder, finish, signal, until};

/// Chance that MILLSTREAM_SEED repeats. A test that fails tells its seed.
pub(crate) struct Dice {
    seed: u64,
    state: u64,
}

impl Dice {
    pub(crate) fn new() -> Self {
        let chosen =
            std::env::var("MILLSTREAM_SEED").ok().map(|seed| seed.parse().expect("MILLSTREAM_SEED is a number"));
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

/// A child that does not outlive a test that fails.
pub(crate) struct Kept(Option<Child>);

impl Kept {
    pub(crate) fn spawn(command: &mut std::process::Command) -> Self {
        Kept(Some(command.spawn().unwrap()))
    }

    /// It is over now, or somebody else sees to it.
    pub(crate) fn take(mut self) -> Child {
        self.0.take().unwrap()
    }
}

impl std::ops::Deref for Kept {
    type Target = Child;

    fn deref(&self) -> &Child {
        self.0.as_ref().unwrap()
    }
}

impl std::ops::DerefMut for Kept {
    fn deref_mut(&mut self) -> &mut Child {
        self.0.as_mut().unwrap()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended before.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The same text; if not, the first line that differs.
#[track_caller]
pub(crate) fn same(found: &str, expected: &str) {
    let mut lines = found.lines().zip(expected.lines()).enumerate();
    let other = lines.find(|(_, (found, expected))| found != expected);
    assert_eq!(other, None, "(line, (found, expected))");
    let (found, expected) = (found.split_inclusive('\n').count(), expected.split_inclusive('\n').count());
    assert_eq!(found, expected, "number of lines");
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

/// What was done to a pipeline, and what it said.
#[derive(Debug, Default)]
struct Tally {
    kills: u64,
    drains: u64,
    /// The epochs at which runs said to resume, in order.
    resumed: Vec<u64>,
}

impl Tally {
    /// Takes in what a run has said: it goes on from an epoch, never from an older one, never from none.
    fn note(&mut self, said: &str) {
        let word = |text: &str| text.split_whitespace().next().and_then(|number| number.parse().ok());
        if let Some(epoch) = said.split_once("resuming epoch ").and_then(|(_, rest)| word(rest)) {
            assert!(self.resumed.last() <= Some(&epoch), "epoch {epoch} after {:?}", self.resumed);
            self.resumed.push(epoch);
        }
        assert!(self.resumed.is_empty() || !said.contains("fresh"), "a fresh start after {:?}: {said}", self.resumed);
    }
}

/// Runs a command again and again, and ends it at random: killed while it starts or works, or drained. `out` is what
/// grows while it works; `look` sees the folder after each kill.
fn kill_at_random(
    folder: &Folder,
    command: &str,
    out: &str,
    kills: u64,
    dice: &mut Dice,
    look: impl Fn(&Folder),
) -> Tally {
    let mut tally = Tally::default();
    let length = || std::fs::metadata(folder.path(out)).map_or(0, |metadata| metadata.len());
    while tally.kills < kills {
        let before = length();
        let errors = File::create(folder.path("err.txt")).unwrap();
        let mut child = Kept::spawn(folder.command(command.split_whitespace()).stderr(errors));
        let runs = |child: &mut Child| {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "it ended by itself, {ended:?}: {}", folder.read("err.txt"));
        };
        let drain = dice.below(5) == 0;
        if drain || dice.below(2) == 0 {
            let enough = before + 1 + dice.below(4000);
            until("output", || {
                runs(&mut child);
                length() >= enough
            });
        }
        // The moment itself is random, too: before anything is open, or in the middle of an epoch.
        std::thread::sleep(Duration::from_micros(dice.below(60_000)));
        runs(&mut child);
        if drain {
            signal(child.id(), Signal::TERM);
            assert_eq!(finish(child.take()).code, Some(0), "a drain ends well: {}", folder.read("err.txt"));
            tally.drains += 1;
        } else {
            child.kill().unwrap();
            child.wait().unwrap();
            tally.kills += 1;
        }
        tally.note(&folder.read("err.txt"));
        look(folder);
    }
    tally
}

const PIPELINE: &str = "\
name: both
delivery: MODE
checkpoint: { every: 15ms }
sources:
  in: { file: { path: in.ndjson, follow: true, start: beginning } }
steps:
  - { name: twice, from: in, map: '. = { \"i\": int!(.i), \"twice\": int!(.i) * 2 }' }
  - { name: counts, from: in, aggregate: { key: .k, fields: { n: count(), sum: sum(.i) }, emit: change } }
sinks:
  copy: { from: twice, file: { path: copy.ndjson } }
  counted: { from: counts, file: { path: counted.ndjson } }
";

/// Each key's results in the order in which they came: how many records, and their sum.
fn results(text: &str) -> BTreeMap<String, Vec<(u64, u64)>> {
    let mut results: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).unwrap();
        let number = |name: &str| value[name].as_u64().unwrap();
        results.entry(value["key"].as_str().unwrap().to_owned()).or_default().push((number("n"), number("sum")));
    }
    results
}

/// Each key's number of records, and their sum.
fn totals(records: u64) -> BTreeMap<String, (u64, u64)> {
    let mut totals: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for i in 0..records {
        let total = totals.entry(format!("k{}", i * i % 7)).or_default();
        *total = (total.0 + 1, total.1 + i);
    }
    totals
}

fn doubled(records: u64) -> String {
    (0..records).map(|i| format!("{{\"i\":{i},\"twice\":{}}}\n", i * 2)).collect()
}

/// Kills the pipeline at random in a mode, lets it come to the end, and answers with the folder and the records written.
fn killed(mode: &str, look: impl Fn(&Folder)) -> (Folder, u64, Dice) {
    let mut dice = Dice::new();
    let folder = Folder::new();
    folder.write("p.yaml", PIPELINE.replace("MODE", mode));
    let growing = Growing::new(folder.path("in.ndjson"), dice.fork());
    let kills = budget(30, 300);
    let mut tally = kill_at_random(&folder, "run p.yaml", "copy.ndjson", kills, &mut dice, look);
    let records = growing.end();
    let done = folder.run("run p.yaml --until-end").code(0);
    tally.note(&done.err);
    println!("{mode}: {kills} kills and {} drains, {records} records, epoch {:?}", tally.drains, tally.resumed.last());
    let distinct = tally.resumed.iter().collect::<std::collections::BTreeSet<_>>().len() as u64;
    assert!(distinct > kills / 4, "the runs got on between the kills: {tally:?}");
    (folder, records, dice)
}

#[test]
fn killed_at_random_exactly_once_is_the_input_by_value() {
    // At no time there is anything in the file but the beginning of what will be in it.
    let beginning = |folder: &Folder| {
        let text = folder.read("copy.ndjson");
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        same(whole, &doubled(whole.lines().count() as u64));
    };
    let (folder, records, _dice) = killed("exactly_once", beginning);
    same(&folder.read("copy.ndjson"), &doubled(records));
    let results = results(&folder.read("counted.ndjson"));
    for (key, results) in &results {
        assert!(results.is_sorted_by(|a, b| a.0 < b.0), "each result of {key} is there once: {results:?}");
    }
    let newest = results.into_iter().map(|(key, results)| (key, *results.last().unwrap()));
    assert_eq!(newest.collect::<BTreeMap<_, _>>(), totals(records));
}

#[test]
fn killed_at_random_at_least_once_loses_nothing_and_counts_once() {
    let (folder, records, _dice) = killed("at_least_once", |_| {});
    let copy = folder.read("copy.ndjson");
    let mut seen: Vec<u64> =
        copy.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["i"].as_u64().unwrap()).collect();
    seen.sort_unstable();
    seen.dedup();
    assert!(seen.into_iter().eq(0..records), "nothing is lost");
    let newest =
        results(&folder.read("counted.ndjson")).into_iter().map(|(key, results)| (key, *results.last().unwrap()));
    assert_eq!(newest.collect::<BTreeMap<_, _>>(), totals(records));
}

#[test]
fn a_killed_relay_loses_nothing() {
    let mut dice = Dice::new();
    let folder = Folder::new();
    let growing = Growing::new(folder.path("in.ndjson"), dice.fork());
    let relay = "relay file:in.ndjson file:out.txt -o codec=lines --resume copy";
    let kills = budget(20, 200);
    let mut tally = kill_at_random(&folder, relay, "out.txt", kills, &mut dice, |_| {});
    let records = growing.end();
    let done = folder.run(&format!("{relay} --until-end")).code(0);
    tally.note(&done.err);
    println!("relay: {kills} kills and {} drains, {records} records", tally.drains);
    // A file is cut to what counts in every mode, so this is more than was promised.
    same(&folder.read("out.txt"), &(0..records).map(line).collect::<String>());
}

#[test]
fn run_after_run_to_the_end_takes_all_that_is_there() {
    let folder = Folder::new();
    // Epochs as often as can be, so that one is due while the last one is under way.
    folder.write("p.yaml", PIPELINE.replace("MODE", "exactly_once").replace("15ms", "1ms"));
    for records in 1..=30 {
        folder.write("in.ndjson", (0..records).map(line).collect::<String>());
        folder.run("run p.yaml --until-end").code(0).says("read 1 ");
        same(&folder.read("copy.ndjson"), &doubled(records));
    }
}
