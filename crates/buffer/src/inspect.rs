//! Looking into a buffer from outside, also while it runs: no lock is taken, nothing is changed. Everything here blocks.

use std::path::{Path, PathBuf};

use millstream_core::{Batch, Error, ErrorKind, Result, Timestamp};
use serde::Serialize;

use crate::{
    control,
    format::{Id, Mark},
    segment::{Segment, list},
    walk::{Piece, walk},
};

/// What a buffer holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Info {
    /// Identity of the log.
    pub id: String,
    /// Records that count for the pipeline and are not delivered.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of all segments on the disk.
    pub disk_bytes: u64,
    /// Offset up to which blocks count for the pipeline.
    pub published: u64,
    /// Offset up to which they are delivered, as far as the control file knows.
    pub delivered: u64,
    /// Records that were dropped unread to make room.
    pub dropped: u64,
    /// When the oldest of the records that are not delivered was written, in RFC 3339.
    pub oldest_at: Option<String>,
    /// Its files, oldest first.
    pub segments: Vec<SegmentInfo>,
}

/// One file of a buffer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SegmentInfo {
    /// Its path.
    pub path: PathBuf,
    /// Offset of its first block.
    pub base: u64,
    /// Number of its first record.
    pub first_record: u64,
    /// Bytes of blocks in it.
    pub bytes: u64,
}

/// What a buffer's blocks come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Good blocks.
    pub blocks: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of them, and of what a repair has cut out.
    pub bytes: u64,
    /// Bytes behind the published length: of an epoch that does not count, or not yet.
    pub uncounted_bytes: u64,
    /// Places that cannot be read, oldest first.
    pub damages: Vec<Damage>,
    /// Records that count and are in those places.
    pub damaged_records: u64,
    /// Records that were in places which a repair has cut out.
    pub lost_records: u64,
}

/// A place that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Byte in the file where the block begins.
    pub byte: u64,
    /// So many bytes, up to the next good block.
    pub bytes: u64,
    /// What is wrong.
    pub why: String,
}

/// What the buffer in `folder` holds.
pub fn info(folder: &Path) -> Result<Info> {
    let Opened { id, published, delivered, dropped, segments } = Opened::open(folder)?;
    let floor = segments.first().map(|segment| segment.start).unwrap_or_default();
    let oldest = delivered.max(floor);
    let mut oldest_at = None;
    if let Some(segment) = segments.iter().find(|segment| segment.end() > oldest.offset && oldest < published) {
        let mut first = |piece: Piece| {
            if let Piece::Block(_, at) = piece {
                oldest_at = Some(at.to_rfc3339());
            }
            Ok(oldest_at.is_none())
        };
        walk(segment, id, oldest.offset, published.offset, &mut first)?;
    }
    let shown = |segment: &Segment| SegmentInfo {
        path: segment.path.clone(),
        base: segment.start.offset,
        first_record: segment.start.records,
        bytes: segment.length,
    };
    Ok(Info {
        id: id.to_string(),
        records: published.records.saturating_sub(oldest.records),
        bytes: published.offset.saturating_sub(oldest.offset),
        disk_bytes: segments.iter().map(|segment| segment.length).sum(),
        published: published.offset,
        delivered: delivered.offset,
        dropped,
        oldest_at,
        segments: segments.iter().map(shown).collect(),
    })
}

