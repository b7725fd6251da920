//! `lines`: each line is a record, as text.

use bytes::Bytes;
use millstream_core::{Batch, Codec, Decoder, Encoder, Error, ErrorKind, Form, Frames, Size};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    json,
    line::{Cutter, Piece, RECORD_BYTES_MAX, Then, not_utf8, too_large},
};

/// Each line is a record. Lines end in LF or CRLF; empty lines are records; the last line needs no line end.
///
/// Written: text and bytes as they are, JSON on one line, each followed by LF. A tombstone is refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LinesOptions {
    /// What becomes of a line that is not UTF-8.
    pub invalid: Invalid,
    /// What becomes of a value with a line break when it is written.
    pub newline: Newline,
    /// Longest line that is read. A longer one is an error that holds its first 64 KiB.
    pub bytes_max: Size,
}

impl Default for LinesOptions {
    fn default() -> Self {
        LinesOptions { invalid: Invalid::Fail, newline: Newline::Refuse, bytes_max: Size(RECORD_BYTES_MAX) }
    }
}

/// What becomes of text that is not UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Invalid {
    /// It is a record with an error, and follows the error rules.
    #[default]
    Fail,
    /// It is passed on as it is; the values then count as bytes.
    Pass,
}

/// What becomes of a value with a line break where each record is one line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Newline {
    /// The record is rejected, and follows the error rules.
    #[default]
    Refuse,
    /// Line feeds are written as `\n`, carriage returns as `\r`. Readers do not undo it.
    Escape,
    /// It is written as it is: readers see several records.
    Pass,
}

#[derive(Debug)]
pub(crate) struct Lines(pub(crate) LinesOptions);

impl Codec for Lines {
    fn form(&self) -> Form {
        match self.0.invalid {
            Invalid::Fail => Form::Text,
            Invalid::Pass => Form::Bytes,
        }
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(LinesDecoder { cutter: Cutter::new(self.0.bytes_max.0), options: self.0.clone() })
    }

    fn encoder(&self) -> Box<dyn Encoder> {
        Box::new(LinesEncoder { newline: self.0.newline })
    }
}

struct LinesDecoder {
    cutter: Cutter,
    options: LinesOptions,
}

impl Decoder for LinesDecoder {
    fn decode(&mut self, block: &Bytes, end: bool, frames: &mut Frames) -> usize {
        if self.cutter.unfinished() > 0 && !frames.is_empty() {
            return 0; // A long line's front is bytes of our own, which cannot share a batch with slices.
        }
        let pass = self.options.invalid == Invalid::Pass;
        let bytes_max = self.options.bytes_max.0;
        self.cutter.cut(block, end, |piece| {
            match piece {
                Piece::Line { start, end, utf8 } => {
                    frames.slice(start, end);
                    if !utf8 && !pass {
                        frames.fail(not_utf8("line", &block[start..end]));
                    }
                }
                Piece::Long { start, end, bytes } => {
                    frames.slice(start, end);
                    frames.fail(too_large("line", bytes, bytes_max));
                }
                Piece::LongBefore { head, bytes } => {
                    frames.own(|out| out.extend_from_slice(head));
                    frames.fail(too_large("line", bytes, bytes_max));
                }
            }
            Then::unless(frames.is_full())
        })
    }

    fn unfinished(&self) -> u64 {
        self.cutter.unfinished()
    }
}

struct LinesEncoder {
    newline: Newline,
}

impl Encoder for LinesEncoder {
    fn encode(&mut self, batch: &Batch, out: &mut Vec<u8>, ends: &mut Vec<usize>, rejected: &mut Vec<(u32, Error)>) {
        if copy_block(batch, out, ends) {
            return;
        }
        for (i, record) in batch.iter().enumerate() {
            let start = out.len();
            let written = match record.value() {
                Some(value) => write_line(value, record.form(), self.newline, out),
                None => Err(Error::new(ErrorKind::Rejected, "a tombstone cannot be written as a line")
                    .hint("use `codec: ndjson`, which writes `null`")),
            };
            match written {
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

/// Appends a value that is to be part of one line, without a line end.
pub(crate) fn write_line(value: &[u8], form: Form, newline: Newline, out: &mut Vec<u8>) -> Result<(), Error> {
    if memchr::memchr(b'\n', value).is_none() {
        out.extend_from_slice(value);
        return Ok(());
    }
    match (form, newline) {
        (Form::Json, _) => json::write_one_line(value, out),
        (_, Newline::Pass) => {
            out.extend_from_slice(value);
            Ok(())
        }
        (_, Newline::Escape) => {
            escape(value, out);
            Ok(())
        }
        (_, Newline::Refuse) => Err(line_break()),
    }
}

fn escape(value: &[u8], out: &mut Vec<u8>) {
    for &byte in value {
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            byte => out.push(byte),
        }
    }
}

fn line_break() -> Error {
    Error::new(ErrorKind::Rejected, "a value with a line break cannot be written as one line")
        .hint("`newline: escape` writes it as \\n; `codec: ndjson` writes text as JSON")
}

/// Copies the records in one piece, if they lie in their buffer as they are to be written: lines that were only read.
fn copy_block(batch: &Batch, out: &mut Vec<u8>, ends: &mut Vec<usize>) -> bool {
    let Some((column, _, millstream_core::Rows::Range(first, last))) = batch.values() else { return false };
    let Some(extents) = column.extents().get(*first as usize..*last as usize) else { return false };
    let (Some(front), Some(back)) = (extents.first(), extents.last()) else { return false };
    let touching = extents.windows(2).all(|pair| pair[0].end.checked_add(1) == Some(pair[1].start));
    if !touching || front.is_absent() || back.is_absent() {
        return false;
    }
    let (start, end) = (front.start as usize, back.end as usize + 1);
    let Some(block) = column.data().get(start..end) else { return false };
    // As many line feeds as records, one behind each: then none is inside of a value.
    let feeds = extents.iter().all(|extent| block.get(extent.end as usize - start) == Some(&b'\n'));
    if !feeds || memchr::memchr_iter(b'\n', block).count() != extents.len() {
        return false;
    }
    let base = out.len();
    out.extend_from_slice(block);
    ends.extend(extents.iter().map(|extent| base + extent.end as usize + 1 - start));
    true
}
