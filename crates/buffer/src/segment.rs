//! The files of a buffer's log. Everything here blocks.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use millstream_core::{Error, ErrorKind, Result};

use crate::format::{Id, Mark, SEGMENT_HEADER_BYTES, read_segment_header, segment_header};

const ENDING: &str = "seg";

/// One file of the log.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    /// What lies before it.
    pub(crate) start: Mark,
    /// Bytes of blocks in it.
    pub(crate) length: u64,
}

impl Segment {
    /// Offset behind its last block.
    pub(crate) fn end(&self) -> u64 {
        self.start.offset + self.length
    }

    /// Where a block lies in the file.
    pub(crate) fn place(&self, offset: u64) -> u64 {
        offset - self.start.offset + SEGMENT_HEADER_BYTES
    }

    /// Makes the file, or an empty one in its place.
    pub(crate) fn create(folder: &Path, id: Id, start: Mark) -> Result<(Self, File)> {
        let path = folder.join(format!("{:020}.{ENDING}", start.offset));
        let cannot = |error| Error::io(format!("cannot create {}", path.display()), error);
        let mut open = OpenOptions::new();
        let file = open.read(true).write(true).create(true).truncate(true).open(&path).map_err(cannot)?;
        file.write_all_at(&segment_header(id, start), 0).map_err(|error| {
            // Half a header would be taken for damage.
            let _ = fs::remove_file(&path);
            cannot(error)
        })?;
        Ok((Segment { path, start, length: 0 }, file))
    }

    /// Opens it for reading.
    pub(crate) fn open(&self) -> io::Result<File> {
        File::open(&self.path)
    }
}

/// The segments in a folder, by their bases. One that was begun and not synced when the power failed has no header that can be
/// read, and starts at `published` or behind: it is left out, and named.
pub(crate) fn list(folder: &Path, id: Id, published: u64) -> Result<(Vec<Segment>, Vec<PathBuf>)> {
    let cannot = |error| Error::io(format!("cannot read {}", folder.display()), error);
    let (mut segments, mut stubs) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.extension().is_none_or(|ending| ending != ENDING) {
            continue;
        }
        let base = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
        match read(&path, id, base) {
            Ok(segment) => segments.push(segment),
            Err(error) if error.kind() == ErrorKind::Corrupt && base.is_some_and(|base| base >= published) => {
                stubs.push(path);
            }
            Err(error) => return Err(error),
        }
    }
    segments.sort_by_key(|segment| segment.start.offset);
    Ok((segments, stubs))
}

fn read(path: &Path, id: Id, base: Option<u64>) -> Result<Segment> {
    let cannot = |error| Error::io(format!("cannot read {}", path.display()), error);
    let file = File::open(path).map_err(cannot)?;
    let length = file.metadata().map_err(cannot)?.len();
    let mut header = [0; SEGMENT_HEADER_BYTES as usize];
    // Cut short is `Corrupt`, too.
    file.read_exact_at(&mut header, 0).map_err(cannot)?;
    let about = |error: Error| error.context(format!("cannot read {}", path.display()));
    let (of, start) = read_segment_header(&header).map_err(about)?;
    if of != id || base != Some(start.offset) {
        return Err(about(Error::new(ErrorKind::StateMismatch, "it belongs to another buffer")));
    }
    Ok(Segment { path: path.to_owned(), start, length: length.saturating_sub(SEGMENT_HEADER_BYTES) })
}

/// Makes the names in a folder durable.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| Error::io(format!("cannot sync the folder {}", folder.display()), error))
}
