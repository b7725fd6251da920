//! Whose record it is that is damaged, where that can be told.

use std::ops::Range;

use millstream_codec::ss::{Block, Damage, message_bytes};

/// The head of a message whose payload is wrong.
pub(super) struct Whose<'a> {
    pub(super) key: &'a str,
    pub(super) shard: u64,
    pub(super) sequence: u64,
    pub(super) time_ms: u64,
    /// Where in the block the payload lies, if it is in one piece.
    pub(super) payload: Option<Range<usize>>,
}

/// Reads the head of the message at `offset`, of which only the checksum is wrong and whose head no beacon cuts.
pub(super) fn whose(block: Block<'_>, offset: u64, interval: u32, damage: Damage) -> Option<Whose<'_>> {
    let Damage::Checksum { .. } = damage else { return None };
    let start = usize::try_from(offset.checked_sub(block.offset)?).ok()?;
    let room = offset.next_multiple_of(interval.into()) - offset;
    let (key_bytes, rest) = block.bytes.get(start..)?.split_first()?;
    let (key, rest) = rest.split_at_checked(usize::from(*key_bytes))?;
    let (shard, rest) = rest.split_first_chunk::<8>()?;
    let (sequence, rest) = rest.split_first_chunk::<8>()?;
    let (time_ms, rest) = rest.split_first_chunk::<8>()?;
    let (size, rest) = rest.split_first_chunk::<4>()?;
    let size = u32::from_be_bytes(*size) as usize;
    let tail = message_bytes(0, 0) - 1 - 8 - 8 - 8 - 4;
    let head = message_bytes(key.len(), 0) - tail;
    if head as u64 > room {
        return None;
    }
    let from = block.bytes.len() - rest.len();
    let whole = (head + size) as u64 <= room && size <= rest.len();
    Some(Whose {
        key: std::str::from_utf8(key).ok()?,
        shard: u64::from_be_bytes(*shard),
        sequence: u64::from_be_bytes(*sequence),
        time_ms: u64::from_be_bytes(*time_ms),
        payload: whole.then_some(from..from + size),
    })
}
