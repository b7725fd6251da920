//! The file that is written, and what happens to it. Everything here blocks.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use millstream_codec::ss::SsWriter;
use millstream_core::{Epoch, Error, ErrorKind, Result, Token};

use super::token::SsToken;
use crate::{
    Existing,
    error::failed,
    glob::folder_of,
    identity::FileId,
    published::{Published, beside},
    sink::{lock::Lock, part::sync_folder},
    ss::{options::Fsync, view::proof},
};

/// What to write, and how; fixed when the pipeline is planned.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    pub(super) stream: Option<String>,
    pub(super) shard: Option<u64>,
    pub(super) beacon_interval: u32,
    pub(super) existing: Existing,
    pub(super) fsync: Fsync,
    pub(super) end_of_stream: bool,
    /// Publish the committed length, for readers to stop there.
    pub(super) exactly_once: bool,
}

/// The right to write to a path, and the file that is written.
pub(super) struct Output {
    pub(super) target: Target,
    pub(super) folder: PathBuf,
    lock: Option<Lock>,
    current: Option<Current>,
    /// A sync has failed: what is on the disk is not known until the sink is opened again.
    broken: Option<Error>,
}

/// The file that is written.
pub(super) struct Current {
    pub(super) file: File,
    pub(super) name: String,
    pub(super) rename: Option<String>,
    pub(super) id: FileId,
    /// Bytes that are written whole; what an interrupted write leaves behind them is cut.
    pub(super) length: u64,
    /// Written since the last sync.
    pub(super) dirty: bool,
    /// It is new in its folder.
    pub(super) fresh: bool,
}

impl Output {
    /// Takes the lock, and brings the file to where the checkpoint stands. The writer is absent if nothing is to be written
    /// unless records come.
    pub(super) fn open(target: &Target, resume: &[(Epoch, Token)]) -> Result<(Self, Option<SsWriter>)> {
        let mut target = target.clone();
        resolve(&mut target.path)?;
        let lock = Lock::take(&target.path)?;
        let folder = folder_of(&target.path).to_owned();
        let mut output = Output { target, folder, lock: Some(lock), current: None, broken: None };
        let tokens = resume.iter().map(|(_, token)| token.read::<SsToken>()).collect::<Result<Vec<_>>>()?;
        for token in tokens.iter().filter(|token| token.done) {
            output.finish(token)?;
        }
        let writer = match tokens.last() {
            None => Some(output.begin()?),
            Some(token) if token.done => None,
            Some(token) => {
                let writer = output.resume(token)?;
                output.publish(token.length)?;
                Some(writer)
            }
        };
        if !output.target.exactly_once {
            // It may be there from a time when the pipeline promised more; nobody would move it on.
            Published::remove(&output.target.path).map_err(|error| output.failed("delete beside", error))?;
        }
        Ok((output, writer))
    }

    pub(super) fn failed(&self, what: &str, error: io::Error) -> Error {
        failed(what, &self.target.path, error)
    }

    /// Begins where the checkpoint says nothing of a file.
    pub(super) fn begin(&mut self) -> Result<SsWriter> {
        let path = self.target.path.clone();
        if path.is_dir() {
            return Err(Error::new(ErrorKind::Option, format!("`{}` is a folder, not a file", path.display()))
                .hint("name a file in it"));
        }
        if let Existing::Replace = self.target.existing {
            return self.create(name_of(&beside(&path, "new")), Some(name_of(&path)));
        }
        let counts = self.counts(&path);
        if self.target.existing == Existing::Fail && counts.is_none() && path.exists() {
            return Err(Error::new(ErrorKind::Exists, format!("`{}` exists", path.display()))
                .hint("choose another path, or `existing: append` or `replace`"));
        }
        let writer = self.append(name_of(&path), None, counts)?;
        let length = self.current.as_ref().map_or(0, |current| current.length);
        self.publish(length)?;
        Ok(writer)
    }

    /// How much of a file counts of which the checkpoint knows nothing: what an earlier run published, if that is shorter.
    fn counts(&self, path: &Path) -> Option<u64> {
        let published = Published::read(path).filter(|_| self.target.exactly_once)?;
        let metadata = fs::metadata(path).ok()?;
        (FileId::from(&metadata) == published.id && published.length <= metadata.len()).then_some(published.length)
    }

