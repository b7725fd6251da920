//! Random graphs of random steps in random numbers of workers, steered, drained and killed while they run, against a model
//! that handles one record after the other.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use millstream_core::{Class, Delivery, Error, ErrorKind, SinkPlan, SourcePlan, StepPlan};
use millstream_runtime::{
    Dispatch, Ended, Entry, ErrorRule, Handle, Match, PipelineSpec, Probe, RateLimit, Retry, Step, Summary,
};
use millstream_testkit::{Dice, FakeSink, FakeSource, same_values};

use super::{
    away,
    ends::tallied,
    steps::{Fate, Kind, Work, World},
};
use crate::{Bench, balanced};

/// An output of a stage: its name as it is read, and its records in the model.
#[derive(Clone)]
struct Open {
    name: String,
    records: Vec<String>,
    /// Records of a key come in order.
    ordered: bool,
    keyed: bool,
    workers_max: u64,
    read: bool,
}

struct Sunk {
    sink: FakeSink,
    expected: Vec<String>,
    ordered: bool,
}

struct Case {
    spec: PipelineSpec,
    world: Arc<World>,
    sinks: Vec<Sunk>,
    dead: Vec<String>,
    steps: Vec<(String, u64)>,
    kinds: Vec<Kind>,
}

fn source(dice: &mut Dice, n: u64, ends: bool) -> (Entry<dyn SourcePlan>, Open) {
    let (source, keys, mut records) = (FakeSource::live(), 1 + dice.roll(8), Vec::new());
    for i in 0..dice.roll(400) {
        let key = (dice.roll(10) > 0).then(|| format!("s{n}k{}", dice.roll(keys)));
        let value = format!("{}:{i}:", key.as_deref().unwrap_or("x"));
        source.push(key.as_deref(), value.clone());
        records.push(value);
    }
    source.end();
    source.fail((0..dice.roll(2)).map(|_| away()));
    let source = source.in_batches_of(1 + dice.roll(60) as usize);
    let source = if ends { source.bounded() } else { source };
    let name = format!("source{n}");
    let mut entry = Entry::ready(Arc::new(source) as Arc<dyn SourcePlan>);
    entry.name = Some(name.clone());
    entry.rate_limit = limit(dice);
    (entry, Open { name, records, ordered: true, keyed: false, workers_max: 1, read: false })
}

fn limit(dice: &mut Dice) -> Option<RateLimit> {
    let (records, by_key) = (200 + dice.roll(2000), dice.roll(2) == 0);
    (dice.roll(8) == 0).then(|| RateLimit { records, per: "1s".parse().unwrap(), by_key })
}

fn kind(dice: &mut Dice, ends: bool) -> Kind {
    match dice.roll(if ends { 11 } else { 9 }) {
        0..4 => Kind::Map,
        4 => Kind::Double,
        5 => Kind::Route,
        6 => Kind::Async(1 + dice.roll(20) as usize),
        7 => Kind::Hold(1 + dice.roll(50) as usize),
        8 => Kind::Gather(1 + dice.roll(50) as usize),
        _ => Kind::Tally,
    }
}

