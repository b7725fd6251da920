//! Random steps, as the builder makes them and as the model does.

use std::{collections::BTreeMap, time::Duration};

use millstream::{Batching, Class, ErrorKind, ErrorRule, Retry, Size, Stream, at};
use millstream_testkit::Dice;

use super::{
    case::{Case, Known, Open, key_of, limit},
    world::{Fate, Handler, Object, Work},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Map,
    Filter,
    TryMap,
    /// Two of each.
    FlatMap,
    Async,
    Blocking,
    Worker,
    Prepare,
    Batch,
    BatchWorker,
    Branch,
    Fold,
    /// Gives each record the key that its value names.
    Partition,
}

impl Kind {
    fn random(dice: &mut Dice, ends: bool) -> Self {
        use Kind::*;
        let all = [
            Map,
            Filter,
            TryMap,
            TryMap,
            FlatMap,
            Async,
            Async,
            Blocking,
            Worker,
            Worker,
            Prepare,
            Batch,
            Batch,
            Batch,
            BatchWorker,
            BatchWorker,
            Branch,
            Partition,
            Fold,
            Fold,
        ];
        // A fold needs a source that says beforehand that it ends.
        all[dice.roll(if ends { all.len() } else { all.len() - 2 } as u64) as usize]
    }
}

/// Settings of a step.
#[derive(Clone, Debug)]
struct Settings {
    name: String,
    rules: Vec<ErrorRule>,
    workers: Option<u32>,
    limit: Option<millstream::RateLimit>,
    in_flight: Option<usize>,
    timeout: Option<Duration>,
}

impl Settings {
    fn stage<K: at::Stage>(&self, mut stream: Stream<String, K>) -> Stream<String, K> {
        stream = stream.name(&self.name);
        stream = self.rules.iter().fold(stream, |stream, rule| stream.on_error(rule.clone()));
        if let Some(workers) = self.workers {
            stream = stream.concurrency(workers);
        }
        if let Some(limit) = &self.limit {
            stream = stream.rate_limit(limit.clone());
        }
        stream
    }

    fn timed<K: at::Timed>(&self, stream: Stream<String, K>) -> Stream<String, K> {
        let stream = self.stage(stream);
        if let Some(timeout) = self.timeout { stream.timeout(timeout) } else { stream }
    }

    fn bounded<K: at::Bounded>(&self, stream: Stream<String, K>) -> Stream<String, K> {
        let stream = self.timed(stream);
        if let Some(in_flight) = self.in_flight { stream.in_flight(in_flight) } else { stream }
    }
}

/// How records are gathered, and what follows for their handler.
struct Gathering {
    batching: Batching<String>,
    text: String,
    count_max: usize,
    one_key: bool,
    /// Records of a key are not in several batches at once.
    together: bool,
}

fn gathering(dice: &mut Dice) -> Gathering {
    let (how, count) = (dice.roll(6), 1 + dice.roll(30) as usize);
    let (mut batching, count_max) = match how {
        0..3 => (Batching::count(count), count),
        3 => (Batching::of_bytes(Size(1 + dice.roll(200))), usize::MAX),
        4 => (Batching::every(Duration::from_millis(1 + dice.roll(50))), usize::MAX),
        _ => (Batching::open(), usize::MAX),
    };
    if dice.roll(2) == 0 {
        batching = batching.linger(Duration::from_millis(dice.roll(100)));
    }
    let key = dice.roll(3);
    batching = match key {
        0 => batching.by_key(),
        1 => batching.key(|value: &String| number(value) % 3),
        _ => batching,
    };
    let split = dice.roll(5) == 0;
    if split {
        batching = batching.split(|| {
            let mut sum = 0;
            move |value: &String| {
                sum += number(value) % 20;
                sum > 50
            }
        });
    }
    let flush = dice.roll(5) == 0;
    if flush {
        batching = batching.flush_on(|value: &String| number(value).is_multiple_of(13));
    }
    if dice.roll(8) == 0 {
        batching = batching.memory(Size(2000));
    }
    let text = format!("{batching:?} key {key} split {split} flush {flush}");
    Gathering { batching, text, count_max, one_key: key == 0, together: key != 1 }
}

