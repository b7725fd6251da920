//! An append-only file of checksummed entries: what the checkpoint log and the dead letters are written in.
//!
//! All of it blocks: call it where blocking is allowed.

mod format;
mod scan;
#[cfg(test)]
mod tests;

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use millstream_core::{Error, ErrorKind, Result};

pub(crate) use format::{HEADER_BYTES, Header, Purpose, newer};
pub(crate) use scan::{Entry, Scanned, Scanner, corrupt};

use crate::{files, id::Id};
use format::{EntryHeader, MARK_AT, encode_mark};

/// Bodies up to this size are written together with their header, in one call.
const TOGETHER_BYTES: usize = 64 << 10;

/// A log that this process writes.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    id: Id,
    /// Everything before this is whole entries.
    length: u64,
    /// Everything before this is known to be on the disk.
    synced: u64,
    mark: Option<u64>,
    /// A write failed and could not be taken back: the file must be opened anew.
    broken: bool,
    #[cfg(test)]
    pub(crate) faults: Faults,
}

/// What a test lets fail.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Longest write that still fits on the disk.
    pub(crate) room: Option<usize>,
    /// Writes that succeed before `room` counts.
    pub(crate) after: Option<usize>,
    /// The next sync fails.
    pub(crate) sync: bool,
}

/// What a crash left behind the last whole entry, and was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Torn {
    /// Where it began.
    pub(crate) offset: u64,
    /// How long it was.
    pub(crate) bytes: u64,
}

