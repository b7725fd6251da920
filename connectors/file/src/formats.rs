//! How the bytes of a file become records and back: what `codec`, `compression` and the file's name say together.

use std::{path::Path, sync::Arc};

use millstream_codec::{CodecOptions, Compression, Decompressor, default_for_path};
use millstream_core::{Codec, Result};

/// Most bytes that one step of unpacking may give: a few kilobytes can unpack to gigabytes.
pub(crate) const UNPACK_BYTES_MAX: usize = 256 << 10;

/// A codec, and the compression around it.
#[derive(Clone, Debug)]
pub(crate) struct Format {
    pub(crate) codec: Arc<dyn Codec>,
    pub(crate) compression: Compression,
    /// Records end with a line feed.
    pub(crate) lines: bool,
    /// The whole file is one record.
    pub(crate) whole: bool,
}

impl Format {
    /// Plans the codec; errors name the option.
    pub(crate) fn plan(codec: Option<&CodecOptions>, compression: Option<Compression>, path: &Path) -> Result<Self> {
        let options = codec.cloned().unwrap_or_else(|| default_for_path(path));
        let whole = matches!(options, CodecOptions::Text(_) | CodecOptions::Bytes(_) | CodecOptions::Json(_));
        Ok(Format {
            codec: options.plan().map_err(|error| error.within("codec"))?,
            compression: compression.unwrap_or_else(|| Compression::for_path(path)),
            lines: !matches!(options, CodecOptions::Text(_) | CodecOptions::Bytes(_)),
            whole,
        })
    }

    /// Whether the bytes of the file are not those of its records.
    pub(crate) fn packed(&self) -> bool {
        self.compression != Compression::None
    }

    /// Undoes the compression, if there is one.
    pub(crate) fn decompressor(&self) -> Result<Option<Decompressor>> {
        self.packed().then(|| Decompressor::new(self.compression)).transpose()
    }
}
