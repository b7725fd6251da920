//! Reading one open file: blocks from the disk, decompressed, cut into records.

use std::{
    fs::File,
    io::{Seek, SeekFrom},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use millstream_codec::Decompressor;
use millstream_core::{Decoder, Error, ErrorKind, Frames, Result};
use rustix::{buffer::spare_capacity, io::Errno};

use crate::{
    error::failed,
    formats::{Format, UNPACK_BYTES_MAX},
};

/// Bytes read at once: some thousand log lines, and it fits a second-level cache.
const BLOCK_BYTES: usize = 256 << 10;
/// Packed bytes that are unpacked in one step: the decompressor refuses more than 128 KiB in front of a member.
const PACKED_STEP_BYTES: usize = 64 << 10;
/// Longest run of bytes that a decoder may leave undone; offsets within a block have 32 bits.
const UNDONE_BYTES_MAX: usize = 1 << 30;
/// How much of a file is looked at for what stands before its first record, such as the header line of a CSV file.
const PREAMBLE_BYTES_MAX: usize = 1 << 20;

/// An open file on its way to records.
pub(crate) struct Reader {
    path: PathBuf,
    pub(crate) file: File,
    unpacking: Option<Unpacking>,
    decoder: Box<dyn Decoder>,
    /// Plain bytes that the decoder is not done with.
    block: Bytes,
    /// The decoder may find records in `block` without more bytes behind it.
    fresh: bool,
    /// Bytes read of the file.
    pub(crate) raw: u64,
    /// Plain bytes that the decoder is done with.
    done: u64,
}

/// The compressed side of a file.
struct Unpacking {
    decompressor: Decompressor,
    /// Read from the file and not yet unpacked.
    packed: Bytes,
    /// There may be more plain bytes without reading the file.
    more: bool,
    /// Plain bytes that were handed over before, to be dropped when they come.
    skip: u64,
}

/// What reading a block came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// There are more bytes.
    Some,
    /// There are none, for now.
    None,
    /// The file is shorter than what has been read of it.
    Truncated,
}

impl Reader {
    /// Opens a file for reading on at `offset`.
    pub(crate) fn open(path: &Path, format: &Format, offset: u64) -> Result<Self> {
        // Asked first, because opening a pipe waits for its writer.
        let kind = std::fs::metadata(path).map_err(|error| failed("open", path, error))?;
        if kind.is_dir() {
            return Err(Error::new(ErrorKind::Option, format!("`{}` is a folder, not a file", path.display()))
                .hint(format!("write `{}` for the files in it", path.join("*").display())));
        }
        if !kind.is_file() {
            return Err(Error::new(ErrorKind::Option, format!("`{}` is not a regular file", path.display()))
                .hint("pipes and devices are read with `stdin`"));
        }
        let file = File::open(path).map_err(|error| failed("open", path, error))?;
        let mut reader = Reader {
            path: path.to_owned(),
            file,
            unpacking: unpacking(format, offset)?,
            decoder: format.codec.decoder(),
            block: Bytes::new(),
            fresh: false,
            raw: 0,
            done: 0,
        };
        if offset > 0 {
            reader.preamble(format)?;
        }
        if reader.unpacking.is_none() {
            reader.file.seek(SeekFrom::Start(offset)).map_err(|error| failed("read", path, error))?;
            reader.raw = offset;
        }
        reader.done = offset;
        Ok(reader)
    }

    /// Shows the decoder what stands at the front of the file, and goes back to there.
    fn preamble(&mut self, format: &Format) -> Result<()> {
        let skip = self.unpacking.as_mut().map(|unpacking| std::mem::take(&mut unpacking.skip));
        let mut end = false;
        // Most decoders want nothing, and then nothing is read.
        while !self.decoder.preamble(&self.block, end) && !end {
            end = self.fill(u64::MAX)? != Filled::Some || self.block.len() > PREAMBLE_BYTES_MAX;
        }
        self.unpacking = unpacking(format, skip.unwrap_or(0))?;
        (self.block, self.fresh, self.raw) = (Bytes::new(), false, 0);
        self.file.rewind().map_err(|error| failed("read", &self.path, error))
    }

    /// Plain bytes before the next record.
    pub(crate) fn offset(&self) -> u64 {
        self.done.saturating_sub(self.decoder.unfinished())
    }

    /// Bytes that have been read and belong to no complete record yet.
    pub(crate) fn undone(&self) -> u64 {
        self.block.len() as u64 + self.decoder.unfinished()
    }

    /// Whether the undone bytes end with a line feed.
    pub(crate) fn at_line_end(&self) -> bool {
        self.block.last() == Some(&b'\n')
    }

