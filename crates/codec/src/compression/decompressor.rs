//! Unpacking, block by block.

use flate2::{Crc, Decompress, FlushDecompress, Status};
use millstream_core::{Error, ErrorKind, Result};
use zstd::stream::raw::{Decoder as ZstdDecoder, Operation};

use super::{Compression, gzip};

/// Unpacks a stream that is fed to it block by block.
///
/// ```
/// use millstream_codec::{Compression, Compressor, Decompressor};
/// # fn main() -> millstream_core::Result<()> {
/// let mut packed = Vec::new();
/// let mut compressor = Compressor::new(Compression::Gzip)?;
/// compressor.feed(b"hello", &mut packed)?;
/// compressor.finish_member(&mut packed)?;
///
/// let (mut plain, mut at) = (Vec::new(), 0);
/// let mut decompressor = Decompressor::new(Compression::Gzip)?;
/// while at < packed.len() {
///     at += decompressor.feed(&packed[at..], &mut plain, 64 << 10)?.taken;
/// }
/// decompressor.finish()?;
/// assert_eq!(plain, b"hello");
/// # Ok(()) }
/// ```
pub struct Decompressor(Kind);

enum Kind {
    None,
    Gzip(Box<Gzip>),
    Zstd { decoder: Box<ZstdDecoder<'static>>, inside: bool },
}

struct Gzip {
    stage: Stage,
    inflate: Decompress,
    sum: Crc,
    /// The part of a header or trailer that is there.
    part: Vec<u8>,
    members: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Header,
    Body,
    Trailer,
    /// Zeros behind the last member, as tapes leave them.
    Padding,
}

/// What one call did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fed {
    /// Bytes of the input that are done with.
    pub taken: usize,
    /// A member ends exactly behind them: a new [`Decompressor`] can begin there.
    pub member_end: bool,
}

impl Decompressor {
    /// At the beginning of a stream, or of any of its members.
    pub fn new(compression: Compression) -> Result<Self> {
        Ok(Decompressor(match compression {
            Compression::None => Kind::None,
            Compression::Gzip => Kind::Gzip(Box::new(Gzip::new())),
            Compression::Zstd => {
                Kind::Zstd { decoder: Box::new(ZstdDecoder::new().map_err(zstd_error)?), inside: false }
            }
        }))
    }

    /// Unpacks the front of `input`, appending at most `room` bytes (at least 1) to `out`.
    ///
    /// Returns when the input is done with, the room is used up, or a member has ended; so call it again with the rest of
    /// the input. If it takes nothing and gives nothing, it needs more input. After room was used up there may be more to
    /// come even for an empty input: call until `out` stays short of its room.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>, room: usize) -> Result<Fed> {
        let room = room.max(1);
        match &mut self.0 {
            Kind::None => {
                let taken = input.len().min(room);
                out.extend_from_slice(&input[..taken]);
                Ok(Fed { taken, member_end: false })
            }
            Kind::Gzip(gzip) => gzip.feed(input, out, room),
            Kind::Zstd { decoder, inside } => feed_zstd(decoder, inside, input, out, room),
        }
    }

    /// Says that there is no more input; an error if it ends inside of a member.
    pub fn finish(&self) -> Result<()> {
        let (name, inside) = match &self.0 {
            Kind::None => return Ok(()),
            Kind::Gzip(gzip) => ("gzip member", gzip.inside()),
            Kind::Zstd { inside, .. } => ("zstd frame", *inside),
        };
        if !inside {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Corrupt, format!("the input ends in the middle of a {name}"))
            .hint("the file was cut off, or is still being written"))
    }
}

impl Gzip {
    fn new() -> Self {
        Gzip { stage: Stage::Header, inflate: Decompress::new(false), sum: Crc::new(), part: Vec::new(), members: 0 }
    }

    fn inside(&self) -> bool {
        match self.stage {
            Stage::Header => !self.part.is_empty(),
            Stage::Body | Stage::Trailer => true,
            Stage::Padding => false,
        }
    }

