//! `ndjson`: each line is a record, as one JSON value.

use bytes::Bytes;
use millstream_core::{Batch, Codec, Decoder, Encoder, Error, Form, Frames, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    json,
    line::{Cutter, Piece, RECORD_BYTES_MAX, Then, not_utf8, too_large},
};

/// Each line is one JSON value. Blank lines are skipped.
///
/// Written: JSON on one line, text as a JSON string, bytes as the JSON that they are, else as a JSON string (refused if
/// they are no UTF-8); a tombstone as `null`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NdjsonOptions {
    /// Look at every record; otherwise what is not JSON is noticed by the first step that looks inside.
    pub validate: bool,
    /// Longest line that is read. A longer one is an error that holds its first 64 KiB.
    pub bytes_max: Size,
}

impl Default for NdjsonOptions {
    fn default() -> Self {
        NdjsonOptions { validate: false, bytes_max: Size(RECORD_BYTES_MAX) }
    }
}

#[derive(Debug)]
pub(crate) struct Ndjson(pub(crate) NdjsonOptions);

impl Codec for Ndjson {
    fn form(&self) -> Form {
        Form::Json
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(NdjsonDecoder { cutter: Cutter::new(self.0.bytes_max.0), options: self.0.clone() })
    }

    fn encoder(&self) -> Box<dyn Encoder> {
        Box::new(JsonEncoder)
    }
}

struct NdjsonDecoder {
    cutter: Cutter,
    options: NdjsonOptions,
}

impl Decoder for NdjsonDecoder {
    fn decode(&mut self, block: &Bytes, end: bool, frames: &mut Frames) -> usize {
        if self.cutter.unfinished() > 0 && !frames.is_empty() {
            return 0; // A long line's front is bytes of our own, which cannot share a batch with slices.
        }
        let NdjsonOptions { validate, bytes_max } = self.options;
        self.cutter.cut(block, end, |piece| {
            match piece {
                Piece::Line { start, end, .. } if block[start..end].iter().all(u8::is_ascii_whitespace) => {}
                Piece::Line { start, end, utf8 } => {
                    frames.slice(start, end);
                    let checked = match (utf8, validate) {
                        (false, _) => Err(not_utf8("line", &block[start..end])),
                        (true, true) => json::validate(&block[start..end]),
                        (true, false) => Ok(()),
                    };
                    if let Err(error) = checked {
                        frames.fail(error);
                    }
                }
                Piece::Long { start, end, bytes } => {
                    frames.slice(start, end);
                    frames.fail(too_large("line", bytes, bytes_max.0));
                }
                Piece::LongBefore { head, bytes } => {
                    frames.own(|out| out.extend_from_slice(head));
                    frames.fail(too_large("line", bytes, bytes_max.0));
                }
            }
            Then::unless(frames.is_full())
        })
    }

    fn unfinished(&self) -> u64 {
        self.cutter.unfinished()
    }
}

/// Writes each record as one line of JSON; `json` writes the same.
pub(crate) struct JsonEncoder;

impl Encoder for JsonEncoder {
    fn encode(&mut self, batch: &Batch, out: &mut Vec<u8>, ends: &mut Vec<usize>, rejected: &mut Vec<(u32, Error)>) {
        for (i, record) in batch.iter().enumerate() {
            let start = out.len();
            match json::write_value(record.value().unwrap_or(b"null"), written_form(&record), out) {
                Ok(()) => {
                    out.push(b'\n');
                    ends.push(out.len());
                }
                Err(error) => {
                    out.truncate(start);
                    rejected.push((i as u32, error));
                }
            }
        }
    }
}

/// An absent value is written as JSON's `null`, whatever its form says.
fn written_form(record: &millstream_core::RecordRef<'_>) -> Form {
    if record.value().is_some() { record.form() } else { Form::Json }
}
