//! The contract of a store of checkpoints and keyed state.

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Checkpoint, Epoch, Result};

/// Number of groups that keys hash to. Fixed: it is stored.
pub const GROUPS: u16 = 1024;

/// The group of a key: `xxh3_64(key, seed 0) mod 1024`. Fixed: it is stored.
pub fn group(key: &[u8]) -> u16 {
    group_of_hash(xxhash_rust::xxh3::xxh3_64(key))
}

/// The group of a key whose `xxh3_64` is known.
pub const fn group_of_hash(hash: u64) -> u16 {
    // Below 1024.
    (hash % GROUPS as u64) as u16
}

/// One changed key of a stage's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Group of the key.
    pub group: u16,
    /// The key.
    pub key: Bytes,
    /// Its value, or `None` where it was removed.
    pub value: Option<Bytes>,
}

/// The changes of one epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The epoch.
    pub epoch: Epoch,
    /// Changes of each stage, by its name.
    pub stages: Vec<(String, Vec<Change>)>,
}

/// Keeps checkpoints and keyed state, together or not at all.
///
/// ```text
/// fence  load  [adopt]         what counts; adopt only where a host's checkpoint is newer
///   scan*
///   write  [sync]  decide      for each epoch; sync only where a host decides, before it does
/// ```
#[async_trait]
pub trait Store: Send {
    /// Takes ownership; fails with [`ErrorKind::Locked`](crate::ErrorKind::Locked) where another runner has it. Only after
    /// this may anything be read.
    async fn fence(&mut self) -> Result<()>;

    /// Identity of the store; a new one has a new identity.
    fn id(&self) -> String;

    /// The newest decided checkpoint. Pending segments up to it are applied; younger ones are thrown away by the next
    /// `write`, `adopt` or `decide`.
    async fn load(&mut self) -> Result<Option<Checkpoint>>;

    /// Whether it was reset and has decided nothing since: what a host still holds is to be forgotten, too. Known after `load`.
    fn was_reset(&self) -> bool;

    /// Goes on to a checkpoint that a host has decided, newer than what `load` found: applies the pending segments that it
    /// names, throws the others away. An empty store takes its identity. Comes between `load` and all else.
    ///
    /// [`ErrorKind::StateMismatch`](crate::ErrorKind::StateMismatch) where it names a segment that is not here, or belongs to
    /// another store; then nothing has changed. Any other error leaves the outcome open until `fence` and `load`.
    async fn adopt(&mut self, checkpoint: Checkpoint) -> Result<()>;

    /// All keys of a stage, in any order, as of the loaded checkpoint.
    async fn scan(&mut self, stage: &str) -> Result<Vec<Change>>;

    /// Makes the changes of an epoch durable, or part of the same sync as the deciding write that follows. Answers with
    /// the segment's hash, which the checkpoint names.
    async fn write(&mut self, pending: Segment) -> Result<u64>;

    /// Makes all that was written durable by itself, because a host and not `decide` will make it count.
    async fn sync(&mut self) -> Result<()>;

    /// The deciding write: succeeds only if the newest checkpoint is of epoch `expected` (0: there is none), else
    /// [`ErrorKind::Fenced`](crate::ErrorKind::Fenced).
    /// Any other error leaves the outcome open until `fence` and `load`. Cancelled, it may still take effect.
    async fn decide(&mut self, checkpoint: Checkpoint, expected: Epoch) -> Result<()>;

    /// Forgets checkpoints and state, to begin anew. Keeps ownership.
    async fn reset(&mut self) -> Result<()>;

    /// Gives ownership up.
    async fn close(&mut self) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stored data depends on these: they must never change.
    #[test]
    fn groups_have_fixed_values() {
        assert_eq!(xxhash_rust::xxh3::xxh3_64(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(group(b""), (0x2d06_8005_38d3_94c2u64 % 1024) as u16);
        assert_eq!([group(b"a"), group(b"whale"), group(b"\x00\x01")].map(|g| g < GROUPS), [true; 3]);
    }
}