    fn feed(&mut self, input: &[u8], out: &mut Vec<u8>, room: usize) -> Result<Fed> {
        let (mut taken, limit) = (0, out.len().saturating_add(room));
        loop {
            let rest = &input[taken..];
            match self.stage {
                Stage::Header if rest.is_empty() => break,
                Stage::Header if self.members > 0 && self.part.is_empty() && rest[0] == 0 => {
                    self.stage = Stage::Padding
                }
                Stage::Header => taken += self.header(rest)?,
                Stage::Body => {
                    let (used, wrote) = self.body(rest, out, limit)?;
                    taken += used;
                    if self.stage == Stage::Body && (used == 0 && wrote == 0 || out.len() >= limit) {
                        break;
                    }
                }
                Stage::Trailer if rest.is_empty() => break,
                Stage::Trailer => {
                    let used = rest.len().min(gzip::TRAILER_BYTES - self.part.len());
                    self.part.extend_from_slice(&rest[..used]);
                    taken += used;
                    if self.part.len() == gzip::TRAILER_BYTES {
                        gzip::check_trailer(&self.part, self.sum.sum(), self.sum.amount())?;
                        let members = self.members + 1;
                        *self = Gzip { members, ..Gzip::new() };
                        return Ok(Fed { taken, member_end: true });
                    }
                }
                Stage::Padding => {
                    if rest.iter().any(|byte| *byte != 0) {
                        return Err(Error::new(ErrorKind::Corrupt, "there is something else behind a gzip member"));
                    }
                    taken = input.len();
                    break;
                }
            }
        }
        Ok(Fed { taken, member_end: false })
    }

    /// Collects the header, which is short, until it is complete.
    fn header(&mut self, input: &[u8]) -> Result<usize> {
        let before = self.part.len();
        self.part.extend_from_slice(input);
        match gzip::header_len(&self.part)? {
            Some(len) => {
                self.part.clear();
                self.stage = Stage::Body;
                Ok(len - before)
            }
            None => Ok(input.len()),
        }
    }

    /// Unpacks into `out` up to `limit`: bytes read, bytes written.
    fn body(&mut self, input: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(usize, usize)> {
        let start = out.len();
        let (read, wrote) = (self.inflate.total_in(), self.inflate.total_out());
        out.resize(limit, 0);
        let status = self.inflate.decompress(input, &mut out[start..], FlushDecompress::None);
        let used = (self.inflate.total_in() - read) as usize;
        let wrote = (self.inflate.total_out() - wrote) as usize;
        out.truncate(start + wrote);
        self.sum.update(&out[start..]);
        match status {
            Ok(Status::StreamEnd) => self.stage = Stage::Trailer,
            Ok(_) => {}
            Err(error) => return Err(Error::new(ErrorKind::Corrupt, "cannot unpack gzip").caused_by(error)),
        }
        Ok((used, wrote))
    }
}

/// Runs until the input or the room is used up, or a frame has ended.
fn feed_zstd(
    decoder: &mut ZstdDecoder<'static>,
    inside: &mut bool,
    input: &[u8],
    out: &mut Vec<u8>,
    room: usize,
) -> Result<Fed> {
    let start = out.len();
    out.resize(start.saturating_add(room), 0);
    let (mut taken, mut wrote, mut member_end) = (0, 0, false);
    // Between frames there is nothing left to flush.
    while (*inside || taken < input.len()) && wrote < room {
        let step = decoder.run_on_buffers(&input[taken..], &mut out[start + wrote..]);
        let step = step.map_err(|error| {
            out.truncate(start);
            zstd_error(error)
        })?;
        taken += step.bytes_read;
        wrote += step.bytes_written;
        member_end = step.remaining == 0;
        *inside = !member_end;
        if member_end || (step.bytes_read == 0 && step.bytes_written == 0) {
            break;
        }
    }
    out.truncate(start + wrote);
    Ok(Fed { taken, member_end })
}

fn zstd_error(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Corrupt, "cannot unpack zstd").caused_by(error).hint("the file is damaged, or is not zstd")
}
