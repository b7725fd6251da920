//! Membership in a group: partitions come and go, and offsets are committed.
//!
//! A partition that is to go is announced, drained to an epoch by the runtime, and given away only when it is released.
//! All the while the client is polled, so that the group knows us alive. It reads nothing meanwhile: librdkafka pauses all partitions
//! before it asks for a rebalance.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use millstream_core::{BatchBuilder, Error, ErrorKind, Position, Read, Result, Resume, SeekTo, ShardKey, Stamp};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _, RebalanceProtocol},
    error::{KafkaError, RDKafkaErrorCode as Code},
};

use super::{
    handover::{Item, What},
    owner::{self, Committed, decide},
    places::Sought,
    reader::Reader,
    shards::State,
    start::{begins, partition_of},
};
use crate::{
    client::{is_passing, list_of},
    context::Rebalance,
    error::{coded, failed},
    native,
};

/// How long a commit may be tried: longer than a coordinator needs to move.
const COMMIT_WAIT: Duration = Duration::from_secs(30);
/// That keyed state waits for partitions is told after this, and again: a group needs a moment to share them out.
const TELL_AFTER: Duration = Duration::from_secs(6);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Group {
    /// Who commits, with the newest epoch that counts.
    pub(super) stamp: Option<Stamp>,
    /// What our checkpoint says; partitions leave it when they are read.
    pub(super) saved: Position,
    /// Where partitions are to begin that somebody has sought before they came.
    pub(super) sought: BTreeMap<ShardKey, Sought>,
    pub(super) keyed: bool,
    /// The pipeline begins anew: what it has committed before is the group's, and no contradiction to its state.
    pub(super) fresh: bool,
    pub(super) start: SeekTo,
    /// Partitions that came, whose begins are not known yet.
    pub(super) coming: Option<TopicPartitionList>,
    pub(super) leaving: Option<Leaving>,
    /// The topics as they were when it joined, each with its number of partitions.
    pub(super) topics: BTreeMap<String, i32>,
    /// When the group was last asked who has its partitions.
    pub(super) asked_at: Option<Instant>,
    /// With keyed state: how many partitions there are, all of which must be ours; and since when they are not, or when that was told.
    pub(super) needed: Option<usize>,
    pub(super) told_at: Option<Instant>,
    /// With keyed state: they were all here once. Before that nothing was read, and partitions may go as they came.
    pub(super) begun: bool,
}

/// Partitions that are drained before they are given away.
pub(super) struct Leaving {
    list: TopicPartitionList,
    left: BTreeSet<ShardKey>,
    /// Others have waited long enough then: they go as they are.
    until: Instant,
}

fn shards_of(list: &TopicPartitionList) -> Vec<ShardKey> {
    list.elements().iter().map(|element| ShardKey::new(element.topic(), element.partition().max(0) as u64)).collect()
}

impl Reader {
    /// Answers what the group has decided, in its order.
    pub(super) fn answer_rebalances(&mut self) -> Result<()> {
        loop {
            let Some(group) = &mut self.group else { return Ok(()) };
            if let Some(leaving) = &group.leaving {
                if self.cluster.consumer.assignment_lost() || Instant::now() >= leaving.until {
                    self.lose()?;
                    continue;
                }
                return Ok(());
            }
            if let Some(coming) = group.coming.take() {
                let assigned = self.assign(&coming);
                // Until it is answered, the group waits for the answer: also after an error, and when it is opened again.
                if !matches!(assigned, Ok(true)) {
                    if let Some(group) = &mut self.group {
                        group.coming = Some(coming);
                    }
                    std::thread::sleep(PAUSE);
                    return assigned.map(drop);
                }
                continue;
            }
            match self.cluster.consumer.context().take_rebalance() {
                None => return Ok(()),
                Some(Rebalance::Assign(list)) => group.coming = Some(list),
                Some(Rebalance::Revoke(list)) => self.revoke(list)?,
            }
        }
    }

