//! Random pipelines of typed steps, steered, drained and killed while they run, against a model that handles one record after
//! the other.

mod case;
mod lives;
mod steps;
mod world;

use std::collections::BTreeMap;

use millstream::core::{DeadLetter, Record};
use millstream_testkit::{Dice, same_values, seeds};

use case::{Case, Sunk};

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
        same_values(seed, name, &sink.values(), expected, case.exact);
        // What comes twice comes out of order.
        if *ordered && case.exact {
            in_order(seed, name, &sink.records());
        }
    }
    let letters: Vec<String> = case.letters.records().iter().map(letter).collect();
    same_values(seed, "dead letters", &letters, &case.dead, case.exact);
    let wrong = case.world.wrong();
    assert!(wrong.is_empty(), "seed {seed}: {wrong:?}");
}

/// 10,000 seeds with `MILLSTREAM_LONG=1`; seed N alone with `MILLSTREAM_SEED=N`.
#[test]
fn random_pipelines_lose_and_invent_nothing_and_keep_the_order_of_each_key() {
    seeds(150, run);
}
