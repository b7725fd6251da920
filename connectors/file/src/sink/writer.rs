//! The blocking half of the sink: a queue of bytes, the file they go to, and the files that wait for their names.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
};

use millstream_core::{Error, ErrorKind, Last, Result, Timestamp, Token};

use super::{
    lock::Lock,
    name::{OPEN, Template},
    part::{Naming, Part, sync_folder},
    token::{FileMark, FileToken},
};
use crate::{error::failed, formats::Format, options::Existing, published::Published};

/// What to write, and how; fixed when the pipeline is planned.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) path: PathBuf,
    pub(crate) format: Format,
    pub(crate) existing: Existing,
    pub(crate) rotation: Option<Rotation>,
    /// Publish the committed length, for readers to stop there.
    pub(crate) exactly_once: bool,
}

/// How files follow one another.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    pub(crate) template: Template,
    pub(crate) every: Option<i64>,
    pub(crate) size: Option<u64>,
    pub(crate) keep: Option<usize>,
}

/// What is to be done with the file, in order.
#[derive(Debug)]
pub(super) enum Op {
    /// Append these records.
    Data(Vec<u8>),
    /// Begin another file.
    Rotate,
}

/// Writes files.
pub(super) struct Writer {
    pub(super) target: Target,
    pub(super) folder: PathBuf,
    pub(super) lock: Option<Lock>,
    /// The file that is written.
    pub(super) part: Option<Part>,
    /// Files that are written and wait for their final names.
    pub(super) done: Vec<Part>,
    pub(super) queue: VecDeque<Op>,
    /// What stands before the first record of a file.
    header: Vec<u8>,
    /// Files have come or changed their names since their folder was synced.
    pub(super) names_dirty: bool,
    /// A sync has failed: what is on the disk is not known until the sink is opened again.
    pub(super) broken: Option<Error>,
}

impl Writer {
    pub(super) fn new(target: Target) -> Self {
        Writer {
            folder: crate::glob::folder_of(&target.path).to_owned(),
            target,
            lock: None,
            part: None,
            done: Vec::new(),
            queue: VecDeque::new(),
            header: Vec::new(),
            names_dirty: false,
            broken: None,
        }
    }

    /// Says what stands before the first record of each file. A file that begins with something else is not appended to.
    pub(super) fn set_header(&mut self, header: Vec<u8>) -> Result<()> {
        if let Some(part) = &self.part
            && !self.target.format.packed()
            && part.length > 0
            && !part.begins_with(&header)?
        {
            return Err(Error::new(
                ErrorKind::Option,
                format!("cannot append to `{}`: its header line is not the one of the records", part.path.display()),
            )
            .hint("name the columns in the file's order: `codec: { csv: { columns: [...] } }`"));
        }
        self.header = header;
        Ok(())
    }

    /// Works the queue off. What fails stays in it; a record is written whole or not at all.
    pub(super) fn drain(&mut self) -> Result<()> {
        self.check()?;
        while let Some(op) = self.queue.front() {
            match op {
                Op::Rotate => self.rotate()?,
                Op::Data(_) => self.append()?,
            }
            self.queue.pop_front();
        }
        Ok(())
    }

    fn append(&mut self) -> Result<()> {
        let limit = self.target.rotation.as_ref().and_then(|rotation| rotation.size);
        // How large compressed bytes become is known only behind them.
        if self.target.format.packed()
            && self.part.as_ref().zip(limit).is_some_and(|(part, limit)| part.size() >= limit)
        {
            self.rotate()?;
        }
        self.begin_part()?;
        let (Some(Op::Data(bytes)), Some(part)) = (self.queue.front(), &mut self.part) else { return Ok(()) };
        if part.size() == 0 && !self.header.is_empty() {
            part.write(&self.header)?;
        }
        part.write(bytes)
    }

    /// Begins a file, if none is open.
    pub(super) fn begin_part(&mut self) -> Result<()> {
        if self.part.is_some() {
            return Ok(());
        }
        let Some(rotation) = &self.target.rotation else { return self.begin_single(false) };
        let now = Timestamp::now();
        let started_at = rotation.every.map_or(now, |every| window(now, every));
        let name = rotation.template.next(&self.folder, started_at)?;
        let naming =
            Naming { folder: self.folder.clone(), name: format!("{name}{OPEN}"), rename: Some(name), started_at };
        self.part = Some(Part::open(naming, &self.target.format, None)?);
        self.names_dirty = true;
        Ok(())
    }

    fn rotate(&mut self) -> Result<()> {
        if let Some(part) = &mut self.part {
            part.close_member()?;
            part.done = true;
        }
        self.done.extend(self.part.take());
        Ok(())
    }

