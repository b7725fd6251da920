//! What a pipeline file says of a buffer.

use std::fmt;

use millstream_core::{Error, ErrorKind, Result, Size};
use serde::{Deserialize, Serialize};

use crate::block::BLOCK_BYTES_MAX;

/// The smallest buffer: below it, segments would hold a few records each.
pub const DISK_BYTES_MIN: u64 = 1 << 20;

/// Largest segment file. Larger ones would be deleted later; smaller ones cost more files.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// A buffer has at least this many segments when it is full, so that what is delivered makes room soon.
const SEGMENTS_MIN: u64 = 8;

/// A buffer on disk in front of a sink.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BufferSpec {
    /// How much it may hold, such as `10GiB`.
    pub disk: Size,
    /// What becomes of records that come while it is full.
    #[serde(default)]
    pub when_full: WhenFull,
}

/// What becomes of records that come while a buffer is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// They wait, and with them the pipeline. The default.
    #[default]
    Block,
    /// They become dead letters.
    DeadLetter,
    /// They are dropped and counted.
    DropNewest,
    /// The oldest records that are not delivered make room; they are dropped and counted.
    DropOldest,
}

impl WhenFull {
    /// Whether records may be lost: no such buffer keeps `exactly_once`.
    pub fn drops(self) -> bool {
        matches!(self, WhenFull::DropNewest | WhenFull::DropOldest)
    }
}

/// As it is written.
impl fmt::Display for WhenFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            WhenFull::Block => "block",
            WhenFull::DeadLetter => "dead_letter",
            WhenFull::DropNewest => "drop_newest",
            WhenFull::DropOldest => "drop_oldest",
        })
    }
}

impl BufferSpec {
    /// A buffer of this size that lets the pipeline wait when it is full.
    pub fn new(disk: Size) -> Self {
        BufferSpec { disk, when_full: WhenFull::default() }
    }

    /// Checks what can be checked without I/O.
    pub fn validate(&self) -> Result<()> {
        if self.disk.0 < DISK_BYTES_MIN {
            let message = format!("a buffer of {} is too small", self.disk);
            let hint = format!("give it {} or more", Size(DISK_BYTES_MIN));
            return Err(Error::new(ErrorKind::Option, message).hint(hint).within("disk"));
        }
        Ok(())
    }

    /// A segment is closed when it has this many bytes.
    pub(crate) fn segment_bytes(&self) -> u64 {
        (self.disk.0 / SEGMENTS_MIN).min(SEGMENT_BYTES_MAX)
    }

    /// A block has no more bytes than this, unless one record alone is larger: a few segments of such blocks always leave room
    /// for another one, so that a buffer whose records are delivered is never full.
    pub(crate) fn block_bytes(&self) -> usize {
        usize::try_from(self.segment_bytes()).unwrap_or(BLOCK_BYTES_MAX).min(BLOCK_BYTES_MAX)
    }

    /// Epochs are to be cut after so many bytes, so that what is written soon counts, and what is delivered soon makes room.
    pub fn epoch_bytes_max(&self) -> u64 {
        self.disk.0 / SEGMENTS_MIN
    }

    /// The largest record: several must fit, or a full buffer would never have room for one.
    pub(crate) fn record_bytes_max(&self) -> u64 {
        (self.disk.0 / 4).min(1 << 30)
    }
}