    /// Opens the file that a token names, and cuts it there. A file that is not as the token says is an error.
    fn resume(&mut self, token: &SsToken) -> Result<SsWriter> {
        let path = self.folder.join(&token.name);
        let mismatch = |what: String| {
            let text = format!("the checkpoint counts {} bytes of `{}`, {what}", token.length, path.display());
            Error::new(ErrorKind::StateMismatch, text)
                .hint("bring the file back, or begin anew with `millstream state reset PIPELINE`")
        };
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(mismatch("but there is no such file".into()));
            }
            file => file.map_err(|error| failed("open", &path, error))?,
        };
        // Looked at before anything is cut: it could be somebody else's.
        match proof(&file, token.length).map_err(|error| failed("read", &path, error))? {
            None => {
                let len = file.metadata().map_err(|error| failed("read", &path, error))?.len();
                Err(mismatch(format!("but it has only {len}")))
            }
            Some(proof) if proof != token.proof => Err(mismatch("but other bytes stand there".into())),
            Some(_) => self.append(token.name.clone(), token.rename.clone(), Some(token.length)),
        }
    }

    /// Puts another handle in place of that of the file.
    #[cfg(test)]
    pub(super) fn swap(&mut self, file: File) -> Option<File> {
        self.current.as_mut().map(|current| std::mem::replace(&mut current.file, file))
    }

    pub(super) fn take(&mut self, current: Current) {
        self.current = Some(current);
    }

    /// Appends bytes to the file, all of them or none.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let Some(current) = &mut self.current else {
            return Err(Error::new(ErrorKind::Closed, "the sink is not open"));
        };
        if bytes.is_empty() {
            return Ok(());
        }
        if let Err(error) = current.file.write_all_at(bytes, current.length) {
            // Nothing half written stays; if even that fails, the next write goes over it and recovery cuts it.
            let _ = current.file.set_len(current.length);
            return Err(self.failed("write", error));
        }
        current.length += bytes.len() as u64;
        current.dirty = true;
        Ok(())
    }

    /// Makes all that is written durable.
    pub(super) fn sync(&mut self) -> Result<()> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let Some(current) = &mut self.current else { return Ok(()) };
        if current.dirty {
            if let Err(error) = current.file.sync_data() {
                // The kernel forgets after it has told once.
                let error = self.failed("sync", error);
                self.broken = Some(error.clone());
                return Err(error);
            }
            current.dirty = false;
        }
        if current.fresh {
            sync_folder(&self.folder)?;
            current.fresh = false;
        }
        Ok(())
    }

    /// How far the file counts, once that is decided.
    pub(super) fn prepare(&mut self, done: bool) -> Result<Option<SsToken>> {
        if self.target.fsync != Fsync::Never {
            self.sync()?;
        }
        let Some(Current { file, name, rename, length, .. }) = &self.current else { return Ok(None) };
        let proof = proof(file, *length).map_err(|error| self.failed("read", error))?;
        let proof = proof.ok_or_else(|| {
            let text = format!("somebody has cut `{}` while it was written", self.target.path.display());
            Error::new(ErrorKind::StateMismatch, text).hint("find out who else writes to it")
        })?;
        Ok(Some(SsToken { name: name.clone(), rename: rename.clone(), length: *length, proof, done }))
    }

    /// The epoch of the token counts.
    pub(super) fn commit(&mut self, token: &SsToken) -> Result<()> {
        match (token.done, &token.rename) {
            (true, _) => self.finish(token),
            (false, None) => self.publish(token.length),
            (false, Some(_)) => Ok(()),
        }
    }

    /// Gives a file that is done its name.
    fn finish(&mut self, token: &SsToken) -> Result<()> {
        let path = self.target.path.clone();
        if let Some(rename) = &token.rename {
            let (from, to) = (self.folder.join(&token.name), self.folder.join(rename));
            match fs::rename(&from, &to) {
                // Done before, and then it may have been taken away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => {
                    result.map_err(|error| failed("rename", &from, error))?;
                    sync_folder(&self.folder)?;
                }
            }
        }
        // All of it counts.
        Published::remove(&path).map_err(|error| self.failed("delete beside", error))
    }

    fn publish(&self, length: u64) -> Result<()> {
        match &self.current {
            Some(current) if self.target.exactly_once && current.rename.is_none() => {
                let published = Published { id: current.id, length, readers: true };
                published.write(&self.target.path).map_err(|error| self.failed("write beside", error))
            }
            _ => Ok(()),
        }
    }

    /// Frees the lock.
    pub(super) fn close(&mut self) {
        self.current = None;
        if let Some(lock) = self.lock.take() {
            lock.release();
        }
    }
}

/// Makes missing folders of a relative path, and follows a link to the file that it means.
fn resolve(path: &mut PathBuf) -> Result<()> {
    if path.is_relative() {
        fs::create_dir_all(folder_of(path)).map_err(|error| failed("make the folder of", path, error))?;
    } else if !folder_of(path).is_dir() {
        return Err(Error::new(ErrorKind::NotFound, format!("the folder of `{}` does not exist", path.display()))
            .hint("make it, or mount what belongs there; folders are made only for relative paths"));
    }
    if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_symlink()) && path.exists() {
        *path = fs::canonicalize(&path).map_err(|error| failed("follow the link", path, error))?;
    }
    Ok(())
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
