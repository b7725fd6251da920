//! The stdio line protocol: one line is one record, and may say whose it is.
//!
//! ```text
//!   line     := payload | "[" part ("|" part)* "]" payload        the bracket first, no "]" inside of it
//!   part     := timestamp   first part only: YYYY-MM-DDTHH:MM:SS[.subsec 1..9], UTC
//!               stream key  1..249 of [A-Za-z0-9._-]
//!               sequence    integer, only behind a key
//!               shard       integer, only behind a sequence
//!   payload  := the rest of the line; one blank behind the bracket goes, the rest is verbatim
//! ```
//!
//! Reading gives batches ([`LogDecoder`]), because each line may have its own stream, shard, sequence and time; lines
//! without a header cost no more than in the codec `lines`.

mod decoder;
mod header;
mod rows;
mod time;

use std::borrow::Cow;

use millstream_core::Size;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::CodecOptions;

pub use decoder::{LogDecoder, LogRead};
pub(crate) use header::write_decimal;
pub use header::{Header, HeaderWriter};

/// The stream of records without a key. It reaches every consumer.
pub const BROADCAST: &str = "broadcast";

/// Longest name of a stream.
pub const STREAM_BYTES_MAX: usize = 249;

/// Which lines are read as having a header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Headers {
    /// None: lines are taken verbatim.
    #[default]
    Off,
    /// Those that have one; a bracket with only a key counts if that stream was asked for. Other lines are plain values.
    Lenient,
    /// Every line that begins with a bracket; where that is no header, the line is an error.
    Strict,
}

/// What a [`LogDecoder`] does.
#[derive(Clone, Debug, PartialEq)]
pub struct LogOptions {
    /// Which lines have a header.
    pub headers: Headers,
    /// The streams to read, beside [`BROADCAST`]; empty: all.
    pub streams: Vec<String>,
    /// The stream of lines without a key.
    pub stream: String,
    /// What the payloads are; codecs of which a record is more than a line are refused.
    pub codec: CodecOptions,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            headers: Headers::Lenient,
            streams: Vec::new(),
            stream: BROADCAST.to_owned(),
            codec: CodecOptions::default(),
        }
    }
}

/// Whether `name` can be written as a stream key.
pub fn valid_stream(name: &[u8]) -> bool {
    (1..=STREAM_BYTES_MAX).contains(&name.len())
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
}

/// The name of a stream as a key: other characters become `_`, what is too long is cut, no name is [`BROADCAST`].
pub fn stream_key(name: &str) -> Cow<'_, str> {
    if name.is_empty() {
        return Cow::Borrowed(BROADCAST);
    }
    if valid_stream(name.as_bytes()) {
        return Cow::Borrowed(name);
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    Cow::Owned(name.chars().map(plain).take(STREAM_BYTES_MAX).collect())
}

pub(crate) fn bytes_max(codec: &CodecOptions) -> Size {
    match codec {
        CodecOptions::Lines(options) => options.bytes_max,
        CodecOptions::Ndjson(options) => options.bytes_max,
        CodecOptions::Json(options) => options.bytes_max,
        CodecOptions::Text(options) => options.bytes_max,
        CodecOptions::Bytes(options) => options.bytes_max,
        CodecOptions::Csv(options) | CodecOptions::Tsv(options) => options.bytes_max,
    }
}