/// Adds a step that reads some of the outputs.
fn step(dice: &mut Dice, case: &mut Case, outputs: &mut Vec<Open>, ends: bool) {
    let n = case.steps.len();
    let (name, kind) = (format!("step{n}"), kind(dice, ends));
    let mut reads = vec![dice.roll(outputs.len() as u64) as usize];
    if dice.roll(4) == 0 {
        let other = dice.roll(outputs.len() as u64) as usize;
        reads.extend((other != reads[0]).then_some(other));
    }
    let work = Work { world: case.world.clone(), step: n, kind };
    let mut entry = Entry::ready(Arc::new(work) as Arc<dyn StepPlan>);
    entry.name = Some(name.clone());
    entry.from = reads.iter().map(|&read| outputs[read].name.clone()).collect();
    entry.concurrency = (dice.roll(2) == 0).then(|| 1 + dice.roll(4) as u32);
    entry.dispatch = [None, Some(Dispatch::Key), Some(Dispatch::RoundRobin)][dice.roll(3) as usize];
    if kind == Kind::Tally {
        entry.dispatch = Some(Dispatch::Key);
    }
    entry.rate_limit = limit(dice);
    let resized = dice.roll(2) == 0;
    let delay = format!("{}ms", dice.roll(30)).parse().unwrap();
    let retry = Retry { delay, backoff: 1.0, jitter: 0.0, ..Retry::default() };
    let matches = Match { class: Some(Class::Unavailable), ..Match::default() };
    entry.errors = vec![ErrorRule { matches, retry: Some(retry), then: None }];
    let above = |of: fn(&Open) -> bool| reads.iter().all(|&read| of(&outputs[read]));
    let keyed = match entry.dispatch {
        Some(dispatch) => dispatch == Dispatch::Key,
        None => above(|open| open.keyed),
    };
    let inherited = reads.iter().map(|&read| outputs[read].workers_max).max().unwrap_or(1);
    let workers_max = if resized { 4 } else { entry.concurrency.map_or(inherited, u64::from) };
    let ordered = reads.len() == 1 && above(|open| open.ordered) && (keyed || workers_max == 1);
    let (mut records, mut tallies) = ([Vec::new(), Vec::new()], BTreeMap::<&str, u64>::new());
    for value in reads.iter().flat_map(|&read| &outputs[read].records) {
        // Those that only hold have no say.
        let fate = if matches!(kind, Kind::Hold(_) | Kind::Tally) { Fate::Pass } else { case.world.fate(n, value) };
        match fate {
            Fate::Drop => {}
            Fate::Dead => case.dead.push(value.clone()),
            _ if kind == Kind::Route => records[case.world.port(n, value)].push(value.clone()),
            _ if kind == Kind::Tally => {
                let key = value.split(':').next().unwrap();
                *tallies.entry(key).or_default() += u64::from(key != "x");
            }
            _ if kind == Kind::Double => records[0].extend([format!("{value}a"), format!("{value}b")]),
            _ => records[0].push(value.clone()),
        }
    }
    records[0].extend(tallies.into_iter().filter(|(_, count)| *count > 0).map(|(key, count)| tallied(key, count)));
    reads.iter().for_each(|&read| outputs[read].read = true);
    let ports: &[&str] = if kind == Kind::Route { &[".a", ".b"] } else { &[""] };
    for (port, records) in ports.iter().zip(records) {
        outputs.push(Open { name: format!("{name}{port}"), records, ordered, keyed, workers_max, read: false });
    }
    case.kinds.push(kind);
    case.steps.push((name, if resized { 4 } else { 0 }));
    case.spec.steps.push(entry);
}

fn sink(dice: &mut Dice, n: usize, open: &Open, case: &mut Case) {
    let sink = FakeSink::truncating();
    let sink = if dice.roll(2) == 0 { sink.telling() } else { sink };
    sink.fail_flushes((0..dice.roll(2)).map(|_| away()));
    sink.fail_writes((0..dice.roll(2)).map(|_| away()));
    let mut expected = open.records.clone();
    if dice.roll(4) == 0 && !expected.is_empty() {
        let refused = expected[dice.roll(expected.len() as u64) as usize].clone();
        sink.reject(&refused, usize::MAX, Error::new(ErrorKind::Rejected, "too odd"));
        case.dead.extend(expected.extract_if(.., |value| *value == refused));
    }
    let mut entry = Entry::ready(Arc::new(sink.clone()) as Arc<dyn SinkPlan>);
    (entry.name, entry.from) = (Some(format!("sink{n}")), vec![open.name.clone()]);
    case.spec.sinks.push(entry);
    case.sinks.push(Sunk { sink, expected, ordered: open.ordered });
}

fn case(seed: u64, dice: &mut Dice) -> Case {
    let world = Arc::new(World { seed, ..World::default() });
    let mut spec = PipelineSpec { name: "test".to_owned(), ..PipelineSpec::default() };
    spec.delivery = if dice.roll(3) == 0 { Delivery::AtLeastOnce } else { Delivery::ExactlyOnce };
    spec.checkpoint.count = Some(1 + dice.roll(200));
    spec.checkpoint.every = "20ms".parse().unwrap();
    spec.checkpoint.in_flight = 1 + dice.roll(4) as u32;
    let mut case = Case { spec, world, sinks: Vec::new(), dead: Vec::new(), steps: Vec::new(), kinds: Vec::new() };
    let mut outputs = Vec::new();
    // Otherwise each run has an end of its own.
    let ends = dice.roll(2) == 0;
    for n in 0..1 + dice.roll(2) {
        let (entry, open) = source(dice, n, ends);
        case.spec.sources.push(entry);
        outputs.push(open);
    }
    for _ in 0..1 + dice.roll(8) {
        step(dice, &mut case, &mut outputs, ends);
    }
    // What nobody reads goes to a sink, and now and then what others read, too.
    for (n, open) in outputs.iter().enumerate() {
        if !open.read || dice.roll(4) == 0 {
            sink(dice, n, open, &mut case);
        }
    }
    case
}

/// Steers a pipeline while it runs. Whether it is to end by a drain.
async fn steer(mut dice: Dice, steps: Vec<String>, handle: Handle, drains: bool) {
    handle.started().await;
    for _ in 0..dice.roll(6) {
        tokio::time::sleep(Duration::from_millis(dice.roll(60))).await;
        match dice.roll(4) {
            // Errors: the pipeline may be over.
            0 | 1 if !steps.is_empty() => {
                let step = &steps[dice.roll(steps.len() as u64) as usize];
                drop(handle.set_concurrency(step, 1 + dice.roll(4) as u32).await);
            }
            2 => drop(handle.checkpoint().await),
            _ => {
                handle.pause();
                tokio::time::sleep(Duration::from_millis(dice.roll(30))).await;
                handle.resume();
            }
        }
    }
    if drains {
        tokio::time::sleep(Duration::from_millis(dice.roll(60))).await;
        handle.drain(Duration::from_millis(dice.roll(200)));
    }
}

