//! Keyed state in fjall.
//!
//! One keyspace, `state`:
//!
//! ```text
//! 0x00                                      format version, store id, epoch that has been applied (JSON)
//! stage │ 0x00 │ group u16 BE │ key         value
//! stage │ 0x00 │ group u16 BE │ first 32 KiB of a longer key │ its xxh3, 128 bits
//!                                           rest length u32 LE │ rest of the key │ value
//! ```
//!
//! An epoch is one atomic batch, and carries its number. fjall's own journal is synced only before the checkpoint log is
//! cut: until then the log has all that fjall could lose.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use millstream_core::{Change, Epoch, Error, ErrorKind, Result, Segment};
use serde::{Deserialize, Serialize};

use crate::{
    files,
    log::{corrupt, newer},
};

/// Name of fjall's directory.
pub(crate) const DIR: &str = "keyed";
const KEYSPACE: &str = "state";
const META: [u8; 1] = [0];
const VERSION: u32 = 1;
/// Bytes of a key that stand in fjall's own key, which takes less than 64 KiB in all.
const KEY_BYTES_MAX: usize = 32 << 10;
/// Blocks that are kept in memory: the working set is in the operators' tables, so this only serves a scan.
const CACHE_BYTES: u64 = 1 << 20;
/// Changes in memory before fjall writes a table.
const MEMTABLE_BYTES: u64 = 8 << 20;
/// One thread writes tables and merges them: it sleeps while there is nothing to do.
const THREADS: usize = 1;
const OPEN_FILES_MAX: usize = 32;

#[derive(Serialize, Deserialize)]
struct Meta {
    version: u32,
    store_id: String,
    epoch: Epoch,
}

/// Open keyed state.
pub(crate) struct Keyed {
    path: PathBuf,
    database: Database,
    states: Keyspace,
    store_id: String,
    epoch: Epoch,
    persisted: Epoch,
}

impl std::fmt::Debug for Keyed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyed").field("path", &self.path).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Keyed {
    /// Whether the pipeline in `dir` has any.
    pub(crate) fn exists(dir: &Path) -> bool {
        dir.join(DIR).exists()
    }

    /// Removes it, and what a crash left of making it.
    pub(crate) fn remove(dir: &Path) -> Result<()> {
        files::remove_dir(&dir.join(DIR))?;
        files::remove_dir(&new_dir(dir))
    }

    /// Creates it, empty; it has its name only when it is whole.
    pub(crate) fn create(dir: &Path, store_id: &str) -> Result<Keyed> {
        let new = new_dir(dir);
        files::remove_dir(&new)?;
        let (database, states) = open(&new)?;
        let meta = encode_meta(store_id, 0)?;
        let cannot = |error| failed(&new, "create", error);
        states.insert(META, meta).map_err(cannot)?;
        database.persist(PersistMode::SyncAll).map_err(cannot)?;
        drop(states);
        drop(database);
        files::rename(&new, &dir.join(DIR))?;
        Keyed::open(dir)
    }

    /// Opens it.
    pub(crate) fn open(dir: &Path) -> Result<Keyed> {
        let path = dir.join(DIR);
        let (database, states) = open(&path)?;
        let meta = states.get(META).map_err(|error| failed(&path, "read", error))?;
        let meta: Option<Meta> = meta.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let meta = meta.ok_or_else(|| corrupt(&path, 0, "it does not say which epoch it holds,"))?;
        if meta.version > VERSION {
            return Err(newer(
                &path,
                &format!("keyed state of version {}, and this build knows {VERSION}", meta.version),
            ));
        }
        Ok(Keyed { path, database, states, store_id: meta.store_id, epoch: meta.epoch, persisted: 0 })
    }

    /// The store that it belongs to.
    pub(crate) fn store_id(&self) -> &str {
        &self.store_id
    }

    /// The epoch whose state it holds.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Applies the changes of an epoch, all or none.
    pub(crate) fn apply(&mut self, segment: &Segment) -> Result<()> {
        let mut batch = self.database.batch();
        for (stage, changes) in &segment.stages {
            for change in changes {
                let key = encode_key(stage, change.group, &change.key);
                match &change.value {
                    None => batch.remove(&self.states, key),
                    Some(value) if change.key.len() <= KEY_BYTES_MAX => batch.insert(&self.states, key, &value[..]),
                    Some(value) => batch.insert(&self.states, key, encode_long(&change.key, value)),
                }
            }
        }
        batch.insert(&self.states, META, encode_meta(&self.store_id, segment.epoch)?);
        batch.commit().map_err(|error| failed(&self.path, "write to", error))?;
        self.epoch = segment.epoch;
        Ok(())
    }

    /// Makes all that was applied durable, and says up to which epoch.
    pub(crate) fn persist(&mut self) -> Result<Epoch> {
        if self.persisted < self.epoch || self.epoch == 0 {
            self.database.persist(PersistMode::SyncAll).map_err(|error| failed(&self.path, "sync", error))?;
            self.persisted = self.epoch;
        }
        Ok(self.persisted)
    }

    /// All keys of a stage.
    pub(crate) fn scan(&self, stage: &str) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        self.visit(stage, |change| {
            changes.push(change);
            true
        })?;
        Ok(changes)
    }

    /// Calls `visit` for each key of a stage, by group and key, until it says `false`.
    pub(crate) fn visit(&self, stage: &str, mut visit: impl FnMut(Change) -> bool) -> Result<()> {
        let mut prefix = stage.as_bytes().to_vec();
        prefix.push(0);
        for guard in self.states.prefix(&prefix) {
            let (key, value) = guard.into_inner().map_err(|error| failed(&self.path, "read", error))?;
            let change = decode(&key[prefix.len()..], &value)
                .ok_or_else(|| corrupt(&self.path, 0, &format!("a key of `{stage}` cannot be read")))?;
            if !visit(change) {
                break;
            }
        }
        Ok(())
    }

    /// The stages that have keys.
    pub(crate) fn stages(&self) -> Result<Vec<String>> {
        let mut stages: Vec<String> = Vec::new();
        // Behind the meta key, then each time behind the last key of the stage that was found.
        let mut from = vec![1];
        while let Some(guard) = self.states.range(from..).next() {
            let key = guard.key().map_err(|error| failed(&self.path, "read", error))?;
            let name = key.split(|byte| *byte == 0).next().unwrap_or_default();
            stages.push(String::from_utf8_lossy(name).into_owned());
            from = name.to_vec();
            from.push(1);
        }
        Ok(stages)
    }
}

