//! The bytes of a buffer's files. Numbers are little-endian.
//!
//! ```text
//! control:   magic "millsbuf" │ version u32 │ 0 u32 │ id 16 │ check u64 │ zeros up to 512
//!            then four sectors of 512 bytes: the writer's two slots, the reader's two slots
//! slot:      generation u64 │ offset u64 │ records u64 │ dropped u64 │ check u64
//!
//! segment:   magic "millsseg" │ version u32 │ 0 u32 │ id 16 │ base u64 │ first record u64 │ check u64 │ zeros up to 64
//!            then blocks, one behind the other; the file's name is its base, 20 digits, `.seg`
//! block:     length u32 │ version u8 │ kind u8 │ flags u16 │ records u32 │ 0 u32 │ written at i64 │ check u64 │ body
//! ```
//!
//! A block is one batch. Its **offset** is the sum of all blocks before it in the whole log: segment base plus place in the
//! file without the header. Its check is xxh3 over the body, seeded by xxh3 over the 24 bytes before the check, seeded by
//! the id and the offset: an old block of another file, or of another place, is never taken for this one.
//!
//! Kind 1 is records. Kind 2 is a **gap**: a repair has put its header in front of bytes that could not be read, which are
//! its body and say nothing; `records` were in it. Readers skip it.
//!
//! A slot is written in turn with its twin and has its own check, so a torn write leaves the other. The writer's says how
//! far blocks count (the **published** length) and is synced; the reader's says how far they are delivered.
//!
//! The body of a block, for `n` records; a part that no record needs is left out, as the flags say:
//!
//! ```text
//! form u8, or u8 * n               0 bytes, 1 text, 2 JSON
//! shards u32 │ (length u32 │ stream │ shard u64)*  │ index u32 * n where there are several
//! base u128 │ offset u64 * n       sequences; without offsets they are base, base + 1, ...
//! time i64, or (u8 * n │ i64 * n)  nanoseconds; the byte says whether there is one
//! index u64 * n                    which output of its source record
//! deliveries u32 * n
//! key length + 1 u32 * n           0: absent
//! value length + 1 u32 * n         0: absent
//! original length + 2 u32 * n      0: absent, 1: the same as the value
//! headers u32 * n │ name length u32 * m │ value length + 1 u32 * m │ names │ values
//! keys │ values │ originals
//! ```

use millstream_core::{Error, ErrorKind, Result};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Version of the format that this build writes.
pub const VERSION: u32 = 1;

/// Bytes of a segment before its first block.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 64;
/// Bytes of a block before its body.
pub(crate) const BLOCK_HEADER_BYTES: usize = 32;
/// A block of records.
pub(crate) const KIND_RECORDS: u8 = 1;
/// What a repair makes of damage: records that are lost, and bytes that say nothing.
pub(crate) const KIND_GAP: u8 = 2;

const SEGMENT_MAGIC: [u8; 8] = *b"millsseg";
pub(crate) const CONTROL_MAGIC: [u8; 8] = *b"millsbuf";

/// Parts of a block that are there.
pub(crate) mod flag {
    pub(crate) const SHARDS_EACH: u16 = 1;
    pub(crate) const SEQUENCES_EACH: u16 = 1 << 1;
    pub(crate) const TIME_SAME: u16 = 1 << 2;
    pub(crate) const TIMES_EACH: u16 = 1 << 3;
    pub(crate) const KEYS: u16 = 1 << 4;
    pub(crate) const HEADERS: u16 = 1 << 5;
    pub(crate) const FORMS_EACH: u16 = 1 << 6;
    pub(crate) const ORIGINALS: u16 = 1 << 7;
    pub(crate) const INDEXES: u16 = 1 << 8;
    pub(crate) const DELIVERIES: u16 = 1 << 9;
    pub(crate) const APPENDED: u16 = 1 << 10;
}

/// Identity of a buffer: random, made once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(pub(crate) [u8; 16]);

impl Id {
    pub(crate) fn random() -> Self {
        use std::hash::{BuildHasher as _, RandomState};
        // The keys of each `RandomState` come from the system's randomness.
        let now = millstream_core::Timestamp::now();
        let half = || RandomState::new().hash_one((std::process::id(), now)).to_le_bytes();
        let mut id = [0; 16];
        id[..8].copy_from_slice(&half());
        id[8..].copy_from_slice(&half());
        Id(id)
    }

    fn seed(self) -> u64 {
        u64_at(&self.0, 0)
    }
}

/// 32 hexadecimal digits.
impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A place between two blocks: bytes and records before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    pub(crate) offset: u64,
    pub(crate) records: u64,
}

/// What stands in front of a block's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHeader {
    pub(crate) length: u32,
    pub(crate) version: u8,
    pub(crate) kind: u8,
    pub(crate) flags: u16,
    pub(crate) records: u32,
    pub(crate) written_at: i64,
    pub(crate) check: u64,
}

