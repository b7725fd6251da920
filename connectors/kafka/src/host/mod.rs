//! The checkpoint inside Kafka's transactions: one transactional producer for a pipeline, which all its sinks share.

mod log;
mod shared;

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use millstream_core::{Checkpoint, Companion, Epoch, Error, ErrorKind, Host, Hosted, Result, Share, Stamp};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::ConsumerGroupMetadata,
    error::{KafkaError, RDKafkaErrorCode as Code},
    producer::Producer as _,
};

pub(crate) use shared::Shared;

use crate::{
    client::{Partition, blocking, largest_batch},
    error::{coded, failed, not_open},
    sink::{Planned, producer::Producer},
    source::owner,
};

/// Between two tries of a call that the client says can be tried again.
const PAUSE: Duration = Duration::from_millis(100);
/// How long an answer is waited for where the producer may ask a broker that is no more.
const FORGETFUL: Duration = Duration::from_secs(2);
/// How long the brokers are asked again when they do not know of an epoch that they have decided: a broker that comes back, or
/// has just been made a leader, may need a moment. Longer than an election takes.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// What a source of Kafka gives to a transaction: where its group stands, and who it is in its group.
pub(crate) struct GroupCompanion {
    pub(crate) cluster: String,
    pub(crate) offsets: Vec<(Partition, i64)>,
    /// Nobody, where the group has taken some of the partitions meanwhile.
    pub(crate) member: Option<Arc<ConsumerGroupMetadata>>,
}

/// Hosts the checkpoint of a pipeline.
pub(crate) struct KafkaHost {
    plan: Arc<Planned>,
    shared: Arc<Shared>,
    pipeline: Option<String>,
    claim: Arc<Claim>,
    /// The newest epoch that is known to be decided here, with the store that it is of.
    known: Option<(String, Epoch)>,
}

/// What tells this runner from all others. To a producer, a transaction that the brokers have ended because of its age looks
/// like another runner that has taken over; the claim in the topic of the checkpoints tells which it was.
#[derive(Debug)]
struct Claim {
    name: String,
    /// It has been made.
    made: AtomicBool,
}

impl Claim {
    fn new() -> Self {
        // The standard library's only source of randomness.
        let [high, low] = [0, 1].map(|half: u8| RandomState::new().hash_one(half));
        Claim { name: format!("{high:016x}{low:016x}"), made: AtomicBool::new(false) }
    }

    /// An error if another runner has taken over since this one has made its claim. Blocks.
    fn check(&self, plan: &Planned, pipeline: &str) -> Result<()> {
        if !self.made.load(Ordering::Acquire) {
            return Ok(());
        }
        match log::owner(plan, pipeline)? {
            Some(owner) if owner != self.name.as_bytes() => Err(coded(taken_over(pipeline), Code::ProducerFenced)),
            _ => Ok(()),
        }
    }

    /// Shuts out all others, and says who has. Blocks. If another one does so meanwhile, one of both will find the other's claim.
    fn make(&self, plan: &Planned, shared: &Shared, pipeline: &str) -> Result<()> {
        self.try_make(plan, shared, pipeline).map_err(|error| match error.kind() {
            ErrorKind::Fenced => error.with_kind(ErrorKind::Unavailable),
            _ => error,
        })
    }

    fn try_make(&self, plan: &Planned, shared: &Shared, pipeline: &str) -> Result<()> {
        shared.fence(pipeline)?;
        shared.begin()?;
        log::claim(plan, shared, pipeline, self.name.as_bytes())?;
        let producer = shared.producer().ok_or_else(not_open)?;
        let what = || format!("cannot begin transactions of `{pipeline}` at {}", plan.access.shown);
        producer.commit_transaction(plan.options.transaction_timeout.0).map_err(|error| failed(what(), error))?;
        shared.ended();
        self.made.store(true, Ordering::Release);
        Ok(())
    }
}

