//! The sink `kafka`: records into librdkafka's queue, their outcomes out of its delivery reports.

pub(crate) mod ledger;
mod plan;
pub(crate) mod producer;
mod route;
mod send;
mod size;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use millstream_core::{Batch, Epoch, Error, ErrorKind, Outcomes, Result, Share, Sink, Token, WriteId};
use rdkafka::producer::Producer as _;

pub(crate) use plan::{Planned, plan};

use self::{
    ledger::{Ledger, Standing},
    producer::Producer,
    route::{Names, Topics},
    send::{Sent, send},
};
use crate::{
    client::{Cluster, blocking, largest_batch},
    context::Context,
    error::{coded, no_topic, not_open},
    host::Shared,
};

/// Trouble is told in the log again after this, as long as a flush waits.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// A full queue is told after this: as an error, or where a part of the batch is in it, in the log.
const FULL_WAIT: Duration = Duration::from_secs(10);

/// A sink as opened, or not yet.
pub(crate) struct KafkaSink {
    plan: Arc<Planned>,
    open: Option<Open>,
    /// The transaction of a host, if it takes part in one.
    joined: Option<Arc<Shared>>,
    /// A value in the codec's form.
    scratch: Vec<u8>,
}

struct Open {
    cluster: Option<Arc<Cluster>>,
    producer: Producer,
    ledger: Ledger,
    names: Names,
    topics: Topics,
    /// Bytes of a batch that all topics take which were seen so far.
    cap: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        // Letting a client go waits for its threads.
        let cluster = self.cluster.take();
        if let Err(error) = std::thread::Builder::new().name("kafka-close".to_owned()).spawn(move || drop(cluster)) {
            tracing::debug!(%error, "no thread to close a client");
        }
    }
}

impl KafkaSink {
    pub(crate) fn new(plan: Arc<Planned>) -> Self {
        KafkaSink { plan, open: None, joined: None, scratch: Vec::new() }
    }

    /// Looks up the topics of a batch that are not known yet.
    async fn look_up(&mut self, batch: &Batch) -> Result<()> {
        let open = self.open.as_mut().ok_or_else(not_open)?;
        // Once for all records.
        let now = Instant::now();
        loop {
            let unknown = open.names.first(batch, |name| open.topics.needs(name, now));
            let Some(name) = unknown else { return Ok(()) };
            let cluster = open.cluster.clone().ok_or_else(not_open)?;
            let limit = open.topics.look_up(&name, &cluster).await?;
            if let Some(limit) = limit.filter(|limit| *limit < open.cap) {
                open.cap = limit;
                if let Some(shared) = &self.joined {
                    shared.narrow(limit)?;
                } else {
                    self.narrow().await?;
                    return Box::pin(self.look_up(batch)).await;
                }
            }
        }
    }

    /// A producer of our own whose batches are no larger than `cap`, with its books.
    fn produce(&self, cap: u64) -> Result<(Producer, Ledger)> {
        let context = Context::new(&self.plan.access);
        let ledger = context.ledgers.open()?;
        Ok((producer::start(&self.plan.access, &self.plan.config_of(cap), context, self.plan.gathers())?, ledger))
    }

    /// Goes on with a producer whose batches are no larger than `cap`.
    async fn narrow(&mut self) -> Result<()> {
        self.all_settled().await?;
        let open = self.open.as_mut().ok_or_else(not_open)?;
        let ledgers = open.producer.context().ledgers.clone();
        let context = Context::sharing(&self.plan.access, ledgers);
        open.producer =
            producer::start(&self.plan.access, &self.plan.config_of(open.cap), context, self.plan.gathers())?;
        open.topics.forget_producer();
        Ok(())
    }

    /// Waits until the outcome of every record is known.
    async fn all_settled(&self) -> Result<()> {
        let open = self.open.as_ref().ok_or_else(not_open)?;
        while let Standing::Open = open.ledger.standing()? {
            self.news(open).await?;
        }
        Ok(())
    }

    /// Waits for reports, and says from time to time that it does. Cancel-safe.
    async fn news(&self, open: &Open) -> Result<()> {
        if tokio::time::timeout(TELL_EVERY, open.ledger.changed()).await.is_ok() {
            return Ok(());
        }
        if let Some((code, reason)) = open.producer.client().fatal_error() {
            let error = coded(format!("cannot write to {}", self.plan.access.shown), code);
            return Err(error.with_kind(ErrorKind::Unavailable).caused_by(std::io::Error::other(reason)));
        }
        let trouble = open.producer.context().trouble(TELL_EVERY * 2).map(|error| error.chain());
        tracing::warn!(url = self.plan.access.shown, trouble, "waiting for the brokers to take records");
        Ok(())
    }

    /// Where a broker has refused a batch for its size: each record of it was small enough as far as we know, so a topic may take
    /// less than before, or than we could ask for. Then those that are not too large must not go with the one that is, and all
    /// are sent again, in batches as the topic takes them.
    async fn look_at_limits(&self, open: &Open) -> Result<()> {
        if !open.ledger.is_too_large() {
            return Ok(());
        }
        for (name, known) in open.topics.limits() {
            let limit = largest_batch(&self.plan.access, &name).await?;
            let Some(limit) = limit.filter(|limit| *limit < known.unwrap_or(open.cap)) else { continue };
            if let Some(shared) = &self.joined {
                shared.narrow(limit)?;
            }
            let what = format!("`{name}` takes batches of {limit} bytes, fewer than was known: sending again");
            return Err(Error::new(ErrorKind::Unavailable, what));
        }
        open.ledger.looked_into();
        Ok(())
    }