/// Runs it to its end; the first lives end by a kill or a drain.
async fn lives(seed: u64, dice: &mut Dice, case: &Case, bench: &Bench) -> Summary {
    let resized: Vec<String> = case.steps.iter().filter(|(_, most)| *most > 0).map(|(name, _)| name.clone()).collect();
    for life in 0.. {
        let kill = (life < 3 && dice.roll(2) == 0).then(|| (Step::ALL[dice.roll(10) as usize], 1 + dice.roll(20)));
        let killed = Arc::new(Mutex::new(None));
        let (told, again) = (killed.clone(), dice.roll(2) == 0);
        let die = move |step| {
            *told.lock().unwrap() = Some(step);
            panic!("killed at {step:?}");
        };
        let probe = kill.map_or_else(Probe::default, |(step, nth)| Probe::at(step, nth, move || die(step)));
        let mut running = bench.start_with(&case.spec, |options| {
            options.probe = probe;
            options.restarts_per_minute_max = if again { 1000 } else { 0 };
        });
        let drains = life < 3 && dice.roll(3) == 0;
        let steering = tokio::spawn(steer(Dice::new(dice.roll(u64::MAX)), resized.clone(), running.handle(), drains));
        let ended = running.wait().await;
        steering.abort();
        // A kill of the coordinator is one of the process: nothing is closed.
        if !matches!(*killed.lock().unwrap(), Some(Step::BeforeRecord | Step::AfterRecord)) {
            assert_eq!(case.world.open.load(Ordering::SeqCst), 0, "seed {seed}: hooks are called in pairs");
        }
        case.world.open.store(0, Ordering::SeqCst);
        match ended {
            Ok(summary) => {
                // Also one that was told to drain before all was open.
                assert_ne!(summary.ended, Ended::Stopped, "seed {seed}: nobody stops it");
                balanced(&summary);
                if summary.ended == Ended::Finished {
                    return summary;
                }
            }
            Err(error) => {
                let text = error.chain();
                let known = text.contains("killed at") || text.contains("longer than its deadline");
                assert!(known || text.contains("away") || text.contains("supervisor"), "seed {seed}: {error:?}");
            }
        }
        assert!(life < 100, "seed {seed} does not come to its end");
    }
    unreachable!("it ends")
}

fn in_order(seed: u64, what: &str, values: &[String]) {
    let mut newest: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    for value in values {
        let mut parts = value.split(':');
        let (key, n, suffix) = (parts.next().unwrap(), parts.next().unwrap().parse().unwrap(), parts.next().unwrap());
        if key == "x" {
            continue;
        }
        let before = newest.insert(key, (n, suffix));
        assert!(
            before.is_none_or(|before| before <= (n, suffix)),
            "seed {seed}: {what}: {value} comes behind {before:?}"
        );
    }
}

pub(super) async fn run(seed: u64) {
    let mut dice = Dice::new(seed);
    let bench = Bench::new();
    let case = case(seed, &mut dice);
    if std::env::var_os("MILLSTREAM_SEED").is_some() {
        for (n, entry) in case.spec.steps.iter().enumerate() {
            let (workers, dispatch, limit) = (entry.concurrency, entry.dispatch, &entry.rate_limit);
            eprintln!(
                "{:?} {:?} {workers:?} {dispatch:?} {limit:?} {:?} {:?}",
                entry.name, entry.from, case.steps[n], case.kinds[n]
            );
        }
    }
    let summary = lives(seed, &mut dice, &case, &bench).await;
    balanced(&summary);
    let exact = case.spec.delivery == Delivery::ExactlyOnce;
    for (n, Sunk { sink, expected, ordered }) in case.sinks.iter().enumerate() {
        let (name, values) = (case.spec.sinks[n].name.clone().unwrap(), sink.values());
        same_values(seed, &name, &values, expected, exact);
        // What comes twice comes out of order.
        if *ordered && exact {
            in_order(seed, &name, &values);
        }
    }
    let letters: Vec<millstream_core::DeadLetter> = bench
        .dead
        .records()
        .iter()
        .map(|record| rmp_serde::from_slice(record.value.as_ref().unwrap()).unwrap())
        .collect();
    let letters: Vec<String> = letters
        .iter()
        .map(|letter| String::from_utf8_lossy(letter.record.value.as_deref().unwrap_or_default()).into_owned())
        .collect();
    same_values(seed, "dead letters", &letters, &case.dead, exact);
}