/// Reads every block of the buffer in `folder` that counts, and checks it; goes on behind every damaged place.
pub fn verify(folder: &Path) -> Result<Verified> {
    let opened = Opened::open(folder)?;
    let mut verified = Verified::default();
    for (at, segment) in opened.segments.iter().enumerate() {
        let end = opened.published.offset.min(segment.end());
        let mut count = |piece: Piece| {
            match piece {
                Piece::Block(batch, _) => {
                    verified.blocks += 1;
                    verified.records += batch.len() as u64;
                }
                Piece::Gap(records) => verified.lost_records += records,
                Piece::Damage(from, to, why) => {
                    verified.bytes = verified.bytes.saturating_sub(to - from);
                    verified.damages.push(Damage::at(segment, from, to, why));
                }
            }
            Ok(true)
        };
        let begin = segment.start.offset.min(end);
        walk(segment, opened.id, begin, end, &mut count)?;
        verified.bytes += end - begin;
        verified.uncounted_bytes += segment.end() - end.max(segment.start.offset);
        // What should be there and is not.
        let next = opened.segments.get(at + 1).map(|next| next.start.offset);
        let to = next.map_or(opened.published.offset, |next| next.min(opened.published.offset));
        if segment.end() < to {
            let why = format!("it ends at {} of the log, and blocks count up to {to}", segment.end());
            verified.damages.push(Damage::at(segment, segment.end(), to, &why));
        } else if next.is_some_and(|next| next < segment.end()) {
            let why = format!("it ends at {} of the log, and the next file begins before", segment.end());
            verified.damages.push(Damage::at(segment, segment.end(), segment.end(), &why));
        }
    }
    let first = opened.segments.first().map_or(opened.published, |first| first.start);
    let there = verified.records + verified.lost_records;
    verified.damaged_records = opened.published.records.saturating_sub(first.records).saturating_sub(there);
    Ok(verified)
}

/// Gives the records that are not delivered, batch by batch in order, until `each` says `false`. Damage is an error.
pub fn dump(folder: &Path, mut each: impl FnMut(&Batch, Timestamp) -> Result<bool>) -> Result<()> {
    read(folder, |seen| match seen {
        Seen::Records(batch, at) => each(batch, at),
        Seen::Damage(damage) => {
            let message = format!("cannot read {} at byte {}: {}", damage.path.display(), damage.byte, damage.why);
            Err(Error::new(ErrorKind::Corrupt, message).hint("--skip-damaged shows what is behind it"))
        }
    })
}

/// What [`read`] meets.
#[derive(Debug)]
pub enum Seen<'a> {
    /// Records that are not delivered, and when they were written.
    Records(&'a Batch, Timestamp),
    /// A place that cannot be read, and is passed over.
    Damage(Damage),
}

/// The same, and what lies behind damaged places, too.
pub fn read(folder: &Path, mut each: impl FnMut(Seen<'_>) -> Result<bool>) -> Result<()> {
    let Opened { id, published, delivered, segments, .. } = Opened::open(folder)?;
    for segment in segments.iter().filter(|segment| segment.end() > delivered.offset) {
        let mut go_on = true;
        let mut give = |piece: Piece| {
            go_on = match piece {
                Piece::Block(batch, at) => each(Seen::Records(&batch, at))?,
                Piece::Gap(_) => true,
                Piece::Damage(from, to, why) => each(Seen::Damage(Damage::at(segment, from, to, why)))?,
            };
            Ok(go_on)
        };
        let from = delivered.offset.max(segment.start.offset);
        walk(segment, id, from, published.offset.min(segment.end()), &mut give)?;
        if !go_on {
            break;
        }
    }
    Ok(())
}

impl Damage {
    pub(crate) fn at(segment: &Segment, from: u64, to: u64, why: &str) -> Self {
        Damage { path: segment.path.clone(), byte: segment.place(from), bytes: to - from, why: why.to_owned() }
    }
}

/// A buffer as its files say.
struct Opened {
    id: Id,
    published: Mark,
    delivered: Mark,
    dropped: u64,
    segments: Vec<Segment>,
}

impl Opened {
    fn open(folder: &Path) -> Result<Self> {
        let Some(told) = control::look(folder)? else {
            let error = Error::new(ErrorKind::NotFound, format!("there is no buffer in {}", folder.display()));
            return Err(error.hint("a buffer lies in STATE_DIR/PIPELINE.SINK/buffer"));
        };
        let (segments, _) = list(folder, told.id, told.published.offset)?;
        let control::Told { id, published, delivered, dropped, .. } = told;
        Ok(Opened { id, published, delivered, dropped, segments })
    }
}
