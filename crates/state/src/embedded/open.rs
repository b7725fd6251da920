//! An open log with what it says, and the keyed state that follows it.

use std::path::Path;

use bytes::Bytes;
use millstream_core::{Checkpoint, Error, ErrorKind, Result};

use super::{
    keyed::Keyed,
    ledger::{CHECKPOINT, CUT, Cut, DISCARD, Ledger, RESET, SEGMENT, Stored, encode_checkpoint, mismatch},
};
use crate::{
    id::Id,
    log::{Log, Purpose, corrupt},
    segment,
};

#[derive(Debug)]
pub(super) struct Open {
    pub(super) log: Log,
    pub(super) ledger: Ledger,
    pub(super) keyed: Option<Keyed>,
    pub(super) loaded: bool,
    /// Pending segments are those of a run that is gone: to be thrown away before anything is written.
    pub(super) stale: bool,
    /// The decision stood, but what had to follow failed.
    pub(super) failed: Option<Error>,
}

impl Open {
    pub(super) fn new(log: Log) -> Self {
        Open { log, ledger: Ledger::default(), keyed: None, loaded: false, stale: false, failed: None }
    }

    /// Throws away what a run that is gone has left pending. The sync of the next decision covers this, too.
    pub(super) fn discard_stale(&mut self) -> Result<()> {
        if self.stale {
            self.log.append(DISCARD, &[])?;
            self.ledger.pending.clear();
            self.stale = false;
        }
        Ok(())
    }

    pub(super) fn append_segment(&mut self, bytes: Bytes) -> Result<u64> {
        let hash = segment::hash(&bytes);
        let Some(epoch) = segment::epoch(&bytes) else {
            return Err(Error::new(ErrorKind::Bug, "cannot write a segment that cannot be read"));
        };
        self.log.append(SEGMENT, &bytes)?;
        self.ledger.write(epoch, Stored { hash, bytes });
        Ok(hash)
    }

    pub(super) fn decide(&mut self, checkpoint: Checkpoint) -> Result<()> {
        self.log.append(CHECKPOINT, &encode_checkpoint(&checkpoint)?)?;
        self.log.sync()?;
        self.ledger.decide(checkpoint);
        Ok(())
    }

    /// An empty store as that of a checkpoint which needs nothing of the one that wrote it.
    pub(super) fn taken_over(&self, dir: &Path, checkpoint: Checkpoint) -> Result<Open> {
        let lost = |what: String| Err(mismatch(self.log.path(), &what));
        if self.ledger.newest.is_some() {
            return lost("the host's checkpoint is for another store".to_owned());
        }
        if let Some((epoch, _)) = checkpoint.segments.first() {
            let what = format!("epoch {} names segment {epoch} of a store that is lost", checkpoint.epoch);
            return lost(what);
        }
        let Some(id) = Id::parse(&checkpoint.store_id) else {
            return lost("the host's checkpoint is for a store of another kind".to_owned());
        };
        Keyed::remove(dir)?;
        let bytes = encode_checkpoint(&checkpoint)?;
        let log = Log::create(self.log.path(), Purpose::Checkpoints, id, [(CHECKPOINT, &bytes[..])])?;
        let mut ledger = Ledger::default();
        ledger.decide(checkpoint);
        Ok(Open { ledger, loaded: true, ..Open::new(log) })
    }

    /// Brings keyed state to the newest checkpoint, or says why that cannot be.
    pub(super) fn recover_keyed(&mut self, dir: &Path) -> Result<()> {
        self.keyed = None;
        let newest = self.ledger.epoch();
        if Keyed::exists(dir) {
            let keyed = Keyed::open(dir)?;
            let foreign = keyed.store_id() != self.log.id().to_string();
            if foreign && newest == 0 {
                // A reset was cut short between its two steps.
                drop(keyed);
                Keyed::remove(dir)?;
            } else if foreign {
                return Err(mismatch(keyed.path(), "its keyed state belongs to another store"));
            } else if keyed.epoch() > newest || keyed.epoch() < self.ledger.cut.keyed {
                let has = keyed.epoch();
                let what = format!("its keyed state is of epoch {has}, which does not fit checkpoint {newest}");
                return Err(mismatch(keyed.path(), &what));
            } else {
                self.keyed = Some(keyed);
            }
        } else if self.ledger.cut.keyed > 0 {
            return Err(mismatch(dir, &format!("the keyed state of epoch {} is missing", self.ledger.cut.keyed)));
        }
        self.fill(dir)
    }

    /// Applies decided segments to keyed state, which is created with the first key.
    pub(super) fn fill(&mut self, dir: &Path) -> Result<()> {
        while let Some((&epoch, stored)) = self.ledger.decided.first_key_value() {
            if self.keyed.as_ref().is_none_or(|keyed| keyed.epoch() < epoch) {
                let Some(segment) = segment::decode(stored.bytes.clone()) else {
                    return Err(corrupt(
                        self.log.path(),
                        0,
                        &format!("the segment of epoch {epoch}, somewhere after the start,"),
                    ));
                };
                let changed = segment.stages.iter().any(|(_, changes)| !changes.is_empty());
                if changed && self.keyed.is_none() {
                    self.keyed = Some(Keyed::create(dir, &self.log.id().to_string())?);
                }
                if let Some(keyed) = self.keyed.as_mut().filter(|_| changed) {
                    keyed.apply(&segment)?;
                }
            }
            self.ledger.decided.pop_first();
        }
        self.ledger.settled = self.ledger.settled.max(self.ledger.epoch());
        Ok(())
    }

    /// Rewrites the log without what fjall has persisted.
    pub(super) fn cut(&mut self) -> Result<()> {
        if !self.ledger.decided.is_empty() {
            // Only after a failure to fill: what is not in fjall must stay in the log.
            return Ok(());
        }
        let keyed = match &mut self.keyed {
            Some(keyed) => keyed.persist()?,
            None => 0,
        };
        let cut = Cut { epoch: self.ledger.settled, keyed };
        let checkpoint = self.ledger.newest.as_ref().map(encode_checkpoint).transpose()?;
        let cut_bytes = cut.encode();
        let reset = self.ledger.reset.then_some((RESET, &[][..]));
        let entries = std::iter::once((CUT, &cut_bytes[..]))
            .chain(reset)
            .chain(checkpoint.as_deref().map(|bytes| (CHECKPOINT, bytes)))
            .chain(self.ledger.pending.values().map(|stored| (SEGMENT, &stored.bytes[..])));
        self.log = Log::create(self.log.path(), Purpose::Checkpoints, self.log.id(), entries)?;
        self.ledger.cut = cut;
        Ok(())
    }
}
