//! Questions to a cluster: is it there, which partitions has a topic, where do they begin and end, how large may a record be.
//!
//! All of it blocks, for no longer than the option `timeout`; [`blocking`] runs it on a thread that may.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_core::{Error, ErrorKind, Result, Timestamp};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    config::FromClientConfigAndContext,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode as Code},
    metadata::Metadata,
};

use crate::{
    context::Context,
    error::{coded, failed, no_topic},
    native,
    properties::Access,
    token,
};

/// One request of the first contact; between two the client's events are looked at, which say why there is no answer. Others
/// begin with twice as much.
const SLICE: Duration = Duration::from_millis(500);

/// Events that are looked at between two requests.
const EVENTS: usize = 100;

/// A partition.
pub(crate) type Partition = (Arc<str>, i32);

/// A consumer that asks, and reads only what it is assigned.
pub(crate) struct Cluster {
    pub(crate) consumer: Arc<BaseConsumer<Context>>,
    pub(crate) access: Access,
}

/// Runs something that blocks on a thread that may.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::new(ErrorKind::Bug, "a request to Kafka was not finished").caused_by(error))
}

impl Cluster {
    /// A client, not yet connected.
    pub(crate) fn new(access: &Access, config: &ClientConfig) -> Result<Self> {
        let consumer = BaseConsumer::from_config_and_context(config, Context::new(access))
            .map_err(|error| failed(format!("cannot make a client for {}", access.shown), error))?;
        Ok(Cluster { consumer: Arc::new(consumer), access: access.clone() })
    }

    /// A client that only asks.
    pub(crate) fn asking(access: &Access) -> Result<Self> {
        Cluster::new(access, &access.client())
    }

    /// Waits until the cluster has answered, or it is clear that it will not.
    pub(crate) fn connect(&self) -> Result<()> {
        let deadline = Instant::now() + self.access.timeout;
        loop {
            let answer = self.consumer.client().fetch_metadata(Some(PROBE), SLICE.min(self.access.timeout));
            self.serve();
            let Err(error) = answer else { return Ok(()) };
            let trouble = self.consumer.context().trouble(self.access.timeout);
            // Neither a wrong password nor a wrong certificate gets better by waiting.
            if let Some(trouble) = trouble.clone().filter(|trouble| !trouble.facts().retry) {
                return Err(trouble);
            }
            if Instant::now() >= deadline {
                return Err(
                    trouble.unwrap_or_else(|| failed(format!("cannot connect to {}", self.access.shown), error))
                );
            }
            // A refused connection is answered at once.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Lets the client's events come in, and looks after its brokers. Only before it is used for reading.
    pub(crate) fn serve(&self) {
        // A poll that finds a line for the log says no more than one that finds nothing.
        for _ in 0..EVENTS {
            self.consumer.poll(Duration::ZERO);
        }
        self.consumer.context().contact.keep(self.consumer.client());
    }

    /// What the cluster says of a topic, or of all. Each try may take twice as long as the one before: that there is no answer
    /// may be for want of a broker, and then the client is given some.
    pub(crate) fn metadata(&self, topic: Option<&str>) -> Result<Metadata, KafkaError> {
        let deadline = Instant::now() + self.access.timeout;
        let mut slice = SLICE * 2;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let client = self.consumer.client();
            let answer = client.fetch_metadata(topic, slice.min(left));
            match answer.as_ref().map_err(KafkaError::rdkafka_error_code) {
                Err(Some(Code::BrokerTransportFailure | Code::OperationTimedOut)) if slice < left => {}
                _ => return answer,
            }
            self.find_brokers();
            slice *= 2;
        }
    }

    /// Gives the client brokers if it has none left.
    fn find_brokers(&self) {
        let (client, contact) = (self.consumer.client(), &self.consumer.context().contact);
        if !native::has_broker(client) {
            contact.lose();
            contact.keep(client);
        }
    }

    /// The partitions of a topic; `None` if there is no such topic.
    pub(crate) fn partitions(&self, topic: &str) -> Result<Option<i32>> {
        let what = || format!("cannot look up the topic `{topic}` at {}", self.access.shown);
        let deadline = Instant::now() + self.access.timeout;
        loop {
            let metadata = self.metadata(Some(topic)).map_err(|error| failed(what(), error))?;
            let found = metadata.topics().iter().find(|found| found.name() == topic);
            match found.map(|found| (found.error().map(Code::from), found.partitions().len())) {
                Some((None, count)) if count > 0 => return Ok(Some(i32::try_from(count).unwrap_or(i32::MAX))),
                Some((Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::InvalidTopic), _)) => {
                    return Ok(None);
                }
                Some((Some(code), _)) if code != Code::LeaderNotAvailable => return Err(coded(what(), code)),
                // It is being made.
                _ if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
                _ => return Ok(None),
            }
        }
    }

