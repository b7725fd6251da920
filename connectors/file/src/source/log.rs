//! One file on its way through rotation: it keeps its identity when it loses its name.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_core::{Error, ErrorKind, Frames, Result};

use super::{
    mark::LogMark,
    reader::{Filled, Reader},
    rotated::{RENAMES_MAX, name_of},
};
use crate::{
    error::failed,
    formats::Format,
    identity::{FileId, Fingerprint},
    published::Published,
};

/// A file that has been quiet for this long is closed; it is opened again when it grows.
pub(super) const CLOSE_AFTER: Duration = Duration::from_secs(60);

/// A file that is read.
pub(super) struct Log {
    /// Its name as far as is known; another may have it by now.
    pub(super) path: PathBuf,
    pub(super) mark: LogMark,
    /// Where reading stops, in bytes of the file.
    pub(super) limit: u64,
    /// When it was first seen to have nothing more.
    pub(super) quiet_since: Option<Instant>,
    /// Its size when it was last looked at.
    pub(super) size: u64,
    /// Bytes read of it, where that is known.
    raw: Option<u64>,
    reader: Option<Reader>,
}

/// What a look at a file came to.
pub(super) enum Looked {
    /// Records that lie in this block.
    Records(Bytes),
    /// Nothing for now.
    Nothing,
    /// It has been cut: reading must begin anew.
    Truncated,
}

impl Log {
    /// A file that has not been read, or up to `offset`.
    pub(super) fn new(path: &Path, metadata: &Metadata, offset: u64) -> Self {
        let mark = LogMark {
            id: FileId::from(metadata),
            fingerprint: Fingerprint::default(),
            offset,
            modified: modified(metadata),
            ended: false,
        };
        Log { size: metadata.len(), ..Log::marked(path, mark) }
    }

    /// A file of which a mark was saved.
    pub(super) fn marked(path: &Path, mark: LogMark) -> Self {
        let path = path.to_owned();
        Log { path, mark, limit: u64::MAX, quiet_since: None, size: 0, raw: None, reader: None }
    }

    /// Looks for records. `end`: what follows the last record's end is a record too.
    pub(super) fn look(&mut self, format: &Format, end: bool, frames: &mut Frames) -> Result<Looked> {
        let counts = Published::limit(&self.path, self.mark.id);
        let limit = self.limit.min(counts);
        if self.reader.is_none() && !self.reopen(format)? {
            return Ok(Looked::Nothing);
        }
        let Some(reader) = &mut self.reader else { return Ok(Looked::Nothing) };
        if self.quiet_since.is_some()
            && !self.mark.fingerprint.matches(&reader.file).map_err(|e| failed("read", &self.path, e))?
        {
            return Ok(Looked::Truncated);
        }
        loop {
            if let Some(block) = reader.records(false, frames) {
                return self.advance(block);
            }
            match reader.fill(limit)? {
                Filled::Some => self.quiet_since = None,
                Filled::Truncated => return Ok(Looked::Truncated),
                Filled::None => break,
            }
        }
        let metadata = reader.file.metadata().map_err(|error| failed("read", &self.path, error))?;
        (self.size, self.raw) = (metadata.len(), Some(reader.raw));
        self.mark.modified = modified(&metadata);
        // What a writer appends behind our limit may belong to the record that we stand in.
        if end && metadata.len() == reader.raw {
            if let Some(block) = reader.records(true, frames) {
                return self.advance(block);
            }
            if !reader.whole() {
                let text = format!("`{}` ends in the middle of its compressed data", self.path.display());
                return Err(Error::new(ErrorKind::Corrupt, text)
                    .hint("the file is not complete; was it copied while it was written?"));
            }
        }
        self.quiet_since.get_or_insert_with(Instant::now);
        Ok(Looked::Nothing)
    }

