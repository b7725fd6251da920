//! What a file sink has prepared for an epoch, as the checkpoint keeps it.

use std::{fs::File, io, os::unix::fs::FileExt};

use millstream_core::Timestamp;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// How many bytes before a mark prove that the file is the one that was written.
const TAIL_BYTES: usize = 64;

/// How far each file of a sink counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileToken {
    /// Files that are not known to have their final names, oldest first; the last one may still be written.
    pub(crate) files: Vec<FileMark>,
    /// Final name of the newest rotated file, also if it has it by now: no later one comes before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) newest: Option<String>,
}

/// How far one file counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileMark {
    /// Its name while it is written, in the folder of the sink's path.
    pub(crate) name: String,
    /// The name that it gets when it is done, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rename: Option<String>,
    /// Bytes that count.
    pub(crate) length: u64,
    /// Hash of the last bytes before that.
    pub(crate) tail: u64,
    /// No more bytes will come: it gets its final name.
    pub(crate) done: bool,
    /// When it was begun.
    pub(crate) started_at: Timestamp,
}

/// Hash of the bytes at the end of what counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tail(Vec<u8>);

impl Tail {
    /// Of the first `length` bytes of a file.
    pub(crate) fn read(file: &File, length: u64) -> io::Result<Self> {
        let bytes = length.min(TAIL_BYTES as u64);
        let mut last = vec![0; usize::try_from(bytes).unwrap_or(TAIL_BYTES)];
        file.read_exact_at(&mut last, length - bytes)?;
        Ok(Tail(last))
    }

    /// Takes in what is written behind.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if bytes.len() >= TAIL_BYTES {
            self.0.clear();
        }
        self.0.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]);
        let surplus = self.0.len().saturating_sub(TAIL_BYTES);
        self.0.drain(..surplus);
    }

    /// The last byte.
    pub(crate) fn last(&self) -> Option<u8> {
        self.0.last().copied()
    }

    /// The hash that is saved.
    pub(crate) fn hash(&self) -> u64 {
        xxh3_64(&self.0)
    }
}