impl KafkaHost {
    pub(crate) fn new(plan: Arc<Planned>) -> Self {
        let shared = Arc::new(Shared::new(plan.clone()));
        KafkaHost { shared, plan, pipeline: None, claim: Arc::new(Claim::new()), known: None }
    }

    fn pipeline(&self) -> Result<String> {
        self.pipeline.clone().ok_or_else(|| Error::new(ErrorKind::Bug, "a host was not told whose it is"))
    }
}

#[async_trait]
impl Host for KafkaHost {
    fn introduce(&mut self, stamp: &Stamp) {
        self.pipeline = Some(stamp.pipeline.clone());
    }

    async fn fence(&mut self) -> Result<Option<Checkpoint>> {
        let (plan, shared, pipeline) = (self.plan.clone(), self.shared.clone(), self.pipeline()?);
        let make = plan.clone();
        let for_topic = pipeline.clone();
        // The topic first: a transaction must not fail for its want.
        log::ensure(&make).await?;
        for topic in &plan.address.topics {
            if let Some(limit) = largest_batch(&plan.access, topic).await? {
                // Nothing is open yet that would have to begin again.
                let _ = shared.narrow(limit);
            }
        }
        let (claim, known) = (self.claim.clone(), self.known.clone());
        let read = blocking(move || {
            claim.check(&plan, &for_topic)?;
            claim.make(&plan, &shared, &for_topic)?;
            read(&plan, &for_topic, known.as_ref())
        });
        let found = read.await??;
        self.known = found.as_ref().map(known_of);
        Ok(found)
    }

    fn share(&self) -> Share {
        self.shared.clone()
    }

    async fn commit(&mut self, checkpoint: &Checkpoint, companions: &[(String, Companion)]) -> Hosted {
        let (plan, shared) = (self.plan.clone(), self.shared.clone());
        let (checkpoint, companions) = (checkpoint.clone(), companions.to_vec());
        let pipeline = match self.pipeline() {
            Ok(pipeline) => pipeline,
            Err(error) => return Hosted::Aborted(error),
        };
        let (claim, known) = (self.claim.clone(), known_of(&checkpoint));
        let committed = blocking(move || {
            let hosted = commit(&plan, &shared, &pipeline, Some(&checkpoint), &companions);
            settled(hosted, &claim, &plan, &pipeline)
        });
        let hosted = committed.await.unwrap_or_else(Hosted::Unknown);
        if let Hosted::Committed = hosted {
            self.known = Some(known);
        }
        hosted
    }

    /// Below half of what the brokers allow: a transaction that they abort takes its epoch along.
    fn age_max(&self) -> Option<Duration> {
        Some(self.plan.options.transaction_timeout.0 / 2)
    }

    async fn reset(&mut self) -> Result<()> {
        let (plan, shared, pipeline) = (self.plan.clone(), self.shared.clone(), self.pipeline()?);
        match blocking(move || commit(&plan, &shared, &pipeline, None, &[])).await? {
            Hosted::Committed => {
                self.known = None;
                Ok(())
            }
            Hosted::Aborted(error) | Hosted::Unknown(error) | Hosted::Fenced(error) => Err(error),
        }
    }

    async fn close(&mut self) -> Result<()> {
        self.shared.close();
        Ok(())
    }
}

fn known_of(checkpoint: &Checkpoint) -> (String, Epoch) {
    (checkpoint.store_id.clone(), checkpoint.epoch)
}

/// The checkpoint as it counts. Blocks. What is older than what was decided is believed only when it is still so after a while:
/// then the brokers have gone back, and the runtime says so.
fn read(plan: &Planned, pipeline: &str, known: Option<&(String, Epoch)>) -> Result<Option<Checkpoint>> {
    let deadline = Instant::now() + ASK_AGAIN;
    loop {
        let found = log::read(plan, pipeline)?;
        if !is_behind(found.as_ref(), known) || Instant::now() >= deadline {
            return Ok(found);
        }
        let (found, known) = (found.map(|found| found.epoch), known.map(|known| known.1));
        tracing::warn!(
            url = plan.access.shown,
            ?found,
            ?known,
            "the checkpoint is older than what was decided; asking again"
        );
        std::thread::sleep(PAUSE * 5);
    }
}

