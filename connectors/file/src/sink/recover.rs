//! Opening a sink: the lock, then the files as the checkpoint says, then nothing else.
//!
//! ```text
//!   tokens of the checkpoint      done files get their names (again); the open one is cut to its mark
//!   no token, or all is done      begin: append, a new temporary file, or refuse
//!   files of ours in no token     never counted: deleted
//! ```

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use millstream_core::{Error, ErrorKind, Result, Timestamp};

use super::{
    files::Files,
    lock::Lock,
    part::{Naming, Part},
    token::FileToken,
};
use crate::{
    error::failed,
    glob::{OPEN, folder_of},
    identity::FileId,
    options::Existing,
    published::{Published, beside},
};

impl Files {
    /// Brings the files to where the tokens of the checkpoint, oldest first, say. If it cannot, the caller closes them.
    pub(crate) fn open(&mut self, tokens: &[FileToken]) -> Result<()> {
        (self.part, self.committed, self.broken) = (None, None, None);
        self.done.clear();
        self.resolve()?;
        if self.lock.is_none() {
            self.lock = Some(Lock::take(self.path())?);
        }
        for mark in tokens.iter().flat_map(|token| &token.files).filter(|mark| mark.done) {
            self.finish(mark)?;
        }
        let newest = tokens.last().cloned().unwrap_or_default();
        for mark in newest.files.iter().filter(|mark| !mark.done) {
            let part = Part::resume(&self.folder, mark, self.place.compression)?;
            if let Some(mut before) = self.part.replace(part) {
                before.done = true;
                self.done.push(before);
            }
        }
        self.newest = newest.newest.clone();
        self.retire_foreign();
        if self.place.rotation.is_some() {
            self.clear_leftovers(&newest, tokens.is_empty())?;
        }
        if !self.place.exactly_once {
            // They may be there from a time when the pipeline promised more; nobody would move them on.
            self.unpublish(self.path())?;
            if let Some(part) = &self.part {
                self.unpublish(&part.path)?;
            }
        }
        self.names_dirty = true;
        self.all_counts()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.place.path
    }

    /// Makes missing folders of a relative path, and follows a link to the file that it means.
    fn resolve(&mut self) -> Result<()> {
        let path = self.place.path.clone();
        if path.is_relative() {
            fs::create_dir_all(folder_of(&path)).map_err(|error| failed("make the folder of", &path, error))?;
        } else if !folder_of(&path).is_dir() {
            let text = format!("the folder of `{}` does not exist", path.display());
            return Err(Error::new(ErrorKind::NotFound, text)
                .hint("make it, or mount what belongs there; folders are made only for relative paths"));
        }
        if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) && path.exists() {
            self.place.path = fs::canonicalize(&path).map_err(|error| failed("follow the link", &path, error))?;
            self.folder = folder_of(&self.place.path).to_owned();
        }
        Ok(())
    }

    /// A file that was begun under other options gets its name with the next epoch, and another is begun.
    fn retire_foreign(&mut self) {
        let Some(part) = &self.part else { return };
        let rotates = part.name.ends_with(OPEN);
        let fits = match &self.place.rotation {
            Some(_) => rotates,
            // A temporary file is gone on with, whatever `existing` says by now.
            None => part.name == self.own_name() || part.name == temporary(self.path()),
        };
        if !fits && let Some(mut part) = self.part.take() {
            part.done = true;
            self.done.push(part);
        }
    }

    fn own_name(&self) -> String {
        self.path().file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Begins the one file of a sink that does not rotate. `fresh`: the checkpoint knows nothing of it.
    pub(crate) fn begin_single(&mut self, fresh: bool) -> Result<()> {
        let path = self.path().to_owned();
        let started_at = Timestamp::now();
        let naming =
            |name: String, rename: Option<String>| Naming { folder: self.folder.clone(), name, rename, started_at };
        let part = match self.place.existing {
            Existing::Replace => {
                if path.is_dir() {
                    return Err(Error::new(ErrorKind::Option, format!("`{}` is a folder, not a file", path.display()))
                        .hint("name a file in it"));
                }
                Part::open(naming(temporary(&path), Some(self.own_name())), self.place.compression, Some(0))?
            }
            existing => {
                let counts = if fresh { self.counts(&path) } else { None };
                if existing == Existing::Fail && counts.is_none() && path.exists() {
                    return Err(Error::new(ErrorKind::Exists, format!("`{}` exists", path.display()))
                        .hint("choose another path, or `existing: append` or `replace`"));
                }
                Part::open(naming(self.own_name(), None), self.place.compression, counts)?
            }
        };
        (self.part, self.names_dirty) = (Some(part), true);
        self.all_counts()
    }

    /// How much of a file counts of which the checkpoint knows nothing: what an earlier run published.
    fn counts(&self, path: &Path) -> Option<u64> {
        let published = Published::read(path).filter(|_| self.place.exactly_once)?;
        let metadata = fs::metadata(path).ok()?;
        (FileId::from(&metadata) == published.id && published.length <= metadata.len()).then_some(published.length)
    }

    /// Deals with rotated files that were begun and that the checkpoint does not name.
    fn clear_leftovers(&mut self, newest: &FileToken, fresh: bool) -> Result<()> {
        let Some(rotation) = &self.place.rotation else { return Ok(()) };
        // Published by a run that has not committed anything yet.
        let begun = Published::read(self.path()).is_some();
        for (_, name) in rotation.template.list(&self.folder)? {
            let Some(named) = name.strip_suffix(OPEN) else { continue };
            if newest.files.iter().any(|mark| mark.name == name) {
                continue;
            }
            let path = self.folder.join(&name);
            if fresh && !begun {
                // From before the state was reset, or of a run without it: nobody knows how much of it counts.
                tracing::warn!(path = %path.display(), "keeping a file that an earlier run has left open");
                fs::rename(&path, self.folder.join(named)).map_err(|error| failed("rename", &path, error))?;
            } else {
                tracing::info!(path = %path.display(), "deleting a file that was begun after the checkpoint");
                if self.place.read_early {
                    // Tells a reader that has it open from a file that is deleted because it is old.
                    let file = File::options().write(true).open(&path);
                    file.and_then(|file| file.set_len(0)).map_err(|error| failed("cut", &path, error))?;
                }
                fs::remove_file(&path).map_err(|error| failed("delete", &path, error))?;
            }
            self.unpublish(&path)?;
        }
        if fresh && self.place.exactly_once {
            let nothing = Published { id: FileId { dev: 0, ino: 0 }, length: 0, readers: true };
            nothing.write(self.path()).map_err(|error| failed("write beside", self.path(), error))?;
        }
        Ok(())
    }
}

/// The name under which a file is written that will replace another.
fn temporary(path: &Path) -> String {
    let hidden: PathBuf = beside(path, "new");
    hidden.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
