//! Where to begin in a file without a saved position.

use std::{
    fs::{File, Metadata},
    os::unix::fs::FileExt,
    path::Path,
};

use millstream_core::{Frames, Result, SeekTo};

use super::{
    log::Log,
    reader::{Filled, Reader},
    tail::{Reading, Tail},
};
use crate::error::failed;

/// How far back the end of the last line is looked for at once.
const BACK_BYTES: u64 = 64 << 10;

/// A path of which nothing has been read, standing where `start` says.
pub(super) fn begin(path: &Path, metadata: &Metadata, reading: &Reading, start: &SeekTo) -> Result<Tail> {
    let mut tail = Tail::new(path.to_owned());
    let offset = match start {
        SeekTo::End if reading.format.packed() => unpacked_end(path, reading)?,
        SeekTo::End if reading.format.lines => line_end(path, metadata.len())?,
        SeekTo::End => metadata.len(),
        SeekTo::At(sequence) => {
            tail.from = u64::try_from(*sequence).unwrap_or(u64::MAX).max(1);
            0
        }
        SeekTo::Beginning | SeekTo::Committed | SeekTo::Time(_) => 0,
    };
    tail.logs.push_back(Log::new(path, metadata, offset));
    Ok(tail)
}

/// Behind the last line that is complete, so that the one being written is read whole.
fn line_end(path: &Path, size: u64) -> Result<u64> {
    let problem = |error| failed("read the end of", path, error);
    let file = File::open(path).map_err(problem)?;
    let mut end = size;
    while end > 0 {
        let start = end.saturating_sub(BACK_BYTES);
        let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(0)];
        match file.read_exact_at(&mut bytes, start) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(0),
            result => result.map_err(problem)?,
        }
        if let Some(at) = memchr::memrchr(b'\n', &bytes) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Behind the last complete record of a compressed file: all of it has to be unpacked to know.
fn unpacked_end(path: &Path, reading: &Reading) -> Result<u64> {
    let mut reader = Reader::open(path, &reading.format, 0)?;
    loop {
        let mut frames = Frames::default();
        if reader.records(false, &mut frames).is_none() && reader.fill(u64::MAX)? != Filled::Some {
            return Ok(reader.offset());
        }
    }
}
