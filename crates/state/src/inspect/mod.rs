//! Looking at pipelines and editing them at rest: `millstream state list|show|reset|seek`.
//!
//! [`list`] and [`summary`] take no lock: they read one consistent log, up to its last whole checkpoint, also while the
//! pipeline runs. [`show`], [`edit`] and [`reset`] take the pipeline's lock, as a runner does, because keyed state can be
//! open only once: while the pipeline runs they fail with `Locked`. The process that runs it can look by a [`View`]. All of
//! them block.

mod json;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, Weak},
};

use millstream_core::{Checkpoint, Error, ErrorKind, Result};
use serde::Serialize;
use serde_json::Value;

pub use json::{json_of_bytes, json_of_messagepack};

use crate::{
    embedded::{Engine, Keyed, LOG, Ledger},
    lock::Lock,
    log::{Purpose, Scanned, Scanner, corrupt},
};

/// What a pipeline's state directory holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The pipeline.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
    /// Identity of its store.
    pub store_id: String,
    /// The newest checkpoint: epoch, when it was decided, whether all inputs had ended, positions.
    pub checkpoint: Option<Checkpoint>,
    /// Somebody has the lock right now.
    pub running: bool,
    /// Its process, if `running` and known.
    pub pid: Option<u32>,
    /// There is keyed state on disk.
    pub keyed: bool,
    /// Length of the checkpoint log in bytes.
    pub log_bytes: u64,
}

/// A pipeline with its keyed state.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// The rest.
    pub summary: Summary,
    /// Stages with keyed state, in order of their names.
    pub stages: Vec<ShownStage>,
}

/// The keyed state of a stage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShownStage {
    /// Name of the stage.
    pub stage: String,
    /// Keys in order of group and key, up to the limit.
    pub keys: Vec<ShownKey>,
    /// There are more keys than the limit.
    pub more: bool,
}

/// One key, in readable form.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShownKey {
    /// Its group.
    pub group: u16,
    /// The key, as its stage's kind reads it; else a string, or `{"hex": ..}` where it is no text.
    pub key: Value,
    /// Its value: MessagePack as JSON, or `{"hex": ..}` where it is something else.
    pub value: Value,
}

/// Reads the bytes of a key.
pub type ReadKey = fn(&[u8]) -> Value;