    fn advance(&mut self, block: Bytes) -> Result<Looked> {
        if let Some(reader) = &self.reader {
            self.mark.offset = reader.offset();
            self.raw = Some(reader.raw);
            self.size = self.size.max(reader.raw);
            if self.mark.fingerprint.grows(reader.raw) {
                let print = Fingerprint::of(&reader.file, reader.raw);
                // A file that is cut under our hands is noticed by the next look.
                self.mark.fingerprint = print.unwrap_or(self.mark.fingerprint);
            }
        }
        self.quiet_since = None;
        Ok(Looked::Records(block))
    }

    /// Opens the file where it stood; answers `false` if there is nothing new in it, or it is elsewhere by now.
    fn reopen(&mut self, format: &Format) -> Result<bool> {
        if let (Some(raw), Ok(metadata)) = (self.raw, fs::metadata(&self.path))
            && (FileId::from(&metadata) != self.mark.id || metadata.len() == raw)
        {
            return Ok(false);
        }
        let Some((reader, metadata)) = self.find(format)? else {
            if self.raw.is_none() {
                tracing::warn!(path = %self.path.display(), "a file vanished before it was read");
                self.end();
            }
            return Ok(false);
        };
        self.size = metadata.len();
        if self.mark.fingerprint.empty() && reader.raw > 0 {
            self.mark.fingerprint = Fingerprint::of(&reader.file, reader.raw.min(metadata.len())).unwrap_or_default();
        }
        self.reader = Some(reader);
        Ok(true)
    }

    /// Opens the file under its name, or under the one that it has got meanwhile.
    fn find(&mut self, format: &Format) -> Result<Option<(Reader, Metadata)>> {
        for _ in 0..RENAMES_MAX {
            match Reader::open(&self.path, format, self.mark.offset) {
                Ok(reader) => {
                    let metadata = reader.file.metadata().map_err(|error| failed("open", &self.path, error))?;
                    if FileId::from(&metadata) == self.mark.id {
                        return Ok(Some((reader, metadata)));
                    }
                }
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            match name_of(&self.path, self.mark.id) {
                Some(path) => self.path = path,
                None => break,
            }
        }
        Ok(None)
    }

    /// Begins anew at the front.
    pub(super) fn restart(&mut self) {
        let id = self.mark.id;
        self.mark =
            LogMark { id, fingerprint: Fingerprint::default(), offset: 0, modified: self.mark.modified, ended: false };
        (self.reader, self.raw, self.quiet_since) = (None, None, None);
    }

    /// Whether an open file has lost all its names.
    pub(super) fn deleted(&self) -> bool {
        match &self.reader {
            Some(reader) => reader.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0),
            None => fs::metadata(&self.path).map_or(true, |metadata| FileId::from(&metadata) != self.mark.id),
        }
    }

    /// Whether it is open.
    pub(super) fn open(&self) -> bool {
        self.reader.is_some()
    }

    /// Closes the file; it is opened again when there is more.
    pub(super) fn close(&mut self) {
        if self.reader.as_ref().is_some_and(|reader| reader.undone() == 0) {
            self.reader = None;
        }
    }

    /// It has been read to its end and will not be looked at again.
    pub(super) fn end(&mut self) {
        (self.mark.ended, self.reader) = (true, None);
    }

    /// Bytes not yet read.
    pub(super) fn left(&self) -> u64 {
        if self.mark.ended { 0 } else { self.size.min(self.limit).saturating_sub(self.raw.unwrap_or(self.mark.offset)) }
    }

    /// How long there has been nothing.
    pub(super) fn quiet(&self) -> Duration {
        self.quiet_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Bytes read that belong to no complete record.
    pub(super) fn undone(&self) -> u64 {
        self.reader.as_ref().map_or(0, Reader::undone)
    }

    /// Whether what is undone ends with a line feed.
    pub(super) fn at_line_end(&self) -> bool {
        self.reader.as_ref().is_some_and(Reader::at_line_end)
    }
}

/// When a file was last changed, in nanoseconds since 1970.
pub(super) fn modified(metadata: &Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}
