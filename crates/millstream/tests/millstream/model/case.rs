//! A random pipeline, and what it should come to.

use std::sync::Arc;

use millstream::{Delivery, Error, ErrorKind, Pipeline, RateLimit, Stream, runtime::CheckpointSpec, state::Memory};
use millstream_testkit::{Dice, FakeSink, FakeSource};

use super::{lives::Knobs, steps, world::World};

/// A record in the model.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) value: String,
    /// It has its key, if its value names one.
    pub(super) keyed: bool,
}

impl Known {
    pub(super) fn key(&self) -> Option<&str> {
        key_of(&self.value).filter(|_| self.keyed)
    }
}

/// The key that a value names: all before the first colon, but for `x`.
pub(super) fn key_of(value: &str) -> Option<&str> {
    value.split(':').next().map(|key| key.trim_start_matches('T')).filter(|key| *key != "x")
}

/// A stream that may be read, and its records in the model.
#[derive(Clone)]
pub(super) struct Open {
    pub(super) stream: Stream<String>,
    pub(super) label: String,
    pub(super) records: Vec<Known>,
    /// Records of a key come in order.
    pub(super) ordered: bool,
    /// They are dealt out by key.
    pub(super) keyed: bool,
    pub(super) workers_max: u64,
    pub(super) read: bool,
}

pub(super) struct Sunk {
    pub(super) name: String,
    pub(super) sink: FakeSink,
    pub(super) expected: Vec<String>,
    pub(super) ordered: bool,
}

pub(super) struct Case {
    pub(super) pipeline: Pipeline,
    pub(super) memory: Memory,
    /// Of those whose state is on the disk.
    pub(super) folder: Option<tempfile::TempDir>,
    pub(super) letters: FakeSink,
    pub(super) world: Arc<World>,
    pub(super) exact: bool,
    /// Each sink can be cut to its mark.
    pub(super) cut: bool,
    /// Sources say beforehand that they end.
    pub(super) ends: bool,
    pub(super) sinks: Vec<Sunk>,
    pub(super) dead: Vec<String>,
    pub(super) steps: usize,
    pub(super) knobs: Knobs,
    /// What it is, in words.
    pub(super) story: Vec<String>,
}

fn away() -> Error {
    Error::new(ErrorKind::Unavailable, "away")
}

pub(super) fn limit(dice: &mut Dice) -> Option<RateLimit> {
    let (records, by_key) = (200 + dice.roll(2000), dice.roll(2) == 0);
    (dice.roll(8) == 0).then(|| RateLimit { records, per: "1s".parse().unwrap(), by_key })
}

impl Case {
    pub(super) fn new(seed: u64, dice: &mut Dice) -> Self {
        let exact = dice.roll(4) > 0;
        let mut checkpoint = CheckpointSpec { every: "20ms".parse().unwrap(), ..CheckpointSpec::default() };
        let count_max = [10, 40, 200][dice.roll(3) as usize];
        checkpoint.count = Some(1 + dice.roll(count_max));
        checkpoint.in_flight = 1 + dice.roll(4) as u32;
        let delivery = if exact { Delivery::ExactlyOnce } else { Delivery::AtLeastOnce };
        let pipeline = Pipeline::new("model").delivery(delivery).checkpoint(checkpoint.clone());
        let story = vec![format!("exact {exact}, {checkpoint:?}")];
        let mut case = Case {
            pipeline,
            memory: Memory::new(),
            folder: (dice.roll(16) == 0).then(|| tempfile::tempdir().unwrap()),
            letters: FakeSink::truncating(),
            world: World::new(seed),
            exact,
            cut: dice.roll(5) > 0,
            ends: dice.roll(3) > 0,
            sinks: Vec::new(),
            dead: Vec::new(),
            steps: 0,
            knobs: Knobs::default(),
            story,
        };
        let mut outputs = Vec::new();
        for n in 0..1 + dice.roll(3) / 2 {
            let open = case.source(dice, n);
            outputs.push(open);
        }
        for _ in 0..1 + dice.roll(5) {
            steps::add(dice, &mut case, &mut outputs);
        }
        // What nobody reads goes to a sink, and now and then what others read, too.
        for open in outputs {
            if !open.read || dice.roll(5) == 0 {
                case.sink(dice, open);
            }
        }
        case
    }

    fn source(&mut self, dice: &mut Dice, n: u64) -> Open {
        let (keys, keyless) = (1 + dice.roll(8), 1 + dice.roll(10));
        let (mut records, typed) = (Vec::new(), self.ends && dice.roll(4) == 0);
        for i in 0..dice.roll(300) {
            let key = (dice.roll(10) >= keyless).then(|| format!("s{n}k{}", dice.roll(keys)));
            let value = format!("{}:{i}:", key.as_deref().unwrap_or("x"));
            records.push(Known { value, keyed: !typed });
        }
        let label = format!("source{n}");
        let mut stream: Stream<String> = if typed {
            self.pipeline.values(records.iter().map(|known| known.value.clone()).collect::<Vec<_>>()).name(&label)
        } else {
            let source = FakeSource::live();
            records.iter().for_each(|known| source.push(known.key(), known.value.clone()));
            source.end();
            source.fail((0..dice.roll(2)).map(|_| away()));
            let source = source.in_batches_of(1 + dice.roll(60) as usize);
            let source = if self.ends { source.bounded() } else { source };
            let mut raw = self.pipeline.source_of(source).name(&label);
            if let Some(limit) = limit(dice) {
                self.knobs.limited.push(label.clone());
                raw = raw.rate_limit(limit);
            }
            raw.text()
        };
        let (mut keyed, how) = (false, dice.roll(4));
        match how {
            0 | 1 => {
                stream = stream.partition_by(|value| key_of(value).map(str::to_owned));
                records.iter_mut().for_each(|known| known.keyed = true);
                keyed = true;
            }
            2 if !typed => {
                stream = stream.partition_by_key();
                keyed = true;
            }
            _ => {}
        }
        self.story.push(format!(
            "{label}: {} records, typed {typed}, keys {how}, bounded {}",
            records.len(),
            self.ends
        ));
        Open { stream, label, records, ordered: true, keyed, workers_max: 1, read: false }
    }

    fn sink(&mut self, dice: &mut Dice, open: Open) {
        let sink = if self.cut || dice.roll(2) == 0 { FakeSink::truncating() } else { FakeSink::two_phase() };
        sink.fail_commits((0..dice.roll(2)).map(|_| away()));
        sink.fail_flushes((0..dice.roll(2)).map(|_| away()));
        sink.fail_writes((0..dice.roll(2)).map(|_| away()));
        let mut expected: Vec<String> = open.records.into_iter().map(|known| known.value).collect();
        if dice.roll(4) == 0 && !expected.is_empty() {
            let refused = expected[dice.roll(expected.len() as u64) as usize].clone();
            sink.reject(&refused, usize::MAX, Error::new(ErrorKind::Rejected, "too odd"));
            self.dead.extend(expected.extract_if(.., |value| *value == refused));
        }
        let name = format!("sink{}", self.sinks.len());
        self.story.push(format!("{name} reads {}, ordered {}", open.label, open.ordered));
        open.stream.to_text().sink_of(sink.clone()).name(&name);
        self.sinks.push(Sunk { name, sink, expected, ordered: open.ordered });
    }
}
