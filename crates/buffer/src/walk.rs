//! Reading a segment from one end to the other, whatever is in it: good blocks, gaps, and what cannot be read. Everything here
//! blocks.

use bytes::Bytes;
use millstream_core::{Batch, ErrorKind, Result, Timestamp};

use crate::{
    decode::{Decoded, decode},
    format::{BLOCK_HEADER_BYTES, BlockHeader, Id, Mark},
    reading::{OpenSegment, READ_BYTES},
    segment::Segment,
};

/// What lies between two offsets of the log.
pub(crate) enum Piece {
    /// A good block, and when it was written.
    Block(Batch, Timestamp),
    /// So many records were lost to damage, and a repair has cut that out.
    Gap(u64),
    /// Nothing that can be read: offsets of its first byte and of the next good block, and what is wrong.
    Damage(u64, u64, &'static str),
}

/// Reads what lies in a segment between two places between blocks, until `each` says `false`.
pub(crate) fn walk(
    segment: &Segment,
    id: Id,
    from: u64,
    end: u64,
    each: &mut dyn FnMut(Piece) -> Result<bool>,
) -> Result<()> {
    let file = match OpenSegment::open(segment.clone()) {
        // Delivered meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    let mut offset = from;
    let mut bytes = Bytes::new();
    while offset < end {
        let bad = match decode(&bytes, id, offset, end - offset) {
            Decoded::Block(batch, header) => {
                offset += header.total();
                bytes = bytes.slice(header.total() as usize..);
                if !each(Piece::Block(batch, Timestamp(header.written_at)))? {
                    break;
                }
                continue;
            }
            Decoded::Gap(header) => {
                offset += header.total();
                bytes = bytes.slice(header.total() as usize..);
                if !each(Piece::Gap(u64::from(header.records)))? {
                    break;
                }
                continue;
            }
            Decoded::More(needed) => {
                let most = needed.max(READ_BYTES as u64).min(end - offset);
                bytes = file.read(offset, usize::try_from(most).unwrap_or(READ_BYTES))?;
                if bytes.len() as u64 >= needed {
                    continue;
                }
                "a block is cut short"
            }
            Decoded::Bad(why) => why,
        };
        let next = next_good(&file, id, offset + 1, end)?;
        if !each(Piece::Damage(offset, next, bad))? {
            break;
        }
        (offset, bytes) = (next, Bytes::new());
    }
    Ok(())
}

/// Where the next good block begins, from an offset on; `end` if there is none. A block's check covers its offset, so that no
/// bytes of a value are taken for one.
fn next_good(file: &OpenSegment, id: Id, from: u64, end: u64) -> Result<u64> {
    let mut offset = from;
    while offset + BLOCK_HEADER_BYTES as u64 <= end {
        let window = file.read(offset, READ_BYTES.min(usize::try_from(end - offset).unwrap_or(READ_BYTES)))?;
        let Some(last) = window.len().checked_sub(BLOCK_HEADER_BYTES) else { break };
        for at in 0..=last {
            let place = offset + at as u64;
            let header = BlockHeader::decode(window.get(at..).unwrap_or_default());
            let Some(header) = header.filter(|header| header.is_plausible() && header.total() <= end - place) else {
                continue;
            };
            let block = file.read(place, usize::try_from(header.total()).unwrap_or(READ_BYTES))?;
            if matches!(decode(&block, id, place, end - place), Decoded::Block(..) | Decoded::Gap(_)) {
                return Ok(place);
            }
        }
        offset += last as u64 + 1;
    }
    Ok(end)
}

/// The end of the gap, and the number of records before that, in which an offset of a segment lies, if it lies in one. A
/// checkpoint of before the repair may name such a place.
pub(crate) fn gap_over(file: &OpenSegment, id: Id, at: u64) -> Result<Option<Mark>> {
    let mut mark = file.segment.start;
    loop {
        let Some(header) = BlockHeader::decode(&file.read(mark.offset, BLOCK_HEADER_BYTES)?) else { return Ok(None) };
        let (begin, next) = (mark.offset, mark.offset.saturating_add(header.total()));
        mark = Mark { offset: next, records: mark.records + u64::from(header.records) };
        if next <= at {
            continue;
        }
        let left = file.segment.end().saturating_sub(begin);
        if !header.is_gap() || header.total() > left {
            return Ok(None);
        }
        let block = file.read(begin, usize::try_from(header.total()).unwrap_or(READ_BYTES))?;
        return Ok(matches!(decode(&block, id, begin, left), Decoded::Gap(_)).then_some(mark));
    }
}
