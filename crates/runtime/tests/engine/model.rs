//! Random pipelines with random faults, against what they should come to.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use millstream_core::{Delivery, Error, ErrorKind, StepPlan};
use millstream_runtime::{Ended, Entry, PipelineSpec, Probe, Step};
use millstream_testkit::{CountValues, FakeSink, FakeSource};

use crate::{Bench, MapFn, MapPlan, balanced, named, numbers, spec};

/// A small generator (splitmix64), so that a seed is all that a failure needs.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

/// Drops what ends in 3, fails what ends in 7, passes the rest.
const SIEVE: MapFn = |value| match value.as_bytes().last() {
    Some(b'3') => Ok(None),
    Some(b'7') => Err(Error::new(ErrorKind::Data, "no sevens")),
    _ => Ok(Some(value.to_owned())),
};

const WORD: MapFn = |value| Ok(Some(format!("w{}", value.len())));

struct Case {
    spec: PipelineSpec,
    log: FakeSink,
    counts: FakeSink,
    expected: Vec<String>,
    dead: usize,
}

/// `source -> sieve -> log`, and `sieve -> word -> count -> counts`.
fn case(dice: &mut Dice) -> Case {
    let records = numbers(1 + dice.roll(3000) as usize);
    let source = FakeSource::of(records.clone()).in_batches_of(1 + dice.roll(200) as usize);
    let (log, counts) = (FakeSink::truncating(), FakeSink::truncating());
    let mut spec = spec(&source, &[SIEVE], &log);
    spec.delivery = if dice.roll(2) == 0 { Delivery::AtLeastOnce } else { Delivery::ExactlyOnce };
    spec.checkpoint.count = Some(1 + dice.roll(400));
    spec.checkpoint.in_flight = 1 + dice.roll(4) as u32;
    spec.steps[0].name = Some("sieve".into());
    let mut word = Entry::ready(Arc::new(MapPlan(WORD)) as Arc<dyn StepPlan>);
    word.name = Some("word".into());
    let mut count = Entry::ready(Arc::new(CountValues) as Arc<dyn StepPlan>);
    count.name = Some("count".into());
    spec.steps.extend([word, count]);
    spec.sinks[0].from = vec!["sieve".into()];
    let mut counts_sink = named(&counts, "counts");
    counts_sink.from = vec!["count".into()];
    spec.sinks.push(counts_sink);
    let unavailable = || Error::new(ErrorKind::Unavailable, "away");
    log.fail_flushes((0..dice.roll(3)).map(|_| unavailable()));
    log.fail_writes((0..dice.roll(3)).map(|_| unavailable()));
    source.fail((0..dice.roll(3)).map(|_| unavailable()));
    let dead = records.iter().filter(|value| value.ends_with('7')).count();
    let expected = records.into_iter().filter(|value| !value.ends_with(['3', '7'])).collect();
    Case { spec, log, counts, expected, dead }
}

async fn run(seed: u64) {
    let mut dice = Dice(seed);
    let bench = Bench::new();
    let case = case(&mut dice);
    let mut ended = None;
    for life in 0.. {
        // Killed in the middle: at a random step of a random epoch, nothing is told and nothing is cleaned up.
        let kill = (life < 3).then(|| (Step::ALL[dice.roll(Step::ALL.len() as u64) as usize], 1 + dice.roll(8)));
        let reached = Arc::new(tokio::sync::Notify::new());
        let (notify, passed) = (reached.clone(), AtomicU64::new(0));
        let probe = Probe::new(move |step, _| {
            if kill.is_some_and(|(at, nth)| at == step && passed.fetch_add(1, Ordering::SeqCst) + 1 == nth) {
                notify.notify_one();
                panic!("killed at {step:?}");
            }
        });
        let mut running = bench.start_with(&case.spec, |options| {
            options.probe = probe;
            options.restarts_per_minute_max = 0;
        });
        match running.wait().await {
            Ok(summary) => {
                assert_eq!(summary.ended, Ended::Finished, "seed {seed}");
                ended = Some(summary);
                break;
            }
            Err(error) => assert!(error.chain().contains("killed at"), "seed {seed}: {error:?}"),
        }
    }
    let summary = ended.expect("the last life is not killed");
    balanced(&summary);
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    case.expected.iter().for_each(|value| *counts.entry(format!("w{}", value.len())).or_default() += 1);
    let counts: Vec<_> = counts.into_iter().map(|(word, count)| format!("{word}={count}")).collect();
    assert_eq!(case.counts.values(), counts, "seed {seed}: state counts each record once");
    // The fake is cut at recovery in both modes, so that even at least once gives each record once.
    assert_eq!(case.log.values(), case.expected, "seed {seed}");
    assert_eq!(bench.dead.records().len(), case.dead, "seed {seed}: each failed record is one dead letter");
}

/// 10,000 seeds with `MILLSTREAM_LONG=1`.
#[test]
fn random_pipelines_with_random_kills_come_to_the_same() {
    std::panic::set_hook(Box::new(|panic| {
        if !panic.payload().downcast_ref::<String>().is_some_and(|text| text.starts_with("killed at")) {
            eprintln!("{panic}");
        }
    }));
    let seeds = if std::env::var_os("MILLSTREAM_LONG").is_some() { 10_000 } else { 150 };
    let first = std::env::var("MILLSTREAM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    for seed in first..first + seeds {
        // Virtual time: waits between tries cost nothing.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(3600), run(seed)).await }).unwrap();
    }
}
