//! A source whose shards are given out by a group, which remembers how far each has been read.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use millstream_core::{
    BATCH_RECORDS_MAX, Error, ErrorKind, Event, Form, Owner, Record, Result, ShardKey, Source, SourceCapabilities,
    SourcePlan, Stamp,
};
use tokio::{sync::Notify, time::Instant};

use crate::{FakeServer, host::SYSTEM, member::Member};

/// A stream with several shards, read as a member of a group.
#[derive(Clone, Debug)]
pub struct FakeGroup {
    pub(crate) shared: Arc<Shared>,
    /// It lives in a system with transactions.
    on_server: bool,
    bounded: bool,
    keep_alive: Option<Duration>,
    pub(crate) batch: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    pub(crate) changed: Notify,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) records: BTreeMap<ShardKey, Vec<Record>>,
    pub(crate) ended: bool,
    /// What is ours now.
    pub(crate) assigned: BTreeSet<ShardKey>,
    /// How far each shard has been read, and who said so.
    pub(crate) offsets: BTreeMap<ShardKey, (usize, Option<Stamp>)>,
    pub(crate) news: VecDeque<News>,
    /// What it has asked for and not got.
    pub(crate) asked: BTreeSet<ShardKey>,
    pub(crate) released: Vec<ShardKey>,
    pub(crate) open_failures: Vec<Error>,
    pub(crate) created: usize,
    pub(crate) opened: usize,
    pub(crate) renewed: Vec<Instant>,
    /// The shards of the position with which it was opened last.
    pub(crate) resumed: Vec<ShardKey>,
    violations: Vec<String>,
}

/// What the group says to its member.
#[derive(Clone, Debug)]
pub(crate) enum News {
    Added(Vec<ShardKey>),
    Leaving(Vec<ShardKey>),
    Lost(Vec<ShardKey>),
}

impl From<News> for Event {
    fn from(news: News) -> Event {
        match news {
            News::Added(shards) => Event::Added(shards),
            News::Leaving(shards) => Event::Leaving(shards),
            News::Lost(shards) => Event::Lost(shards),
        }
    }
}

/// The shards with these numbers.
fn keys(shards: &[u64]) -> Vec<ShardKey> {
    shards.iter().map(|shard| ShardKey::new("fake", *shard)).collect()
}

