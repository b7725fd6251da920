//! Which topic and partition a record goes to.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_core::{Batch, Error, ErrorKind, RecordRef, Result};

use crate::{
    client::{Cluster, blocking, largest_batch},
    error::no_topic,
    options::{PartitionBy, TopicBy, is_topic},
};

/// A topic that was not there is looked for again after this.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The number of partitions of a topic may grow: it is asked for again after this.
const COUNT_AGAIN: Duration = Duration::from_secs(60);
/// Names of topics that are remembered; records name them, so there could be any number.
const TOPICS_MAX: usize = 10_000;

/// A topic as it is known here.
#[derive(Debug)]
pub(super) struct Topic {
    /// `None`: it is not there.
    partitions: Option<u32>,
    /// The largest batch that it takes.
    pub(super) limit: Option<u64>,
    looked_at: Instant,
    next: u32,
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
            Some(_) => batch.iter().find_map(|record| self.of(&record).filter(|name| wanted(name)).map(str::to_owned)),
        }
    }
}

/// The topics that are known, and which partition of one is next.
pub(super) struct Topics {
    partition: PartitionBy,
    known: HashMap<String, Topic>,
}

impl Topics {
    pub(super) fn new(partition: PartitionBy) -> Self {
        Topics { partition, known: HashMap::new() }
    }

    /// Whether the topic must be looked up before something is written to it.
    pub(super) fn needs(&self, name: &str) -> bool {
        match self.known.get(name) {
            None => is_topic(name),
            Some(topic) => {
                let counts =
                    matches!(self.partition, PartitionBy::RoundRobin | PartitionBy::Sticky | PartitionBy::Origin);
                let after = if topic.partitions.is_none() { LOOK_AGAIN } else { COUNT_AGAIN };
                topic.looked_at.elapsed() > after && (counts || topic.partitions.is_none())
            }
        }
    }

    /// Looks a topic up. Answers with its limit.
    pub(super) async fn look_up(&mut self, name: &str, cluster: &Arc<Cluster>) -> Result<Option<u64>> {
        let (asked, of) = (cluster.clone(), name.to_owned());
        let count = blocking(move || {
            asked.serve();
            asked.partitions(&of)
        })
        .await??;
        let old = self.known.get(name);
        let (limit, next) = match (count, old) {
            (Some(_), Some(Topic { partitions: Some(_), limit, next, .. })) => (*limit, *next),
            (Some(_), _) => (largest_batch(&cluster.access, name).await?, 0),
            (None, _) => (None, 0),
        };
        if self.known.len() >= TOPICS_MAX {
            self.known.clear();
        }
        let partitions = count.map(|count| count.max(0) as u32);
        self.known.insert(name.to_owned(), Topic { partitions, limit, looked_at: Instant::now(), next });
        Ok(limit)
    }

    /// The partition for a record of a topic that has been looked up; `None` leaves it to the key.
    pub(super) fn partition(
        &mut self,
        name: &str,
        record: &RecordRef<'_>,
        shown: &str,
    ) -> Result<(Option<i32>, Option<u64>)> {
        let Some(Topic { partitions: Some(count), limit, next, .. }) = self.known.get_mut(name) else {
            return Err(no_topic(name, shown));
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
            self.known.values_mut().for_each(|topic| topic.next = topic.next.wrapping_add(1));
        }
    }

    /// Whether a topic is there, as far as is known.
    pub(super) fn has(&self, name: &str) -> bool {
        self.known.get(name).is_some_and(|topic| topic.partitions.is_some())
    }
}
