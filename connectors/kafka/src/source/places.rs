//! Where the thread reads: partitions that are found, and places that are sought.

use std::{ffi::CString, sync::Arc, thread, time::Instant};

use millstream_core::{Error, ErrorKind, Result, SeekTo, ShardKey};
use rdkafka::{
    Offset, consumer::Consumer as _, error::RDKafkaErrorCode as Code, topic_partition_list::TopicPartitionListElem,
};

use super::{
    handover::{Item, What},
    owner::Committed,
    reader::{Reader, TURN},
    shards::State,
    start::{Begin, begins, partition_of},
};
use crate::{
    client::{Partition, is_passing, list_of},
    error::failed,
};

/// What seeking comes to: offsets.
pub(super) struct Moved {
    /// They are read from here now.
    pub(super) read: Vec<(ShardKey, i64)>,
    /// They begin here once the group gives them to us.
    pub(super) awaited: Vec<(ShardKey, i64)>,
}

/// Where a partition of a group is to begin that is not read here.
#[derive(Debug)]
pub(super) struct Sought {
    pub(super) offset: i64,
    pub(super) skip_to: i64,
    /// Holds as long as the group has this: who commits after us has gone on.
    pub(super) committed: Committed,
}

impl Reader {
    /// Reads partitions that were found while running: all of their records are new.
    pub(super) fn add(&mut self, found: Vec<ShardKey>) -> Result<()> {
        let new: Vec<_> =
            found.into_iter().filter(|shard| self.table.get(shard).is_none()).map(|shard| (shard, None)).collect();
        if new.is_empty() || self.until_end {
            return Ok(());
        }
        let begins = match begins(&self.cluster, &new, &SeekTo::Beginning, self.on_missing) {
            Ok(begins) => begins,
            // They will be found again.
            Err(error) if error.facts().retry => return Ok(()),
            Err(error) => return Err(error),
        };
        let list = list_of(
            begins
                .iter()
                .map(|begin| (partition_of(&begin.shard), begin))
                .collect::<Vec<_>>()
                .iter()
                .map(|(partition, begin)| (partition, Offset::Offset(begin.offset))),
        );
        let added = list.and_then(|list| {
            self.begin(&begins);
            self.cluster.consumer.incremental_assign(&list)
        });
        added.map_err(|error| failed(format!("cannot read new partitions at {}", self.cluster.access.shown), error))
    }

    /// Notes partitions that are about to be assigned, and says so.
    pub(super) fn begin(&mut self, begins: &[Begin]) {
        for begin in begins {
            let (topic, partition) = partition_of(&begin.shard);
            if let Ok(topic) = CString::new(topic.as_bytes()) {
                self.inbox.redirect(&topic, partition);
            }
            self.table.insert(begin, self.until_end);
            self.sounder.depth.note(&begin.shard, begin.end);
        }
        let marks = begins.iter().map(|begin| (begin.shard.clone(), Some(begin.offset))).collect();
        self.handover.push(Item { what: What::Added(begins.iter().map(|begin| begin.shard.clone()).collect()), marks });
    }

