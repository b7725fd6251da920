//! Topics: who has their partitions, and which records are there.

use std::{collections::BTreeMap, sync::Arc};

use millstream_core::{Error, ErrorKind, Result, suggest};

use super::KafkaAdmin;
use crate::{
    client::{Cluster, Partition},
    error::failed,
};

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub name: String,
    /// Its partitions, in order.
    pub partitions: Vec<PartitionInfo>,
}

/// A partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionInfo {
    /// Its number.
    pub partition: i32,
    /// The broker that leads it, unless nobody does now.
    pub leader: Option<i32>,
    /// The brokers that have it.
    pub replicas: Vec<i32>,
    /// Those of them that have all of it.
    pub in_sync: Vec<i32>,
    /// The first offset that is there, and the one behind the newest record (low and high watermark). None without a leader.
    pub offsets: Option<(i64, i64)>,
}

impl PartitionInfo {
    /// From the low to the high watermark. In a compacted topic, and where there are transactions, fewer can be read.
    pub fn records(&self) -> Option<u64> {
        let (low, high) = self.offsets?;
        u64::try_from(high - low).ok()
    }
}

impl KafkaAdmin {
    /// These topics and those that the URL names, or matches; without any all topics, but those that Kafka keeps for itself
    /// (`__consumer_offsets`) only with `internal`. Sorted by name. A topic that is named and not there is
    /// [`ErrorKind::NotFound`].
    pub async fn topics(&self, names: &[String], internal: bool) -> Result<Vec<TopicInfo>> {
        let mut wanted = self.topics.clone();
        wanted.extend(names.iter().cloned());
        let pattern = self.pattern.clone();
        self.with(None, move |cluster| {
            let all = layout(cluster)?;
            let all_wanted = wanted.is_empty() && pattern.is_none();
            require(cluster, &wanted, &all)?;
            let is_wanted = |name: &String| {
                wanted.contains(name)
                    || pattern.as_ref().is_some_and(|pattern| pattern.is_match(name))
                    || (all_wanted && (internal || !name.starts_with("__")))
            };
            let mut topics: Vec<TopicInfo> = all
                .into_iter()
                .filter(|(name, _)| is_wanted(name))
                .map(|(name, partitions)| TopicInfo { name, partitions })
                .collect();
            fill_offsets(cluster, &mut topics)?;
            Ok(topics)
        })
        .await
    }
}

/// The partitions of all topics, without offsets.
pub(super) fn layout(cluster: &Cluster) -> Result<BTreeMap<String, Vec<PartitionInfo>>> {
    let metadata = cluster.metadata(None);
    let metadata =
        metadata.map_err(|error| failed(format!("cannot list the topics at {}", cluster.access.shown), error))?;
    let topics = metadata.topics().iter().filter(|topic| topic.error().is_none());
    let laid_out = topics.map(|topic| {
        let mut partitions: Vec<PartitionInfo> = topic
            .partitions()
            .iter()
            .map(|partition| PartitionInfo {
                partition: partition.id(),
                leader: Some(partition.leader()).filter(|leader| *leader >= 0),
                replicas: partition.replicas().to_vec(),
                in_sync: partition.isr().to_vec(),
                offsets: None,
            })
            .collect();
        partitions.sort_by_key(|partition| partition.partition);
        (topic.name().to_owned(), partitions)
    });
    Ok(laid_out.collect())
}

/// All of these must be there.
pub(super) fn require(cluster: &Cluster, wanted: &[String], all: &BTreeMap<String, Vec<PartitionInfo>>) -> Result<()> {
    let Some(missing) = wanted.iter().find(|name| !all.contains_key(*name)) else { return Ok(()) };
    let known: Vec<&str> = all.keys().map(String::as_str).collect();
    let message = format!("there is no topic `{missing}` at {}", cluster.access.shown);
    let hint = suggest(missing, &known).unwrap_or_else(|| {
        "`millstream kafka topics URL` lists those that are there and that this user may see".to_owned()
    });
    Err(Error::new(ErrorKind::NotFound, message).hint(hint))
}

/// The low and the high watermark of each partition, in the order given.
pub(super) fn watermarks(cluster: &Cluster, partitions: &[Partition]) -> Result<Vec<(i64, i64)>> {
    let (low, high) = (cluster.beginnings(partitions)?, cluster.ends(partitions)?);
    // Between the two questions old records may expire.
    Ok(low.into_iter().zip(high).map(|(low, high)| (low, high.max(low))).collect())
}

fn fill_offsets(cluster: &Cluster, topics: &mut [TopicInfo]) -> Result<()> {
    let mut asked: Vec<Partition> = Vec::new();
    for topic in topics.iter() {
        let name: Arc<str> = topic.name.as_str().into();
        let led = topic.partitions.iter().filter(|partition| partition.leader.is_some());
        asked.extend(led.map(|partition| (name.clone(), partition.partition)));
    }
    let mut found = watermarks(cluster, &asked)?.into_iter();
    let all = topics.iter_mut().flat_map(|topic| &mut topic.partitions);
    for partition in all.filter(|partition| partition.leader.is_some()) {
        partition.offsets = found.next();
    }
    Ok(())
}
