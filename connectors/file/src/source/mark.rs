//! Where the reading of a path stands, as it is saved.

use serde::{Deserialize, Serialize};

use crate::identity::{FileId, Fingerprint};

/// Where the reading of one file stands, whatever the file is called by now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogMark {
    /// Which file.
    #[serde(flatten)]
    pub(crate) id: FileId,
    /// And that the inode has not been given to another.
    pub(crate) fingerprint: Fingerprint,
    /// Bytes before the next record, decompressed.
    pub(crate) offset: u64,
    /// When it had last been changed, in nanoseconds since 1970: files that were rotated later are younger.
    pub(crate) modified: i64,
    /// A bounded read has come to its end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) ended: bool,
}

/// Where the reading of one path stands: the file that has the name, and older ones that had it and may still grow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TailMark {
    /// The newest file.
    #[serde(flatten)]
    pub(crate) newest: LogMark,
    /// Records handed over so far: the sequence of the newest one.
    pub(crate) records: u64,
    /// Files that had the name before, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) rotated: Vec<LogMark>,
}

impl TailMark {
    /// All files, oldest first.
    pub(crate) fn logs(&self) -> impl Iterator<Item = &LogMark> {
        self.rotated.iter().chain([&self.newest])
    }
}