    /// All topics that match, with their partitions.
    pub(crate) fn matching(&self, pattern: &regex::Regex) -> Result<BTreeMap<String, i32>> {
        let metadata = self.metadata(None);
        let metadata =
            metadata.map_err(|error| failed(format!("cannot list the topics at {}", self.access.shown), error))?;
        let found = metadata.topics().iter().filter(|topic| topic.error().is_none() && pattern.is_match(topic.name()));
        Ok(found.map(|topic| (topic.name().to_owned(), topic.partitions().len() as i32)).collect())
    }

    /// The topics by name, all of which must be there, or those that match.
    pub(crate) fn topics(&self, names: &[String], pattern: Option<&regex::Regex>) -> Result<BTreeMap<String, i32>> {
        if let Some(pattern) = pattern {
            return self.matching(pattern);
        }
        let looked_up = names.iter().map(|name| match self.partitions(name)? {
            Some(count) => Ok((name.clone(), count)),
            None => Err(no_topic(name, &self.access.shown)),
        });
        looked_up.collect()
    }

    /// For each partition the first offset whose record is from this time or later; the end where there is none.
    pub(crate) fn offsets_at(&self, partitions: &[Partition], time: Timestamp) -> Result<Vec<i64>> {
        self.offsets(partitions, Offset::Offset(time.as_millis().max(0)))
    }

    /// For each partition its first offset.
    pub(crate) fn beginnings(&self, partitions: &[Partition]) -> Result<Vec<i64>> {
        self.offsets(partitions, Offset::Beginning)
    }

    /// For each partition the offset behind its last record, as far as this client may see them.
    pub(crate) fn ends(&self, partitions: &[Partition]) -> Result<Vec<i64>> {
        self.offsets(partitions, Offset::End)
    }

    /// For each partition the offset behind its last record, also where that is of a transaction that is not committed.
    pub(crate) fn ends_of_all(&self, partitions: &[Partition]) -> Result<Vec<i64>> {
        let all = Cluster::new(&self.access, self.access.client().set("isolation.level", "read_uncommitted"))?;
        all.connect()?;
        all.ends(partitions)
    }

    fn offsets(&self, partitions: &[Partition], place: Offset) -> Result<Vec<i64>> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let what = || format!("cannot look up offsets at {}", self.access.shown);
        let deadline = Instant::now() + self.access.timeout;
        let mut slice = SLICE * 2;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = list_of(partitions.iter().map(|partition| (partition, place))).and_then(|list| {
                // The places are those of the protocol: -2 is the beginning, -1 the end.
                self.consumer.offsets_for_times(list, slice.min(left))
            });
            // Bounded: tries that fail at once may be many.
            slice = (slice * 2).min(self.access.timeout);
            let result: Result<Vec<Option<i64>>, KafkaError> =
                answer.and_then(|found| partitions.iter().map(|partition| offset_in(&found, partition)).collect());
            match result {
                // Every partition has a beginning and an end: an answer without them is none yet.
                Ok(offsets)
                    if matches!(place, Offset::Beginning | Offset::End) && offsets.iter().any(Option::is_none) =>
                {
                    if Instant::now() >= deadline {
                        return Err(Error::new(ErrorKind::Unavailable, what()));
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
                Ok(offsets) => {
                    return self.fill_ends(partitions, place, offsets);
                }
                // A leader is being elected; or a broker that has just come back does not know the partitions yet.
                Err(error)
                    if Instant::now() < deadline
                        && (is_passing(&error) || error.rdkafka_error_code() == Some(Code::UnknownPartition)) =>
                {
                    self.find_brokers();
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(error) => return Err(failed(what(), error)),
            }
        }
    }

    /// Behind the newest record there is no offset for a time.
    fn fill_ends(&self, partitions: &[Partition], place: Offset, offsets: Vec<Option<i64>>) -> Result<Vec<i64>> {
        let ends = match offsets.iter().any(Option::is_none) && place != Offset::End {
            true => self.ends(partitions)?,
            false => vec![0; partitions.len()],
        };
        Ok(offsets.into_iter().zip(ends).map(|(offset, end)| offset.unwrap_or(end)).collect())
    }
}

/// Any topic will do, and one that is not there tells as much.
const PROBE: &str = "__consumer_offsets";

/// A list of partitions with offsets.
pub(crate) fn list_of<'a>(
    partitions: impl IntoIterator<Item = (&'a Partition, Offset)>,
) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for ((topic, partition), offset) in partitions {
        list.add_partition_offset(topic, *partition, offset)?;
    }
    Ok(list)
}