    /// Everything that was accepted is in the file, and readable.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.drain()?;
        match &mut self.part {
            Some(part) => part.close_member(),
            None => Ok(()),
        }
    }

    /// Everything that was flushed is durable; the token says how far it counts.
    pub(super) fn prepare(&mut self, last: Last) -> Result<Token> {
        self.flush()?;
        if last == Last::Finished && self.part.as_ref().is_some_and(|part| part.rename.is_some()) {
            self.rotate()?;
        }
        let synced = self.done.iter_mut().chain(&mut self.part).try_for_each(Part::sync);
        let synced = synced.and_then(|()| if self.names_dirty { sync_folder(&self.folder) } else { Ok(()) });
        if let Err(error) = synced {
            // The kernel reports a lost page once; a second sync would succeed without it.
            self.broken = Some(error.clone());
            return Err(error);
        }
        self.names_dirty = false;
        let mut files: Vec<FileMark> = self.done.iter().chain(&self.part).map(Part::mark).collect();
        if let (Last::Finished, Some(file)) = (last, files.last_mut()) {
            file.done = true;
        }
        Token::new(&FileToken { files })
    }

    /// The epoch of the token counts: files get their names, old ones go, the length is published.
    pub(super) fn commit(&mut self, token: &FileToken) -> Result<()> {
        self.check()?;
        for mark in token.files.iter().filter(|mark| mark.done) {
            self.finish(mark)?;
            self.done.retain(|part| part.name != mark.name);
        }
        self.retain()?;
        if self.names_dirty {
            sync_folder(&self.folder)?;
            self.names_dirty = false;
        }
        match token.files.last() {
            Some(mark) if mark.rename.is_none() => self.publish(mark.length),
            _ => Published::remove(&self.target.path)
                .map_err(|error| failed("publish the length of", &self.target.path, error)),
        }
    }

    /// Says how far the file counts, for readers of ours.
    pub(super) fn publish(&self, length: u64) -> Result<()> {
        let Some(part) = self.part.as_ref().filter(|part| self.target.exactly_once && part.rename.is_none()) else {
            return Ok(());
        };
        let published = Published { id: part.id()?, length, readers: true };
        published.write(&self.target.path).map_err(|error| failed("publish the length of", &self.target.path, error))
    }

    /// Gives a file that is done its name. One that has it already is fine.
    pub(super) fn finish(&mut self, mark: &FileMark) -> Result<()> {
        let Some(rename) = &mark.rename else { return Ok(()) };
        let (from, to) = (self.folder.join(&mark.name), self.folder.join(rename));
        match fs::metadata(&from) {
            Ok(metadata) if metadata.len() < mark.length => Err(Error::new(
                ErrorKind::StateMismatch,
                format!(
                    "the checkpoint counts {} bytes of `{}`, but it has only {}",
                    mark.length,
                    from.display(),
                    metadata.len()
                ),
            )
            .hint("bring the file back, or begin anew with `millstream state reset PIPELINE`")),
            Ok(_) => {
                fs::rename(&from, &to).map_err(|error| failed("rename to its final name", &from, error))?;
                self.names_dirty = true;
                Ok(())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // Only we rename it, under the lock, so that has been done. What became of it since is not our affair.
                if !to.exists() {
                    tracing::warn!(path = %to.display(), "a finished file is gone: it was taken away or lost");
                }
                Ok(())
            }
            Err(error) => Err(failed("rename to its final name", &from, error)),
        }
    }

    /// Deletes the oldest finished files beyond those to be kept.
    fn retain(&mut self) -> Result<()> {
        let Some(Rotation { template, keep: Some(keep), .. }) = &self.target.rotation else { return Ok(()) };
        let files = template.list(&self.folder)?;
        let finished: Vec<String> =
            files.into_iter().map(|(_, name)| name).filter(|name| !name.ends_with(OPEN)).collect();
        for name in &finished[..finished.len().saturating_sub(*keep)] {
            let path = self.folder.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "cannot delete an old file");
                }
                _ => self.names_dirty = true,
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        match &self.broken {
            Some(error) => Err(error.clone().context("a sync has failed; the sink must be opened again")),
            None => Ok(()),
        }
    }

    /// Frees everything. `whole`: all that is in the file counts.
    pub(super) fn close(&mut self, committed: Option<u64>) {
        if let (Some(part), None) = (&self.part, &self.target.rotation)
            && self.lock.is_some()
            && committed == Some(part.length)
        {
            // If it stays, readers stop at a length that is the file's.
            let _ = Published::remove(&self.target.path);
        }
        (self.part, self.done, self.queue) = (None, Vec::new(), VecDeque::new());
        if let Some(lock) = self.lock.take() {
            lock.release();
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.target.path
    }
}

/// The beginning of the rotation window that an instant lies in.
pub(super) fn window(at: Timestamp, every: i64) -> Timestamp {
    Timestamp(at.0 - at.0.rem_euclid(every.max(1)))
}