impl Log {
    /// Creates the log at `path`, or replaces it, with these entries. It has its name only when all of it is durable.
    pub(crate) fn create<'a>(
        path: &Path,
        purpose: Purpose,
        id: Id,
        entries: impl IntoIterator<Item = (u8, &'a [u8])>,
    ) -> Result<Log> {
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        let cannot = |error| Error::io(format!("cannot create {}", new.display()), error);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&new).map_err(cannot)?;
        file.write_all(&Header { purpose, id, mark: None }.encode()).map_err(cannot)?;
        let mut log = Log {
            path: new.clone(),
            file,
            id,
            length: HEADER_BYTES,
            synced: HEADER_BYTES,
            mark: None,
            broken: false,
            #[cfg(test)]
            faults: Faults::default(),
        };
        for (kind, body) in entries {
            log.append(kind, body)?;
        }
        log.publish(log.length)?;
        log.file.sync_all().map_err(cannot)?;
        log.synced = log.length;
        files::rename(&new, path)?;
        log.path = path.to_owned();
        Ok(log)
    }

    /// Opens the log at `path`; its entries are not looked at before [`Log::recover`]. `None` if there is none.
    pub(crate) fn open(path: &Path, purpose: Purpose) -> Result<Option<Log>> {
        let mut file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(format!("cannot open {}", path.display()), error)),
        };
        let header = scan::read_header(&mut file, path, purpose)?;
        let length =
            file.metadata().map_err(|error| Error::io(format!("cannot open {}", path.display()), error))?.len();
        Ok(Some(Log {
            path: path.to_owned(),
            file,
            id: header.id,
            length,
            synced: HEADER_BYTES,
            mark: header.mark,
            broken: false,
            #[cfg(test)]
            faults: Faults::default(),
        }))
    }

    /// Reads all entries. What a crash left at the end is cut, and the rest is made durable; damage before the mark is
    /// [`ErrorKind::Corrupt`], as is a file shorter than it.
    pub(crate) fn recover(&mut self, mut visit: impl FnMut(Entry) -> Result<()>) -> Result<Option<Torn>> {
        let mark = self.mark.unwrap_or(HEADER_BYTES);
        if self.length < mark {
            return Err(corrupt(&self.path, self.length, &format!("it ends before its {mark} good bytes do,")));
        }
        let file = self.file.try_clone().map_err(|error| self.cannot("read", error))?;
        let mut scanner = Scanner::new(file, &self.path, self.id, self.length)?;
        let torn = loop {
            match scanner.next()? {
                Scanned::Entry(entry) => visit(entry)?,
                Scanned::End => break None,
                Scanned::Bad { offset, why } if offset < mark => return Err(corrupt(&self.path, offset, why)),
                Scanned::Bad { offset, .. } => break Some(Torn { offset, bytes: self.length - offset }),
            }
        };
        if let Some(torn) = torn {
            tracing::warn!(path = %self.path.display(), offset = torn.offset, bytes = torn.bytes,
                "cut what a crash had left unfinished");
            self.truncate(torn.offset)?;
        }
        // A crash between write and sync leaves entries that only the page cache holds; nobody may rely on them before.
        self.sync()?;
        self.publish(self.length)?;
        Ok(torn)
    }

    /// Appends an entry, and says where it begins. Durable only after [`Log::sync`]. If it fails, the log is as before.
    pub(crate) fn append(&mut self, kind: u8, body: &[u8]) -> Result<u64> {
        self.usable()?;
        let Ok(length) = u32::try_from(body.len()) else {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("cannot append {} bytes to {}: an entry has less than 4 GiB", body.len(), self.path.display()),
            )
            .hint("checkpoint more often, so that an epoch changes less"));
        };
        let offset = self.length;
        let header = EntryHeader::new(self.id, offset, kind, length, body).encode();
        let written = if body.len() <= TOGETHER_BYTES {
            let mut bytes = Vec::with_capacity(header.len() + body.len());
            bytes.extend_from_slice(&header);
            bytes.extend_from_slice(body);
            self.write_at(offset, &bytes)
        } else {
            self.write_at(offset, &header).and_then(|()| self.write_at(offset + header.len() as u64, body))
        };
        if let Err(error) = written {
            let error = self.cannot("append to", error);
            self.cut_back(offset);
            return Err(error);
        }
        self.length = offset + (header.len() + body.len()) as u64;
        Ok(offset)
    }

    /// Makes all entries durable. If it fails, the entries since the last sync are gone.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.usable()?;
        match self.sync_file() {
            Ok(()) => {
                self.synced = self.length;
                Ok(())
            }
            Err(error) => {
                // The system may have dropped what it could not write, and would tell nobody again.
                let error = self.cannot("sync", error);
                self.cut_back(self.synced);
                self.broken = true;
                Err(error)
            }
        }
    }

    /// Writes the mark. Not durable before the next sync.
    pub(crate) fn publish(&mut self, length: u64) -> Result<()> {
        self.usable()?;
        if self.mark != Some(length) {
            let bytes = encode_mark(self.id, length);
            self.write_at(MARK_AT, &bytes).map_err(|error| self.cannot("write the mark of", error))?;
            self.mark = Some(length);
        }
        Ok(())
    }

    /// Cuts the entries from `length` on, which must be where an entry begins.
    pub(crate) fn truncate(&mut self, length: u64) -> Result<()> {
        self.usable()?;
        if self.mark.is_some_and(|mark| mark > length) {
            self.publish(length)?;
        }
        self.file.set_len(length).map_err(|error| self.cannot("cut", error))?;
        self.length = length;
        self.synced = self.synced.min(length);
        Ok(())
    }

    /// Whether the file at our path is still ours, and nobody else has written to it.
    pub(crate) fn untouched(&self) -> bool {
        let (Ok(named), Ok(ours)) = (std::fs::metadata(&self.path), self.file.metadata()) else { return false };
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            if (named.dev(), named.ino()) != (ours.dev(), ours.ino()) {
                return false;
            }
        }
        named.len() == self.length && ours.len() == self.length
    }

    /// Its identity.
    pub(crate) fn id(&self) -> Id {
        self.id
    }

    /// Length up to the last whole entry.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// The length that is known to be good; `None` if the mark is damaged.
    pub(crate) fn mark(&self) -> Option<u64> {
        self.mark
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The file, for its lock.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    fn usable(&self) -> Result<()> {
        if self.broken {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("cannot write to {}: an earlier write failed and could not be taken back", self.path.display()),
            )
            .hint("it is opened anew when the pipeline restarts"));
        }
        Ok(())
    }

    /// Takes back what was written from `length` on.
    fn cut_back(&mut self, length: u64) {
        self.length = length;
        if let Err(error) = self.file.set_len(length) {
            tracing::error!(path = %self.path.display(), %error, "cannot take a failed write back");
            self.broken = true;
        }
    }

    fn cannot(&self, what: &str, error: io::Error) -> Error {
        Error::io(format!("cannot {what} {}", self.path.display()), error)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(offset))?;
        #[cfg(test)]
        if let Some(after) = self.faults.after.as_mut().filter(|after| **after > 0) {
            *after -= 1;
        } else if let Some(room) = self.faults.room.filter(|room| *room < bytes.len()) {
            self.file.write_all(&bytes[..room])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_all(bytes)
    }

    fn sync_file(&mut self) -> io::Result<()> {
        #[cfg(test)]
        if std::mem::take(&mut self.faults.sync) {
            return Err(io::Error::other("injected"));
        }
        self.file.sync_data()
    }
}