    /// Goes elsewhere. What was read from the old places and not yet returned is forgotten. In a group all shards are also
    /// those that have not come yet.
    pub(super) fn seek(&mut self, to: &SeekTo, shards: Option<&[ShardKey]>) -> Result<Moved> {
        let chosen: Vec<ShardKey> = match shards {
            Some(shards) => shards.to_vec(),
            None => self.table.iter().map(|reading| reading.key.clone()).collect(),
        };
        if let Some(unknown) = chosen.iter().find(|shard| self.table.get(shard).is_none()) {
            return Err(Error::new(ErrorKind::NotFound, format!("{unknown} is not read here")));
        }
        let saved = match (to, &self.group) {
            (SeekTo::Committed, Some(_)) => self.committed_offsets(&chosen)?,
            (SeekTo::Committed, None) => {
                return Err(
                    Error::new(ErrorKind::Unsupported, "only a group knows what was committed").hint("give `group`")
                );
            }
            _ => vec![None; chosen.len()],
        };
        let wanted: Vec<_> = chosen.iter().cloned().zip(saved).collect();
        let begins = begins(&self.cluster, &wanted, to, self.on_missing)?;
        let partitions: Vec<(Partition, i64)> =
            begins.iter().map(|begin| (partition_of(&begin.shard), begin.offset)).collect();
        let awaited = if shards.is_none() { self.seek_awaited(to)? } else { Vec::new() };
        if !partitions.is_empty() {
            self.move_to(&partitions)?;
        }
        self.hand_over();
        self.handover.forget(&chosen);
        self.handover.forget_end();
        for begin in &begins {
            if let Some(reading) = self.table.get(&begin.shard) {
                (reading.next, reading.skip_to) = (begin.offset, begin.skip_to);
                if reading.state != State::Leaving {
                    let done = reading.until.is_some_and(|until| begin.offset >= until);
                    reading.state = if done { State::Done } else { State::Active };
                }
            }
        }
        self.ended = false;
        let awaited_at = awaited.iter().map(|(shard, sought)| (shard.clone(), sought.offset)).collect();
        if let Some(group) = &mut self.group {
            group.sought.extend(awaited);
        }
        let read = begins.into_iter().map(|begin| (begin.shard, begin.offset)).collect();
        Ok(Moved { read, awaited: awaited_at })
    }

    /// Where the partitions are to begin that the group has not given us, if it has given us any.
    fn seek_awaited(&mut self, to: &SeekTo) -> Result<Vec<(ShardKey, Sought)>> {
        if self.group.is_none() || *to == SeekTo::Committed {
            return Ok(Vec::new());
        }
        let topics = self.cluster.topics(&self.plan.address.topics, self.plan.pattern.as_ref())?;
        let all = topics.iter().flat_map(|(topic, count)| {
            let stream: Arc<str> = topic.as_str().into();
            (0..u64::try_from(*count).unwrap_or(0)).map(move |shard| ShardKey { stream: stream.clone(), shard })
        });
        let awaited: Vec<_> = all.filter(|shard| self.table.get(shard).is_none()).collect();
        let wanted: Vec<_> = awaited.iter().cloned().map(|shard| (shard, None)).collect();
        let begins = begins(&self.cluster, &wanted, to, self.on_missing)?;
        let sought = begins.into_iter().zip(self.committed(&awaited)?).map(|(begin, committed)| {
            let Begin { shard, offset, skip_to, .. } = begin;
            (shard, Sought { offset, skip_to, committed })
        });
        Ok(sought.collect())
    }

    /// Reads partitions again of which a batch came damaged, from its first record, and says so.
    pub(super) fn read_again(&mut self) -> Result<()> {
        let Some(said) = self.table.damaged().map(str::to_owned) else { return Ok(()) };
        let damaged = self.table.iter().filter(|reading| reading.state == State::Damaged);
        let partitions: Vec<_> = damaged.map(|reading| (partition_of(&reading.key), reading.next)).collect();
        if !partitions.is_empty() {
            self.move_to(&partitions)?;
        }
        self.table.mend();
        let what = format!("a batch of records from {} came damaged; it is read again", self.cluster.access.shown);
        Err(Error::new(ErrorKind::Unavailable, what)
            .caused_by(std::io::Error::other(said))
            .hint("where this does not end, the network or a broker's disk is at fault"))
    }

    pub(super) fn move_to(&self, partitions: &[(Partition, i64)]) -> Result<()> {
        let what = || format!("cannot seek at {}", self.cluster.access.shown);
        let deadline = Instant::now() + self.cluster.access.timeout;
        loop {
            let sought = list_of(partitions.iter().map(|(partition, offset)| (partition, Offset::Offset(*offset))))
                .and_then(|list| self.cluster.consumer.seek_partitions(list, self.cluster.access.timeout))
                .and_then(|list| list.elements().iter().try_for_each(TopicPartitionListElem::error));
            match sought {
                Ok(()) => return Ok(()),
                // What has just been assigned is not yet fetched.
                Err(error)
                    if Instant::now() < deadline
                        && (is_passing(&error) || error.rdkafka_error_code() == Some(Code::State)) =>
                {
                    thread::sleep(TURN);
                }
                Err(error) => return Err(failed(what(), error)),
            }
        }
    }
}