impl BlockHeader {
    /// The header's bytes for a body at `offset`; the check is computed here.
    pub(crate) fn encode(&self, id: Id, offset: u64, body: &[u8]) -> [u8; BLOCK_HEADER_BYTES] {
        let mut bytes = [0; BLOCK_HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.length.to_le_bytes());
        (bytes[4], bytes[5]) = (self.version, self.kind);
        bytes[6..8].copy_from_slice(&self.flags.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.records.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.written_at.to_le_bytes());
        let check = block_check(id, offset, &bytes[..24], body);
        bytes[24..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// `None` if there are too few bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BLOCK_HEADER_BYTES] = bytes.get(..BLOCK_HEADER_BYTES)?.try_into().ok()?;
        Some(BlockHeader {
            length: u32_at(bytes, 0),
            version: bytes[4],
            kind: bytes[5],
            flags: u16::from_le_bytes([bytes[6], bytes[7]]),
            records: u32_at(bytes, 8),
            written_at: u64_at(bytes, 16) as i64,
            check: u64_at(bytes, 24),
        })
    }

    /// Whether it may stand in front of a block: most bytes that are none are found out without a look at the rest.
    pub(crate) fn is_plausible(&self) -> bool {
        self.version == VERSION as u8 && matches!(self.kind, KIND_RECORDS | KIND_GAP)
    }

    /// Whether it is in front of a gap.
    pub(crate) fn is_gap(&self) -> bool {
        self.version == VERSION as u8 && self.kind == KIND_GAP
    }

    /// Bytes of the whole block.
    pub(crate) fn total(&self) -> u64 {
        BLOCK_HEADER_BYTES as u64 + u64::from(self.length)
    }
}

/// The check of a block from the 24 bytes before it and its body.
pub(crate) fn block_check(id: Id, offset: u64, head: &[u8], body: &[u8]) -> u64 {
    xxh3_64_with_seed(body, xxh3_64_with_seed(head, id.seed() ^ offset))
}

/// The first bytes of a segment.
pub(crate) fn segment_header(id: Id, start: Mark) -> [u8; SEGMENT_HEADER_BYTES as usize] {
    let mut bytes = [0; SEGMENT_HEADER_BYTES as usize];
    bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..32].copy_from_slice(&id.0);
    bytes[32..40].copy_from_slice(&start.offset.to_le_bytes());
    bytes[40..48].copy_from_slice(&start.records.to_le_bytes());
    let check = xxh3_64(&bytes[..48]);
    bytes[48..56].copy_from_slice(&check.to_le_bytes());
    bytes
}

/// Where a segment starts, and of which buffer it is. The error is what is wrong with it.
pub(crate) fn read_segment_header(bytes: &[u8; SEGMENT_HEADER_BYTES as usize]) -> Result<(Id, Mark)> {
    check_head(bytes, SEGMENT_MAGIC, 48)?;
    let mut id = Id([0; 16]);
    id.0.copy_from_slice(&bytes[16..32]);
    Ok((id, Mark { offset: u64_at(bytes, 32), records: u64_at(bytes, 40) }))
}

/// Checks magic, version, and the check behind `length` bytes.
pub(crate) fn check_head(bytes: &[u8], magic: [u8; 8], length: usize) -> Result<()> {
    if bytes[..8] != magic {
        return Err(Error::new(ErrorKind::Corrupt, "it is no file of a buffer"));
    }
    if xxh3_64(&bytes[..length]) != u64_at(bytes, length) {
        return Err(Error::new(ErrorKind::Corrupt, "its header is damaged"));
    }
    match u32_at(bytes, 8) {
        VERSION => Ok(()),
        version => Err(Error::new(
            ErrorKind::Version,
            format!("it has format version {version}, and this build knows {VERSION}"),
        )
        .hint("run the version of Millstream that wrote it, or a newer one")),
    }
}

/// The 40 bytes of a slot.
pub(crate) fn slot(id: Id, generation: u64, mark: Mark, dropped: u64) -> [u8; 40] {
    let mut bytes = [0; 40];
    let numbers = [generation, mark.offset, mark.records, dropped];
    bytes.chunks_exact_mut(8).zip(numbers).for_each(|(to, number)| to.copy_from_slice(&number.to_le_bytes()));
    let check = xxh3_64_with_seed(&bytes[..32], id.seed());
    bytes[32..].copy_from_slice(&check.to_le_bytes());
    bytes
}

/// Generation, mark and drops of a slot; `None` if it is torn or was never written.
pub(crate) fn read_slot(id: Id, bytes: &[u8; 40]) -> Option<(u64, Mark, u64)> {
    let good = xxh3_64_with_seed(&bytes[..32], id.seed()) == u64_at(bytes, 32);
    let mark = Mark { offset: u64_at(bytes, 8), records: u64_at(bytes, 16) };
    good.then(|| (u64_at(bytes, 0), mark, u64_at(bytes, 24)))
}

/// Callers have that many bytes.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}
