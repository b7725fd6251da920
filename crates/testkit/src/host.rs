//! A system with transactions, in memory: its sinks write in one transaction, which carries the checkpoint.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use millstream_core::{Checkpoint, Companion, Error, ErrorKind, Host, Hosted, Record, Result, Share, Stamp};

use crate::{group::Offsets, topic::FakeTopic};

/// The name of the system, as plans know it.
pub(crate) const SYSTEM: &str = "fake://server";

/// A system with topics whose records, checkpoints and group offsets become visible together or not at all.
#[derive(Clone, Debug, Default)]
pub struct FakeServer(Arc<Mutex<State>>);

/// All that a server keeps.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub(crate) topics: BTreeMap<String, Vec<Record>>,
    /// By pipeline, as text: what cannot be written down does not come back.
    checkpoints: BTreeMap<String, String>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) kept: Kept,
    /// The newest runner of each pipeline.
    owners: BTreeMap<String, u64>,
    outcomes: VecDeque<Outcome>,
    commits: usize,
    age_max: Option<Duration>,
    /// By topic and value: how often it is still rejected, and with what.
    pub(crate) rejections: BTreeMap<(String, String), (usize, Error)>,
    pub(crate) write_failures: Vec<Error>,
    pub(crate) flush_failures: Vec<Error>,
    violations: Vec<String>,
}

/// How a commit ends that does not simply succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It does.
    Committed,
    /// It is refused, and nothing of it counts.
    Aborted,
    /// It counts, and the answer is lost.
    CountsUnknown,
    /// It does not count, and the answer is lost.
    LostUnknown,
    /// It never answers, and does not count.
    Hangs,
}

impl FakeServer {
    /// An empty system.
    pub fn new() -> Self {
        FakeServer::default()
    }

    /// A sink that writes to a topic.
    pub fn topic(&self, name: &str) -> FakeTopic {
        FakeTopic { server: self.clone(), name: name.to_owned() }
    }

    /// The values of a topic that readers see, in order.
    pub fn values(&self, topic: &str) -> Vec<String> {
        let text = |record: &Record| record.value.as_ref().map(|value| String::from_utf8_lossy(value).into_owned());
        self.records(topic).iter().map(|record| text(record).unwrap_or_default()).collect()
    }

    /// The records of a topic that readers see, in order.
    pub fn records(&self, topic: &str) -> Vec<Record> {
        self.lock().kept.topics.get(topic).cloned().unwrap_or_default()
    }

    /// Empties all topics.
    pub fn clear(&self) {
        self.lock().kept.topics.clear();
    }

    /// The checkpoint of a pipeline.
    pub fn checkpoint(&self, pipeline: &str) -> Option<Checkpoint> {
        self.lock().kept.checkpoints.get(pipeline).and_then(|text| serde_json::from_str(text).ok())
    }

    /// How the next commits end.
    pub fn next_commits(&self, outcomes: impl IntoIterator<Item = Outcome>) {
        self.lock().outcomes.extend(outcomes);
    }

    /// How many commits there were, whatever came of them.
    pub fn commits(&self) -> usize {
        self.lock().commits
    }

    /// How old a transaction may get.
    pub fn limit_age(&self, age_max: Duration) {
        self.lock().age_max = Some(age_max);
    }

    /// A topic rejects records with this value so many times; the transaction is lost each time.
    pub fn reject(&self, topic: &str, value: &str, times: usize, error: Error) {
        self.lock().rejections.insert((topic.to_owned(), value.to_owned()), (times, error));
    }

    /// The next writes fail with these errors.
    pub fn fail_writes(&self, failures: impl IntoIterator<Item = Error>) {
        self.lock().write_failures.extend(failures);
    }

    /// The next flushes fail with these errors.
    pub fn fail_flushes(&self, failures: impl IntoIterator<Item = Error>) {
        self.lock().flush_failures.extend(failures);
    }

    /// Another runner of the pipeline shuts out those that are there.
    pub fn take_over(&self, pipeline: &str) {
        *self.lock().owners.entry(pipeline.to_owned()).or_default() += 1;
    }

    /// A copy of all that it keeps.
    pub fn backup(&self) -> Kept {
        self.lock().kept.clone()
    }

    /// Goes back to an earlier copy.
    pub fn restore(&self, kept: Kept) {
        self.lock().kept = kept;
    }

    /// Rules of the contract that the engine has broken.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// A host of its transactions.
    pub(crate) fn host(&self) -> Box<dyn Host> {
        Box::new(FakeHost { server: self.clone(), transaction: Arc::default() })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether the runner of a transaction is still the newest of its pipeline.
    pub(crate) fn owns(&self, transaction: &Transaction) -> Result<(), Error> {
        if self.owners.get(&transaction.pipeline).copied().unwrap_or_default() == transaction.owner {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Fenced, "there is a newer producer with the same transactional id"))
    }