fn new_dir(dir: &Path) -> PathBuf {
    dir.join(format!("{DIR}.new"))
}

fn open(path: &Path) -> Result<(Database, Keyspace)> {
    let database = Database::builder(path)
        .cache_size(CACHE_BYTES)
        .worker_threads(THREADS)
        .max_cached_files(Some(OPEN_FILES_MAX))
        .max_journaling_size(64 << 20)
        .open()
        .map_err(|error| failed(path, "open", error))?;
    let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
    let states = database.keyspace(KEYSPACE, options).map_err(|error| failed(path, "open", error))?;
    Ok((database, states))
}

fn encode_meta(store_id: &str, epoch: Epoch) -> Result<Vec<u8>> {
    serde_json::to_vec(&Meta { version: VERSION, store_id: store_id.to_owned(), epoch })
        .map_err(|error| Error::new(ErrorKind::Bug, "cannot write the epoch of keyed state").caused_by(error))
}

fn encode_key(stage: &str, group: u16, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(stage.len() + 3 + key.len().min(KEY_BYTES_MAX + 16));
    bytes.extend_from_slice(stage.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&group.to_be_bytes());
    if key.len() <= KEY_BYTES_MAX {
        bytes.extend_from_slice(key);
    } else {
        bytes.extend_from_slice(&key[..KEY_BYTES_MAX]);
        bytes.extend_from_slice(&xxhash_rust::xxh3::xxh3_128(key).to_le_bytes());
    }
    bytes
}

fn encode_long(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = &key[KEY_BYTES_MAX..];
    let mut bytes = Vec::with_capacity(4 + rest.len() + value.len());
    // Below 4 GiB: `segment.rs` has seen to it.
    bytes.extend_from_slice(&(rest.len() as u32).to_le_bytes());
    bytes.extend_from_slice(rest);
    bytes.extend_from_slice(value);
    bytes
}

/// A key, behind its stage, and its value.
fn decode(key: &[u8], value: &[u8]) -> Option<Change> {
    let (group, key) = key.split_first_chunk::<2>()?;
    let group = u16::from_be_bytes(*group);
    if key.len() <= KEY_BYTES_MAX {
        return Some(Change { group, key: Bytes::copy_from_slice(key), value: Some(Bytes::copy_from_slice(value)) });
    }
    let (length, rest) = value.split_first_chunk::<4>()?;
    let (rest, value) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let key = [&key[..KEY_BYTES_MAX], rest].concat();
    Some(Change { group, key: key.into(), value: Some(Bytes::copy_from_slice(value)) })
}

fn failed(path: &Path, what: &str, error: fjall::Error) -> Error {
    let message = format!("cannot {what} the keyed state in {}", path.display());
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => Error::io(message, error),
        fjall::Error::InvalidVersion(_) => Error::new(ErrorKind::Version, message)
            .caused_by(error)
            .hint("run the version of Millstream that wrote it, or a newer one"),
        fjall::Error::Locked => {
            Error::new(ErrorKind::Locked, message).caused_by(error).hint("another process has it open; stop it")
        }
        fjall::Error::Poisoned => Error::new(ErrorKind::Unavailable, message)
            .caused_by(error)
            .hint("an earlier write failed; nothing is lost, and it is filled again when the pipeline restarts"),
        error => Error::new(ErrorKind::Corrupt, message)
            .caused_by(error)
            .hint("restore the directory from a backup, or begin anew with `millstream state reset`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_keys_and_all_stages_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut keyed = Keyed::create(dir.path(), "me").unwrap();
        let change = |key: Vec<u8>| Change { group: 1023, key: key.into(), value: Some(Bytes::from_static(b"v")) };
        let long = |last: u8| [vec![9; 200_000], vec![last]].concat();
        let changes = vec![change(vec![]), change(vec![0; KEY_BYTES_MAX]), change(long(1)), change(long(2))];
        let stages = vec![("a".to_owned(), changes.clone()), ("a2".to_owned(), changes[..1].to_vec())];
        keyed.apply(&Segment { epoch: 3, stages }).unwrap();
        keyed.persist().unwrap();
        drop(keyed);
        let mut keyed = Keyed::open(dir.path()).unwrap();
        assert_eq!((keyed.epoch(), keyed.store_id()), (3, "me"));
        assert_eq!(keyed.stages().unwrap(), ["a", "a2"]);
        assert_eq!(keyed.scan("a").unwrap(), changes);
        assert_eq!(keyed.scan("a2").unwrap().len(), 1);
        assert!(keyed.scan("b").unwrap().is_empty());
        let removed = Change { value: None, ..change(long(1)) };
        keyed.apply(&Segment { epoch: 4, stages: vec![("a".into(), vec![removed])] }).unwrap();
        assert_eq!(keyed.scan("a").unwrap().len(), 3);
    }
}
