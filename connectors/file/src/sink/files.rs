//! The files of a sink: the one that is written, those that wait for their names, and what becomes of them when an epoch
//! counts. The same for text and `.ss` files. Everything here blocks.

use std::{
    fs,
    path::{Path, PathBuf},
};

use millstream_codec::Compression;
use millstream_core::{Error, ErrorKind, Last, Result, Timestamp};

use super::{
    lock::Lock,
    name::Template,
    part::{Naming, Part, sync_folder},
    token::{FileMark, FileToken},
};
use crate::{
    error::failed,
    glob::OPEN,
    options::{Existing, Rotate},
    published::Published,
};

/// Where a sink writes, and how its files follow one another; fixed when the pipeline is planned.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) existing: Existing,
    pub(crate) rotation: Option<Rotation>,
    pub(crate) compression: Compression,
    /// Publish the committed length, for readers to stop there.
    pub(crate) exactly_once: bool,
    /// Readers of ours look into rotated files before these have got their names.
    pub(crate) read_early: bool,
}

/// How files follow one another.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    pub(crate) template: Template,
    pub(crate) every: Option<i64>,
    pub(crate) size: Option<u64>,
    pub(crate) keep: Option<usize>,
}

impl Rotation {
    /// As the options say, for the file `path`.
    pub(crate) fn new(rotate: &Rotate, path: &Path) -> Self {
        Rotation {
            template: Template::new(&rotate.name, path),
            every: rotate.every.map(|every| i64::try_from(every.0.as_nanos()).unwrap_or(i64::MAX)),
            size: rotate.size.map(|size| size.0),
            keep: rotate.keep.map(|keep| keep as usize),
        }
    }
}

/// The beginning of the rotation window that an instant lies in.
pub(crate) fn window(at: Timestamp, every: i64) -> Timestamp {
    Timestamp(at.0 - at.0.rem_euclid(every.max(1)))
}

/// What is to be done with the file, in order.
#[derive(Debug)]
pub(crate) enum Op {
    /// Append these records.
    Data(Vec<u8>),
    /// Begin another file.
    Rotate,
}

/// The files of a sink, and the right to write them.
pub(crate) struct Files {
    pub(crate) place: Place,
    pub(crate) folder: PathBuf,
    pub(super) lock: Option<Lock>,
    /// The file that is written.
    pub(crate) part: Option<Part>,
    /// Files that are written and wait for their final names.
    pub(crate) done: Vec<Part>,
    /// Final name of the newest rotated file.
    pub(super) newest: Option<String>,
    /// Name and length that the newest committed token gives to the file that is written.
    pub(super) committed: Option<(String, u64)>,
    /// Files have come or changed their names since their folder was synced.
    pub(super) names_dirty: bool,
    /// A sync has failed: what is on the disk is not known until the sink is opened again.
    pub(super) broken: Option<Error>,
}

impl Files {
    pub(crate) fn new(place: Place) -> Self {
        Files {
            folder: crate::glob::folder_of(&place.path).to_owned(),
            place,
            lock: None,
            part: None,
            done: Vec::new(),
            newest: None,
            committed: None,
            names_dirty: false,
            broken: None,
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        match &self.broken {
            Some(error) => Err(error.clone().context("a sync has failed; the sink must be opened again")),
            None => Ok(()),
        }
    }

    /// Begins the next rotated file, if none is open.
    pub(crate) fn begin_rotated(&mut self) -> Result<()> {
        let Some(rotation) = self.place.rotation.as_ref().filter(|_| self.part.is_none()) else { return Ok(()) };
        let now = Timestamp::now();
        let started_at = rotation.every.map_or(now, |every| window(now, every));
        let name = rotation.template.next(&self.folder, started_at, self.newest.as_deref())?;
        let naming = Naming {
            folder: self.folder.clone(),
            name: format!("{name}{OPEN}"),
            rename: Some(name.clone()),
            started_at,
        };
        let part = Part::open(naming, self.place.compression, Some(0))?;
        // Before its first byte, so that nobody reads what does not count yet.
        self.publish(&part, 0)?;
        (self.part, self.newest, self.names_dirty) = (Some(part), Some(name), true);
        Ok(())
    }

    /// No more comes into the file that is open.
    pub(crate) fn rotate(&mut self) -> Result<()> {
        if let Some(part) = &mut self.part {
            part.close_member()?;
            part.done = true;
        }
        self.done.extend(self.part.take());
        Ok(())
    }

    /// Makes all that is written durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.check()?;
        let synced = self.done.iter_mut().chain(&mut self.part).try_for_each(Part::sync);
        let synced = synced.and_then(|()| if self.names_dirty { sync_folder(&self.folder) } else { Ok(()) });
        if let Err(error) = synced {
            // The kernel reports a lost page once; a second sync would succeed without it.
            self.broken = Some(error.clone());
            return Err(error);
        }
        self.names_dirty = false;
        Ok(())
    }

