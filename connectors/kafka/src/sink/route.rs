//! Which topic and partition a record goes to.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_core::{Batch, Error, ErrorKind, RecordRef, Result};
use rdkafka::error::RDKafkaErrorCode as Code;

use super::producer::Producer;
use crate::{
    client::{Cluster, blocking, largest_batch},
    native,
    options::{PartitionBy, TopicBy, is_topic},
};

/// A topic that was not there is looked for again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The number of partitions of a topic may grow: it is asked for again after this.
const COUNT_AGAIN: Duration = Duration::from_secs(60);
/// Names of topics that are remembered; records name them, so there could be any number.
const TOPICS_MAX: usize = 10_000;

/// A topic as it is known here.
struct Topic {
    /// `None`: it is not there.
    partitions: Option<u32>,
    /// The largest batch that it takes.
    limit: Option<u64>,
    looked_at: Instant,
    next: u32,
    /// As the producer knows it, once something was written to it.
    native: Option<native::Topic>,
}

/// Where records name their topic.
pub(super) struct Names {
    by: Option<TopicBy>,
    default: Option<String>,
}

impl Names {
    pub(super) fn new(by: Option<TopicBy>, default: Option<String>) -> Self {
        Names { by, default }
    }

    /// The topic of a record by name.
    pub(super) fn of<'a>(&'a self, record: &RecordRef<'a>) -> Option<&'a str> {
        let own = match &self.by {
            None => None,
            Some(TopicBy::Stream) => Some(&*record.origin().stream).filter(|stream| !stream.is_empty()),
            Some(TopicBy::Header(header)) => record
                .headers()
                .filter(|(name, _)| name == header)
                .last()
                .and_then(|(_, value)| std::str::from_utf8(value?).ok())
                .filter(|name| !name.is_empty()),
        };
        own.or(self.default.as_deref())
    }

    /// The first topic of a batch for which `wanted` says so.
    pub(super) fn first(&self, batch: &Batch, wanted: impl Fn(&str) -> bool) -> Option<String> {
        match self.by {
            None => self.default.as_deref().filter(|name| wanted(name)).map(str::to_owned),
            Some(_) => {
                // Neighbours mostly go to one topic.
                let mut newest = None;
                let changes = |record| {
                    let name = self.of(&record);
                    if name == newest {
                        return None;
                    }
                    newest = name;
                    name.filter(|name| wanted(name)).map(str::to_owned)
                };
                batch.iter().find_map(changes)
            }
        }
    }
}

/// The topics that are known, and which partition of one is next.
pub(super) struct Topics {
    partition: PartitionBy,
    places: HashMap<String, usize>,
    known: Vec<Topic>,
}

impl Topics {
    pub(super) fn new(partition: PartitionBy) -> Self {
        Topics { partition, places: HashMap::new(), known: Vec::new() }
    }

    fn get(&self, name: &str) -> Option<&Topic> {
        self.known.get(*self.places.get(name)?)
    }

    /// Where a topic that is there stands among the known ones, until another one is looked up.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        let at = *self.places.get(name)?;
        self.known.get(at).filter(|topic| topic.partitions.is_some()).map(|_| at)
    }

    /// Whether the topic must be looked up before something is written to it.
    pub(super) fn needs(&self, name: &str, now: Instant) -> bool {
        match self.get(name) {
            None => is_topic(name),
            Some(topic) => {
                let counts =
                    matches!(self.partition, PartitionBy::RoundRobin | PartitionBy::Sticky | PartitionBy::Origin);
                let after = if topic.partitions.is_none() { LOOK_AGAIN } else { COUNT_AGAIN };
                now.saturating_duration_since(topic.looked_at) > after && (counts || topic.partitions.is_none())
            }
        }
    }

    /// The topics that are there, with their limits as far as they are known.
    pub(super) fn limits(&self) -> Vec<(String, Option<u64>)> {
        let there = |at: &usize| self.known.get(*at).filter(|topic| topic.partitions.is_some());
        self.places.iter().filter_map(|(name, at)| Some((name.clone(), there(at)?.limit))).collect()
    }

    /// Looks a topic up. Answers with its limit.
    pub(super) async fn look_up(&mut self, name: &str, cluster: &Arc<Cluster>) -> Result<Option<u64>> {
        let (asked, of) = (cluster.clone(), name.to_owned());
        let count = blocking(move || {
            asked.serve();
            asked.partitions(&of)
        })
        .await??;
        let old = self.get(name);
        let (limit, next) = match (count, old) {
            (Some(_), Some(Topic { partitions: Some(_), limit, next, .. })) => (*limit, *next),
            (Some(_), _) => (largest_batch(&cluster.access, name).await?, 0),
            (None, _) => (None, 0),
        };
        let partitions = count.map(|count| count.max(0) as u32);
        let new = Topic { partitions, limit, looked_at: Instant::now(), next, native: None };
        match self.places.get(name).and_then(|at| self.known.get_mut(*at)) {
            Some(old) => *old = Topic { native: old.native.take(), ..new },
            None => {
                if self.known.len() >= TOPICS_MAX {
                    self.places.clear();
                    self.known.clear();
                }
                self.places.insert(name.to_owned(), self.known.len());
                self.known.push(new);
            }
        }
        Ok(limit)
    }

    /// The partition for a record of a topic that was found, and its limit; no partition leaves that to the key.
    pub(super) fn partition(
        &mut self,
        at: usize,
        name: &str,
        record: &RecordRef<'_>,
    ) -> Result<(Option<i32>, Option<u64>)> {
        let Some(Topic { partitions: Some(count), limit, next, .. }) = self.known.get_mut(at) else {
            return Err(Error::new(ErrorKind::Bug, format!("the topic `{name}` is not known")));
        };
        let count = (*count).max(1);
        let within = |number: u64| match i32::try_from(number) {
            Ok(partition) if number < u64::from(count) => Ok(Some(partition)),
            _ => Err(Error::new(
                ErrorKind::Rejected,
                format!("`{name}` has {count} partitions, and so no partition {number}"),
            )
            .hint("add partitions to the topic, or let `partition` choose")),
        };
        let chosen = match self.partition {
            PartitionBy::Key => None,
            PartitionBy::Number(number) => within(number.into())?,
            PartitionBy::Origin => within(record.origin().shard)?,
            PartitionBy::RoundRobin => {
                *next = (*next + 1) % count;
                within((*next).into())?
            }
            PartitionBy::Sticky => within((*next % count).into())?,
        };
        Ok((chosen, *limit))
    }

    /// A batch has been written: sticky records go on to the next partition.
    pub(super) fn turn(&mut self) {
        if self.partition == PartitionBy::Sticky {
            self.known.iter_mut().for_each(|topic| topic.next = topic.next.wrapping_add(1));
        }
    }

    /// Partitions of all topics that are known.
    pub(super) fn partitions(&self) -> usize {
        self.known.iter().map(|topic| topic.partitions.unwrap_or(0) as usize).sum()
    }

    /// Whether a topic is there, as far as is known.
    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// A topic that was found, as the producer knows it.
    pub(super) fn native(&mut self, at: usize, name: &str, producer: &Producer) -> Result<&native::Topic, Code> {
        let topic = self.known.get_mut(at).ok_or(Code::UnknownTopic)?;
        match &mut topic.native {
            Some(native) => Ok(native),
            none => Ok(none.insert(native::Topic::new(producer, name)?)),
        }
    }

    /// From now on another producer writes to them.
    pub(super) fn forget_producer(&mut self) {
        self.known.iter_mut().for_each(|topic| topic.native = None);
    }
}
