//! Tests of random cases against a model: which cases, and what they are to come to.

#![allow(clippy::panic, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, panic, time::Duration};

use crate::{budget, process::silence_kills};

/// Runs a case for each seed, in virtual time, so that waiting costs nothing: `short` of them, 10,000 with `MILLSTREAM_LONG`, or
/// `MILLSTREAM_SEEDS`; from `MILLSTREAM_SEED` on, and then this one alone.
///
/// # Panics
/// When all have run, if some have panicked or did not end within an hour of their time; each says its seed.
pub fn seeds(short: u64, test: impl AsyncFn(u64)) {
    silence_kills();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let alone = number("MILLSTREAM_SEED");
    let seeds = number("MILLSTREAM_SEEDS").unwrap_or(budget(short, 10_000));
    let seeds = alone.map_or(0..seeds, |seed| seed..seed + number("MILLSTREAM_SEEDS").unwrap_or(1));
    let mut failed = Vec::new();
    for seed in seeds {
        let ended = panic::catch_unwind(panic::AssertUnwindSafe(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
            let runtime = runtime.unwrap_or_else(|error| panic!("no runtime: {error}"));
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

fn count(values: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    values.iter().for_each(|value| *counts.entry(value.as_str()).or_default() += 1);
    counts
}

/// The same values in any order; where it need not be `exact`, some may have come more often.
///
/// # Panics
/// If they are not, with the first that differs.
pub fn same_values(seed: u64, what: &str, found: &[String], expected: &[String], exact: bool) {
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
