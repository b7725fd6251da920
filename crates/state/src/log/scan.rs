//! Reading a log from its first entry on.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use millstream_core::{Error, ErrorKind, Result};

use super::format::{ENTRY_HEADER_BYTES, EntryHeader, HEADER_BYTES, Header, Purpose};
use crate::id::Id;

/// One entry of a log.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// What it is.
    pub(crate) kind: u8,
    /// Where it begins in the file.
    pub(crate) offset: u64,
    /// Its bytes.
    pub(crate) body: Bytes,
}

/// What lies at the scanner's place.
#[derive(Debug)]
pub(crate) enum Scanned {
    /// A good entry.
    Entry(Entry),
    /// Nothing more.
    End,
    /// Bytes that are no entry: the scan cannot go on.
    Bad {
        /// Where they begin.
        offset: u64,
        /// What is wrong with them.
        why: &'static str,
    },
}

/// Reads entries one by one, up to `end`.
#[derive(Debug)]
pub(crate) struct Scanner {
    reader: BufReader<File>,
    path: PathBuf,
    id: Id,
    offset: u64,
    end: u64,
}

impl Scanner {
    /// Over an open log, from its first entry up to the length `end`.
    pub(crate) fn new(mut file: File, path: &Path, id: Id, end: u64) -> Result<Self> {
        file.seek(SeekFrom::Start(HEADER_BYTES)).map_err(|error| cannot(path, error))?;
        Ok(Scanner { reader: BufReader::new(file), path: path.to_owned(), id, offset: HEADER_BYTES, end })
    }

    /// Opens the log at `path` for reading only; `None` if there is none. `end` chooses how far to read, by the header and
    /// the file's length. The scan sees one consistent log, also while a writer appends to it or replaces it.
    pub(crate) fn open(
        path: &Path,
        purpose: Purpose,
        end: impl FnOnce(&Header, u64) -> u64,
    ) -> Result<Option<(Self, Header)>> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(cannot(path, error)),
        };
        let header = read_header(&mut file, path, purpose)?;
        let length = file.metadata().map_err(|error| cannot(path, error))?.len();
        let end = end(&header, length);
        Ok(Some((Scanner::new(file, path, header.id, end)?, header)))
    }

    /// The next entry.
    pub(crate) fn next(&mut self) -> Result<Scanned> {
        let Some(header) = self.header()? else { return Ok(self.stopped("an entry is cut short")) };
        let header = match header {
            Some(header) => header,
            None => return Ok(Scanned::End),
        };
        // The length is trusted only as far as the file goes: a damaged one must not ask for memory.
        let mut body = vec![0; header.length as usize];
        if !fill(&mut self.reader, &mut body).map_err(|error| cannot(&self.path, error))? {
            return Ok(self.stopped("an entry is cut short"));
        }
        if !header.fits(self.id, self.offset, &body) {
            return Ok(self.stopped("an entry's checksum is wrong"));
        }
        let offset = self.offset;
        self.offset += (ENTRY_HEADER_BYTES + body.len()) as u64;
        Ok(Scanned::Entry(Entry { kind: header.kind, offset, body: body.into() }))
    }

    /// Steps over the next entry without reading its body; `false` at the end, or where no entry can be.
    pub(crate) fn skip(&mut self) -> Result<bool> {
        let Some(Some(header)) = self.header()? else { return Ok(false) };
        self.reader.seek_relative(i64::from(header.length)).map_err(|error| cannot(&self.path, error))?;
        self.offset += ENTRY_HEADER_BYTES as u64 + u64::from(header.length);
        Ok(true)
    }

    /// Where the next entry begins.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether the file has become shorter than it was to be read.
    pub(crate) fn was_cut(&self) -> Result<bool> {
        let now = self.reader.get_ref().metadata().map_err(|error| cannot(&self.path, error))?;
        Ok(now.len() < self.end)
    }

    /// The next entry's header: `Some(None)` at the end, `None` where its bytes do not fit into the file.
    fn header(&mut self) -> Result<Option<Option<EntryHeader>>> {
        let rest = self.end.saturating_sub(self.offset);
        if rest == 0 {
            return Ok(Some(None));
        }
        let mut bytes = [0; ENTRY_HEADER_BYTES];
        if rest < bytes.len() as u64
            || !fill(&mut self.reader, &mut bytes).map_err(|error| cannot(&self.path, error))?
        {
            return Ok(None);
        }
        let header = EntryHeader::decode(&bytes);
        let fits = u64::from(header.length) <= rest - bytes.len() as u64;
        Ok(fits.then_some(Some(header)))
    }

    fn stopped(&self, why: &'static str) -> Scanned {
        Scanned::Bad { offset: self.offset, why }
    }
}

/// Reads the header of the log in `file`.
pub(crate) fn read_header(file: &mut File, path: &Path, purpose: Purpose) -> Result<Header> {
    let mut bytes = [0; HEADER_BYTES as usize];
    file.seek(SeekFrom::Start(0)).map_err(|error| cannot(path, error))?;
    if !fill(file, &mut bytes).map_err(|error| cannot(path, error))? {
        // A log gets its name only when its header is durable, so this is no crash of ours.
        return Err(corrupt(path, 0, "the header is cut short"));
    }
    Header::decode(&bytes, path, purpose)
}

/// The error for damage that no crash explains.
pub(crate) fn corrupt(path: &Path, offset: u64, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("cannot read {}: {why} at offset {offset}", path.display()))
        .hint("the disk or another program has damaged it; restore it from a backup, or begin anew with `millstream state reset`")
}

fn cannot(path: &Path, error: io::Error) -> Error {
    Error::io(format!("cannot read {}", path.display()), error)
}

/// Fills `bytes`; `false` if the file ends before.
fn fill(reader: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
