//! Packing, block by block.

use std::io::Write;

use flate2::write::GzEncoder;
use millstream_core::{Error, ErrorKind, Result};
use zstd::stream::raw::{Encoder as ZstdEncoder, Operation, OutBuffer};

use super::Compression;

/// Room for what zstd gives in one step; what its own buffers hold.
const ZSTD_STEP_BYTES: usize = 128 << 10;
/// zstd's own default: fast, and better than gzip.
const ZSTD_LEVEL: i32 = 3;

/// Packs a stream that is fed to it block by block, in members (gzip) or frames (zstd) that end where the caller says.
pub struct Compressor {
    kind: Kind,
    /// Something was written into the current member.
    begun: bool,
}

enum Kind {
    None,
    Gzip(Box<GzEncoder<Vec<u8>>>),
    Zstd(Box<ZstdEncoder<'static>>),
}

impl Compressor {
    /// At the beginning of a member.
    pub fn new(compression: Compression) -> Result<Self> {
        let kind = match compression {
            Compression::None => Kind::None,
            Compression::Gzip => Kind::Gzip(Box::new(gzip())),
            Compression::Zstd => Kind::Zstd(Box::new(ZstdEncoder::new(ZSTD_LEVEL).map_err(failed)?)),
        };
        Ok(Compressor { kind, begun: false })
    }

    /// Packs `input`, appending to `out` what is ready; the rest comes with later calls.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if input.is_empty() {
            return Ok(());
        }
        self.begun = true;
        match &mut self.kind {
            Kind::None => out.extend_from_slice(input),
            Kind::Gzip(encoder) => {
                encoder.write_all(input).map_err(failed)?;
                out.append(encoder.get_mut());
            }
            Kind::Zstd(encoder) => {
                let mut taken = 0;
                while taken < input.len() {
                    taken += step(out, |target| {
                        encoder.run_on_buffers(&input[taken..], target).map(|s| (s.bytes_read, s.bytes_written))
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Appends everything that was fed, so that a reader can unpack it, without ending the member. Costs some size.
    pub fn flush(&mut self, out: &mut Vec<u8>) -> Result<()> {
        match &mut self.kind {
            Kind::Gzip(encoder) if self.begun => {
                encoder.flush().map_err(failed)?;
                out.append(encoder.get_mut());
            }
            Kind::Zstd(encoder) if self.begun => drain(out, |target| encoder.flush(target))?,
            _ => {}
        }
        Ok(())
    }

    /// Ends the member, so that what was written so far is whole and can be cut behind; what follows begins a new one. Nothing happens if
    /// nothing was fed.
    pub fn finish_member(&mut self, out: &mut Vec<u8>) -> Result<()> {
        if !std::mem::take(&mut self.begun) {
            return Ok(());
        }
        match &mut self.kind {
            Kind::None => {}
            Kind::Gzip(encoder) => {
                let done = std::mem::replace(&mut **encoder, gzip());
                out.append(&mut done.finish().map_err(failed)?);
            }
            Kind::Zstd(encoder) => {
                drain(out, |target| encoder.finish(target, true))?;
                encoder.reinit().map_err(failed)?;
            }
        }
        Ok(())
    }
}

fn gzip() -> GzEncoder<Vec<u8>> {
    GzEncoder::new(Vec::new(), flate2::Compression::default())
}

/// One step of zstd into fresh room at the end of `out`; answers the bytes that it read.
fn step(out: &mut Vec<u8>, run: impl FnOnce(&mut [u8]) -> std::io::Result<(usize, usize)>) -> Result<usize> {
    let start = out.len();
    out.resize(start + ZSTD_STEP_BYTES, 0);
    let result = run(&mut out[start..]);
    out.truncate(start + result.as_ref().map_or(0, |(_, wrote)| *wrote));
    result.map(|(read, _)| read).map_err(failed)
}

/// Runs a step of zstd until it says that nothing is left.
fn drain(out: &mut Vec<u8>, mut run: impl FnMut(&mut OutBuffer<'_, [u8]>) -> std::io::Result<usize>) -> Result<()> {
    loop {
        let mut left = 0;
        step(out, |room| {
            let mut target = OutBuffer::around(room);
            left = run(&mut target)?;
            Ok((0, target.pos()))
        })?;
        if left == 0 {
            return Ok(());
        }
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Bug, "cannot compress").caused_by(error)
}