    /// How far each file counts, once that is decided. Without `sync` a power failure may take it away.
    pub(crate) fn prepare(&mut self, last: Last, sync: bool) -> Result<FileToken> {
        self.check()?;
        if last == Last::Finished && self.part.as_ref().is_some_and(|part| part.rename.is_some()) {
            self.rotate()?;
        }
        if sync {
            self.sync()?;
        }
        let mut files: Vec<FileMark> = self.done.iter().chain(&self.part).map(Part::mark).collect();
        if let (Last::Finished, Some(file)) = (last, files.last_mut()) {
            file.done = true;
        }
        Ok(FileToken { files, newest: self.newest.clone() })
    }

    /// The epoch of the token counts: files get their names, old ones go, the length is published.
    pub(crate) fn commit(&mut self, token: &FileToken) -> Result<()> {
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
        let last = token.files.last();
        self.committed = last.map(|mark| (mark.name.clone(), mark.length));
        if last.is_none_or(|mark| mark.rename.is_some()) {
            self.unpublish(&self.place.path)?;
        }
        match last.and_then(|mark| self.written(&mark.name)) {
            Some((part, length)) => self.publish(part, length),
            None => Ok(()),
        }
    }

    /// The file of this name that still has it, and how much of it counts.
    fn written(&self, name: &str) -> Option<(&Part, u64)> {
        let part = self.part.iter().chain(&self.done).find(|part| part.name == name)?;
        let (_, length) = self.committed.as_ref().filter(|(committed, _)| committed == name)?;
        Some((part, *length))
    }

    /// All that is in the file now counts.
    pub(crate) fn all_counts(&mut self) -> Result<()> {
        self.committed = self.part.as_ref().map(|part| (part.name.clone(), part.length));
        self.part.as_ref().map_or(Ok(()), |part| self.publish(part, part.length))
    }

    /// Says how far a file counts, for readers of ours.
    pub(super) fn publish(&self, part: &Part, length: u64) -> Result<()> {
        let Some(path) = self.published(part).filter(|_| self.place.exactly_once) else { return Ok(()) };
        let published = Published { id: part.id()?, length, readers: true };
        published.write(path).map_err(|error| failed("publish the length of", path, error))
    }

    /// The path beside which the length of a file is published, if readers could see the file.
    fn published<'a>(&'a self, part: &'a Part) -> Option<&'a Path> {
        match part.rename {
            None => Some(&self.place.path),
            Some(_) => (self.place.rotation.is_some() && self.place.read_early).then_some(&part.path),
        }
    }

    /// All of the file at `path` counts.
    pub(super) fn unpublish(&self, path: &Path) -> Result<()> {
        Published::remove(path).map_err(|error| failed("delete what is published beside", path, error))
    }

    /// Gives a file that is done its name. One that has it already is fine.
    pub(super) fn finish(&mut self, mark: &FileMark) -> Result<()> {
        let Some(rename) = &mark.rename else { return Ok(()) };
        let (from, to) = (self.folder.join(&mark.name), self.folder.join(rename));
        match fs::metadata(&from) {
            Ok(metadata) if metadata.len() < mark.length => {
                return Err(Error::new(
                    ErrorKind::StateMismatch,
                    format!(
                        "the checkpoint counts {} bytes of `{}`, but it has only {}",
                        mark.length,
                        from.display(),
                        metadata.len()
                    ),
                )
                .hint("bring the file back, or begin anew with `millstream state reset PIPELINE`"));
            }
            Ok(_) => {
                fs::rename(&from, &to).map_err(|error| failed("rename to its final name", &from, error))?;
                self.names_dirty = true;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // Only we rename it, under the lock, so that has been done. What became of it since is not our affair.
                if !to.exists() {
                    tracing::warn!(path = %to.display(), "a finished file is gone: it was taken away or lost");
                }
            }
            Err(error) => return Err(failed("rename to its final name", &from, error)),
        }
        if self.place.read_early { self.unpublish(&from) } else { Ok(()) }
    }

    /// Deletes the oldest finished files beyond those to be kept.
    fn retain(&mut self) -> Result<()> {
        let Some(Rotation { template, keep: Some(keep), .. }) = &self.place.rotation else { return Ok(()) };
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

    /// Frees everything.
    pub(crate) fn close(&mut self) {
        let whole = self.part.as_ref().filter(|part| self.committed == Some((part.name.clone(), part.length)));
        if let Some(path) = whole.and_then(|part| self.published(part)).filter(|_| self.lock.is_some()) {
            // If it stays, readers stop at a length that is the file's.
            let _ = Published::remove(path);
        }
        (self.part, self.done, self.committed) = (None, Vec::new(), None);
        if let Some(lock) = self.lock.take() {
            lock.release();
        }
    }
}
