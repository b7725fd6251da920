//! The bytes of a log file.
//!
//! ```text
//!  0        8         12        16         32       40     48        56       64
//!  ├────────┼─────────┼─────────┼──────────┼────────┼──────┼─────────┼────────┤
//!  │millslog│ version │ purpose │ id       │ check  │ mark │ check   │ zeros  │  header, 64 bytes
//!  ├────────┼─────────┴─┬───────┴──────────┴────────┴──────┴─────────┴────────┘
//!  │ length │ kind │ check      │ body ...  │ length │ kind │ check  │ body ... │  entries, one behind the other
//!  └────────┴──────┴────────────┴───────────┴────────┴──────┴────────┴──────────┘
//!    u32      u8     u64          length bytes
//! ```
//!
//! Numbers are little-endian. `check` of the header is xxh3 over the 32 bytes before it; that of the mark is xxh3 over the
//! mark, seeded by the id; that of an entry is xxh3 over length, kind and body, seeded by the id and the entry's offset, so
//! an old block of another file, or of another place in this one, is never taken for an entry.
//!
//! The **mark** is a length of this file that is known to be good: what was synced (checkpoint log), or what was committed
//! (dead letters). It is written in place, so it needs no sync of its own; after a power failure it may be older than it
//! was, which only makes it more careful. Damage below the mark is an error; above it, it is what a crash leaves, and is cut.

use millstream_core::{Error, ErrorKind, Result};
use std::path::Path;
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

use crate::id::Id;

const MAGIC: [u8; 8] = *b"millslog";
/// Version of the format that this build writes.
const VERSION: u32 = 1;
/// Where the first entry begins.
pub(crate) const HEADER_BYTES: u64 = 64;
/// Where the mark lies.
pub(crate) const MARK_AT: u64 = 40;
/// Bytes in front of an entry's body.
pub(crate) const ENTRY_HEADER_BYTES: usize = 13;

/// What a log is for; a log of one purpose does not open as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Checkpoints and pending segments.
    Checkpoints = 1,
    /// Dead letters.
    DeadLetters = 2,
}

/// The first bytes of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) purpose: Purpose,
    pub(crate) id: Id,
    /// `None` if its bytes are damaged.
    pub(crate) mark: Option<u64>,
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(self.purpose as u32).to_le_bytes());
        bytes[16..32].copy_from_slice(&self.id.0);
        let check = xxh3_64(&bytes[..32]);
        bytes[32..40].copy_from_slice(&check.to_le_bytes());
        bytes[40..56].copy_from_slice(&encode_mark(self.id, self.mark.unwrap_or(HEADER_BYTES)));
        bytes
    }

    /// Reads the header of the log at `path`, which must be of `purpose`.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES as usize], path: &Path, purpose: Purpose) -> Result<Self> {
        let corrupt = |what: &str| {
            Error::new(ErrorKind::Corrupt, format!("cannot read {}: {what} at offset 0", path.display()))
                .hint("restore the file from a backup, or begin anew with `millstream state reset`")
        };
        if bytes[..8] != MAGIC {
            return Err(corrupt("it does not begin like a log of Millstream,"));
        }
        if xxh3_64(&bytes[..32]) != u64_at(bytes, 32) {
            return Err(corrupt("the header is damaged"));
        }
        let version = u32_at(bytes, 8);
        if version > VERSION {
            return Err(newer(path, &format!("format version {version}, and this build knows {VERSION}")));
        }
        if u32_at(bytes, 12) != purpose as u32 {
            return Err(corrupt("it is a log of another purpose,"));
        }
        let mut id = Id([0; 16]);
        id.0.copy_from_slice(&bytes[16..32]);
        let mark = u64_at(bytes, 40);
        let mark = (bytes[40..56] == encode_mark(id, mark)).then_some(mark);
        Ok(Header { purpose, id, mark })
    }
}

/// The 16 bytes of the mark with its check.
pub(crate) fn encode_mark(id: Id, mark: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mark.to_le_bytes());
    let check = xxh3_64_with_seed(&bytes[..8], id.seed());
    bytes[8..].copy_from_slice(&check.to_le_bytes());
    bytes
}

/// What stands in front of an entry's body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryHeader {
    pub(crate) length: u32,
    pub(crate) kind: u8,
    pub(crate) check: u64,
}

impl EntryHeader {
    pub(crate) fn new(id: Id, offset: u64, kind: u8, length: u32, body: &[u8]) -> Self {
        EntryHeader { length, kind, check: entry_check(id, offset, length, kind, body) }
    }

    pub(crate) fn encode(self) -> [u8; ENTRY_HEADER_BYTES] {
        let mut bytes = [0; ENTRY_HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.length.to_le_bytes());
        bytes[4] = self.kind;
        bytes[5..].copy_from_slice(&self.check.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; ENTRY_HEADER_BYTES]) -> Self {
        EntryHeader { length: u32_at(bytes, 0), kind: bytes[4], check: u64_at(bytes, 5) }
    }

    /// Whether `body` is what was written at `offset`.
    pub(crate) fn fits(self, id: Id, offset: u64, body: &[u8]) -> bool {
        entry_check(id, offset, self.length, self.kind, body) == self.check
    }
}

fn entry_check(id: Id, offset: u64, length: u32, kind: u8, body: &[u8]) -> u64 {
    let mut hash = Xxh3::with_seed(id.seed() ^ offset);
    hash.update(&length.to_le_bytes());
    hash.update(&[kind]);
    hash.update(body);
    hash.digest()
}

/// The error for bytes that a newer Millstream wrote.
pub(crate) fn newer(path: &Path, what: &str) -> Error {
    Error::new(ErrorKind::Version, format!("cannot read {}: it has {what}", path.display()))
        .hint("run the version of Millstream that wrote it, or a newer one")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}
