//! A log in memory whose every move the test decides, and the backend around it.
#![allow(unreachable_pub)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use millstream_client::{Backend, Retry, Streamer};
use millstream_core::{
    BatchBuilder, Error, ErrorKind, Event, Form, Owner, PlanContext, Position, Read, Record, Result, Resume, SeekTo,
    ShardKey, SinkPlan, Source, SourceCapabilities, SourcePlan, Stamp, Timestamp,
};
use millstream_std::{Reading, Stdio};
use millstream_testkit::FakeSink;
use tokio::sync::Notify;

/// Backend of a test: a log to read, a fake sink to write.
#[derive(Clone, Debug)]
pub struct Memory {
    pub log: TestLog,
    pub sink: FakeSink,
}

impl Memory {
    pub fn new() -> Self {
        Memory { log: TestLog::default(), sink: FakeSink::plain() }
    }

    pub fn streamer(&self) -> Streamer {
        Streamer::of(self.clone())
    }
}

impl Backend for Memory {
    fn source(&self, streams: &[&str], _: Option<&str>) -> Result<Box<dyn SourcePlan>> {
        let streams = streams.iter().map(|name| (*name).to_owned()).collect();
        Ok(Box::new(LogPlan { log: self.log.clone(), streams }))
    }

    fn sink(&self, _: &str, _: &PlanContext) -> Result<Box<dyn SinkPlan>> {
        Ok(Box::new(self.sink.clone()))
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}

/// Pipes whose output is their input.
pub fn loopback() -> Stdio {
    let reading = Reading { loopback: true, ..Reading::default() };
    Stdio::with(reading, std::io::empty(), std::io::sink()).unwrap()
}

#[derive(Clone, Debug)]
pub struct TestLog {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    pub batch: usize,
    pub capabilities: SourceCapabilities,
}

#[derive(Debug, Default)]
struct State {
    records: Vec<Record>,
    counts: BTreeMap<ShardKey, u128>,
    ended: bool,
    open_failures: Vec<Error>,
    failures: Vec<Error>,
    seek_failures: Vec<Error>,
    handed: usize,
    open: usize,
    committed: Option<Position>,
    given_back: Vec<String>,
    leaving: Vec<ShardKey>,
    released: Option<Position>,
}

impl Default for TestLog {
    fn default() -> Self {
        TestLog { state: Arc::default(), changed: Arc::default(), batch: 16, capabilities: SourceCapabilities::LOG }
    }
}

impl TestLog {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Adds a record; its time is its sequence in seconds, a value `bad` is at fault when it is read.
    pub fn push(&self, stream: &str, shard: u64, value: impl Into<String>) {
        let mut state = self.lock();
        let origin = ShardKey::new(stream, shard);
        let count = state.counts.entry(origin.clone()).or_default();
        *count += 1;
        let sequence = *count;
        let time = Some(Timestamp::from_millis(sequence as i64 * 1000));
        state.records.push(Record { origin, sequence, time, form: Form::Text, ..Record::new("", value.into()) });
        drop(state);
        self.changed.notify_waiters();
    }

    /// Adds the numbers of a range to `s/0`.
    pub fn numbers(&self, range: std::ops::Range<usize>) {
        range.for_each(|i| self.push("s", 0, i.to_string()));
    }

    pub fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_waiters();
    }

    pub fn fail_opens(&self, failures: impl IntoIterator<Item = Error>) {
        self.lock().open_failures.extend(failures);
    }

    pub fn fail(&self, failures: impl IntoIterator<Item = Error>) {
        self.lock().failures.extend(failures);
        self.changed.notify_waiters();
    }

    pub fn fail_seeks(&self, failures: impl IntoIterator<Item = Error>) {
        self.lock().seek_failures.extend(failures);
    }

    /// How many records have been handed over, by all sources.
    pub fn handed(&self) -> usize {
        self.lock().handed
    }

    /// How many sources are open.
    pub fn open(&self) -> usize {
        self.lock().open
    }

    pub fn committed(&self) -> Option<Position> {
        self.lock().committed.clone()
    }

    /// Another member of the group is to have this shard.
    pub fn leave(&self, shard: ShardKey) {
        self.lock().leaving.push(shard);
        self.changed.notify_waiters();
    }

    /// What was committed when shards were released.
    pub fn released(&self) -> Option<Position> {
        self.lock().released.clone()
    }

    pub fn given_back(&self) -> Vec<String> {
        self.lock().given_back.clone()
    }
}

#[derive(Debug)]
struct LogPlan {
    log: TestLog,
    streams: Vec<String>,
}

impl SourcePlan for LogPlan {
    fn capabilities(&self) -> SourceCapabilities {
        self.log.capabilities
    }

    fn form(&self) -> Form {
        Form::Text
    }

    fn describe(&self) -> String {
        "the test's log".to_owned()
    }

    fn create(&self) -> Result<Box<dyn Source>> {
        let (log, streams) = (self.log.clone(), self.streams.clone());
        Ok(Box::new(Reader { log, streams, next: BTreeMap::new(), open: false, until: None, from: 0 }))
    }
}

struct Reader {
    log: TestLog,
    streams: Vec<String>,
    next: BTreeMap<ShardKey, u128>,
    open: bool,
    until: Option<usize>,
    /// All records before it are read.
    from: usize,
}