    /// Begins to read partitions; `false` if it must be tried again.
    fn assign(&mut self, list: &TopicPartitionList) -> Result<bool> {
        let shards: Vec<ShardKey> = shards_of(list);
        let begins = self.places(&shards).and_then(|places| {
            let start = match &self.group {
                Some(Group { start: SeekTo::Committed, .. }) | None => SeekTo::Beginning,
                Some(group) => group.start.clone(),
            };
            begins(&self.cluster, &places, &start, self.on_missing)
        });
        let mut begins = match begins {
            Ok(begins) => begins,
            Err(error) if error.facts().retry => {
                tracing::debug!(error = %error.chain(), "cannot look up where partitions begin; trying again");
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        if let Some(group) = &mut self.group {
            for begin in &mut begins {
                drop(group.saved.0.remove(&begin.shard));
                let sought = group.sought.remove(&begin.shard).filter(|sought| sought.offset == begin.offset);
                begin.skip_to = sought.map_or(begin.skip_to, |sought| sought.skip_to);
            }
        }
        self.begin(&begins);
        let list: Vec<_> = begins.iter().map(|begin| (partition_of(&begin.shard), begin.offset)).collect();
        let assigned =
            list_of(list.iter().map(|(partition, offset)| (partition, Offset::Offset(*offset)))).and_then(|list| {
                match self.cluster.consumer.rebalance_protocol() {
                    RebalanceProtocol::Cooperative => self.cluster.consumer.incremental_assign(&list),
                    _ => self.cluster.consumer.assign(&list),
                }
            });
        assigned.map_err(|error| {
            failed(format!("cannot read the partitions of the group at {}", self.cluster.access.shown), error)
        })?;
        for begin in &begins {
            tracing::debug!(shard = %begin.shard, offset = begin.offset, end = begin.end, "assigned");
        }
        Ok(true)
    }

    /// Goes back to what is committed, as the member that it is. What is to leave is announced again.
    pub(super) fn reopen(&mut self, resume: Resume) -> Result<Vec<(ShardKey, i64)>> {
        let on_missing = self.on_missing;
        // Only a new member reads on.
        if let Some((_, error)) = self.ended_by() {
            return Err(error);
        }
        let Some(group) = &mut self.group else {
            return Err(Error::new(ErrorKind::Bug, "only a member of a group is opened again"));
        };
        (group.stamp, group.keyed, group.start) = (resume.stamp, resume.keyed, resume.start.clone());
        group.fresh = resume.fresh;
        group.saved = resume.position.unwrap_or_default();
        let leaving: Vec<ShardKey> = group.leaving.iter().flat_map(|leaving| leaving.left.iter().cloned()).collect();
        let start = if resume.start == SeekTo::Committed { SeekTo::Beginning } else { resume.start };
        let shards: Vec<ShardKey> = self.table.iter().map(|reading| reading.key.clone()).collect();
        let begins = begins(&self.cluster, &self.places(&shards)?, &start, on_missing)?;
        let moved: Vec<_> = begins.iter().filter(|begin| !leaving.contains(&begin.shard)).collect();
        let partitions: Vec<_> = moved.iter().map(|begin| (partition_of(&begin.shard), begin.offset)).collect();
        if !partitions.is_empty() {
            self.move_to(&partitions)?;
        }
        drop(self.assembler.finish());
        self.handover.clear();
        self.until_end = resume.until_end;
        self.ended = false;
        for begin in begins.iter().filter(|begin| !leaving.contains(&begin.shard)) {
            self.table.insert(begin, self.until_end);
        }
        for begin in &begins {
            let leaving = leaving.contains(&begin.shard);
            tracing::debug!(shard = %begin.shard, offset = begin.offset, end = begin.end, leaving, "opened again");
        }
        if let Some(group) = &mut self.group {
            // Should one of them go and come back, the group knows where.
            begins.iter().for_each(|begin| drop(group.saved.0.remove(&begin.shard)));
        }
        if !leaving.is_empty() {
            self.push(What::Leaving(leaving));
        }
        Ok(begins.into_iter().map(|begin| (begin.shard, begin.offset)).collect())
    }

    /// For each shard the offset that is known, by whoever owns it.
    fn places(&self, shards: &[ShardKey]) -> Result<Vec<(ShardKey, Option<i64>)>> {
        let Some(group) = &self.group else { return Ok(Vec::new()) };
        let committed = self.committed(shards)?;
        let decided = shards.iter().zip(committed).map(|(shard, committed)| {
            if let Some(sought) = group.sought.get(shard).filter(|sought| sought.committed == committed) {
                return Ok((shard.clone(), Some(sought.offset)));
            }
            let saved = group.saved.shard::<i64>(shard)?;
            let strict = group.keyed && !group.fresh;
            Ok((shard.clone(), decide(shard, &committed, saved, (group.stamp.as_ref(), strict))?))
        });
        decided.collect()
    }

    /// What the group has committed, as offsets alone.
    pub(super) fn committed_offsets(&self, shards: &[ShardKey]) -> Result<Vec<Option<i64>>> {
        Ok(self.committed(shards)?.into_iter().map(|committed| committed.offset).collect())
    }

    pub(super) fn committed(&self, shards: &[ShardKey]) -> Result<Vec<Committed>> {
        if shards.is_empty() {
            return Ok(Vec::new());
        }
        let what = || format!("cannot read the positions of the group at {}", self.cluster.access.shown);
        let partitions: Vec<_> = shards.iter().map(partition_of).collect();
        let list = list_of(partitions.iter().map(|partition| (partition, Offset::Invalid)));
        let answer = list.and_then(|list| self.cluster.consumer.committed_offsets(list, self.cluster.access.timeout));
        let list = answer.map_err(|error| failed(what(), error))?;
        let metadata = native::metadata(&list);
        let elements = list.elements();
        let found = partitions.iter().map(|(topic, partition)| {
            let at =
                elements.iter().position(|element| element.topic() == &**topic && element.partition() == *partition);
            let Some(at) = at else { return Ok(Committed::default()) };
            // The list and its metadata have one element each.
            let (element, metadata) = (&elements[at], metadata.get(at).cloned().flatten());
            element.error().map_err(|error| failed(what(), error))?;
            Ok(match element.offset() {
                Offset::Offset(offset) => Committed { offset: Some(offset), metadata },
                _ => Committed::default(),
            })
        });
        found.collect()
    }

    /// Announces that partitions are to go.
    fn revoke(&mut self, list: TopicPartitionList) -> Result<()> {
        let shards: Vec<ShardKey> =
            shards_of(&list).into_iter().filter(|shard| self.table.get(shard).is_some()).collect();
        for shard in &shards {
            if let Some(reading) = self.table.get(shard) {
                reading.state = State::Leaving;
            }
        }
        self.hand_over();
        tracing::debug!(partitions = ?shards, lost = self.cluster.consumer.assignment_lost(), "to be given away");
        let left = shards.iter().cloned().collect();
        let until = Instant::now() + self.plan.options.membership.rebalance_timeout();
        let none = shards.is_empty();
        if let Some(group) = &mut self.group {
            group.leaving = Some(Leaving { list, left, until });
        }
        if self.group.as_ref().is_some_and(|group| group.needed.is_some() && !group.begun) {
            return self.give_unread(&shards);
        }
        if self.cluster.consumer.assignment_lost() {
            return self.lose();
        }
        if none {
            return self.give_away();
        }
        self.push(What::Leaving(shards));
        Ok(())
    }

    /// Gives partitions away of which nothing was read: there is nothing to drain.
    fn give_unread(&mut self, shards: &[ShardKey]) -> Result<()> {
        shards.iter().for_each(|shard| self.table.remove(shard));
        let marks = shards.iter().map(|shard| (shard.clone(), None)).collect();
        self.handover.push(Item { what: What::Read(Read::new(BatchBuilder::new().finish(), Vec::new())), marks });
        self.give_away()
    }

    /// They were taken without notice, or the pipeline has not drained them in time: nothing of them can be committed any more.
    fn lose(&mut self) -> Result<()> {
        let lost: Vec<ShardKey> = self
            .group
            .iter()
            .flat_map(|group| &group.leaving)
            .flat_map(|leaving| leaving.left.iter().cloned())
            .collect();
        lost.iter().for_each(|shard| self.table.remove(shard));
        if !lost.is_empty() {
            tracing::warn!(
                partitions = ?lost, taken = self.cluster.consumer.assignment_lost(),
                "given away as they are: what was read of them since the last epoch comes again, at their next owner",
            );
            self.handover.forget(&lost);
            // Told before the group may go on: see `KafkaSource::companion`.
            self.push(What::Lost(lost));
        }
        self.give_away()
    }

    /// Why the client will never read again, if that is so.
    fn ended_by(&self) -> Option<(Code, Error)> {
        let (code, text) = self.cluster.consumer.client().fatal_error()?;
        let error = coded(format!("the member of the group at {} has ended", self.cluster.access.shown), code);
        Some((code, error.caused_by(std::io::Error::other(text))))
    }

    /// The client has met an error for good: for a pipeline all partitions are lost, and its restart makes a new member.
    ///
    /// A static member's own request to join that arrives late looks to the broker like another runner of its name, and shuts
    /// it out. One that is shut out again soon has met another runner, and ends.
    pub(super) fn end_member(&mut self) -> Result<()> {
        let Some((code, error)) = self.ended_by() else { return Ok(()) };
        tracing::warn!(error = %error.chain(), "the member has ended");
        let again = match code {
            Code::FencedInstanceId => !self.plan.is_fenced_again(),
            // Its last life has not timed out yet.
            Code::UnreleasedInstanceId => true,
            _ => error.facts().retry,
        };
        if !again || self.group.as_ref().is_none_or(|group| group.stamp.is_none()) {
            return Err(error);
        }
        let lost: Vec<ShardKey> = self.table.iter().map(|reading| reading.key.clone()).collect();
        lost.iter().for_each(|shard| self.table.remove(shard));
        self.handover.forget(&lost);
        self.push(What::Lost(lost));
        Ok(())
    }

    /// What was read of these shards is committed: they may go.
    pub(super) fn release(&mut self, shards: &[ShardKey]) -> Result<()> {
        let Some(Group { leaving: Some(leaving), .. }) = &mut self.group else { return Ok(()) };
        // Others may have been lost meanwhile, and come back: they stay.
        let going: Vec<ShardKey> = leaving.left.extract_if(.., |shard| shards.contains(shard)).collect();
        let none_left = leaving.left.is_empty();
        going.iter().for_each(|shard| self.table.remove(shard));
        if none_left { self.give_away() } else { Ok(()) }
    }

    fn give_away(&mut self) -> Result<()> {
        let Some(leaving) = self.group.as_mut().and_then(|group| group.leaving.take()) else { return Ok(()) };
        tracing::debug!(partitions = ?shards_of(&leaving.list), "given away");
        let given = match self.cluster.consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.cluster.consumer.incremental_unassign(&leaving.list),
            _ => self.cluster.consumer.unassign(),
        };
        given.map_err(|error| failed(format!("cannot give partitions away at {}", self.cluster.access.shown), error))
    }

    /// On the way out: whatever the group waits for.
    pub(super) fn give_all_away(&mut self) {
        let pending = self.group.as_ref().is_some_and(|group| group.leaving.is_some() || group.coming.is_some());
        let mut unanswered = pending;
        while self.cluster.consumer.context().take_rebalance().is_some() {
            unanswered = true;
        }
        if unanswered
            && let Err(error) = self.give_away().and_then(|()| {
                self.cluster.consumer.unassign().map_err(|error| failed("cannot give partitions away", error))
            })
        {
            tracing::debug!(error = %error.chain(), "leaving the group");
        }
    }

    /// Commits offsets of partitions that are ours, with the stamp as their metadata. Tries no more when nobody waits for it: a
    /// reader that is left must go before the next one joins.
    pub(super) fn commit(
        &mut self,
        offsets: &[(ShardKey, i64)],
        stamp: Option<&Stamp>,
        left: impl Fn() -> bool,
    ) -> Result<()> {
        let Some(group) = &mut self.group else { return Ok(()) };
        if let Some(stamp) = stamp {
            group.stamp = Some(stamp.clone());
        }
        let ours: Vec<_> = offsets.iter().filter(|(shard, _)| self.table.get(shard).is_some()).collect();
        if ours.is_empty() {
            return Ok(());
        }
        let what = || format!("cannot commit positions to the group at {}", self.cluster.access.shown);
        let mut list = TopicPartitionList::with_capacity(ours.len());
        for (shard, offset) in ours {
            let (topic, partition) = partition_of(shard);
            let mut element = list.add_partition(&topic, partition);
            element.set_offset(Offset::Offset(*offset)).map_err(|error| failed(what(), error))?;
            if let Some(stamp) = stamp {
                element.set_metadata(owner::write(stamp));
            }
        }
        let deadline = Instant::now() + COMMIT_WAIT;
        loop {
            match self.cluster.consumer.commit(&list, CommitMode::Sync) {
                Ok(()) => return Ok(()),
                Err(error) if is_taken(&error) || self.cluster.consumer.assignment_lost() => {
                    let error = Error::new(ErrorKind::Unavailable, what()).caused_by(error);
                    return Err(error.hint("the group has given the partitions to others"));
                }
                Err(error) if (is_passing(&error) || is_moving(&error)) && Instant::now() < deadline && !left() => {
                    std::thread::sleep(PAUSE);
                    self.cluster.serve();
                }
                Err(error) => return Err(failed(what(), error)),
            }
        }
    }

    /// With keyed state nothing is read before all partitions are here, and nothing more when they no longer are.
    pub(super) fn is_held_back(&mut self) -> Result<bool> {
        let held = self.table.iter().filter(|reading| reading.state != State::Leaving).count();
        let all = self.table.len();
        let Some(Group { needed: Some(needed), told_at, leaving, .. }) = &mut self.group else { return Ok(false) };
        if held >= *needed && held == all {
            *told_at = None;
            return self.begin_keyed().map(|()| false);
        }
        if leaving.is_none() && told_at.get_or_insert_with(Instant::now).elapsed() > TELL_AFTER {
            *told_at = Some(Instant::now());
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "waiting for the other members to leave: keyed state needs all {needed} partitions, {held} are here"
                ),
            )
            .hint("the state of a key is where its partition is: run one member of this group"));
        }
        Ok(true)
    }

    /// All partitions are here. Where the pipeline begins anew, the group first gets to know that they belong to its new state:
    /// a crash from here on finds offsets that this state explains.
    fn begin_keyed(&mut self) -> Result<()> {
        let Some(group) = self.group.as_mut().filter(|group| !group.begun) else { return Ok(()) };
        if let (true, Some(stamp)) = (group.fresh, group.stamp.clone()) {
            let begins: Vec<_> = self.table.iter().map(|reading| (reading.key.clone(), reading.next)).collect();
            // The next turn tries again.
            self.commit(&begins, Some(&stamp), || false).inspect_err(|_| std::thread::sleep(PAUSE))?;
        }
        if let Some(group) = &mut self.group {
            (group.begun, group.fresh) = (true, false);
        }
        Ok(())
    }
}

/// Whether the group has taken our partitions.
fn is_taken(error: &KafkaError) -> bool {
    use Code::*;
    let code = error.rdkafka_error_code();
    matches!(code, Some(UnknownMemberId | FencedInstanceId | FencedMemberEpoch | AssignmentLost))
}

/// Whether the group is about to share out its partitions, and our client has not yet heard of the new generation.
fn is_moving(error: &KafkaError) -> bool {
    use Code::*;
    matches!(error.rdkafka_error_code(), Some(IllegalGeneration | StaleMemberEpoch | RebalanceInProgress))
}
