//! Cutting damage out of a buffer that does not run, so that what lies behind it is delivered. Everything here blocks.

use std::{fs::OpenOptions, os::unix::fs::FileExt as _, path::Path};

use millstream_core::{Error, ErrorKind, Result, Timestamp};
use serde::Serialize;

use crate::{
    control::{self, Control},
    format::{BLOCK_HEADER_BYTES, BlockHeader, Id, KIND_GAP, Mark, VERSION},
    inspect::Damage,
    reading::OpenSegment,
    segment::{Segment, list, sync_folder},
    walk::{Piece, walk},
};

/// What a repair has cut out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// The places, oldest first.
    pub damages: Vec<Damage>,
    /// Records that were in them.
    pub lost_records: u64,
    /// Bytes that were in them.
    pub lost_bytes: u64,
}

/// Makes a gap of every damaged place that counts, in the buffer in `folder`: its bytes stay in the file, and readers skip
/// them and count its records as dropped. Nothing else is changed, and positions stay what they are. Done twice it is done once.
///
/// # Errors
/// `Locked` while somebody runs the buffer. `Corrupt` where a segment's header or the control file is damaged, and
/// `StateMismatch` where a whole segment is missing: what they held cannot be told from what was never there.
pub fn repair(folder: &Path) -> Result<Repaired> {
    if control::look(folder)?.is_none() {
        return Err(Error::new(ErrorKind::NotFound, format!("there is no buffer in {}", folder.display())));
    }
    let (_locked, told) = Control::open(folder)?;
    let (segments, _) = list(folder, told.id, told.published.offset)?;
    let mut repaired = Repaired::default();
    for (at, segment) in segments.iter().enumerate() {
        let next = segments.get(at + 1).map(|next| next.start).filter(|next| next.offset < told.published.offset);
        let end = next.unwrap_or(told.published);
        if segment.start.offset < end.offset {
            mend(segment, told.id, end, &mut repaired)?;
        }
    }
    sync_folder(folder)?;
    Ok(repaired)
}

/// Makes gaps in a segment, which is to end at `end`.
fn mend(segment: &Segment, id: Id, end: Mark, repaired: &mut Repaired) -> Result<()> {
    let (mut found, mut known) = (Vec::<(u64, u64, &'static str)>::new(), 0);
    let mut look = |piece: Piece| {
        match piece {
            Piece::Block(batch, _) => known += batch.len() as u64,
            Piece::Gap(records) => known += records,
            Piece::Damage(from, to, why) => found.push((from, to, why)),
        }
        Ok(true)
    };
    let there = segment.end().min(end.offset);
    walk(segment, id, segment.start.offset, there, &mut look)?;
    if there < end.offset {
        match found.last_mut().filter(|(_, to, _)| *to == there) {
            Some((_, to, _)) => *to = end.offset,
            None => found.push((there, end.offset, "a block is cut short")),
        }
    }
    let lost = end.records.saturating_sub(segment.start.records).saturating_sub(known);
    let last = found.len().saturating_sub(1);
    for (at, (from, to, why)) in found.into_iter().enumerate() {
        // How many were in each of several places nobody knows; the sum is right.
        let records = if at == last { lost } else { 0 };
        write_gap(segment, id, from, to, records)?;
        repaired.damages.push(Damage::at(segment, from, to, why));
        repaired.lost_records += records;
        repaired.lost_bytes += to - from;
    }
    Ok(())
}

/// Puts the header of a gap in front of what is there.
fn write_gap(segment: &Segment, id: Id, from: u64, to: u64, records: u64) -> Result<()> {
    let cannot = |error| Error::io(format!("cannot repair {}", segment.path.display()), error);
    let place = segment.place(from);
    let length = (to - from).checked_sub(BLOCK_HEADER_BYTES as u64).and_then(|length| u32::try_from(length).ok());
    let (Some(length), Ok(records)) = (length, u32::try_from(records)) else {
        let message =
            format!("cannot repair {} at byte {place}: no gap has {} bytes", segment.path.display(), to - from);
        return Err(Error::new(ErrorKind::Corrupt, message).hint("restore the file from a backup"));
    };
    let file = OpenOptions::new().read(true).write(true).open(&segment.path).map_err(cannot)?;
    let length_now = file.metadata().map_err(cannot)?.len();
    if length_now < segment.place(to) {
        file.set_len(segment.place(to)).map_err(cannot)?;
    }
    let whole = OpenSegment::open(Segment { length: to - segment.start.offset, ..segment.clone() })?;
    // No longer than a segment.
    let body = whole.read(from + BLOCK_HEADER_BYTES as u64, length as usize)?;
    let written_at = Timestamp::now().0;
    let header =
        BlockHeader { length, version: VERSION as u8, kind: KIND_GAP, flags: 0, records, written_at, check: 0 };
    file.write_all_at(&header.encode(id, from, &body), place).map_err(cannot)?;
    file.sync_all().map_err(cannot)
}
