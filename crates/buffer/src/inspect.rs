//! Looking into a buffer from outside, also while it runs: no lock is taken, nothing is changed. Everything here blocks.

use std::path::{Path, PathBuf};

use millstream_core::{Batch, Error, ErrorKind, Result, Timestamp};
use serde::Serialize;

use crate::{
    control,
    decode::{Decoded, decode},
    format::{Id, Mark},
    reading::{OpenSegment, READ_BYTES},
    segment::{Segment, list},
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
    /// Bytes of them.
    pub bytes: u64,
    /// Bytes behind the published length: of an epoch that does not count, or not yet.
    pub uncounted_bytes: u64,
    /// Places that cannot be read; a segment is left at the first of them.
    pub damages: Vec<Damage>,
}

/// A place that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Byte in the file where the block begins.
    pub byte: u64,
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
        let mut first = |_: Batch, at: Timestamp| {
            oldest_at = Some(at.to_rfc3339());
            Ok(false)
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

/// Reads every block of the buffer in `folder` that counts, and checks it.
pub fn verify(folder: &Path) -> Result<Verified> {
    let opened = Opened::open(folder)?;
    let mut verified = Verified::default();
    let mut before: Option<&Segment> = None;
    for segment in &opened.segments {
        if let Some(before) = before.filter(|before| before.end() != segment.start.offset) {
            let why = format!("it ends at {}, and the next file begins at {}", before.end(), segment.start.offset);
            verified.damages.push(Damage { path: before.path.clone(), byte: before.place(before.end()), why });
        }
        before = Some(segment);
        let mut count = |batch: Batch, _: Timestamp| {
            verified.blocks += 1;
            verified.records += batch.len() as u64;
            Ok(true)
        };
        let end = opened.published.offset.min(segment.end());
        let Walked { offset, bad } = walk(segment, opened.id, segment.start.offset, end, &mut count)?;
        verified.bytes += offset - segment.start.offset;
        verified.uncounted_bytes += segment.end() - end.max(segment.start.offset);
        if let Some(why) = bad {
            verified.damages.push(Damage {
                path: segment.path.clone(),
                byte: segment.place(offset),
                why: why.to_owned(),
            });
        }
    }
    let end = opened.segments.last().map_or(0, Segment::end);
    if end < opened.published.offset {
        let why = format!("it ends at {end}, and {} bytes counted", opened.published.offset);
        verified.damages.push(Damage { path: folder.to_owned(), byte: 0, why });
    }
    Ok(verified)
}

/// Gives the records that are not delivered, batch by batch in order, until `each` says `false`. Damage is an error.
pub fn dump(folder: &Path, mut each: impl FnMut(&Batch, Timestamp) -> Result<bool>) -> Result<()> {
    let Opened { id, published, delivered, segments, .. } = Opened::open(folder)?;
    for segment in segments.iter().filter(|segment| segment.end() > delivered.offset) {
        let mut go_on = true;
        let mut give = |batch: Batch, at: Timestamp| {
            go_on = each(&batch, at)?;
            Ok(go_on)
        };
        let from = delivered.offset.max(segment.start.offset);
        let Walked { offset, bad } = walk(segment, id, from, published.offset.min(segment.end()), &mut give)?;
        if let Some(why) = bad {
            let place = format!("{} at byte {}", segment.path.display(), segment.place(offset));
            return Err(Error::new(ErrorKind::Corrupt, format!("cannot read {place}: {why}")));
        }
        if !go_on {
            break;
        }
    }
    Ok(())
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

/// How far a segment was read.
struct Walked {
    offset: u64,
    bad: Option<&'static str>,
}

/// Reads the blocks of a segment from `from` up to `end`, until `each` says `false`.
fn walk(
    segment: &Segment,
    id: Id,
    from: u64,
    end: u64,
    each: &mut dyn FnMut(Batch, Timestamp) -> Result<bool>,
) -> Result<Walked> {
    let file = match OpenSegment::open(segment.clone()) {
        // Delivered meanwhile.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Walked { offset: end, bad: None }),
        file => file?,
    };
    let mut offset = from;
    let mut bytes = bytes::Bytes::new();
    while offset < end {
        match decode(&bytes, id, offset, end - offset) {
            Decoded::Block(batch, header) => {
                offset += header.total();
                bytes = bytes.slice(header.total() as usize..);
                if !each(batch, Timestamp(header.written_at))? {
                    break;
                }
            }
            Decoded::More(needed) => {
                let most = needed.max(READ_BYTES as u64).min(end - offset);
                let more = file.read(offset, usize::try_from(most).unwrap_or(READ_BYTES))?;
                if (more.len() as u64) < needed {
                    return Ok(Walked { offset, bad: Some("a block is cut short") });
                }
                bytes = more;
            }
            Decoded::Bad(why) => return Ok(Walked { offset, bad: Some(why) }),
        }
    }
    Ok(Walked { offset, bad: None })
}
