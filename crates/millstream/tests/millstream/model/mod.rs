//! Random pipelines of typed steps, steered, drained and killed while they run, against a model that handles one record after
//! the other.

mod case;
mod lives;
mod steps;
mod world;

use std::{collections::BTreeMap, time::Duration};

use millstream::core::{DeadLetter, Record};
use millstream_testkit::Dice;

use case::{Case, Sunk};

fn count(values: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    values.iter().for_each(|value| *counts.entry(value.as_str()).or_default() += 1);
    counts
}

/// In `exactly_once` the same records; otherwise some may have come twice.
fn same(seed: u64, what: &str, found: &[String], expected: &[String], exact: bool) {
    let (found, expected) = (count(found), count(expected));
    for value in found.keys() {
        assert!(expected.contains_key(value), "seed {seed}: {what} has invented {value}");
    }
    for (value, times) in expected {
        let came = found.get(value).copied().unwrap_or_default();
        assert!(came >= times, "seed {seed}: {what} has lost {value}: {came} of {times}");
        assert!(!exact || came == times, "seed {seed}: {what} has {value} {came} times instead of {times}");
    }
}

/// The number that a value was given by its source, and what was made of it since.
fn number(value: &str) -> (u64, &str) {
    let mut parts = value.split(':').skip(1);
    (parts.next().unwrap().parse().unwrap(), parts.next().unwrap())
}

fn in_order(seed: u64, what: &str, records: &[Record]) {
    let mut newest: BTreeMap<&[u8], (u64, &str)> = BTreeMap::new();
    for record in records {
        let Some(key) = &record.key else { continue };
        let value = std::str::from_utf8(record.value.as_deref().unwrap()).unwrap();
        let now = number(value);
        let before = newest.insert(key, now);
        assert!(before.is_none_or(|before| before <= now), "seed {seed}: {what}: {value} comes behind {before:?}");
    }
}

fn letter(record: &Record) -> String {
    let letter: DeadLetter = rmp_serde::from_slice(record.value.as_ref().unwrap()).unwrap();
    let value = String::from_utf8_lossy(letter.record.value.as_deref().unwrap_or_default()).into_owned();
    value.trim_matches('"').to_owned()
}

async fn run(seed: u64) {
    let mut dice = Dice::new(seed);
    let case = Case::new(seed, &mut dice);
    if std::env::var_os("MILLSTREAM_SEED").is_some() {
        case.story.iter().for_each(|line| eprintln!("{line}"));
    }
    lives::lives(seed, &mut dice, &case).await;
    for Sunk { name, sink, expected, ordered } in &case.sinks {
        same(seed, name, &sink.values(), expected, case.exact);
        // What comes twice comes out of order.
        if *ordered && case.exact {
            in_order(seed, name, &sink.records());
        }
    }
    let letters: Vec<String> = case.letters.records().iter().map(letter).collect();
    same(seed, "dead letters", &letters, &case.dead, case.exact);
    let wrong = case.world.wrong();
    assert!(wrong.is_empty(), "seed {seed}: {wrong:?}");
}

fn seeds(short: u64, test: impl AsyncFn(u64)) {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.payload().downcast_ref::<String>().is_some_and(|text| text.starts_with("killed at")) {
            before(panic);
        }
    }));
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let long = std::env::var_os("MILLSTREAM_LONG").is_some();
    let alone = number("MILLSTREAM_SEED");
    let seeds = number("MILLSTREAM_SEEDS").unwrap_or(if long { 10_000 } else { short });
    let seeds = alone.map_or(0..seeds, |seed| seed..seed + number("MILLSTREAM_SEEDS").unwrap_or(1));
    let mut failed = Vec::new();
    for seed in seeds {
        // Virtual time: waits between tries cost nothing.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let run = async { tokio::time::timeout(Duration::from_secs(3600), test(seed)).await };
            runtime.block_on(run).unwrap_or_else(|_| panic!("seed {seed} does not end"));
        }));
        if ended.is_err() {
            eprintln!("seed {seed} has failed: run it alone with MILLSTREAM_SEED={seed}");
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "{} seeds have failed: {failed:?}", failed.len());
}

/// 10,000 seeds with `MILLSTREAM_LONG=1`; seed N alone with `MILLSTREAM_SEED=N`.
#[test]
fn random_pipelines_lose_and_invent_nothing_and_keep_the_order_of_each_key() {
    seeds(150, run);
}