    /// Takes note of a broken rule.
    pub(crate) fn violated(&mut self, rule: &str) -> Error {
        self.violations.push(rule.to_owned());
        Error::new(ErrorKind::Bug, rule)
    }
}

/// What the sinks of a host share.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    pipeline: String,
    owner: u64,
    /// How many were committed before it.
    pub(crate) number: u64,
    pub(crate) writes: Vec<(String, Record)>,
    /// A record was refused, or it was not committed: it never counts.
    pub(crate) lost: bool,
}

pub(crate) fn lock(transaction: &Mutex<Transaction>) -> MutexGuard<'_, Transaction> {
    transaction.lock().unwrap_or_else(PoisonError::into_inner)
}

struct FakeHost {
    server: FakeServer,
    transaction: Arc<Mutex<Transaction>>,
}

impl FakeHost {
    /// The commit itself: all of it is seen, or nothing.
    fn apply(&self, checkpoint: &Checkpoint, companions: &[(String, Companion)]) -> Result<()> {
        let (mut state, mut transaction) = (self.server.lock(), lock(&self.transaction));
        let newest = state.kept.checkpoints.get(&transaction.pipeline);
        let newest = newest.and_then(|text| serde_json::from_str::<Checkpoint>(text).ok());
        if newest.is_some_and(|newest| newest.epoch >= checkpoint.epoch) {
            return Err(state.violated("an epoch was committed twice"));
        }
        let stamp = Stamp {
            pipeline: transaction.pipeline.clone(),
            store_id: checkpoint.store_id.clone(),
            epoch: checkpoint.epoch,
        };
        for offsets in companions.iter().filter_map(|(_, companion)| companion.downcast_ref::<Offsets>()) {
            offsets.commit(&stamp)?;
        }
        for (topic, record) in std::mem::take(&mut transaction.writes) {
            state.kept.topics.entry(topic).or_default().push(record);
        }
        let text = serde_json::to_string(checkpoint)
            .map_err(|error| Error::new(ErrorKind::Bug, "cannot write a checkpoint").caused_by(error))?;
        state.kept.checkpoints.insert(transaction.pipeline.clone(), text);
        transaction.number += 1;
        Ok(())
    }
}

#[async_trait]
impl Host for FakeHost {
    fn introduce(&mut self, stamp: &Stamp) {
        lock(&self.transaction).pipeline.clone_from(&stamp.pipeline);
    }

    async fn fence(&mut self) -> Result<Option<Checkpoint>> {
        let pipeline = lock(&self.transaction).pipeline.clone();
        self.server.take_over(&pipeline);
        let owner = self.server.lock().owners[&pipeline];
        let transaction = Transaction { pipeline: pipeline.clone(), owner, ..Transaction::default() };
        self.transaction = Arc::new(Mutex::new(transaction));
        Ok(self.server.checkpoint(&pipeline))
    }

    fn share(&self) -> Share {
        self.transaction.clone()
    }

    async fn commit(&mut self, checkpoint: &Checkpoint, companions: &[(String, Companion)]) -> Hosted {
        let outcome = {
            let (mut state, mut transaction) = (self.server.lock(), lock(&self.transaction));
            state.commits += 1;
            if let Err(error) = state.owns(&transaction) {
                return Hosted::Fenced(error);
            }
            if std::mem::replace(&mut transaction.lost, true) {
                return Hosted::Aborted(state.violated("a transaction was committed that is lost"));
            }
            state.outcomes.pop_front().unwrap_or(Outcome::Committed)
        };
        let away = |what: &str| Error::new(ErrorKind::Unavailable, what);
        match outcome {
            Outcome::Aborted => return Hosted::Aborted(away("the transaction was aborted")),
            Outcome::LostUnknown => return Hosted::Unknown(away("no answer to the commit")),
            Outcome::Hangs => std::future::pending().await,
            Outcome::Committed | Outcome::CountsUnknown => {}
        }
        match self.apply(checkpoint, companions) {
            Err(error) => Hosted::Aborted(error),
            Ok(()) if outcome == Outcome::CountsUnknown => Hosted::Unknown(away("no answer to the commit")),
            Ok(()) => {
                lock(&self.transaction).lost = false;
                Hosted::Committed
            }
        }
    }

    fn age_max(&self) -> Option<Duration> {
        self.server.lock().age_max
    }

    async fn reset(&mut self) -> Result<()> {
        let pipeline = lock(&self.transaction).pipeline.clone();
        self.server.lock().kept.checkpoints.remove(&pipeline);
        Ok(())
    }
}