impl FakeGroup {
    /// A stream with so many shards, all ours.
    pub fn new(shards: u64) -> Self {
        let all = keys(&(0..shards).collect::<Vec<_>>());
        let state = State {
            records: all.iter().map(|shard| (shard.clone(), Vec::new())).collect(),
            assigned: all.into_iter().collect(),
            ..State::default()
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() });
        FakeGroup { shared, on_server: false, bounded: false, keep_alive: None, batch: BATCH_RECORDS_MAX }
    }

    /// Lives in the system of `server`, whose transactions take its offsets.
    #[must_use]
    pub fn on(self, _: &FakeServer) -> Self {
        FakeGroup { on_server: true, ..self }
    }

    /// Its claims must be renewed this often.
    #[must_use]
    pub fn with_claims(self, every: Duration) -> Self {
        FakeGroup { keep_alive: Some(every), ..self }
    }

    /// Hands over at most so many records at once.
    #[must_use]
    pub fn in_batches_of(self, batch: usize) -> Self {
        FakeGroup { batch, ..self }
    }

    /// Ends behind what it holds now.
    #[must_use]
    pub fn bounded(self) -> Self {
        self.end();
        FakeGroup { bounded: true, ..self }
    }

    /// Adds a record to a shard.
    pub fn push(&self, shard: u64, key: Option<&str>, value: impl Into<String>) {
        let mut state = self.lock();
        let origin = ShardKey::new("fake", shard);
        let records = state.records.entry(origin.clone()).or_default();
        let key = key.map(|key| key.to_owned().into());
        let sequence = records.len() as u128;
        records.push(Record { origin, sequence, key, form: Form::Text, ..Record::new("fake", value.into()) });
        drop(state);
        self.shared.changed.notify_one();
    }

    /// No more records will come.
    pub fn end(&self) {
        self.lock().ended = true;
        self.shared.changed.notify_one();
    }

    /// Shards come to us.
    pub fn add(&self, shards: &[u64]) {
        self.lock().assigned.extend(keys(shards));
        self.say(News::Added(keys(shards)));
    }

    /// Asks for shards; they are ours until they are released.
    pub fn ask_for(&self, shards: &[u64]) {
        self.lock().asked.extend(keys(shards));
        self.say(News::Leaving(keys(shards)));
    }

    /// Takes shards away without asking.
    pub fn take_away(&self, shards: &[u64]) {
        let gone = keys(shards);
        let mut state = self.lock();
        state.assigned.retain(|shard| !gone.contains(shard));
        state.asked.retain(|shard| !gone.contains(shard));
        drop(state);
        self.say(News::Lost(gone));
    }

    fn say(&self, news: News) {
        self.lock().news.push_back(news);
        self.shared.changed.notify_one();
    }

    /// How many shards the stream has.
    pub fn shards(&self) -> u64 {
        self.lock().records.len() as u64
    }

    /// The values of a shard, in order, read or not.
    pub fn values(&self, shard: u64) -> Vec<String> {
        let state = self.lock();
        let records = state.records.get(&ShardKey::new("fake", shard)).into_iter().flatten();
        let text = |value: &bytes::Bytes| String::from_utf8_lossy(value).into_owned();
        records.map(|record| record.value.as_ref().map(text).unwrap_or_default()).collect()
    }

    /// What was said and nobody has heard yet.
    pub fn unheard(&self) -> usize {
        self.lock().news.len()
    }

    /// How far a shard has been read, and who said so.
    pub fn offset(&self, shard: u64) -> Option<(usize, Option<Stamp>)> {
        self.lock().offsets.get(&ShardKey::new("fake", shard)).cloned()
    }

    /// The group's own tools forget how far its shards have been read.
    pub fn forget(&self) {
        self.lock().offsets.clear();
    }

    /// Another member, or the group's own tools, set how far a shard has been read.
    pub fn set_offset(&self, shard: u64, next: usize, stamp: Option<Stamp>) {
        self.lock().offsets.insert(ShardKey::new("fake", shard), (next, stamp));
    }

    /// Shards that were released, in order.
    pub fn released(&self) -> Vec<u64> {
        self.lock().released.iter().map(|shard| shard.shard).collect()
    }

    /// The next opens fail with these errors.
    pub fn fail_opens(&self, failures: impl IntoIterator<Item = Error>) {
        self.lock().open_failures.extend(failures);
    }

    /// How many members were made, and how often they were opened.
    pub fn members(&self) -> (usize, usize) {
        let state = self.lock();
        (state.created, state.opened)
    }

    /// The shards of the position with which a member was opened last.
    pub fn resumed(&self) -> Vec<u64> {
        self.lock().resumed.iter().map(|shard| shard.shard).collect()
    }

    /// When its claims were renewed.
    pub fn renewed(&self) -> Vec<Instant> {
        self.lock().renewed.clone()
    }

    /// Rules of the contract that the engine has broken.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes note of a broken rule.
    pub(crate) fn violated(&mut self, rule: String) -> Error {
        self.violations.push(rule.clone());
        Error::new(ErrorKind::Bug, rule)
    }
}

impl SourcePlan for FakeGroup {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities {
            owner: Owner::System,
            bounded: self.bounded,
            seek: false,
            seek_time: false,
            groups: true,
            keep_alive: self.keep_alive,
            ..SourceCapabilities::LOG
        }
    }

    fn form(&self) -> Form {
        Form::Text
    }

    fn describe(&self) -> String {
        "fake group".to_owned()
    }

    fn transaction(&self) -> Option<String> {
        self.on_server.then(|| SYSTEM.to_owned())
    }

    fn create(&self) -> Result<Box<dyn Source>> {
        self.lock().created += 1;
        Ok(Box::new(Member::new(self.clone())))
    }
}

/// How far shards have been read: what a transaction of the server takes in.
pub(crate) struct Offsets {
    pub(crate) group: Arc<Shared>,
    pub(crate) offsets: BTreeMap<ShardKey, usize>,
}

impl Offsets {
    /// Refused where a shard is no longer ours, as that of a member of an old generation.
    pub(crate) fn commit(&self, stamp: &Stamp) -> Result<()> {
        let mut state = self.group.lock();
        if let Some(shard) = self.offsets.keys().find(|shard| !state.assigned.contains(*shard)) {
            return Err(Error::new(ErrorKind::Unavailable, format!("{shard} belongs to another member")));
        }
        let stamped = self.offsets.iter().map(|(shard, next)| (shard.clone(), (*next, Some(stamp.clone()))));
        state.offsets.extend(stamped);
        Ok(())
    }
}
