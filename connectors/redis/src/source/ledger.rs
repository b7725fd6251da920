//! What a group has handed to us and we have not acknowledged.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millstream_core::ShardKey;

use crate::id::EntryId;

/// Ids by shard, in the order in which they were read. Shared between the source and its lanes.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger(Arc<Mutex<BTreeMap<ShardKey, Held>>>);

/// One shard's.
#[derive(Debug, Default)]
struct Held {
    /// How many have been read so far.
    read: u64,
    /// Ids of one batch, and how many had been read with its last.
    chunks: VecDeque<(u64, Vec<EntryId>)>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardKey, Held>> {
        // Nothing in here can panic halfway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes ids of one batch; how many have been read now.
    pub(super) fn note(&self, shard: &ShardKey, ids: Vec<EntryId>) -> u64 {
        let mut all = self.lock();
        let held = all.entry(shard.clone()).or_default();
        held.read += ids.len() as u64;
        let upto = held.read;
        held.chunks.push_back((upto, ids));
        upto
    }

    /// The ids of a shard among the first `upto` that were read.
    pub(super) fn upto(&self, shard: &ShardKey, upto: u64) -> Vec<EntryId> {
        let all = self.lock();
        let Some(held) = all.get(shard) else { return Vec::new() };
        held.chunks.iter().take_while(|(last, _)| *last <= upto).flat_map(|(_, ids)| ids.iter().copied()).collect()
    }

    /// The first `upto` of a shard have been acknowledged.
    pub(super) fn forget_upto(&self, shard: &ShardKey, upto: u64) {
        if let Some(held) = self.lock().get_mut(shard) {
            while held.chunks.pop_front_if(|(last, _)| *last <= upto).is_some() {}
        }
    }

    /// Nothing of a shard is held any more; how many were read still counts.
    pub(super) fn forget_all(&self, shard: &ShardKey) {
        self.forget_upto(shard, u64::MAX);
    }

    /// These have been acknowledged.
    pub(super) fn forget(&self, shard: &ShardKey, ids: &[EntryId]) {
        let ids: HashSet<EntryId> = ids.iter().copied().collect();
        if let Some(held) = self.lock().get_mut(shard) {
            held.chunks.iter_mut().for_each(|(_, chunk)| chunk.retain(|id| !ids.contains(id)));
            // Chunks that were not handed over yet are never empty.
            held.chunks.retain(|(_, chunk)| !chunk.is_empty());
        }
    }

    /// What we hold of a shard.
    pub(super) fn held(&self, shard: &ShardKey) -> HashSet<EntryId> {
        let all = self.lock();
        all.get(shard).into_iter().flat_map(|held| &held.chunks).flat_map(|(_, ids)| ids.iter().copied()).collect()
    }

    /// How many we hold of a shard.
    pub(super) fn count(&self, shard: &ShardKey) -> usize {
        let all = self.lock();
        all.get(shard).into_iter().flat_map(|held| &held.chunks).map(|(_, ids)| ids.len()).sum()
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().values().all(|held| held.chunks.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(range: std::ops::Range<u64>) -> Vec<EntryId> {
        range.map(|ms| EntryId { ms, seq: 0 }).collect()
    }

    #[test]
    fn a_commit_covers_what_was_read_before_it() {
        let (ledger, shard) = (Ledger::default(), ShardKey::new("k", 0));
        assert_eq!(ledger.note(&shard, ids(10..13)), 3);
        assert_eq!(ledger.note(&shard, ids(1..3)), 5);
        assert_eq!(ledger.upto(&shard, 3), ids(10..13));
        ledger.forget_upto(&shard, 3);
        ledger.forget_upto(&shard, 3);
        assert_eq!(ledger.upto(&shard, 5), ids(1..3));
        ledger.forget(&shard, &ids(1..3));
        assert!(ledger.is_empty());
        assert_eq!(ledger.note(&shard, ids(3..4)), 6);
    }
}
