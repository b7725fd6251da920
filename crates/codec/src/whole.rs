//! `json`, `text` and `bytes`: all there is, is one record: a message, or a whole file.

use bytes::Bytes;
use millstream_core::{Batch, Codec, Decoder, Encoder, Error, ErrorKind, Form, Frames, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    json,
    line::{RECORD_BYTES_MAX, TOO_LARGE_BYTES_KEPT, not_utf8, too_large},
    lines::Invalid,
    ndjson::JsonEncoder,
};

/// A whole message or file is one JSON value. Written like `ndjson`, one line each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JsonOptions {
    /// Look at every record; otherwise what is not JSON is noticed by the first step that looks inside.
    pub validate: bool,
    /// Largest value that is read. A larger one is an error that holds its first 64 KiB.
    pub bytes_max: Size,
}

/// A whole message or file is one text. Written as it is, with nothing between records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TextOptions {
    /// What becomes of a text that is not UTF-8.
    pub invalid: Invalid,
    /// Largest value that is read. A larger one is an error that holds its first 64 KiB.
    pub bytes_max: Size,
}

/// A whole message or file is one record. Written as it is, with nothing between records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BytesOptions {
    /// Largest value that is read. A larger one is an error that holds its first 64 KiB.
    pub bytes_max: Size,
}

impl Default for JsonOptions {
    fn default() -> Self {
        JsonOptions { validate: false, bytes_max: Size(RECORD_BYTES_MAX) }
    }
}

impl Default for TextOptions {
    fn default() -> Self {
        TextOptions { invalid: Invalid::Fail, bytes_max: Size(RECORD_BYTES_MAX) }
    }
}

impl Default for BytesOptions {
    fn default() -> Self {
        BytesOptions { bytes_max: Size(RECORD_BYTES_MAX) }
    }
}

/// What a whole value must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    Nothing,
    Utf8,
    Json,
}

impl Check {
    pub(crate) fn check(self, value: &[u8]) -> Result<(), Error> {
        match self {
            Check::Nothing => Ok(()),
            Check::Utf8 if std::str::from_utf8(value).is_ok() => Ok(()),
            Check::Utf8 => Err(not_utf8("value", value)),
            Check::Json => json::validate(value),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Whole {
    pub(crate) form: Form,
    pub(crate) check: Check,
    pub(crate) bytes_max: u64,
}

impl Codec for Whole {
    fn form(&self) -> Form {
        self.form
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(WholeDecoder { whole: *self, skipped: 0, head: Vec::new() })
    }

    fn encoder(&self) -> Box<dyn Encoder> {
        match self.form {
            Form::Json => Box::new(JsonEncoder),
            _ => Box::new(VerbatimEncoder),
        }
    }
}

struct WholeDecoder {
    whole: Whole,
    /// Length so far of a value that is too long, and its beginning.
    skipped: u64,
    head: Vec<u8>,
}

impl Decoder for WholeDecoder {
    fn decode(&mut self, block: &Bytes, end: bool, frames: &mut Frames) -> usize {
        let bytes_max = self.whole.bytes_max;
        if self.skipped == 0 && block.len() as u64 <= bytes_max {
            if !end {
                return 0;
            }
            if !block.is_empty() {
                frames.slice(0, block.len());
                if let Err(error) = self.whole.check.check(block) {
                    frames.fail(error);
                }
            }
            return block.len();
        }
        let room = TOO_LARGE_BYTES_KEPT - self.head.len();
        self.head.extend_from_slice(&block[..block.len().min(room)]);
        self.skipped += block.len() as u64;
        if end {
            let head = std::mem::take(&mut self.head);
            frames.own(|out| out.extend_from_slice(&head));
            frames.fail(too_large("value", self.skipped, bytes_max));
            self.skipped = 0;
        }
        block.len()
    }

    fn unfinished(&self) -> u64 {
        self.skipped
    }
}

struct VerbatimEncoder;

impl Encoder for VerbatimEncoder {
    fn encode(&mut self, batch: &Batch, out: &mut Vec<u8>, ends: &mut Vec<usize>, rejected: &mut Vec<(u32, Error)>) {
        for (i, record) in batch.iter().enumerate() {
            match record.value() {
                Some(value) => {
                    out.extend_from_slice(value);
                    ends.push(out.len());
                }
                None => rejected.push((
                    i as u32,
                    Error::new(ErrorKind::Rejected, "a tombstone has no bytes to be written")
                        .hint("use `codec: ndjson`, which writes `null`, or filter them out"),
                )),
            }
        }
    }
}
