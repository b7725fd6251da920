//! The embedded store as one thread sees it: every call blocks.

use std::path::{Path, PathBuf};

use millstream_core::{Change, Checkpoint, Epoch, Error, ErrorKind, Result, Segment};

use super::{
    keyed::Keyed,
    ledger::{Ledger, RESET, mismatch},
    open::Open,
};
use crate::{
    files,
    id::Id,
    lock::Lock,
    log::{Log, Purpose},
    segment,
};

/// Name of the checkpoint log.
pub(crate) const LOG: &str = "checkpoints.log";
/// The log is rewritten when it is longer than this and there is no keyed state: one checkpoint is left of thousands.
const PLAIN_BYTES_MAX: u64 = 1 << 20;
/// The same where fjall must first persist what the log would lose; that costs several syncs.
const KEYED_BYTES_MAX: u64 = 16 << 20;
/// A shorter log is left as it is when the store is closed: reading it takes no time.
const CLOSED_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug)]
pub(crate) struct Engine {
    dir: PathBuf,
    /// Longest log before it is rewritten, with and without keyed state.
    pub(crate) limits: (u64, u64),
    // The order of the fields is the order in which they are dropped: the lock last.
    open: Option<Open>,
    lock: Option<Lock>,
}

impl Engine {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Engine { dir, limits: (KEYED_BYTES_MAX, PLAIN_BYTES_MAX), open: None, lock: None }
    }

    /// The pipeline's directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether it stands at a checkpoint.
    pub(crate) fn is_loaded(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.loaded)
    }

    /// Takes the lock, and nothing else.
    pub(crate) fn lock(&mut self) -> Result<()> {
        self.open = None;
        files::create_dir(&self.dir)?;
        if self.lock.is_none() {
            self.lock = Some(Lock::take(&self.dir)?);
        }
        Ok(())
    }

    /// Takes the lock, and opens or creates the log.
    pub(crate) fn fence(&mut self) -> Result<String> {
        self.lock()?;
        let path = self.dir.join(LOG);
        let log = match Log::open(&path, Purpose::Checkpoints)? {
            Some(log) => log,
            None if Keyed::exists(&self.dir) => {
                return Err(mismatch(&self.dir, &format!("there is keyed state but no {LOG}")));
            }
            None => Log::create(&path, Purpose::Checkpoints, Id::random(), [])?,
        };
        let id = log.id().to_string();
        self.open = Some(Open::new(log));
        Ok(id)
    }

    /// Recovery: reads the log, cuts what a crash left, and brings keyed state to the newest checkpoint. Pending segments stay
    /// until something is written: a host may have decided them.
    pub(crate) fn load(&mut self) -> Result<Option<Checkpoint>> {
        let dir = self.dir.clone();
        if self.open.as_ref().is_some_and(|open| open.loaded) {
            // From the start, as after a crash.
            self.fence()?;
        }
        let open = self.open.as_mut().ok_or_else(not_fenced)?;
        let (id, path) = (open.log.id().to_string(), open.log.path().to_owned());
        let mut ledger = Ledger::default();
        open.log.recover(|entry| ledger.replay(entry, &id, &path))?;
        open.stale = !ledger.pending.is_empty();
        open.ledger = ledger;
        open.recover_keyed(&dir)?;
        open.loaded = true;
        Ok(open.ledger.newest.clone())
    }

    pub(crate) fn scan(&mut self, stage: &str) -> Result<Vec<Change>> {
        match &self.loaded()?.keyed {
            Some(keyed) => keyed.scan(stage),
            None => Ok(Vec::new()),
        }
    }

    /// The newest checkpoint.
    pub(crate) fn newest(&mut self) -> Result<Option<Checkpoint>> {
        Ok(self.loaded()?.ledger.newest.clone())
    }

    /// Keyed state, if there is any.
    pub(crate) fn keyed(&mut self) -> Result<Option<&Keyed>> {
        Ok(self.loaded()?.keyed.as_ref())
    }

    /// Appends a pending segment.
    pub(crate) fn write(&mut self, pending: &Segment) -> Result<u64> {
        let open = self.loaded()?;
        if pending.epoch <= open.ledger.epoch() {
            return Err(out_of_order(pending.epoch, open.ledger.epoch()));
        }
        open.discard_stale()?;
        let bytes = segment::encode(pending)?;
        open.append_segment(bytes.into())
    }

    /// Makes pending segments durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.loaded()?.log.sync()
    }

    /// Whether it was reset and has decided nothing since.
    pub(crate) fn was_reset(&mut self) -> bool {
        self.open.as_ref().is_some_and(|open| open.ledger.reset)
    }

    /// Goes on to a checkpoint that a host has decided. [`Engine::settle`] must follow.
    pub(crate) fn adopt(&mut self, checkpoint: Checkpoint) -> Result<()> {
        let dir = self.dir.clone();
        let open = self.loaded()?;
        if checkpoint.epoch <= open.ledger.epoch() {
            return Err(out_of_order(checkpoint.epoch, open.ledger.epoch()));
        }
        if checkpoint.store_id != open.log.id().to_string() {
            self.open = Some(open.taken_over(&dir, checkpoint)?);
            return Ok(());
        }
        open.ledger.holds(&checkpoint).map_err(|what| mismatch(open.log.path(), &what))?;
        let named = open.ledger.named(&checkpoint);
        if open.ledger.pending.len() > named.len() {
            // Deciding takes every pending segment up to its epoch: those that nobody decided go before.
            open.stale = true;
            open.discard_stale()?;
            for bytes in named {
                open.append_segment(bytes)?;
            }
        }
        open.stale = false;
        open.decide(checkpoint)
    }

    /// Appends the checkpoint and syncs: the deciding write. [`Engine::settle`] must follow.
    pub(crate) fn decide(&mut self, checkpoint: Checkpoint, expected: Epoch) -> Result<()> {
        let open = self.loaded()?;
        let newest = open.ledger.epoch();
        if newest != expected {
            let message =
                format!("cannot decide epoch {} after {expected}: epoch {newest} is decided", checkpoint.epoch);
            return Err(
                Error::new(ErrorKind::Fenced, message).hint("another runner has gone on from there; stop one of them")
            );
        }
        if checkpoint.epoch <= newest {
            return Err(out_of_order(checkpoint.epoch, newest));
        }
        if checkpoint.store_id != open.log.id().to_string() {
            return Err(mismatch(open.log.path(), "the checkpoint is for another store"));
        }
        open.discard_stale()?;
        open.ledger.holds(&checkpoint).map_err(|what| mismatch(open.log.path(), &what))?;
        if !open.log.untouched() {
            let message =
                format!("cannot decide epoch {}: {} has been changed", checkpoint.epoch, open.log.path().display());
            return Err(Error::new(ErrorKind::Fenced, message).hint("another process writes to it, or has replaced it"));
        }
        open.decide(checkpoint)
    }

    /// What follows a decision: the mark, keyed state, and cutting the log. A failure here takes nothing back; it is told
    /// by the next call.
    pub(crate) fn settle(&mut self) {
        let (dir, (keyed, plain)) = (self.dir.clone(), self.limits);
        let Some(open) = &mut self.open else { return };
        let settled = open.log.publish(open.log.length()).and_then(|()| open.fill(&dir)).and_then(|()| {
            let limit = if open.keyed.is_some() { keyed } else { plain };
            if open.log.length() > limit { open.cut() } else { Ok(()) }
        });
        if let Err(error) = settled {
            tracing::warn!(path = %dir.display(), error = %error.chain(), "cannot settle a decided epoch");
            open.failed = Some(error);
        }
    }

    /// Begins anew, with a new identity. The new log decides; keyed state that is left over is removed then or later.
    pub(crate) fn reset(&mut self) -> Result<String> {
        if self.lock.is_none() {
            return Err(not_fenced());
        }
        self.open = None;
        let log = Log::create(&self.dir.join(LOG), Purpose::Checkpoints, Id::random(), [(RESET, &[][..])])?;
        Keyed::remove(&self.dir)?;
        let id = log.id().to_string();
        let ledger = Ledger { reset: true, ..Ledger::default() };
        self.open = Some(Open { ledger, loaded: true, ..Open::new(log) });
        Ok(id)
    }

    /// Gives all up. A store that was closed can be fenced again.
    pub(crate) fn close(&mut self) -> Result<()> {
        let cut = match &mut self.open {
            Some(open) if open.loaded && open.failed.is_none() && open.log.length() > CLOSED_BYTES_MAX => open.cut(),
            _ => Ok(()),
        };
        self.open = None;
        self.lock = None;
        cut
    }

    fn loaded(&mut self) -> Result<&mut Open> {
        match &mut self.open {
            Some(open) if open.loaded => match &open.failed {
                Some(error) => Err(error.clone()),
                None => Ok(open),
            },
            _ => Err(not_fenced()),
        }
    }

    #[cfg(test)]
    pub(crate) fn fence_id(&self) -> String {
        self.open.as_ref().unwrap().log.id().to_string()
    }

    #[cfg(test)]
    pub(crate) fn log_file(&mut self) -> &mut Log {
        &mut self.open.as_mut().unwrap().log
    }
}

fn not_fenced() -> Error {
    Error::new(ErrorKind::Bug, "cannot use a store before `fence` and `load`, or after `close`")
}

fn out_of_order(epoch: Epoch, newest: Epoch) -> Error {
    Error::new(ErrorKind::Bug, format!("cannot write epoch {epoch}: epoch {newest} is decided already"))
}