    /// Waits until the queue has room for a whole batch, so that nothing of it is sent before an error, or until there is no telling
    /// of a record before it. A batch that is larger than the queue waits until that is empty.
    async fn room_for(&self, batch: &Batch) -> Result<()> {
        let open = self.open.as_ref().ok_or_else(not_open)?;
        let most = usize::try_from(self.plan.options.buffer.0).unwrap_or(usize::MAX);
        let since = Instant::now();
        loop {
            let fits = || {
                let held = open.ledger.bytes();
                held == 0 || held + batch.size() <= most || open.ledger.standing().is_err()
            };
            if fits() {
                return Ok(());
            }
            open.ledger.want_room();
            // A report may have come between the two.
            if fits() {
                return Ok(());
            }
            if tokio::time::timeout(Duration::from_millis(100), open.ledger.changed()).await.is_ok() {
                continue;
            }
            if since.elapsed() > FULL_WAIT {
                let full = || Error::new(ErrorKind::Full, format!("{} takes no records", self.plan.access.shown));
                return Err(open.producer.context().trouble(FULL_WAIT * 2).unwrap_or_else(full));
            }
        }
    }

    /// Sends the records of a batch from row 0; refused ones are noted. Waits where the queue is full.
    ///
    /// Where there is no telling of a record, of this batch or before it, nothing more is sent, and the batch is accepted: only
    /// opening the sink again makes that good, and for that `settled` and `flush` have the error.
    async fn send_all(&mut self, batch: &Batch, id: WriteId) -> Result<()> {
        let (mut row, mut since) = (0, Instant::now());
        loop {
            let open = self.open.as_mut().ok_or_else(not_open)?;
            if open.ledger.standing().is_err() {
                return Ok(());
            }
            match send(&self.plan, open, &mut self.scratch, batch, (id, row)) {
                Sent::All => return Ok(()),
                Sent::Failed(error) => {
                    open.ledger.fail(&error);
                    return Ok(());
                }
                Sent::Full(at) => {
                    if at > row {
                        (row, since) = (at, Instant::now());
                    }
                    open.ledger.want_room();
                    let told = tokio::time::timeout(Duration::from_millis(100), open.ledger.changed()).await;
                    if told.is_ok() {
                        continue;
                    }
                    if since.elapsed() > FULL_WAIT {
                        since = Instant::now();
                        let trouble = open.producer.context().trouble(FULL_WAIT * 2).map(|error| error.chain());
                        tracing::warn!(url = self.plan.access.shown, trouble, "waiting for room");
                    }
                }
            }
        }
    }
}

#[async_trait]
impl Sink for KafkaSink {
    fn join(&mut self, share: &Share) -> Result<()> {
        let shared = share.clone().downcast::<Shared>().map_err(|_| {
            Error::new(ErrorKind::Bug, "a sink of Kafka was asked to join the transaction of another system")
        })?;
        self.joined = Some(shared);
        Ok(())
    }

    async fn open(&mut self, _: &[(Epoch, Token)]) -> Result<()> {
        self.open = None;
        let options = &self.plan.options;
        let mut cap = options.batch.bytes.0;
        // A producer needs some time until it can send: it begins now, with the limit that most topics allow.
        let early = if self.joined.is_none() { Some(self.produce(cap)?) } else { None };
        let access = self.plan.access.clone();
        let cluster = blocking(move || {
            let cluster = Cluster::asking(&access)?;
            cluster.connect()?;
            Ok(Arc::new(cluster))
        });
        let cluster: Arc<Cluster> = cluster.await?.map_err(|error: Error| error)?;
        let default = self.plan.address.topics.first().cloned();
        let mut topics = Topics::new(options.partition);
        if let Some(name) = &default {
            let limit = topics.look_up(name, &cluster).await?;
            if !topics.has(name) {
                return Err(no_topic(name, &self.plan.access.shown));
            }
            cap = cap.min(limit.unwrap_or(cap));
        }
        let (producer, ledger) = match (&self.joined, early) {
            (Some(shared), _) => shared.enter(cap)?,
            (None, Some(early)) if cap == options.batch.bytes.0 => early,
            (None, _) => self.produce(cap)?,
        };
        let names = Names::new(options.topic_by(&self.plan.address), default);
        self.open = Some(Open { cluster: Some(cluster), producer, ledger, names, topics, cap });
        Ok(())
    }

    async fn write(&mut self, batch: Batch) -> Result<WriteId> {
        let batch = batch.into_bytes();
        self.look_up(&batch).await?;
        self.room_for(&batch).await?;
        let ledger = &self.open.as_ref().ok_or_else(not_open)?.ledger;
        let id = ledger.begin(batch.len())?;
        if let Some(Err(error)) = self.joined.as_ref().map(|shared| shared.begin()) {
            ledger.fail(&error);
        }
        self.send_all(&batch, id).await?;
        if let Some(open) = &mut self.open {
            open.topics.turn();
        }
        Ok(id)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        self.all_settled().await?;
        let open = self.open.as_ref().ok_or_else(not_open)?;
        self.look_at_limits(open).await?;
        Ok(open.ledger.take(self.plan.tells_offsets()))
    }

    async fn settled(&mut self) -> Result<Option<(WriteId, Outcomes)>> {
        let open = self.open.as_ref().ok_or_else(not_open)?;
        loop {
            open.ledger.standing()?;
            if open.ledger.is_too_large() {
                // Whose fault it is must be asked, and nobody may drop a question.
                return Ok(None);
            }
            let settled = open.ledger.take_settled(self.plan.tells_offsets());
            if settled.is_some() {
                return Ok(settled);
            }
            self.news(open).await?;
        }
    }

    async fn close(&mut self) -> Result<()> {
        self.open = None;
        Ok(())
    }
}
