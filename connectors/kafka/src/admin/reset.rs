//! Setting a group back, or forward.

use std::{sync::Arc, time::Instant};

use millstream_core::{Error, ErrorKind, Result, SeekTo};
use rdkafka::{
    Offset,
    consumer::{CommitMode, Consumer as _},
    error::RDKafkaErrorCode as Code,
};

use super::{
    KafkaAdmin, PartitionLag,
    groups::{Group, existing, find, standing},
    topics::watermarks,
};
use crate::{
    client::{Cluster, Partition, is_passing, list_of},
    error::failed,
};

/// Which partitions are set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResetOf {
    /// Of these topics, beside those that the URL names; where none are named, of all that the group has committed something of.
    pub topics: Vec<String>,
    /// Only partitions with these numbers; empty: all.
    pub partitions: Vec<i32>,
}

/// What becomes of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionReset {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Where the group stands; none where it has committed nothing.
    pub from: Option<i64>,
    /// Where it will go on.
    pub to: i64,
    /// The first offset that is there.
    pub low: i64,
    /// The offset behind the newest record.
    pub high: i64,
}

impl KafkaAdmin {
    /// What [`KafkaAdmin::reset`] would do; changes nothing. An offset that is not there becomes the nearest one that is; a
    /// time becomes the first record of then or later. A group that is not there is fine where topics are named: it
    /// will be made. [`ErrorKind::Locked`]: it has members, which would overwrite it.
    pub async fn plan_reset(&self, group: &str, to: &SeekTo, of: &ResetOf) -> Result<Vec<PartitionReset>> {
        let mut of = of.clone();
        of.topics.extend(self.topics.iter().cloned());
        let (name, to) = (group.to_owned(), to.clone());
        self.with(Some(group), move |cluster| {
            at_rest(cluster, &name, !of.topics.is_empty())?;
            let places = chosen(cluster, &name, &of)?;
            let partitions: Vec<Partition> =
                places.iter().map(|place| (Arc::from(place.topic.as_str()), place.partition)).collect();
            let ranges = watermarks(cluster, &partitions)?;
            let targets = match &to {
                SeekTo::Beginning => ranges.iter().map(|(low, _)| *low).collect(),
                SeekTo::End => ranges.iter().map(|(_, high)| *high).collect(),
                SeekTo::At(offset) => vec![i64::try_from(*offset).unwrap_or(i64::MAX); partitions.len()],
                SeekTo::Time(time) => cluster.offsets_at(&partitions, *time)?,
                SeekTo::Committed => {
                    return Err(Error::new(ErrorKind::Option, "a group that is set to where it stands stays there")
                        .hint("give `beginning`, `end`, an offset, or a time such as 2026-01-02T03:04:05Z"));
                }
            };
            let resets = places.into_iter().zip(ranges).zip(targets).map(|((place, (low, high)), to)| PartitionReset {
                topic: place.topic,
                partition: place.partition,
                from: place.committed,
                to: to.clamp(low, high),
                low,
                high,
            });
            Ok(resets.collect())
        })
        .await
    }

    /// Commits a plan in the group's name, without joining it. The brokers refuse it while the group has members.
    pub async fn reset(&self, group: &str, plan: &[PartitionReset]) -> Result<()> {
        let (name, plan) = (group.to_owned(), plan.to_vec());
        self.with(Some(group), move |cluster| commit(cluster, &name, &plan)).await
    }
}

/// The group must have no members; it need not be there if it `may_be_new`.
fn at_rest(cluster: &Cluster, name: &str, may_be_new: bool) -> Result<()> {
    let group = match may_be_new {
        true => find(cluster, name)?,
        false => Some(existing(cluster, name)?),
    };
    match group {
        Some(group) if !group.members.is_empty() => Err(has_members(cluster, &group)),
        _ => Ok(()),
    }
}

fn has_members(cluster: &Cluster, group: &Group) -> Error {
    let count = group.members.len();
    let first = group.members.first().map_or(String::new(), |member| format!("{} at {}", member.client, member.host));
    let who = match count {
        1 => format!("1 live member ({first})"),
        _ => format!("{count} live members ({first}, ...)"),
    };
    Error::new(ErrorKind::Locked, format!("cannot reset the group `{}` at {}: it has {who}", group.name, cluster.access.shown))
        .hint("stop its members first; one that was killed leaves when its session times out (45 s, unless it said otherwise)")
}

fn chosen(cluster: &Cluster, group: &str, of: &ResetOf) -> Result<Vec<PartitionLag>> {
    let mut places = standing(cluster, &of.topics, &[])?;
    let missing = of.partitions.iter().find(|number| !places.iter().any(|place| place.partition == **number));
    if let Some(missing) = missing {
        let message =
            format!("no partition {missing} is to be reset for the group `{group}` at {}", cluster.access.shown);
        return Err(
            Error::new(ErrorKind::NotFound, message).hint("`millstream kafka topics URL TOPIC` lists partitions")
        );
    }
    places.retain(|place| of.partitions.is_empty() || of.partitions.contains(&place.partition));
    if places.is_empty() {
        let message = format!("the group `{group}` at {} has committed nothing", cluster.access.shown);
        return Err(Error::new(ErrorKind::NotFound, message).hint("name a topic"));
    }
    Ok(places)
}

fn commit(cluster: &Cluster, name: &str, plan: &[PartitionReset]) -> Result<()> {
    let what = || format!("cannot reset the group `{name}` at {}", cluster.access.shown);
    let partitions: Vec<(Partition, Offset)> = plan
        .iter()
        .map(|reset| ((Arc::from(reset.topic.as_str()), reset.partition), Offset::Offset(reset.to)))
        .collect();
    let list = list_of(partitions.iter().map(|(partition, offset)| (partition, *offset)));
    let list = list.map_err(|error| failed(what(), error))?;
    let deadline = Instant::now() + cluster.access.timeout;
    loop {
        match cluster.consumer.commit(&list, CommitMode::Sync) {
            Ok(()) => return Ok(()),
            // Somebody has joined since the plan was made.
            Err(error)
                if matches!(
                    error.rdkafka_error_code(),
                    Some(
                        Code::UnknownMemberId
                            | Code::IllegalGeneration
                            | Code::StaleMemberEpoch
                            | Code::RebalanceInProgress
                    )
                ) =>
            {
                let error = Error::new(ErrorKind::Locked, what()).caused_by(error);
                return Err(error.hint("it has members: stop them first"));
            }
            Err(error) if is_passing(&error) && Instant::now() < deadline => {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            Err(error) => return Err(failed(what(), error)),
        }
    }
}