fn number(value: &str) -> u64 {
    value.split(':').nth(1).and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// Chooses what a step reads: one output, or two of them as one.
fn reads(dice: &mut Dice, outputs: &mut [Open]) -> Open {
    let first = dice.roll(outputs.len() as u64) as usize;
    outputs[first].read = true;
    let mut open = outputs[first].clone();
    let other = dice.roll(outputs.len() as u64) as usize;
    if dice.roll(5) == 0 && other != first {
        outputs[other].read = true;
        let other = outputs[other].clone();
        open.stream = open.stream.merge(other.stream);
        open.label = format!("{} and {}", open.label, other.label);
        open.records.extend(other.records);
        open.workers_max = open.workers_max.max(other.workers_max);
        (open.ordered, open.keyed) = (false, false);
    }
    if dice.roll(6) == 0 {
        open.stream = open.stream.partition_by_key();
        open.keyed = true;
        open.label = format!("{} by key", open.label);
    }
    open
}

fn work(dice: &mut Dice, case: &Case, kind: Kind) -> Work {
    use Kind::{Async, Batch, BatchWorker, Blocking, Filter, Fold, Prepare, TryMap, Worker};
    let handler = matches!(kind, Batch | BatchWorker);
    let fails = matches!(kind, TryMap | Async | Blocking | Worker | Prepare) || handler;
    Work {
        world: case.world.clone(),
        step: case.steps,
        drops: kind == Filter,
        fails,
        alone: !(handler || kind == Prepare) || dice.roll(2) == 0,
        panics: !handler && kind != Kind::Partition,
        panics_pass: kind != Fold && fails && dice.roll(2) == 0,
        hangs: matches!(kind, Async | Worker) || handler,
    }
}

fn settings(dice: &mut Dice, work: &Work) -> Settings {
    let delay_max = [10, 30, 400][dice.roll(3) as usize];
    let delay = Duration::from_millis(dice.roll(delay_max));
    let retry = Retry::forever().delay(delay).backoff(1.0).jitter(0.0);
    let mut rules = vec![ErrorRule::of(Class::Unavailable).retry(retry.clone())];
    if work.hangs {
        rules.push(ErrorRule::of(Class::Timeout).retry(retry.clone()));
    }
    if work.panics_pass {
        rules.push(ErrorRule::of(ErrorKind::Panic).retry(retry));
    }
    Settings {
        name: format!("step{}", work.step),
        rules,
        workers: (dice.roll(2) == 0).then(|| 1 + dice.roll(4) as u32),
        limit: limit(dice),
        in_flight: (dice.roll(2) == 0).then(|| 1 + dice.roll(20) as usize),
        timeout: work.hangs.then(|| Duration::from_millis(20 + dice.roll(50))),
    }
}

/// What the records come to in the model: for each output.
fn expected(case: &mut Case, work: &Work, kind: Kind, records: &[Known]) -> [Vec<Known>; 2] {
    let (mut outputs, mut tallies) = ([Vec::new(), Vec::new()], BTreeMap::<String, u64>::new());
    for known in records {
        let value = &known.value;
        match work.fate(value) {
            // What has no key is left out before anything is done with it.
            _ if kind == Kind::Fold && known.key().is_none() => {}
            Fate::Drop => {}
            Fate::Dead | Fate::Panic => case.dead.push(value.clone()),
            _ if kind == Kind::Fold => *tallies.entry(known.key().unwrap().to_owned()).or_default() += 1,
            _ if kind == Kind::Branch => outputs[case.world.port(work.step, value)].push(known.clone()),
            _ if kind == Kind::FlatMap => {
                let twin = |letter: char| Known { value: format!("{value}{letter}"), keyed: known.keyed };
                outputs[0].extend([twin('a'), twin('b')]);
            }
            _ if kind == Kind::Partition => outputs[0].push(Known { keyed: true, ..known.clone() }),
            _ => outputs[0].push(known.clone()),
        }
    }
    outputs[0].extend(tallies.into_iter().map(|(key, n)| Known { value: tallied(&key, n), keyed: true }));
    outputs
}

fn tallied(key: &str, count: u64) -> String {
    format!("T{key}:{count}:")
}

/// Adds a step that reads one of the outputs, or two of them as one.
pub(super) fn add(dice: &mut Dice, case: &mut Case, outputs: &mut Vec<Open>) {
    let kind = Kind::random(dice, case.ends);
    let open = reads(dice, outputs);
    let work = work(dice, case, kind);
    let (settings, resized) = (settings(dice, &work), dice.roll(2) == 0);
    let workers_max = if resized { 4 } else { settings.workers.map_or(open.workers_max, u64::from) };
    let [first, second] = expected(case, &work, kind, &open.records);
    let mut keyed = open.keyed;
    // Those without a key may overtake each other at each try, and be given one later.
    let has_keys = open.records.iter().all(|known| known.keyed);
    let mut ordered = open.ordered && ((keyed && has_keys) || (workers_max == 1 && work.faultless()));
    let (stream, step, set) = (open.stream, work.clone(), &settings);
    let mut streams = Vec::new();
    let mut text = String::new();
    match kind {
        Kind::Map => streams.push(set.stage(stream.map(move |value| step.pass(value).unwrap()))),
        Kind::Filter => streams.push(set.stage(stream.filter(move |value| step.meet(value).unwrap()))),
        Kind::TryMap => streams.push(set.stage(stream.try_map(move |value| step.pass(value)))),
        Kind::FlatMap => streams.push(set.stage(stream.flat_map(move |value| {
            step.meet(value).unwrap();
            [format!("{value}a"), format!("{value}b")]
        }))),
        Kind::Async => {
            let unordered = dice.roll(2) == 0;
            ordered &= keyed || !unordered;
            text = format!("unordered {unordered}");
            let stream = set.bounded(stream.map_async(move |value| step.clone().pass_later(value)));
            streams.push(if unordered { stream.unordered() } else { stream }.into());
        }
        Kind::Blocking => {
            streams.push(set.bounded(stream.map_blocking(move |value: &String| step.pass(value))).into());
        }
        Kind::Worker => {
            let weak = dice.roll(4) == 0;
            text = format!("weak {weak}");
            let handler = Handler { work: step, count_max: 0, one_key: false, spoils: None };
            streams.push(set.timed(stream.step(move || Object::new(handler.clone(), weak))).into());
        }
        Kind::Prepare => {
            let (most, again) = (1 + dice.roll(40) as usize, step.clone());
            let lookup = move |values: Vec<String>| {
                let step = step.clone();
                async move { step.together(&values[0]).await }
            };
            let prepared = stream.prepare(lookup).at_most(most);
            streams.push(set.bounded(prepared.map(move |value, ()| again.pass(value))).into());
        }
        Kind::Batch | Kind::BatchWorker => {
            let Gathering { batching, text: how, count_max, one_key, together } = gathering(dice);
            let (weak, repeatable, spoils) = (dice.roll(4) == 0, dice.roll(3) == 0, dice.roll(2) == 0);
            text = format!("{how} weak {weak} repeatable {repeatable} spoils {spoils}");
            ordered &= (work.faultless() || !work.alone || repeatable) && together;
            // A batch that is repeated is so for what no other try helps.
            let spoils = spoils.then_some(if repeatable { ErrorKind::Rejected } else { ErrorKind::Unavailable });
            let handler = Handler { work: step, count_max, one_key, spoils };
            if count_max < usize::MAX {
                case.knobs.batches.push((settings.name.clone(), count_max as u64));
            }
            let batched = stream.batch(batching);
            let batched = if repeatable { batched.repeatable() } else { batched };
            streams.push(if kind == Kind::Batch {
                set.bounded(batched.handle(move |batch| handler.clone().handle(batch))).into()
            } else {
                set.timed(batched.step(move || Object::new(handler.clone(), weak))).into()
            });
        }
        Kind::Branch => {
            let (yes, no) = stream.branch(move |value| {
                step.meet(value).unwrap();
                step.world.port(step.step, value) == 0
            });
            streams.extend([set.stage(yes), no]);
        }
        Kind::Fold => {
            let count = move |count: &mut u64, value: &String| {
                *count += 1;
                step.meet(value).unwrap();
            };
            let emit = |key: &[u8], count: &u64| tallied(std::str::from_utf8(key).unwrap(), *count);
            streams.push(set.stage(stream.fold(&settings.name, count, emit)));
            // Whoever reads the totals is told nothing of their keys.
            (ordered, keyed) = (false, false);
        }
        Kind::Partition => {
            let key = |value: &String| key_of(value).map(str::to_owned);
            streams.push(set.stage(stream.key_by(key)).partition_by_key());
            keyed = true;
        }
    }
    let line = format!(
        "{}: {kind:?} of {}, faultless {}, alone {}, panics_pass {}, workers {:?} resized {resized}, limit {:?}, in_flight {:?}, \
         rules {} delay {:?}, keyed {keyed}, {text}",
        settings.name,
        open.label,
        work.faultless(),
        work.alone,
        work.panics_pass,
        settings.workers,
        settings.limit,
        settings.in_flight,
        settings.rules.len(),
        settings.rules[0].retry.as_ref().map(|retry| retry.delay),
    );
    case.story.push(line);
    case.knobs.resized.extend(resized.then(|| settings.name.clone()));
    case.knobs.limited.extend(settings.limit.is_some().then(|| settings.name.clone()));
    case.knobs.bounded.extend(settings.in_flight.is_some().then(|| settings.name.clone()));
    for (n, (stream, records)) in streams.into_iter().zip([first, second]).enumerate() {
        let label = format!("{}.{n}", settings.name);
        outputs.push(Open { stream, label, records, ordered, keyed, workers_max, read: false });
    }
    case.steps += 1;
}
