//! Cutting blocks into lines, for every codec that is made of lines.
//!
//! A block is looked at twice, whatever the lines are: once for line feeds, once as a whole for UTF-8. Only where a block
//! is no UTF-8 are lines looked at one by one.

use memchr::{memchr, memchr_iter, memrchr};
use millstream_core::{Error, ErrorKind};

/// The default of `bytes_max`: far above any sensible line, far below what would hurt.
pub const RECORD_BYTES_MAX: u64 = 64 << 20;

/// How much is kept of a record that is too long: enough to see what it was.
pub const TOO_LARGE_BYTES_KEPT: usize = 64 << 10;

/// What a cutter hands over.
pub(crate) enum Piece<'a> {
    /// The bytes of the block from `start` up to `end`, without the line end.
    Line { start: usize, end: usize, utf8: bool },
    /// The front of a line that is longer than allowed, as it lies in the block, and its whole length.
    Long { start: usize, end: usize, bytes: u64 },
    /// The same of a line that began in an earlier block; always the first piece of its block, and the only one.
    LongBefore { head: &'a [u8], bytes: u64 },
}

/// What is to come after a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The next piece.
    Go,
    /// Nothing more for now.
    Stop,
    /// The same piece again, in the next call. Not for [`Piece::LongBefore`].
    Back,
}

impl Then {
    pub(crate) fn unless(full: bool) -> Self {
        if full { Then::Stop } else { Then::Go }
    }
}

/// Cuts blocks into lines; remembers what it knows of the rest that it is given again.
#[derive(Debug)]
pub(crate) struct Cutter {
    bytes_max: u64,
    /// Bytes at the front of the next block that hold no line feed.
    scanned: usize,
    /// Bytes at the front of the next block that are UTF-8.
    utf8: usize,
    long: Option<Long>,
}

#[derive(Debug)]
struct Long {
    head: Vec<u8>,
    bytes: u64,
    last: u8,
}

impl Long {
    fn extend(&mut self, part: &[u8]) {
        let room = TOO_LARGE_BYTES_KEPT - self.head.len();
        self.head.extend_from_slice(&part[..part.len().min(room)]);
        self.bytes += part.len() as u64;
        self.last = part.last().copied().unwrap_or(self.last);
    }
}

impl Cutter {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Cutter { bytes_max, scanned: 0, utf8: 0, long: None }
    }

    /// Bytes that were taken of a line that is not complete.
    pub(crate) fn unfinished(&self) -> u64 {
        self.long.as_ref().map_or(0, |long| long.bytes)
    }

    /// Hands the complete lines at the front of `block` to `each` until that stops it; answers how many bytes are done.
    pub(crate) fn cut(&mut self, block: &[u8], end: bool, mut each: impl FnMut(Piece<'_>) -> Then) -> usize {
        if self.long.is_some() {
            return self.skip(block, end, each);
        }
        let scanned = self.scanned.min(block.len());
        let complete = memrchr(b'\n', &block[scanned..]).map_or(0, |at| scanned + at + 1);
        self.check(&block[..complete]);
        let mut start = 0;
        // Nothing to look for before `scanned`: the first line feed is behind it.
        let first = scanned.min(complete);
        for feed in memchr_iter(b'\n', &block[first..complete]).map(|at| first + at) {
            let stop = if feed > start && block[feed - 1] == b'\r' { feed - 1 } else { feed };
            let then = each(self.piece(block, start, stop, feed));
            if then != Then::Back {
                start = feed + 1;
            }
            if then != Then::Go {
                return self.done(start, start);
            }
        }
        let rest = block.len() - start;
        if rest > 0 && end {
            self.check(block);
            if each(self.piece(block, start, block.len(), block.len())) != Then::Back {
                start = block.len();
            }
        } else if rest as u64 > self.bytes_max.saturating_add(1) {
            // One more than allowed may still be a line and its carriage return.
            let mut long = Long { head: Vec::new(), bytes: 0, last: 0 };
            long.extend(&block[start..]);
            self.long = Some(long);
            start = block.len();
        }
        self.done(start, block.len())
    }

    fn piece(&self, block: &[u8], start: usize, stop: usize, known: usize) -> Piece<'static> {
        let bytes = (stop - start) as u64;
        if bytes > self.bytes_max {
            return Piece::Long { start, end: stop.min(start + TOO_LARGE_BYTES_KEPT), bytes };
        }
        let utf8 = known <= self.utf8 || std::str::from_utf8(&block[start..stop]).is_ok();
        Piece::Line { start, end: stop, utf8 }
    }

    /// Extends what is known to be UTF-8 up to the end of `bytes`, or up to the first byte that is not.
    fn check(&mut self, bytes: &[u8]) {
        let known = self.utf8.min(bytes.len());
        // Empty where the known part reaches further; what is known lies at a character's border.
        match std::str::from_utf8(&bytes[known..]) {
            Ok(_) => self.utf8 = self.utf8.max(bytes.len()),
            Err(error) => self.utf8 = known + error.valid_up_to(),
        }
    }

    fn done(&mut self, taken: usize, scanned: usize) -> usize {
        self.scanned = scanned - taken;
        self.utf8 = self.utf8.saturating_sub(taken);
        taken
    }

    /// Goes on in a line that is too long.
    fn skip(&mut self, block: &[u8], end: bool, mut each: impl FnMut(Piece<'_>) -> Then) -> usize {
        let feed = memchr(b'\n', block);
        let taken = feed.map_or(block.len(), |at| at + 1);
        if let Some(long) = &mut self.long {
            long.extend(&block[..feed.unwrap_or(block.len())]);
        }
        (self.scanned, self.utf8) = (0, 0);
        if (feed.is_some() || end)
            && let Some(mut long) = self.long.take()
        {
            if feed.is_some() && long.last == b'\r' {
                long.bytes -= 1;
                long.head.truncate(usize::try_from(long.bytes).unwrap_or(usize::MAX));
            }
            each(Piece::LongBefore { head: &long.head, bytes: long.bytes });
        }
        taken
    }
}

/// The error of a record that is longer than allowed.
pub(crate) fn too_large(what: &str, bytes: u64, bytes_max: u64) -> Error {
    Error::new(ErrorKind::TooLarge, format!("a {what} of {bytes} bytes is longer than the limit of {bytes_max}"))
        .hint("raise `bytes_max` of the codec; only its beginning is kept")
}

/// The error of a record that is no UTF-8.
pub(crate) fn not_utf8(what: &str, bytes: &[u8]) -> Error {
    let at = std::str::from_utf8(bytes).err().map_or(0, |error| error.valid_up_to());
    let byte = bytes.get(at).copied().unwrap_or_default();
    Error::new(ErrorKind::Decode, format!("a {what} is not UTF-8: byte 0x{byte:02x} at offset {at}"))
        .hint("to take bytes as they are, use `codec: bytes`, or `lines: { invalid: pass }`")
}
