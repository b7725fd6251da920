//! The store in memory: for pipelines that restart inside one process, and for tests.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use millstream_core::{Change, Checkpoint, Epoch, Error, ErrorKind, Result, Segment, Store};

use crate::{id::Id, segment};

/// What outlives a [`MemoryStore`]: checkpoint and state of one pipeline. Cheap to clone; every clone is the same memory.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Held>>);

type Keys = BTreeMap<Bytes, (u16, Bytes)>;

#[derive(Debug, Default)]
struct Held {
    id: String,
    /// Who may write: the newest store that was fenced.
    owner: u64,
    newest: Option<Checkpoint>,
    pending: BTreeMap<Epoch, (u64, Segment)>,
    /// `pending` is what a run that is gone has left.
    stale: bool,
    /// It was reset, and has decided nothing since.
    reset: bool,
    /// By stage, then by key.
    stages: BTreeMap<String, Keys>,
}

impl Memory {
    /// Empty memory.
    pub fn new() -> Self {
        Memory::default()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // No code of ours panics while it holds the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn epoch(&self) -> Epoch {
        self.newest.as_ref().map_or(0, |checkpoint| checkpoint.epoch)
    }

    fn discard_stale(&mut self) {
        if std::mem::take(&mut self.stale) {
            self.pending.clear();
        }
    }

    fn decide(&mut self, checkpoint: Checkpoint) {
        let beyond = self.pending.split_off(&(checkpoint.epoch + 1));
        let counts = std::mem::replace(&mut self.pending, beyond);
        counts.into_values().for_each(|(_, segment)| self.apply(segment));
        self.newest = Some(checkpoint);
        self.reset = false;
    }

    /// Checks what the checkpoint names; nothing is changed.
    fn admit(&self, checkpoint: &Checkpoint, expected: Epoch, adopts: bool) -> Result<()> {
        let (epoch, newest) = (checkpoint.epoch, self.epoch());
        if newest != expected {
            let message = format!("cannot decide epoch {epoch} after {expected}: epoch {newest} is decided");
            return Err(Error::new(ErrorKind::Fenced, message));
        }
        if epoch <= newest {
            return Err(Error::new(ErrorKind::Bug, format!("cannot decide epoch {epoch} twice")));
        }
        // An empty store can take the identity of one whose state nothing depends on.
        let takes_over = adopts && newest == 0 && checkpoint.segments.is_empty();
        if checkpoint.store_id != self.id && !takes_over {
            return Err(Error::new(ErrorKind::StateMismatch, "the checkpoint is for another store"));
        }
        let missing = checkpoint
            .segments
            .iter()
            .find(|(epoch, hash)| *epoch > newest && self.pending.get(epoch).is_none_or(|(held, _)| held != hash));
        match missing {
            Some((segment, _)) => Err(Error::new(
                ErrorKind::StateMismatch,
                format!("epoch {epoch} names segment {segment}, which is not there"),
            )),
            None => Ok(()),
        }
    }

    fn apply(&mut self, segment: Segment) {
        for (stage, changes) in segment.stages {
            let keys = self.stages.entry(stage).or_default();
            for change in changes {
                match change.value {
                    // Copied, because a change shares one buffer with all others of its epoch.
                    Some(value) => {
                        keys.insert(Bytes::copy_from_slice(&change.key), (change.group, Bytes::copy_from_slice(&value)))
                    }
                    None => keys.remove(&change.key),
                };
            }
        }
    }
}

/// Keeps checkpoints and keyed state in a [`Memory`].
///
/// Fencing is by the newest owner: `fence` takes the memory over from whoever had it, whose calls then fail with
/// [`ErrorKind::Fenced`]. Nothing waits, so cancelling has no effect.
#[derive(Debug)]
pub struct MemoryStore {
    memory: Memory,
    owner: Option<u64>,
}

impl MemoryStore {
    /// A store over `memory`.
    pub fn new(memory: Memory) -> Self {
        MemoryStore { memory, owner: None }
    }

    fn owned(&self) -> Result<MutexGuard<'_, Held>> {
        let held = self.memory.held();
        match self.owner {
            Some(owner) if owner == held.owner => Ok(held),
            Some(_) => Err(Error::new(ErrorKind::Fenced, "cannot use the store: another runner has taken it over")),
            None => Err(Error::new(ErrorKind::Bug, "cannot use a store before `fence`, or after `close`")),
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn fence(&mut self) -> Result<()> {
        let mut held = self.memory.held();
        held.owner += 1;
        if held.id.is_empty() {
            held.id = Id::random().to_string();
        }
        let owner = held.owner;
        drop(held);
        self.owner = Some(owner);
        Ok(())
    }

    fn id(&self) -> String {
        self.memory.held().id.clone()
    }

    async fn load(&mut self) -> Result<Option<Checkpoint>> {
        let mut held = self.owned()?;
        held.stale = true;
        Ok(held.newest.clone())
    }

    fn was_reset(&self) -> bool {
        self.memory.held().reset
    }

    async fn adopt(&mut self, checkpoint: Checkpoint) -> Result<()> {
        let mut held = self.owned()?;
        let newest = held.epoch();
        held.admit(&checkpoint, newest, true)?;
        held.stale = false;
        held.pending.retain(|epoch, _| checkpoint.segments.iter().any(|(named, _)| named == epoch));
        held.id.clone_from(&checkpoint.store_id);
        held.decide(checkpoint);
        Ok(())
    }

    async fn scan(&mut self, stage: &str) -> Result<Vec<Change>> {
        let held = self.owned()?;
        let keys = held.stages.get(stage).into_iter().flatten();
        let change = |(key, (group, value)): (&Bytes, &(u16, Bytes))| Change {
            group: *group,
            key: key.clone(),
            value: Some(value.clone()),
        };
        Ok(keys.map(change).collect())
    }

    async fn write(&mut self, pending: Segment) -> Result<u64> {
        let mut held = self.owned()?;
        if pending.epoch <= held.epoch() {
            return Err(Error::new(ErrorKind::Bug, format!("cannot write epoch {}: it is decided", pending.epoch)));
        }
        held.discard_stale();
        let hash = segment::hash(&segment::encode(&pending)?);
        held.pending.insert(pending.epoch, (hash, pending));
        Ok(hash)
    }

    async fn sync(&mut self) -> Result<()> {
        self.owned().map(drop)
    }

    async fn decide(&mut self, checkpoint: Checkpoint, expected: Epoch) -> Result<()> {
        let mut held = self.owned()?;
        held.discard_stale();
        held.admit(&checkpoint, expected, false)?;
        held.decide(checkpoint);
        Ok(())
    }

    async fn reset(&mut self) -> Result<()> {
        let mut held = self.owned()?;
        let owner = held.owner;
        *held = Held { id: Id::random().to_string(), owner, reset: true, ..Held::default() };
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        self.owner = None;
        Ok(())
    }
}
