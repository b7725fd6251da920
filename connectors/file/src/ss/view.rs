//! An open `.ss` file, and how much of it there is to read.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use millstream_codec::ss::{HEADER_BYTES, Header, ReadAt, read_header};
use millstream_core::{Error, ErrorKind, Result};
use xxhash_rust::xxh3::xxh3_64;

use super::series::Name;
use crate::{error::failed, identity::FileId, published::Published};

/// An open file whose header has been read.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) id: FileId,
    pub(super) header: Header,
    /// Its path when it was opened; by now it may have its final name.
    pub(super) path: PathBuf,
    /// What it is called in its series.
    pub(super) name: Name,
}

impl Opened {
    /// Opens a file for reading; `None` if it has been made and its header is not there yet, or does not count yet.
    pub(super) fn open(path: &Path, name: Name) -> Result<Option<Self>> {
        let problem = |error| failed("open", path, error);
        let file = File::open(path).map_err(problem)?;
        let metadata = file.metadata().map_err(problem)?;
        if metadata.is_dir() {
            return Err(Error::new(ErrorKind::Option, format!("`{}` is a folder, not a file", path.display())));
        }
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::Option, format!("`{}` is not a regular file", path.display()))
                .hint("a .ss file must be one that can be read at any place"));
        }
        let id = FileId::from(&metadata);
        if metadata.len().min(Published::limit(path, id)) < HEADER_BYTES as u64 {
            return Ok(None);
        }
        let header = read_header(&file).map_err(|error| of(path, error))?;
        Ok(Some(Opened { id, file, header, path: path.to_owned(), name }))
    }

    /// How long it is, and how far it may be read now.
    pub(super) fn end(&self) -> Result<(u64, u64)> {
        let len = self.file.metadata().map_err(|error| failed("read", &self.path, error))?.len();
        Ok((len, len.min(Published::limit(&self.path, self.id))))
    }

    /// Whether its path no longer names it.
    pub(super) fn is_gone(&self) -> bool {
        match fs::metadata(&self.path) {
            Ok(metadata) => FileId::from(&metadata) != self.id,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }
}

/// Says which file an error of the codec is about.
pub(super) fn of(path: &Path, error: Error) -> Error {
    error.context(format!("cannot read `{}`", path.display()))
}

/// A file, as if it ended at `len`.
pub(super) struct View<'a> {
    pub(super) file: &'a File,
    pub(super) len: u64,
}

impl ReadAt for View<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
        FileExt::read_at(self.file, &mut buf[..rest], offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len.min(self.file.metadata()?.len()))
    }
}

/// How many bytes before a place prove that the file is the one that was meant. Times and checksums are among them.
pub(super) const PROOF_BYTES: u64 = 64;

/// Hash of the bytes before `offset`; `None` if the file is shorter.
pub(super) fn proof(file: &File, offset: u64) -> io::Result<Option<u64>> {
    let mut bytes = [0; PROOF_BYTES as usize];
    let bytes =
        &mut bytes[..usize::try_from(offset).map_or(PROOF_BYTES as usize, |offset| offset.min(PROOF_BYTES as usize))];
    match file.read_exact_at(bytes, offset.saturating_sub(bytes.len() as u64)) {
        Ok(()) => Ok(Some(xxh3_64(bytes))),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}
