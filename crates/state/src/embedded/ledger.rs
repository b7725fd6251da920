//! What a checkpoint log says: the newest checkpoint, and the segments that fjall may not have yet.
//!
//! | entry | body | means |
//! |---|---|---|
//! | checkpoint | JSON | its epoch is decided: pending segments up to it are current |
//! | segment | `segment.rs` | the changes of an epoch, pending; a later one of the same epoch takes its place |
//! | discard | nothing | all pending segments are thrown away: the run that wrote them is gone |
//! | reset | nothing | all before it was forgotten on purpose, and what a host of this pipeline holds is to be, too |
//! | cut | two u64 | first entry of a rewritten log: all segments up to the first epoch have been left out, and fjall holds state of at least the second (0: there is no fjall) |
//!
//! The same rules are used to read a log and to write it, so a restart sees what the run saw.

use std::{collections::BTreeMap, path::Path};

use bytes::Bytes;
use millstream_core::{CHECKPOINT_VERSION, Checkpoint, Epoch, Error, ErrorKind, Result};
use serde::Deserialize;

use crate::{
    log::{Entry, corrupt, newer},
    segment,
};

pub(crate) const CHECKPOINT: u8 = 1;
pub(crate) const SEGMENT: u8 = 2;
pub(crate) const DISCARD: u8 = 3;
pub(crate) const CUT: u8 = 4;
pub(crate) const RESET: u8 = 5;

/// A segment as its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) hash: u64,
    pub(crate) bytes: Bytes,
}

/// How far a log has been cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Segments up to this epoch are no longer in the log.
    pub(crate) epoch: Epoch,
    /// What fjall had persisted by then; 0: there was no fjall.
    pub(crate) keyed: Epoch,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// The newest decided checkpoint.
    pub(crate) newest: Option<Checkpoint>,
    /// Segments of epochs that are not decided.
    pub(crate) pending: BTreeMap<Epoch, Stored>,
    /// Segments of decided epochs that are not in fjall, as far as is known.
    pub(crate) decided: BTreeMap<Epoch, Stored>,
    /// Segments up to this epoch are where they belong for good.
    pub(crate) settled: Epoch,
    /// The last cut.
    pub(crate) cut: Cut,
    /// It was reset, and has decided nothing since.
    pub(crate) reset: bool,
}

impl Ledger {
    /// The newest decided epoch; 0: none.
    pub(crate) fn epoch(&self) -> Epoch {
        self.newest.as_ref().map_or(0, |checkpoint| checkpoint.epoch)
    }

    /// Takes an entry as it is read.
    pub(crate) fn replay(&mut self, entry: Entry, store_id: &str, path: &Path) -> Result<()> {
        let bad = |why: &str| corrupt(path, entry.offset, why);
        match entry.kind {
            CHECKPOINT => {
                let checkpoint = read_checkpoint(&entry, path)?;
                if checkpoint.store_id != store_id {
                    return Err(mismatch(path, "a checkpoint in it was written by another store"));
                }
                if checkpoint.epoch <= self.epoch() {
                    return Err(bad("checkpoints are out of order"));
                }
                self.holds(&checkpoint).map_err(|what| mismatch(path, &what))?;
                self.decide(checkpoint);
            }
            SEGMENT => {
                let Some(epoch) = segment::epoch(&entry.body) else {
                    return Err(newer(path, &format!("a segment of another format at offset {}", entry.offset)));
                };
                self.write(epoch, Stored { hash: segment::hash(&entry.body), bytes: entry.body });
            }
            DISCARD => self.pending.clear(),
            RESET => self.reset = true,
            CUT => {
                self.cut = Cut::decode(&entry.body).ok_or_else(|| bad("a cut is too short"))?;
                self.settled = self.cut.epoch;
            }
            kind => return Err(newer(path, &format!("an entry of kind {kind} at offset {}", entry.offset))),
        }
        Ok(())
    }

    /// A segment has been written.
    pub(crate) fn write(&mut self, epoch: Epoch, stored: Stored) {
        self.pending.insert(epoch, stored);
    }

    /// Whether all segments that the checkpoint names are here; else what is missing.
    pub(crate) fn holds(&self, checkpoint: &Checkpoint) -> Result<(), String> {
        for (epoch, hash) in &checkpoint.segments {
            let held = self.pending.get(epoch).or_else(|| self.decided.get(epoch));
            match held {
                Some(stored) if stored.hash == *hash => {}
                None if *epoch <= self.settled => {}
                Some(_) => {
                    return Err(format!("epoch {} names another segment {epoch} than is there", checkpoint.epoch));
                }
                None => return Err(format!("epoch {} names segment {epoch}, which is not there", checkpoint.epoch)),
            }
        }
        Ok(())
    }

    /// The checkpoint counts.
    pub(crate) fn decide(&mut self, checkpoint: Checkpoint) {
        let beyond = self.pending.split_off(&(checkpoint.epoch + 1));
        self.decided.append(&mut std::mem::replace(&mut self.pending, beyond));
        self.newest = Some(checkpoint);
        self.reset = false;
    }

    /// Pending segments that the checkpoint names, oldest first.
    pub(crate) fn named(&self, checkpoint: &Checkpoint) -> Vec<Bytes> {
        let named = checkpoint.segments.iter().filter_map(|(epoch, _)| self.pending.get(epoch));
        named.map(|stored| stored.bytes.clone()).collect()
    }
}

impl Cut {
    pub(crate) fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[8..].copy_from_slice(&self.keyed.to_le_bytes());
        bytes
    }

    fn decode(mut bytes: &[u8]) -> Option<Cut> {
        use bytes::Buf;
        Some(Cut { epoch: bytes.try_get_u64_le().ok()?, keyed: bytes.try_get_u64_le().ok()? })
    }
}

/// The bytes of a checkpoint: JSON, because positions and tokens are, and so that it can be read without us.
pub(crate) fn encode_checkpoint(checkpoint: &Checkpoint) -> Result<Vec<u8>> {
    serde_json::to_vec(checkpoint).map_err(|error| {
        Error::new(ErrorKind::Bug, format!("cannot write the checkpoint of epoch {}", checkpoint.epoch))
            .caused_by(error)
    })
}

fn read_checkpoint(entry: &Entry, path: &Path) -> Result<Checkpoint> {
    /// What every version has.
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let unreadable = |error| corrupt(path, entry.offset, "a checkpoint cannot be read").caused_by(error);
    let Versioned { version } = serde_json::from_slice(&entry.body).map_err(unreadable)?;
    if version > CHECKPOINT_VERSION {
        return Err(newer(
            path,
            &format!("checkpoints of version {version}, and this build knows {CHECKPOINT_VERSION}"),
        ));
    }
    serde_json::from_slice(&entry.body).map_err(unreadable)
}

/// The error for state that is not what the checkpoint says.
pub(crate) fn mismatch(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::StateMismatch, format!("cannot resume from {}: {what}", path.display()))
        .hint("restore the directory as it was, or begin anew with `millstream state reset`")
}