impl Reader {
    fn reads(&self, record: &Record) -> bool {
        self.streams.is_empty() || self.streams.iter().any(|name| **name == *record.origin.stream)
    }

    fn place(&self, state: &State, shard: &ShardKey, to: &SeekTo) -> u128 {
        let of = || state.records.iter().filter(|record| record.origin == *shard);
        let end = of().map(|record| record.sequence + 1).max().unwrap_or(1);
        match to {
            SeekTo::End => end,
            SeekTo::At(sequence) => *sequence,
            SeekTo::Time(time) => of().find(|record| record.time >= Some(*time)).map_or(end, |record| record.sequence),
            _ => 0,
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.open {
            self.log.lock().open -= 1;
        }
    }
}

#[async_trait]
impl Source for Reader {
    async fn open(&mut self, resume: &Resume) -> Result<()> {
        let mut state = self.log.state.lock().unwrap();
        if !state.open_failures.is_empty() {
            return Err(state.open_failures.remove(0));
        }
        self.next.clear();
        for shard in state.counts.keys().cloned() {
            let place = self.place(&state, &shard, &resume.start);
            self.next.insert(shard, place);
        }
        for (shard, value) in resume.position.iter().flat_map(|position| &position.0) {
            self.next.insert(shard.clone(), serde_json::from_value(value.clone()).unwrap());
        }
        if !self.open {
            state.open += 1;
        }
        self.until = resume.until_end.then_some(state.records.len());
        (self.open, self.from) = (true, 0);
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        loop {
            let log = self.log.clone();
            let changed = log.changed.notified();
            {
                let mut state = log.lock();
                if !state.failures.is_empty() {
                    return Err(state.failures.remove(0));
                }
                if !state.leaving.is_empty() {
                    return Ok(Event::Leaving(std::mem::take(&mut state.leaving)));
                }
                let mut builder = BatchBuilder::new();
                let mut failed = Vec::new();
                let upto = self.until.unwrap_or(usize::MAX).min(state.records.len());
                let from = self.from.min(upto);
                for record in &state.records[from..upto] {
                    self.from += 1;
                    let next = self.next.get(&record.origin).copied().unwrap_or_default();
                    if record.sequence < next || !self.reads(record) {
                        continue;
                    }
                    if record.value.as_deref() == Some(b"bad") {
                        failed.push((builder.len() as u32, Error::new(ErrorKind::Decode, "it is bad")));
                    }
                    builder.push(record);
                    self.next.insert(record.origin.clone(), record.sequence + 1);
                    if builder.len() == log.batch {
                        break;
                    }
                }
                if !builder.is_empty() {
                    state.handed += builder.len();
                    return Ok(Event::Batch(Read::new(builder.finish(), failed)));
                }
                if state.ended || self.until.is_some() {
                    return Ok(Event::End);
                }
            }
            changed.await;
        }
    }

    fn position(&self) -> Result<Position> {
        let mut position = Position::default();
        if self.log.capabilities.owner != Owner::Nobody {
            for (shard, next) in &self.next {
                position.set(shard.clone(), &(*next as u64))?;
            }
        }
        Ok(position)
    }

    async fn release(&mut self, _: &[ShardKey]) -> Result<()> {
        let mut state = self.log.lock();
        state.released = Some(state.committed.clone().unwrap_or_default());
        Ok(())
    }

    async fn commit(&mut self, upto: &Position, _: Option<&Stamp>) -> Result<()> {
        self.log.lock().committed = Some(upto.clone());
        Ok(())
    }

    async fn seek(&mut self, to: &SeekTo, shards: Option<&[ShardKey]>) -> Result<()> {
        let log = self.log.clone();
        let mut state = log.lock();
        if !state.seek_failures.is_empty() {
            return Err(state.seek_failures.remove(0));
        }
        let all: Vec<ShardKey> = state.counts.keys().cloned().collect();
        self.from = 0;
        for shard in shards.unwrap_or(&all) {
            let place = self.place(&state, shard, to);
            self.next.insert(shard.clone(), place);
        }
        Ok(())
    }

    fn shards(&self) -> Vec<ShardKey> {
        self.next.keys().cloned().collect()
    }

    async fn give_back(&mut self, records: &millstream_core::Batch) -> Result<()> {
        let values = records.iter().map(|record| String::from_utf8_lossy(record.value().unwrap()).into_owned());
        self.log.lock().given_back.extend(values);
        Ok(())
    }
}

pub fn text(record: &Record) -> String {
    String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned()
}

pub fn number(record: &Record) -> usize {
    text(record).parse().unwrap()
}

/// Retries that a test need not wait for.
pub fn quick() -> Retry {
    Retry { delay: Duration::from_millis(2), delay_max: Duration::from_millis(4), attempts_max: None }
}

pub fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "the system is away")
}

/// Waits until something is so, for as long as a slow machine may need.
pub fn eventually(what: &str, so: impl Fn() -> bool) {
    let since = Instant::now();
    while !so() {
        assert!(since.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Runs a future on a plain executor, on tokio's current thread and on tokio's many.
pub fn everywhere<F: Future<Output = ()> + Send + 'static>(make: impl Fn() -> F) {
    futures::executor::block_on(make());
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(make());
    let many = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    many.block_on(async { tokio::spawn(make()).await.unwrap() });
}

/// Numbers by chance, the same in each run.
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
