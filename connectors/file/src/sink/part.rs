//! One file that is written, with the length up to which it is good.

use std::{
    fs::{self, File},
    io::{self, ErrorKind as Io},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use millstream_codec::{Compression, Compressor};
use millstream_core::{Error, ErrorKind, Result, Timestamp};

use super::token::{FileMark, Tail};
use crate::{error::failed, identity::FileId};

/// Compressed bytes are written in blocks of at least this size.
const PACKED_BLOCK_BYTES: usize = 64 << 10;

/// A file that is written.
pub(crate) struct Part {
    pub(crate) path: PathBuf,
    pub(crate) name: String,
    pub(crate) rename: Option<String>,
    pub(crate) started_at: Timestamp,
    /// No more bytes will come.
    pub(crate) done: bool,
    /// Bytes that are written whole; what an interrupted write leaves behind them is cut.
    pub(crate) length: u64,
    /// What must stand before the next bytes: a line feed that the file lacks.
    lead: Vec<u8>,
    file: File,
    tail: Tail,
    compressor: Option<Compressor>,
    /// Compressed and not yet written.
    packed: Vec<u8>,
    /// Written since the last sync.
    dirty: bool,
}

/// What a part is called, now and later.
pub(crate) struct Naming {
    pub(super) folder: PathBuf,
    pub(crate) name: String,
    pub(crate) rename: Option<String>,
    pub(crate) started_at: Timestamp,
}

impl Part {
    /// Opens a file to write behind `length`, or behind all that is there.
    pub(crate) fn open(naming: Naming, compression: Compression, length: Option<u64>) -> Result<Self> {
        let path = naming.folder.join(&naming.name);
        let problem = |error| failed("write", &path, error);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                return Err(Error::new(ErrorKind::Option, format!("`{}` is a folder, not a file", path.display()))
                    .hint("name a file in it"));
            }
            Ok(metadata) if !metadata.is_file() => {
                return Err(Error::new(ErrorKind::Option, format!("`{}` is not a regular file", path.display()))
                    .hint("write to `stdout`, or to `drop` to throw records away"));
            }
            Ok(_) => {}
            Err(error) if error.kind() == Io::NotFound => {}
            Err(error) => return Err(problem(error)),
        }
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(problem)?;
        let size = file.metadata().map_err(problem)?.len();
        let length = length.unwrap_or(size);
        if size > length {
            file.set_len(length).map_err(problem)?;
        }
        let tail = Tail::read(&file, length).map_err(problem)?;
        Ok(Part {
            compressor: (compression != Compression::None).then(|| Compressor::new(compression)).transpose()?,
            path,
            name: naming.name,
            rename: naming.rename,
            started_at: naming.started_at,
            done: false,
            length,
            lead: Vec::new(),
            file,
            tail,
            packed: Vec::new(),
            // Somebody else may have written what is there.
            dirty: true,
        })
    }

    /// Opens the file that a mark names, and cuts it there. A file that is not as the mark says is an error.
    pub(crate) fn resume(folder: &Path, mark: &FileMark, compression: Compression) -> Result<Self> {
        let path = folder.join(&mark.name);
        let mismatch = |what: &str| {
            Error::new(
                ErrorKind::StateMismatch,
                format!("the checkpoint counts {} bytes of `{}`, {what}", mark.length, path.display()),
            )
            .hint("bring the file back, or begin anew with `millstream state reset PIPELINE`")
        };
        let metadata = match fs::metadata(&path) {
            Err(error) if error.kind() == Io::NotFound => return Err(mismatch("but there is no such file")),
            metadata => metadata.map_err(|error| failed("open", &path, error))?,
        };
        if metadata.len() < mark.length {
            return Err(mismatch(&format!("but it has only {}", metadata.len())));
        }
        // Looked at before anything is cut: it could be somebody else's.
        let file = File::open(&path).map_err(|error| failed("open", &path, error))?;
        let tail = Tail::read(&file, mark.length).map_err(|error| failed("read", &path, error))?;
        if tail.hash() != mark.tail {
            return Err(mismatch("but other bytes stand there"));
        }
        if metadata.len() > mark.length {
            let cut = metadata.len() - mark.length;
            tracing::info!(path = %path.display(), bytes = cut, "cutting what was written after the checkpoint");
        }
        let naming = Naming {
            folder: folder.to_owned(),
            name: mark.name.clone(),
            rename: mark.rename.clone(),
            started_at: mark.started_at,
        };
        Part::open(naming, compression, Some(mark.length))
    }

    /// To look at what stands in it.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Cuts off what stands behind `length`.
    pub(crate) fn cut(&mut self, length: u64) -> Result<()> {
        let problem = |error| failed("cut", &self.path, error);
        self.file.set_len(length).map_err(problem)?;
        self.tail = Tail::read(&self.file, length).map_err(problem)?;
        (self.length, self.dirty) = (length, true);
        Ok(())
    }

    /// Whether all that was written is still there.
    pub(crate) fn check_whole(&self) -> Result<()> {
        let metadata = self.file.metadata().map_err(|error| failed("read", &self.path, error))?;
        if metadata.len() >= self.length {
            return Ok(());
        }
        let text = format!("somebody has cut `{}` while it was written", self.path.display());
        Err(Error::new(ErrorKind::StateMismatch, text).hint("find out who else writes to it"))
    }

    /// Puts another handle in place of that of the file.
    #[cfg(test)]
    pub(crate) fn swap(&mut self, file: File) -> File {
        std::mem::replace(&mut self.file, file)
    }

    /// Bytes as they will be in the file, those not yet written included.
    pub(super) fn size(&self) -> u64 {
        self.length + self.packed.len() as u64
    }

    /// Ends the last line of a file that somebody else has begun.
    pub(super) fn end_line(&mut self) {
        if self.length > 0 && self.tail.last() != Some(b'\n') {
            self.lead = vec![b'\n'];
        }
    }

    /// Takes bytes, all of them or none.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if !self.lead.is_empty() {
            let lead = self.lead.clone();
            self.put(&lead)?;
            self.lead.clear();
        }
        let Some(compressor) = &mut self.compressor else { return self.put(bytes) };
        // First what is there, so that an error leaves nothing of `bytes` behind.
        if self.packed.len() >= PACKED_BLOCK_BYTES {
            self.put_packed()?;
            return self.write(bytes);
        }
        compressor.feed(bytes, &mut self.packed)
    }

    /// Closes the compressed member, so that the file can be cut here and read up to here.
    pub(super) fn close_member(&mut self) -> Result<()> {
        if let Some(compressor) = &mut self.compressor {
            compressor.finish_member(&mut self.packed)?;
        }
        self.put_packed()
    }

    fn put_packed(&mut self) -> Result<()> {
        let packed = std::mem::take(&mut self.packed);
        let put = self.put(&packed);
        self.packed = packed;
        if put.is_ok() {
            self.packed.clear();
        }
        put
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.file.write_all_at(bytes, self.length) {
            // Nothing half written stays; if even that fails, the next write goes over it and recovery cuts it.
            let _ = self.file.set_len(self.length);
            return Err(failed("write", &self.path, error));
        }
        self.length += bytes.len() as u64;
        self.tail.push(bytes);
        self.dirty = true;
        Ok(())
    }

    /// Makes all that is written durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if self.dirty {
            self.file.sync_data().map_err(|error| failed("sync", &self.path, error))?;
            self.dirty = false;
        }
        Ok(())
    }

    /// Whether the file begins with these bytes.
    pub(super) fn begins_with(&self, bytes: &[u8]) -> Result<bool> {
        let mut first = vec![0; bytes.len()];
        match self.file.read_exact_at(&mut first, 0) {
            Err(error) if error.kind() == Io::UnexpectedEof => Ok(false),
            Err(error) => Err(failed("read", &self.path, error)),
            Ok(()) => Ok(first == bytes),
        }
    }

    /// Which file it is.
    pub(crate) fn id(&self) -> Result<FileId> {
        let metadata = self.file.metadata().map_err(|error| failed("read", &self.path, error))?;
        Ok(FileId::from(&metadata))
    }

    /// How far it counts, once that is decided.
    pub(super) fn mark(&self) -> FileMark {
        FileMark {
            name: self.name.clone(),
            rename: self.rename.clone(),
            length: self.length,
            tail: self.tail.hash(),
            done: self.done,
            started_at: self.started_at,
        }
    }
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    let sync = || -> io::Result<()> { File::open(folder)?.sync_all() };
    match sync() {
        // Some file systems cannot.
        Err(error) if matches!(error.kind(), Io::InvalidInput | Io::Unsupported) => Ok(()),
        result => result.map_err(|error| failed("sync", folder, error)),
    }
}