/// Whether a checkpoint is older than what is known to be decided. One of another store says nothing about ours.
fn is_behind(found: Option<&Checkpoint>, known: Option<&(String, Epoch)>) -> bool {
    known.is_some_and(|(store_id, epoch)| found.is_none_or(|found| found.store_id == *store_id && found.epoch < *epoch))
}

/// Who is fenced has been replaced; or has only taken too long, and recovery makes that good. Blocks.
fn settled(hosted: Hosted, claim: &Claim, plan: &Planned, pipeline: &str) -> Hosted {
    let Hosted::Fenced(error) = hosted else { return hosted };
    match claim.check(plan, pipeline) {
        Err(replaced) if replaced.kind() == ErrorKind::Fenced => Hosted::Fenced(replaced.caused_by(error)),
        // Where nobody answers, recovery asks again.
        Ok(()) | Err(_) => Hosted::Unknown(error.with_kind(ErrorKind::Unavailable)),
    }
}

/// The deciding write. Blocks.
fn commit(
    plan: &Planned,
    shared: &Shared,
    pipeline: &str,
    checkpoint: Option<&Checkpoint>,
    companions: &[(String, Companion)],
) -> Hosted {
    let prepared = prepare(plan, shared, pipeline, checkpoint, companions);
    if let Err(failure) = prepared {
        return abort(plan, shared, failure);
    }
    let Some(producer) = shared.producer() else { return Hosted::Aborted(not_open()) };
    let deadline = Instant::now() + plan.options.transaction_timeout.0;
    loop {
        let committed = producer.commit_transaction(deadline.saturating_duration_since(Instant::now()).max(PAUSE));
        let Err(error) = committed else {
            shared.ended();
            return Hosted::Committed;
        };
        let what = format!("cannot commit the transaction of `{pipeline}` at {}", plan.access.shown);
        match &error {
            KafkaError::Transaction(cause) if cause.txn_requires_abort() => {
                return abort(plan, shared, Failure::of(what, error));
            }
            KafkaError::Transaction(cause) if cause.is_retriable() && Instant::now() < deadline => {
                std::thread::sleep(PAUSE)
            }
            _ if is_fenced(&error) => return Hosted::Fenced(fenced(pipeline, error)),
            _ => return Hosted::Unknown(failed(what, error)),
        }
    }
}

/// Why a transaction cannot be committed.
struct Failure {
    error: Error,
    fenced: bool,
}

impl Failure {
    fn of(what: impl Into<String>, error: KafkaError) -> Self {
        let fenced = is_fenced(&error);
        Failure { error: failed(what, error), fenced }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure { fenced: error.kind() == ErrorKind::Fenced, error }
    }
}

/// Puts checkpoint and group offsets into the transaction, and sees that all its records are taken.
fn prepare(
    plan: &Planned,
    shared: &Shared,
    pipeline: &str,
    checkpoint: Option<&Checkpoint>,
    companions: &[(String, Companion)],
) -> Result<(), Failure> {
    shared.begin()?;
    let producer = shared.producer().ok_or_else(not_open)?;
    log::write(plan, shared, pipeline, checkpoint)?;
    let what = || format!("cannot put the positions of a group into the transaction of `{pipeline}`");
    for (_, companion) in companions {
        let Ok(companion) = companion.clone().downcast::<GroupCompanion>() else { continue };
        if companion.cluster != plan.address.cluster() || companion.offsets.is_empty() {
            continue;
        }
        let Some(member) = companion.member.clone() else {
            let taken = Error::new(ErrorKind::Unavailable, what());
            return Err(taken.hint("the group has given partitions to others").into());
        };
        let stamp = checkpoint.map(|checkpoint| Stamp {
            pipeline: pipeline.to_owned(),
            store_id: checkpoint.store_id.clone(),
            epoch: checkpoint.epoch,
        });
        let mut list = TopicPartitionList::with_capacity(companion.offsets.len());
        for ((topic, partition), offset) in &companion.offsets {
            let mut element = list.add_partition(topic, *partition);
            element.set_offset(Offset::Offset(*offset)).map_err(|error| Failure::of(what(), error))?;
            if let Some(stamp) = &stamp {
                element.set_metadata(owner::write(stamp));
            }
        }
        send_offsets(plan, &producer, list, member).map_err(|error| match error {
            // A broker that has just come back may not know the partitions yet, or this member under its new id. Where a topic is
            // gone, or another has the member's name, the source finds out.
            Some(error) => match Failure::of(what(), error) {
                Failure { error, fenced: false } if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Fenced) => {
                    Failure { error: error.with_kind(ErrorKind::Unavailable), fenced: false }
                }
                failure => failure,
            },
            None => Error::new(ErrorKind::Timeout, what()).into(),
        })?;
    }
    Ok(())
}