    /// Nothing of a compressed member or frame is missing.
    pub(crate) fn whole(&self) -> bool {
        self.unpacking.as_ref().is_none_or(|unpacking| unpacking.decompressor.finish().is_ok())
    }

    /// The next records in what has been read; `None`: more bytes are needed. `end`: there will be no more.
    pub(crate) fn records(&mut self, end: bool, frames: &mut Frames) -> Option<Bytes> {
        while self.fresh || (end && !self.block.is_empty()) || (end && self.decoder.unfinished() > 0) {
            let used = self.decoder.decode(&self.block, end, frames).min(self.block.len());
            let block = self.block.split_to(used);
            self.done += used as u64;
            if !frames.is_empty() {
                return Some(block);
            }
            self.fresh = used > 0 && !self.block.is_empty();
            if end && used == 0 {
                break;
            }
        }
        None
    }

    /// Reads a block behind what is there, not past `limit`.
    pub(crate) fn fill(&mut self, limit: u64) -> Result<Filled> {
        let path = self.path.clone();
        let metadata = self.file.metadata().map_err(|error| failed("read", &path, error))?;
        if metadata.len() < self.raw {
            return Ok(Filled::Truncated);
        }
        if self.block.len() > UNDONE_BYTES_MAX {
            let text = format!("a record of `{}` has more than {UNDONE_BYTES_MAX} bytes", path.display());
            return Err(Error::new(ErrorKind::TooLarge, text).hint("is this the right codec for the file?"));
        }
        if self.unpacking.as_ref().is_some_and(|unpacking| unpacking.more) {
            self.unpack()?;
            return Ok(Filled::Some);
        }
        let there = usize::try_from(metadata.len().min(limit).saturating_sub(self.raw)).unwrap_or(usize::MAX);
        if there == 0 {
            return Ok(Filled::None);
        }
        // As much again as was left undone, so that looking at a long record again and again stays linear.
        let rest = self.unpacking.as_ref().map_or(&self.block, |unpacking| &unpacking.packed);
        let mut next = Vec::with_capacity(rest.len() + rest.len().max(BLOCK_BYTES).min(there));
        next.extend_from_slice(rest);
        let got = read(&self.file, &mut next).map_err(|error| failed("read", &path, error))?;
        self.raw += got as u64;
        match &mut self.unpacking {
            Some(unpacking) => (unpacking.packed, unpacking.more) = (Bytes::from(next), got > 0),
            None => {
                self.fresh |= got > 0;
                self.block = Bytes::from(next);
            }
        }
        // A file may shrink between the two calls.
        Ok(if got == 0 { Filled::None } else { Filled::Some })
    }

    /// Unpacks about a block behind what is there.
    fn unpack(&mut self) -> Result<()> {
        let Some(unpacking) = &mut self.unpacking else { return Ok(()) };
        let undone = self.block.len();
        let room = undone.max(UNPACK_BYTES_MAX);
        let mut next = Vec::with_capacity(undone + room);
        next.extend_from_slice(&self.block);
        while next.len() < undone + room {
            let (before, wanted) = (next.len(), undone + room - next.len());
            let front = &unpacking.packed[..unpacking.packed.len().min(PACKED_STEP_BYTES)];
            let fed = unpacking.decompressor.feed(front, &mut next, wanted);
            let fed = fed.map_err(|error| error.context(format!("cannot read `{}`", self.path.display())))?;
            let _ = unpacking.packed.split_to(fed.taken);
            if fed.taken == 0 && next.len() == before {
                unpacking.more = false;
                break;
            }
        }
        let known = usize::try_from(unpacking.skip).unwrap_or(usize::MAX).min(next.len() - undone);
        next.drain(undone..undone + known);
        unpacking.skip -= known as u64;
        self.fresh |= next.len() > undone;
        self.block = Bytes::from(next);
        Ok(())
    }
}

/// Unpacks, if the format is compressed, without the first `skip` bytes.
fn unpacking(format: &Format, skip: u64) -> Result<Option<Unpacking>> {
    let decompressor = format.decompressor()?;
    Ok(decompressor.map(|decompressor| Unpacking { decompressor, packed: Bytes::new(), more: false, skip }))
}

/// One read into the spare room of `buffer`.
fn read(file: &File, buffer: &mut Vec<u8>) -> std::io::Result<usize> {
    loop {
        match rustix::io::read(file, spare_capacity(buffer)) {
            Err(Errno::INTR) => {}
            result => return result.map_err(Into::into),
        }
    }
}
