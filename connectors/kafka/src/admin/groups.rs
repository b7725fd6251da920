//! Groups: who is in them, and how far behind they are.

use std::sync::Arc;

use millstream_core::Result;
use rdkafka::{Offset, consumer::Consumer as _, error::RDKafkaErrorCode as Code};

use super::{
    KafkaAdmin, no_group,
    topics::{layout, require, watermarks},
};
use crate::{
    client::{Cluster, Partition, list_of},
    error::{coded, failed},
    native::{self, GroupDescription},
};

/// Groups of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// Those that are known, sorted by name.
    pub groups: Vec<Group>,
    /// Brokers that did not say which groups they look after.
    pub silent_brokers: usize,
}

/// A group of consumers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// As Kafka names it: `Stable`, `Empty`, `PreparingRebalance`, ...
    pub state: String,
    /// `classic`, or `consumer` (KIP-848).
    pub protocol: String,
    /// How it shares out partitions; empty where nobody has said.
    pub assignor: String,
    /// Who is in it.
    pub members: Vec<Member>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What the group calls it.
    pub id: String,
    /// What its client calls itself.
    pub client: String,
    /// Where it runs.
    pub host: String,
    /// Topic and number of each partition that it has.
    pub partitions: Vec<(String, i32)>,
}

/// How far a group is behind in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionLag {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset of the next record that the group will read; none where it has committed nothing.
    pub committed: Option<i64>,
    /// The offset behind the newest record.
    pub end: i64,
    /// Records from `committed` to `end`; none where nothing is committed.
    pub lag: Option<u64>,
    /// Who reads it now.
    pub member: Option<Member>,
}

impl KafkaAdmin {
    /// All groups of consumers.
    pub async fn groups(&self) -> Result<Groups> {
        self.with(None, |cluster| {
            let (mut names, errors) = list(cluster)?;
            names.sort();
            Ok(Groups { groups: describe(cluster, &names)?, silent_brokers: errors.len() })
        })
        .await
    }

    /// How far a group is behind, by topic and partition: in all partitions of the topics that are named here and in the URL;
    /// where none are named, in those of which it has committed something or that a member has. An unknown group is
    /// [`ErrorKind::NotFound`](millstream_core::ErrorKind::NotFound).
    pub async fn lag(&self, group: &str, topics: &[String]) -> Result<Vec<PartitionLag>> {
        let mut topics = topics.to_vec();
        topics.extend(self.topics.iter().cloned());
        let name = group.to_owned();
        self.with(Some(group), move |cluster| {
            let group = existing(cluster, &name)?;
            standing(cluster, &topics, &group.members)
        })
        .await
    }
}

fn list(cluster: &Cluster) -> Result<(Vec<String>, Vec<Code>)> {
    let what = || format!("cannot list the groups at {}", cluster.access.shown);
    let (names, errors) =
        native::list_groups(cluster.consumer.client(), cluster.access.timeout).map_err(|code| coded(what(), code))?;
    match errors.first() {
        // Nobody has answered.
        Some(code) if names.is_empty() => Err(coded(what(), *code)),
        _ => Ok((names, errors)),
    }
}

fn describe(cluster: &Cluster, names: &[String]) -> Result<Vec<Group>> {
    let what = |name: &str| format!("cannot look at the group `{name}` at {}", cluster.access.shown);
    let described = native::describe_groups(cluster.consumer.client(), names, cluster.access.timeout)
        .map_err(|code| coded(format!("cannot look at the groups at {}", cluster.access.shown), code))?;
    let mut groups = Vec::with_capacity(described.len());
    for group in described {
        match group.error {
            // Gone since it was listed; newer brokers say so where older ones call it dead.
            Some(Code::GroupIdNotFound) => groups.push(read(GroupDescription { state: DEAD.to_owned(), ..group })),
            Some(code) => return Err(coded(what(&group.name), code)),
            None => groups.push(read(group)),
        }
    }
    Ok(groups)
}

/// The state of a group that is not there.
const DEAD: &str = "Dead";

fn read(group: GroupDescription) -> Group {
    let member = |member: native::MemberDescription| Member {
        id: member.id,
        client: member.client,
        // Java's way to print an address without a name.
        host: member.host.trim_start_matches('/').to_owned(),
        partitions: member.partitions,
    };
    Group {
        name: group.name,
        state: group.state,
        protocol: group.protocol.to_lowercase(),
        assignor: group.assignor,
        members: group.members.into_iter().map(member).collect(),
    }
}

/// The group, if there is one.
pub(super) fn find(cluster: &Cluster, name: &str) -> Result<Option<Group>> {
    let group = describe(cluster, &[name.to_owned()])?.pop();
    Ok(group.filter(|group| group.state != DEAD))
}

/// The group, which must be there.
pub(super) fn existing(cluster: &Cluster, name: &str) -> Result<Group> {
    match find(cluster, name)? {
        Some(group) => Ok(group),
        None => {
            let (known, _) = list(cluster)?;
            Err(no_group(name, &cluster.access.shown, &known))
        }
    }
}

/// Where the group that the client is named after stands: in these topics; without any, where it has committed something or
/// reads.
pub(super) fn standing(cluster: &Cluster, topics: &[String], members: &[Member]) -> Result<Vec<PartitionLag>> {
    let all = layout(cluster)?;
    require(cluster, topics, &all)?;
    let mut partitions: Vec<Partition> = Vec::new();
    for (topic, found) in all.iter().filter(|(topic, _)| topics.is_empty() || topics.contains(topic)) {
        let name: Arc<str> = topic.as_str().into();
        let led = found.iter().filter(|partition| partition.leader.is_some());
        partitions.extend(led.map(|partition| (name.clone(), partition.partition)));
    }
    let mut standing: Vec<(Partition, Option<i64>)> = committed(cluster, &partitions)?;
    let reader = |(topic, partition): &Partition| {
        let has =
            |member: &&Member| member.partitions.iter().any(|(name, number)| *name == **topic && number == partition);
        members.iter().find(has)
    };
    standing.retain(|(partition, committed)| !topics.is_empty() || committed.is_some() || reader(partition).is_some());
    let partitions: Vec<Partition> = standing.iter().map(|(partition, _)| partition.clone()).collect();
    let ends = watermarks(cluster, &partitions)?;
    let lags = standing.into_iter().zip(ends).map(|((partition, committed), (_, end))| PartitionLag {
        member: reader(&partition).cloned(),
        topic: partition.0.to_string(),
        partition: partition.1,
        committed,
        end,
        lag: committed.map(|committed| u64::try_from(end - committed).unwrap_or(0)),
    });
    Ok(lags.collect())
}

fn committed(cluster: &Cluster, partitions: &[Partition]) -> Result<Vec<(Partition, Option<i64>)>> {
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let what = || format!("cannot read the positions of the group at {}", cluster.access.shown);
    let answer = list_of(partitions.iter().map(|partition| (partition, Offset::Invalid)))
        .and_then(|list| cluster.consumer.committed_offsets(list, cluster.access.timeout));
    let list = answer.map_err(|error| failed(what(), error))?;
    let mut found = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let element = list.find_partition(&partition.0, partition.1);
        let offset = match element {
            None => None,
            Some(element) => {
                element.error().map_err(|error| failed(what(), error))?;
                match element.offset() {
                    Offset::Offset(offset) => Some(offset),
                    _ => None,
                }
            }
        };
        found.push((partition.clone(), offset));
    }
    Ok(found)
}
