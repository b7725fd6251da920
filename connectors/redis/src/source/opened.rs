//! What a source holds while it is open: its lanes, and where its shards stand.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use futures::stream::FuturesUnordered;
use millstream_core::{Error, Event, Result, Resume, ShardKey};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{
    assemble::{Handed, Mark},
    group::{self, Names},
    lane::{Lane, LaneKey, News, Work},
    place::Place,
    reading::Reading,
    relaunch::Relaunch,
    scout::{Gone, Running},
    shards::Shard,
};
use crate::{
    client::{Router, Topology, slot},
    id::EntryId,
};

/// What there is while it is open.
pub(super) struct Open {
    pub(super) reading: Arc<Reading>,
    pub(super) resume: Resume,
    /// Tells this opening of the source from others.
    pub(super) run: String,
    pub(super) lanes: FuturesUnordered<Work>,
    /// Lanes that have not ended.
    pub(super) active: usize,
    /// Keys of lanes that have failed.
    pub(super) stopped: Vec<LaneKey>,
    /// The servers of `stopped` are looked for.
    pub(super) relaunch: Option<Relaunch>,
    pub(super) _scout: Option<Running>,
    pub(super) gone: Gone,
    pub(super) send: mpsc::Sender<News>,
    pub(super) news: mpsc::Receiver<News>,
    pub(super) names: Names,
    pub(super) marks: BTreeMap<ShardKey, Mark>,
    /// What is committed and not yet acknowledged.
    pub(super) due: BTreeMap<ShardKey, u64>,
    /// Streams are not there: said once, and waited for.
    pub(super) waits: Option<Error>,
    /// A record that goes alone has been handed over: nothing more until these marks are committed.
    pub(super) alone: Option<(OwnedSemaphorePermit, Vec<(ShardKey, Mark)>)>,
}

impl Open {
    /// Starts lanes: one for all keys of a server, in a cluster one for each slot.
    pub(super) fn launch(&mut self, keys: Vec<LaneKey>, topology: &Topology) -> Result<()> {
        let mut lanes: HashMap<Option<u16>, (Arc<str>, Vec<LaneKey>)> = HashMap::new();
        for key in keys {
            self.names.insert(key.shard.key.clone(), key.shard.name.clone());
            let slot = slot(key.shard.name.as_bytes());
            let Some(node) = topology.node(slot) else {
                self.stopped.push(key);
                continue;
            };
            let lane = lanes.entry(topology.is_cluster().then_some(slot));
            lane.or_insert_with(|| (node.clone(), Vec::new())).1.push(key);
        }
        for (node, keys) in lanes.into_values() {
            self.active += 1;
            self.lanes.push(Lane::new(self.reading.clone(), keys, self.send.clone()).start(node));
        }
        Ok(())
    }

    /// Takes over where shards stand behind what is handed over now.
    pub(super) fn hand_over(&mut self, handed: Handed) -> Event {
        if let Some(permit) = handed.alone {
            let marks = handed.marks.iter().map(|(shard, mark, _)| (shard.clone(), *mark));
            self.alone = Some((permit, marks.collect()));
        }
        for (shard, mark, records) in handed.marks {
            let mark = match mark {
                Mark::Place(to) => {
                    let to = self.place(&shard).on_to(to.id, records);
                    self.reading.backlog.read(&shard, to, records);
                    Mark::Place(to)
                }
                mark => mark,
            };
            self.marks.insert(shard, mark);
        }
        Event::Batch(handed.read)
    }

    /// Where reading by id stands behind what was handed over.
    pub(super) fn place(&self, shard: &ShardKey) -> Place {
        let place = match self.marks.get(shard) {
            Some(Mark::Place(place)) => *place,
            // It has come while we were there.
            _ => Place::FRONT,
        };
        self.reading.backlog.numbered(shard, place)
    }

    /// Keys are not there any more, and what was pending on them neither. They are read again when they come back.
    pub(super) fn leave_out(&mut self, shards: Vec<Shard>) {
        for Shard { key, .. } in shards {
            self.reading.member.iter().for_each(|member| member.ledger.forget_all(&key));
            self.reading.backlog.end(&key);
            self.names.remove(&key);
            self.gone.add(key);
        }
    }

    /// The ids of what is committed and not yet acknowledged.
    pub(super) fn due_ids(&self) -> Vec<(ShardKey, Vec<EntryId>)> {
        let Some(member) = &self.reading.member else { return Vec::new() };
        self.due.iter().map(|(shard, upto)| (shard.clone(), member.ledger.upto(shard, *upto))).collect()
    }

    /// Acknowledges what is committed. Cancel-safe: acknowledging again changes nothing.
    pub(super) async fn settle(&mut self, router: &mut Router) -> Result<()> {
        let Some(member) = &self.reading.member else { return Ok(()) };
        if self.due.is_empty() {
            return Ok(());
        }
        group::acknowledge(router, member, &self.names, &self.due_ids()).await?;
        self.settled(&self.due.clone());
        Ok(())
    }

    /// So much is acknowledged; meanwhile more may have been committed.
    pub(super) fn settled(&mut self, settled: &BTreeMap<ShardKey, u64>) {
        let Some(member) = &self.reading.member else { return };
        for (shard, upto) in settled {
            member.ledger.forget_upto(shard, *upto);
            if self.due.get(shard).is_some_and(|due| due <= upto) {
                self.due.remove(shard);
            }
        }
    }

    /// These are not ours any more: they are acknowledged, or given back.
    pub(super) fn forget(&mut self, shards: &[(ShardKey, Vec<EntryId>)]) {
        let Some(ledger) = self.reading.member.as_ref().map(|member| member.ledger.clone()) else { return };
        shards.iter().for_each(|(shard, ids)| ledger.forget(shard, ids));
        self.release_alone(|shard, upto| ledger.upto(shard, upto).is_empty());
    }

    /// Lets the next record that goes alone come, once this one is done with.
    pub(super) fn release_alone(&mut self, done: impl Fn(&ShardKey, u64) -> bool) {
        let all = |marks: &[(ShardKey, Mark)]| {
            marks.iter().all(|(shard, mark)| matches!(mark, Mark::Read(upto) if done(shard, *upto)))
        };
        if self.alone.as_ref().is_some_and(|(_, marks)| all(marks)) {
            self.alone = None;
        }
    }
}
