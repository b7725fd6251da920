//! Compression, pushed block by block: no reader, no writer, no thread of its own.
//!
//! A compressed stream is a chain of *members* (gzip) or *frames* (zstd), each readable alone. Both sides know where one
//! ends, so that a file can be resumed and cut there.

mod compressor;
mod decompressor;
mod gzip;

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use compressor::Compressor;
pub use decompressor::{Decompressor, Fed};

/// How a stream of bytes is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (`.gz`), also several members one behind the other.
    Gzip,
    /// Zstandard (`.zst`), also several frames one behind the other.
    Zstd,
}

impl Compression {
    /// What a file's name tells: `.gz`, `.zst`, else none.
    pub fn for_path(path: &Path) -> Self {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase());
        match extension.as_deref() {
            Some("gz") => Compression::Gzip,
            Some("zst") => Compression::Zstd,
            _ => Compression::None,
        }
    }
}
