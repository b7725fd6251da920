//! Checkpoints in a compacted topic, one key for each pipeline; beside each, under a key of its own, who writes them.

use std::{
    ffi::CString,
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_core::{CHECKPOINT_VERSION, Checkpoint, Error, ErrorKind, Result};
use rdkafka::{
    Offset,
    admin::{AdminOptions, NewTopic, TopicReplication},
    consumer::Consumer as _,
    error::{KafkaError, RDKafkaErrorCode as Code},
    producer::BaseRecord,
};

use super::Shared;
use crate::{
    client::{Cluster, Partition, admin, blocking, list_of, topic_option},
    error::{coded, failed, no_topic},
    murmur2::partition_of,
    native::{Inbox, wake},
    sink::{Planned, ledger::Standing},
};

/// How long one look for records takes.
const TURN: Duration = Duration::from_millis(100);

/// Makes the topic if it is not there; one that is must be compacted: what is deleted for its age would be a checkpoint.
pub(super) async fn ensure(plan: &Arc<Planned>) -> Result<()> {
    let asked = plan.clone();
    let there = blocking(move || {
        let cluster = Cluster::asking(&asked.access)?;
        cluster.connect()?;
        cluster.partitions(&asked.options.checkpoint_topic)
    });
    let name = &plan.options.checkpoint_topic;
    if there.await??.is_some() {
        let policy = topic_option(&plan.access, name, "cleanup.policy").await?;
        return match policy.filter(|policy| policy.split(',').any(|part| part.trim() == "delete")) {
            None => Ok(()),
            Some(policy) => {
                let what = format!(
                    "the topic `{name}` of the checkpoints at {} has `cleanup.policy={policy}`",
                    plan.access.shown
                );
                let hint = "set it to `compact`, or name another topic: the checkpoint of a pipeline that rests would be deleted";
                Err(Error::new(ErrorKind::Option, what).hint(hint).within("checkpoint_topic"))
            }
        };
    }
    let what = || format!("cannot create the topic `{name}` at {}", plan.access.shown);
    let admin = admin(&plan.access).await?;
    // The brokers' own number of replicas.
    let topic = NewTopic::new(name, 1, TopicReplication::Fixed(-1)).set("cleanup.policy", "compact");
    let options = AdminOptions::new().operation_timeout(Some(plan.access.timeout));
    let created = admin.create_topics([&topic], &options).await;
    blocking(move || drop(admin)).await?;
    match created.map_err(|error| failed(what(), error))?.pop() {
        None | Some(Ok(_) | Err((_, Code::TopicAlreadyExists))) => Ok(()),
        Some(Err((_, code))) => Err(coded(what(), code)),
    }
}

/// The checkpoint of a pipeline as it counts. Blocks. To be called when older runners are shut out.
pub(super) fn read(plan: &Planned, pipeline: &str) -> Result<Option<Checkpoint>> {
    let newest = newest(plan, pipeline, pipeline.as_bytes(), "read_committed")?;
    newest.map_or(Ok(None), |bytes| decode(&bytes, pipeline).map(Some))
}

/// The newest runner of a pipeline. Blocks. One whose claim is not committed yet is one all the same: it has shut out the
/// others before.
pub(super) fn owner(plan: &Planned, pipeline: &str) -> Result<Option<Vec<u8>>> {
    newest(plan, pipeline, &owner_key(pipeline), "read_uncommitted")
}

/// The key of the claim: no pipeline has such a name.
fn owner_key(pipeline: &str) -> Vec<u8> {
    [pipeline.as_bytes(), b"\0owner"].concat()
}

/// The newest value of a key in the partition of a pipeline, as this client may see it.
fn newest(plan: &Planned, pipeline: &str, key: &[u8], isolation: &str) -> Result<Option<Vec<u8>>> {
    let topic = &plan.options.checkpoint_topic;
    let mut config = plan.access.client();
    // The end of all records, of open transactions too: ours that was under way may be among them.
    let all = Cluster::new(&plan.access, config.set("isolation.level", "read_uncommitted"))?;
    all.connect()?;
    let count = all.partitions(topic)?.ok_or_else(|| not_seen(topic, &plan.access.shown))?;
    let partition: Partition = (topic.as_str().into(), partition_of(pipeline.as_bytes(), count));
    let asked = std::slice::from_ref(&partition);
    let (first, end) = (all.beginnings(asked)?.pop(), all.ends(asked)?.pop());
    drop(all);
    // Nothing is concluded from an answer that is none.
    let Some((first, end)) = first.zip(end) else { return Err(not_seen(topic, &plan.access.shown)) };
    let newest = newest_of(plan, (pipeline, key, isolation), &partition, first..end)?;
    tracing::debug!(topic, pipeline, isolation, first, end, found = newest.is_some(), "read the checkpoints");
    Ok(newest)
}

/// The topic is not there, though it was: a broker that has just come back may not know it yet.
fn not_seen(topic: &str, shown: &str) -> Error {
    no_topic(topic, shown).with_kind(ErrorKind::Unavailable)
}

/// The newest value of a key between two offsets. Where only what is committed counts, it waits for transactions of others that
/// are open there.
fn newest_of(
    plan: &Planned,
    (pipeline, key, isolation): (&str, &[u8], &str),
    partition: &Partition,
    range: std::ops::Range<i64>,
) -> Result<Option<Vec<u8>>> {
    if range.is_empty() {
        return Ok(None);
    }
    let mut config = plan.access.client();
    config.set("isolation.level", isolation).set("enable.partition.eof", "true").set("enable.auto.commit", "false");
    config.set("group.id", "millstream-checkpoints").set("auto.offset.reset", "earliest");
    let cluster = Cluster::new(&plan.access, &config)?;
    let what = || format!("cannot read the checkpoint of `{pipeline}` at {}", plan.access.shown);
    let mut inbox = Inbox::new(cluster.consumer.clone());
    if let Ok(topic) = CString::new(partition.0.as_bytes()) {
        inbox.redirect(&topic, partition.1);
    }
    let list = list_of([(partition, Offset::Offset(range.start))]).map_err(|error| failed(what(), error))?;
    cluster.consumer.assign(&list).map_err(|error| failed(what(), error))?;
    let (mut next, mut newest, mut fault) = (range.start, None, None);
    // No transaction of others stays open for longer than a broker lets it.
    let mut deadline = Instant::now() + plan.access.timeout + plan.options.transaction_timeout.0 * 2;
    while next < range.end {
        cluster.serve();
        inbox.drain(TURN, |message| match message.error() {
            None => {
                next = message.offset() + 1;
                deadline = Instant::now() + plan.access.timeout + plan.options.transaction_timeout.0 * 2;
                if message.key() == Some(key) && message.offset() < range.end {
                    newest = message.value().map(<[u8]>::to_vec);
                }
            }
            Some(Code::PartitionEOF) => next = next.max(message.offset()),
            Some(code) => fault = Some(code),
        });
        if let Some(code) = fault.take() {
            let error = coded(what(), code);
            // A broker that has just come back may not know the partition yet.
            if !error.facts().retry && error.kind() != ErrorKind::NotFound {
                return Err(error);
            }
        }
        if Instant::now() >= deadline {
            let error = Error::new(ErrorKind::Unavailable, what());
            return Err(error.hint(
                "a transaction of another pipeline in the topic of the checkpoints does not end, or a broker is away",
            ));
        }
    }
    Ok(newest)
}

fn decode(bytes: &[u8], pipeline: &str) -> Result<Checkpoint> {
    let what = || format!("cannot read the checkpoint of `{pipeline}` in its topic");
    let checkpoint: Checkpoint =
        serde_json::from_slice(bytes).map_err(|error| Error::new(ErrorKind::Corrupt, what()).caused_by(error))?;
    if checkpoint.version > CHECKPOINT_VERSION {
        return Err(Error::new(ErrorKind::Version, what()).hint("it was written by a newer version of Millstream"));
    }
    Ok(checkpoint)
}

/// Writes a checkpoint, or that there is none, into the open transaction; waits until the brokers have it. Blocks.
pub(super) fn write(plan: &Planned, shared: &Shared, pipeline: &str, checkpoint: Option<&Checkpoint>) -> Result<()> {
    let what = || format!("cannot write the checkpoint of `{pipeline}` at {}", plan.access.shown);
    let bytes = checkpoint.map(serde_json::to_vec).transpose();
    let bytes = bytes.map_err(|error| Error::new(ErrorKind::Bug, what()).caused_by(error))?;
    put(plan, shared, (pipeline, pipeline.as_bytes()), bytes.as_deref()).map_err(|error| error.context(what()))
}

/// Writes into the open transaction whose pipeline it is now; waits until the brokers have it. Blocks.
pub(super) fn claim(plan: &Planned, shared: &Shared, pipeline: &str, owner: &[u8]) -> Result<()> {
    let what = || format!("cannot claim the checkpoints of `{pipeline}` at {}", plan.access.shown);
    put(plan, shared, (pipeline, &owner_key(pipeline)), Some(owner)).map_err(|error| error.context(what()))
}

/// Writes a value into the partition of a pipeline, and sees that all records of the transaction have been taken.
fn put(plan: &Planned, shared: &Shared, (pipeline, key): (&str, &[u8]), bytes: Option<&[u8]>) -> Result<()> {
    let (producer, ledger) = shared.own()?;
    let what = || format!("`{}` takes nothing", plan.options.checkpoint_topic);
    let count = partitions(plan, &producer)?;
    let id = ledger.begin(1)?;
    let deadline = Instant::now() + plan.options.transaction_timeout.0;
    let size = key.len() + bytes.map_or(0, <[u8]>::len);
    ledger.sending(1, size);
    loop {
        let mut record =
            BaseRecord::<[u8], [u8], usize>::with_opaque_to(&plan.options.checkpoint_topic, ledger.ticket(id, 0));
        record = record.key(key).partition(partition_of(pipeline.as_bytes(), count));
        record.payload = bytes;
        match producer.send(record) {
            Ok(()) => break,
            Err((KafkaError::MessageProduction(Code::QueueFull), _)) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err((error, _)) => {
                ledger.not_sent(1, size as isize);
                return Err(failed(what(), error));
            }
        }
    }
    if plan.gathers() && ledger.sent(1, 0) {
        wake(&producer);
    }
    // All records of the transaction, too: one that is refused aborts it, and says so here.
    while let Standing::Open = ledger.standing()? {
        if Instant::now() >= deadline {
            let error = Error::new(ErrorKind::Timeout, what());
            return Err(producer_trouble(&producer).map_or(error.clone(), |trouble| error.caused_by(trouble)));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    match ledger.take(false).rejected.into_iter().next() {
        Some((_, _, error)) => Err(error),
        None => Ok(()),
    }
}

fn producer_trouble(producer: &crate::sink::producer::Producer) -> Option<Error> {
    use rdkafka::producer::Producer as _;
    producer.context().trouble(Duration::from_secs(30))
}

/// Partitions of the topic; one, unless somebody has made it otherwise.
fn partitions(plan: &Planned, producer: &crate::sink::producer::Producer) -> Result<i32> {
    use rdkafka::producer::Producer as _;
    let topic = &plan.options.checkpoint_topic;
    let metadata = producer.client().fetch_metadata(Some(topic), plan.access.timeout);
    let metadata = metadata.map_err(|error| failed(format!("cannot look up the topic `{topic}`"), error))?;
    let count =
        metadata.topics().iter().find(|found| found.name() == topic).map_or(0, |found| found.partitions().len());
    i32::try_from(count).ok().filter(|count| *count > 0).ok_or_else(|| not_seen(topic, &plan.access.shown))
}