fn offset_in(list: &TopicPartitionList, (topic, partition): &Partition) -> Result<Option<i64>, KafkaError> {
    let Some(element) = list.find_partition(topic, *partition) else {
        return Err(KafkaError::OffsetFetch(Code::UnknownPartition));
    };
    element.error()?;
    Ok(match element.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    })
}

/// Whether an error is one that goes by when a broker comes back.
pub(crate) fn is_passing(error: &KafkaError) -> bool {
    use Code::*;
    matches!(
        error.rdkafka_error_code(),
        Some(
            LeaderNotAvailable
                | NotLeaderForPartition
                | BrokerTransportFailure
                | AllBrokersDown
                | OffsetNotAvailable
                | FencedLeaderEpoch
                | UnknownLeaderEpoch
                | KafkaStorageError
                | ReplicaNotAvailable
                | BrokerNotAvailable
                | NetworkException
                | CoordinatorNotAvailable
                | CoordinatorLoadInProgress
                | NotCoordinator
                | WaitingForCoordinator
                | RebalanceInProgress
                | RequestTimedOut
                | OperationTimedOut
        )
    )
}

/// A client for the requests of administrators. To be let go by [`blocking`].
pub(crate) async fn admin(access: &Access) -> Result<AdminClient<Context>> {
    let access = access.clone();
    let made = blocking(move || {
        let admin = AdminClient::from_config_and_context(&access.client(), Context::new(&access))
            .map_err(|error| failed(format!("cannot make a client for {}", access.shown), error))?;
        if let Some(from) = &access.token {
            let read = token::read(from, access.timeout).map_err(std::io::Error::other);
            let token = read.map_err(|error| {
                Error::new(ErrorKind::Permission, format!("cannot connect to {}", access.shown)).caused_by(error)
            })?;
            native::set_token(admin.inner(), &token);
        }
        Ok(admin)
    });
    made.await?
}

/// The largest batch that a topic takes, in bytes; `None` where we may not know.
pub(crate) async fn largest_batch(access: &Access, topic: &str) -> Result<Option<u64>> {
    let limit = topic_option(access, topic, "max.message.bytes").await?.and_then(|limit| limit.parse().ok());
    if limit.is_none() {
        tracing::warn!(url = access.shown, topic, "the topic's limit max.message.bytes cannot be read");
    }
    Ok(limit)
}

/// An option of a topic; `None` where we may not know.
pub(crate) async fn topic_option(access: &Access, topic: &str, name: &str) -> Result<Option<String>> {
    let admin = admin(access).await?;
    let options = AdminOptions::new().request_timeout(Some(access.timeout));
    let answer = admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options).await;
    // Dropping it waits for its thread.
    blocking(move || drop(admin)).await?;
    let described = answer.ok().and_then(|mut all| all.pop()).and_then(Result::ok);
    Ok(described.and_then(|resource| resource.get(name)?.value.clone()))
}