/// Puts the offsets of a group into the transaction; an error without a cause if there is no answer in time.
///
/// On a thread of its own: a producer of librdkafka 2.12 that has lost its brokers once remembers the group's coordinator as one
/// of them, and waits for that, beyond the time that it is given. Recovery makes a new producer; the thread stays with the old one.
fn send_offsets(
    plan: &Planned,
    producer: &Producer,
    list: TopicPartitionList,
    member: Arc<ConsumerGroupMetadata>,
) -> Result<(), Option<KafkaError>> {
    let (timeout, asked) = (plan.access.timeout, producer.clone());
    let (answer, answered) = mpsc::sync_channel(1);
    let send = move || {
        let deadline = Instant::now() + timeout;
        let sent = loop {
            match asked.send_offsets_to_transaction(&list, &member, timeout) {
                Err(KafkaError::Transaction(cause)) if cause.is_retriable() && Instant::now() < deadline => {
                    std::thread::sleep(PAUSE);
                }
                sent => break sent,
            }
        };
        // Who has given up listens no more.
        let _ = answer.send(sent);
    };
    std::thread::Builder::new().name("kafka-offsets".to_owned()).spawn(send).map_err(|_| None)?;
    let since = Instant::now();
    loop {
        // The last try may begin just before the deadline.
        let most = if producer.context().contact.was_lost() { FORGETFUL.min(timeout) } else { timeout * 2 + PAUSE };
        match answered.recv_timeout(PAUSE) {
            Err(mpsc::RecvTimeoutError::Timeout) if since.elapsed() < most => {}
            answer => return answer.map_err(|_| None)?.map_err(Some),
        }
    }
}

/// Ends a transaction that cannot be committed.
fn abort(plan: &Planned, shared: &Shared, failure: Failure) -> Hosted {
    if failure.fenced {
        return Hosted::Fenced(failure.error);
    }
    let Some(producer) = shared.producer() else { return Hosted::Aborted(failure.error) };
    match producer.abort_transaction(plan.access.timeout) {
        Ok(()) => {
            shared.ended();
            Hosted::Aborted(failure.error)
        }
        Err(error) if is_fenced(&error) => Hosted::Fenced(failed(failure.error.message(), error)),
        // Nothing asked for it to count: the next `fence` aborts what the brokers still hold open.
        Err(_) => Hosted::Aborted(failure.error),
    }
}

/// Whether another producer has the name now.
fn is_fenced(error: &KafkaError) -> bool {
    use Code::*;
    matches!(
        error.rdkafka_error_code(),
        Some(Fenced | ProducerFenced | InvalidProducerEpoch | TransactionCoordinatorFenced)
    )
}

fn fenced(pipeline: &str, error: KafkaError) -> Error {
    coded(taken_over(pipeline), Code::ProducerFenced).caused_by(error)
}

fn taken_over(pipeline: &str) -> String {
    format!("another runner of `{pipeline}` has taken over")
}