/// The pipelines under a state directory, by name. What cannot be read is among them, as its error.
pub fn list(state_dir: &Path) -> Result<Vec<(String, Result<Summary>)>> {
    let cannot = |error| Error::io(format!("cannot read {}", state_dir.display()), error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(state_dir).map_err(cannot)? {
        let dir = entry.map_err(cannot)?.path();
        if dir.join(LOG).exists() || Keyed::exists(&dir) {
            found.push((name_of(&dir), summary(&dir)));
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(found)
}

/// One pipeline, by its directory.
pub fn summary(dir: &Path) -> Result<Summary> {
    let path = dir.join(LOG);
    let Some((mut scanner, header)) = Scanner::open(&path, Purpose::Checkpoints, |_, length| length)? else {
        return Err(nothing(dir));
    };
    let store_id = header.id.to_string();
    let mut ledger = Ledger::default();
    let log_bytes = loop {
        match scanner.next()? {
            Scanned::Entry(entry) => ledger.replay(entry, &store_id, &path)?,
            Scanned::End => break scanner.offset(),
            Scanned::Bad { offset, why } if header.mark.is_some_and(|mark| offset < mark) => {
                return Err(corrupt(&path, offset, why));
            }
            // Somebody is writing it, or a crash left it.
            Scanned::Bad { offset, .. } => break offset,
        }
    };
    let holder = Lock::held_by(dir);
    Ok(Summary {
        name: name_of(dir),
        dir: dir.to_owned(),
        store_id,
        checkpoint: ledger.newest,
        running: holder.is_some(),
        pid: holder.flatten(),
        keyed: Keyed::exists(dir),
        log_bytes,
    })
}

/// One pipeline at rest with its keyed state: of `stage`, or of all stages; up to `limit` keys of each.
///
/// `readable` says how the keys of a kind of stage are read, where they are not simply text.
pub fn show(
    dir: &Path,
    stage: Option<&str>,
    limit: usize,
    readable: impl Fn(&str) -> Option<ReadKey>,
) -> Result<Shown> {
    at_rest(dir, |engine| shown(engine, Summary { running: false, pid: None, ..summary(dir)? }, stage, limit, readable))
}

/// Looks into the store of a pipeline that runs in this process. It does not keep the store alive.
#[derive(Clone, Debug)]
pub struct View {
    pub(crate) dir: PathBuf,
    pub(crate) engine: Weak<Mutex<Engine>>,
}

impl View {
    /// As [`show`], while the pipeline runs: what its newest checkpoint holds. The next epoch waits meanwhile. Blocks.
    ///
    /// `Closed` when the pipeline is over, or between two of its tries.
    pub fn show(&self, stage: Option<&str>, limit: usize, readable: impl Fn(&str) -> Option<ReadKey>) -> Result<Shown> {
        let over = || Error::new(ErrorKind::Closed, format!("cannot show the state of `{}` now", name_of(&self.dir)));
        let engine = self.engine.upgrade().ok_or_else(over)?;
        let mut engine = engine.lock().map_err(|_| over())?;
        if !engine.is_loaded() {
            return Err(over());
        }
        shown(&mut engine, summary(&self.dir)?, stage, limit, readable)
    }
}

fn shown(
    engine: &mut Engine,
    summary: Summary,
    stage: Option<&str>,
    limit: usize,
    readable: impl Fn(&str) -> Option<ReadKey>,
) -> Result<Shown> {
    let plan = summary.checkpoint.as_ref().map(|checkpoint| checkpoint.plan.clone()).unwrap_or_default();
    let kinds: BTreeMap<&str, &str> = plan.split(',').filter_map(|part| part.split_once(':')).collect();
    let mut stages = Vec::new();
    if let Some(keyed) = engine.keyed()? {
        let names = match stage {
            Some(stage) => vec![stage.to_owned()],
            None => keyed.stages()?,
        };
        for stage in names {
            let mut keys = Vec::new();
            let mut more = false;
            let read = kinds.get(stage.as_str()).and_then(|kind| readable(kind)).unwrap_or(json_of_bytes);
            keyed.visit(&stage, |change| {
                more = keys.len() >= limit;
                if !more {
                    let value = change.value.unwrap_or_default();
                    let (key, value) = (read(&change.key), json_of_messagepack(&value));
                    keys.push(ShownKey { group: change.group, key, value });
                }
                !more
            })?;
            stages.push(ShownStage { stage, keys, more });
        }
    }
    Ok(Shown { summary, stages })
}

/// Changes the newest checkpoint of a pipeline at rest, as one more epoch: `change` gets a copy, and sets positions for
/// example. Says which epoch it became. Store, version and epoch are set here; state stays as it is. Where a host decides, only after
/// a drain or the end: before that, the newest checkpoint may be there.
pub fn edit(dir: &Path, change: impl FnOnce(&mut Checkpoint) -> Result<()>) -> Result<u64> {
    at_rest(dir, |engine| {
        let before = engine.newest()?.ok_or_else(|| nothing(dir))?;
        if let Some(host) = before.host.as_ref().filter(|_| !before.finished && !before.drained) {
            // A newer one may be there, and changing an older one would repeat what it decided.
            let message = format!("cannot change a checkpoint of `{}`: the newest one is in {host}", name_of(dir));
            return Err(Error::new(ErrorKind::StateMismatch, message)
                .hint("start the pipeline and drain it; then its newest checkpoint is here, too"));
        }
        let mut after = before.clone();
        change(&mut after)?;
        after.version = before.version;
        after.store_id.clone_from(&before.store_id);
        after.epoch = before.epoch + 1;
        after.segments.clone_from(&before.segments);
        // Decided here; the next run takes it to the host.
        after.host = None;
        let epoch = after.epoch;
        engine.decide(after, before.epoch)?;
        engine.settle();
        Ok(epoch)
    })
}

/// Forgets checkpoints and keyed state of a pipeline at rest, readable or not; dead letters stay. Says the new store id.
pub fn reset(dir: &Path) -> Result<String> {
    if !dir.join(LOG).exists() && !Keyed::exists(dir) {
        return Err(nothing(dir));
    }
    let mut engine = Engine::new(dir.to_owned());
    engine.lock()?;
    let id = engine.reset()?;
    engine.close()?;
    Ok(id)
}

/// Opens a pipeline as a runner does, and closes it again.
fn at_rest<T>(dir: &Path, work: impl FnOnce(&mut Engine) -> Result<T>) -> Result<T> {
    if !dir.join(LOG).exists() {
        return Err(nothing(dir));
    }
    let mut engine = Engine::new(dir.to_owned());
    engine.fence()?;
    engine.load()?;
    let done = work(&mut engine);
    engine.close()?;
    done
}

fn name_of(dir: &Path) -> String {
    dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned()
}

fn nothing(dir: &Path) -> Error {
    Error::new(ErrorKind::NotFound, format!("cannot find the state of a pipeline in {}", dir.display()))
        .hint("`millstream state list` shows the pipelines that have state")
}

#[cfg(test)]
mod tests;
