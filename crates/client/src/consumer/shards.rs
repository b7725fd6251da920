//! Which shards a consumer reads, and where it goes on in those that it has put aside.

use std::collections::{BTreeMap, BTreeSet};

use millstream_core::ShardKey;
use serde_json::Value;

use super::log::Log;
use crate::Saved;

/// Which shards are read. By default all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Assigned {
    only: Option<BTreeSet<ShardKey>>,
    except: BTreeSet<ShardKey>,
    aside: BTreeMap<ShardKey, Aside>,
}

/// A shard that is not read now.
#[derive(Clone, Debug)]
pub(crate) struct Aside {
    /// The first record that was read and passed over.
    next: u128,
    /// What a commit says of it: the position when it was put aside, and what was done behind that.
    pub(crate) position: Option<Value>,
    pub(crate) done: Vec<(u128, u128)>,
}

impl Assigned {
    pub(crate) fn reads(&self, shard: &ShardKey) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(shard)) && !self.except.contains(shard)
    }

    /// Whether all shards are read.
    pub(crate) fn all(&self) -> bool {
        self.only.is_none() && self.except.is_empty()
    }

    /// The shards that are read, unless all are; `known`: those that the source has.
    pub(crate) fn list(&self, known: Vec<ShardKey>) -> Option<Vec<ShardKey>> {
        let candidates = match &self.only {
            Some(only) => only.iter().cloned().collect(),
            None => known,
        };
        (!self.all()).then(|| candidates.into_iter().filter(|shard| self.reads(shard)).collect())
    }

    /// Reads these too; if nothing was assigned or put aside before, only these.
    pub(crate) fn add(&mut self, shards: &[ShardKey]) {
        if self.all() {
            self.only = Some(BTreeSet::new());
        }
        for shard in shards {
            self.except.remove(shard);
            if let Some(only) = &mut self.only {
                only.insert(shard.clone());
            }
        }
    }

    /// Reads these no more.
    pub(crate) fn remove(&mut self, shards: &[ShardKey]) {
        for shard in shards {
            match &mut self.only {
                Some(only) => _ = only.remove(shard),
                None => _ = self.except.insert(shard.clone()),
            }
        }
    }

    /// A record of a shard that is not read was passed over.
    pub(crate) fn passed(&mut self, shard: &ShardKey, sequence: u128, log: Option<&Log>) {
        if let Some(aside) = self.aside.get_mut(shard) {
            aside.next = aside.next.min(sequence);
            return;
        }
        let position = log.and_then(|log| log.base().0.get(shard)).cloned();
        let done = log.map(|log| log.done_of(shard)).unwrap_or_default();
        self.aside.insert(shard.clone(), Aside { next: sequence, position, done });
    }

    /// Forgets that a shard was put aside, and says what was known of it.
    pub(crate) fn take_up(&mut self, shard: &ShardKey) -> Option<Aside> {
        self.aside.remove(shard)
    }

    /// Where to go on in a shard that is read again; `None`: nothing of it was passed over.
    pub(crate) fn resume_at(&self, shard: &ShardKey) -> Option<u128> {
        self.aside.get(shard).map(|aside| aside.next)
    }

    /// Corrects what is saved, so that nothing that was passed over is lost.
    pub(crate) fn correct(&self, saved: &mut Saved) {
        for (shard, aside) in &self.aside {
            match &aside.position {
                Some(position) => saved.position.0.insert(shard.clone(), position.clone()),
                None => saved.position.0.remove(shard),
            };
            saved.done.entry(shard.clone()).or_default().extend(&aside.done);
        }
    }

    /// The consumer has gone elsewhere in all that it reads.
    pub(crate) fn moved(&mut self) {
        let aside = std::mem::take(&mut self.aside);
        self.aside = aside.into_iter().filter(|(shard, _)| !self.reads(shard)).collect();
    }
}
