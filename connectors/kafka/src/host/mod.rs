//! The checkpoint inside Kafka's transactions: one transactional producer for a pipeline, which all its sinks share.

mod log;
mod shared;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use millstream_core::{Checkpoint, Companion, Error, ErrorKind, Host, Hosted, Result, Share, Stamp};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::ConsumerGroupMetadata,
    error::{KafkaError, RDKafkaErrorCode as Code},
    producer::Producer as _,
};

pub(crate) use shared::Shared;

use crate::{
    client::{Partition, blocking},
    error::{coded, failed, not_open},
    sink::Planned,
    source::owner,
};

/// Between two tries of a call that the client says can be tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// What a source of Kafka gives to a transaction: where its group stands, and who it is in its group.
pub(crate) struct GroupCompanion {
    pub(crate) cluster: String,
    pub(crate) offsets: Vec<(Partition, i64)>,
    pub(crate) member: ConsumerGroupMetadata,
}

/// Hosts the checkpoint of a pipeline.
pub(crate) struct KafkaHost {
    plan: Arc<Planned>,
    shared: Arc<Shared>,
    pipeline: Option<String>,
}

impl KafkaHost {
    pub(crate) fn new(plan: Arc<Planned>) -> Self {
        KafkaHost { shared: Arc::new(Shared::new(plan.clone())), plan, pipeline: None }
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
        blocking(move || {
            shared.fence(&for_topic)?;
            log::read(&plan, &for_topic)
        })
        .await?
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
        let committed = blocking(move || commit(&plan, &shared, &pipeline, Some(&checkpoint), &companions)).await;
        committed.unwrap_or_else(Hosted::Unknown)
    }

    /// Below half of what the brokers allow: a transaction that they abort takes its epoch along.
    fn age_max(&self) -> Option<Duration> {
        Some(self.plan.options.transaction_timeout.0 / 2)
    }

    async fn reset(&mut self) -> Result<()> {
        let (plan, shared, pipeline) = (self.plan.clone(), self.shared.clone(), self.pipeline()?);
        match blocking(move || commit(&plan, &shared, &pipeline, None, &[])).await? {
            Hosted::Committed => Ok(()),
            Hosted::Aborted(error) | Hosted::Unknown(error) | Hosted::Fenced(error) => Err(error),
        }
    }

    async fn close(&mut self) -> Result<()> {
        self.shared.close();
        Ok(())
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
        let Some(companion) = companion.downcast_ref::<GroupCompanion>() else { continue };
        if companion.cluster != plan.address.cluster() || companion.offsets.is_empty() {
            continue;
        }
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
        let deadline = Instant::now() + plan.access.timeout;
        loop {
            match producer.send_offsets_to_transaction(&list, &companion.member, plan.access.timeout) {
                Ok(()) => break,
                Err(KafkaError::Transaction(cause)) if cause.is_retriable() && Instant::now() < deadline => {
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(Failure::of(what(), error)),
            }
        }
    }
    Ok(())
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
    coded(format!("another runner of `{pipeline}` has taken over"), Code::ProducerFenced).caused_by(error)
}
