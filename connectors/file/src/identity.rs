//! Which file it is, whatever it is called: device and inode, and a fingerprint of its first bytes, because inodes are
//! given anew.

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::{FileExt, MetadataExt},
};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// Most bytes that a fingerprint covers: enough for logs that begin with the same banner, one page at most.
const FINGERPRINT_BYTES: u64 = 1024;

/// Device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct FileId {
    /// Device.
    pub(crate) dev: u64,
    /// Inode.
    pub(crate) ino: u64,
}

impl From<&Metadata> for FileId {
    fn from(metadata: &Metadata) -> Self {
        FileId { dev: metadata.dev(), ino: metadata.ino() }
    }
}

/// Hash of a file's first bytes, and how many. Grows with the file until it covers [`FINGERPRINT_BYTES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    bytes: u32,
    hash: u64,
}

impl Fingerprint {
    /// Of the first `read` bytes of the file, or fewer.
    pub(crate) fn of(file: &File, read: u64) -> io::Result<Self> {
        let bytes = read.min(FINGERPRINT_BYTES);
        let mut first = vec![0; usize::try_from(bytes).unwrap_or(0)];
        file.read_exact_at(&mut first, 0)?;
        Ok(Fingerprint { bytes: u32::try_from(bytes).unwrap_or(0), hash: xxh3_64(&first) })
    }

    /// Whether the file begins with the same bytes. One that is shorter does not.
    pub(crate) fn matches(&self, file: &File) -> io::Result<bool> {
        if self.empty() {
            return Ok(true);
        }
        match Fingerprint::of(file, self.bytes.into()) {
            Ok(other) => Ok(other == *self),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether it covers nothing, and so every file.
    pub(crate) fn empty(&self) -> bool {
        self.bytes == 0
    }

    /// Whether more bytes would make it better, of a file of which `read` bytes have been read.
    pub(crate) fn grows(&self, read: u64) -> bool {
        u64::from(self.bytes) < read.min(FINGERPRINT_BYTES)
    }
}

/// As text: `256:00ab...`.
impl Serialize for Fingerprint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}:{:016x}", self.bytes, self.hash))
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parts = text.split_once(':').and_then(|(bytes, hash)| {
            Some(Fingerprint { bytes: bytes.parse().ok()?, hash: u64::from_str_radix(hash, 16).ok()? })
        });
        parts.ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no fingerprint")))
    }
}
