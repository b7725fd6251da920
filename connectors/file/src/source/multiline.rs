//! Records of several lines: a record begins at a line that matches, and reaches to the next one that does.

use bytes::Bytes;
use memchr::memchr;
use millstream_core::{Batch, Codec, Decoder, Encoder, Error, ErrorKind, Form, Frames, Result};
use regex::bytes::Regex;

use crate::options::Multiline;

/// The codec `lines` with lines joined.
#[derive(Clone, Debug)]
pub(super) struct Joined {
    start: Regex,
    bytes_max: u64,
}

impl Joined {
    pub(super) fn new(options: &Multiline) -> Result<Self> {
        let start = Regex::new(&options.start).map_err(|cause| {
            Error::new(ErrorKind::Option, format!("cannot read the regular expression: {cause}"))
                .within("start")
                .within("multiline")
        })?;
        Ok(Joined { start, bytes_max: options.bytes_max.0 })
    }
}

impl Codec for Joined {
    fn form(&self) -> Form {
        Form::Text
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(Joining { codec: self.clone(), seen: 0, too_large: 0 })
    }

    fn encoder(&self) -> Box<dyn Encoder> {
        Box::new(Never)
    }
}

struct Joining {
    codec: Joined,
    /// Bytes at the front of the next block in which no record begins but at the first byte.
    seen: usize,
    /// Bytes that were taken of a record that is too large.
    too_large: u64,
}

impl Decoder for Joining {
    fn decode(&mut self, block: &Bytes, end: bool, frames: &mut Frames) -> usize {
        let mut start = 0;
        let mut at = std::mem::take(&mut self.seen).min(block.len());
        while !frames.is_full() {
            let line = &block[at..];
            let feed = memchr(b'\n', line);
            if feed.is_none() && !end {
                break;
            }
            let stop = feed.map_or(line.len(), |feed| feed + 1);
            // With bytes dropped, whatever comes next is not the first line of its record.
            let first = at == start && self.too_large == 0;
            if !first && stop > 0 && self.codec.start.is_match(trim(&line[..stop])) {
                self.push(block, start, at, frames);
                start = at;
                continue;
            }
            at += stop;
            if at == block.len() {
                break;
            }
        }
        if frames.is_full() {
            return start;
        }
        let rest = block.len() - start;
        if end && (rest > 0 || self.too_large > 0) {
            self.push(block, start, block.len(), frames);
            return block.len();
        }
        if rest as u64 > self.codec.bytes_max {
            self.too_large += (at - start) as u64;
            return at;
        }
        self.seen = at - start;
        start
    }

    fn unfinished(&self) -> u64 {
        self.too_large
    }
}

impl Joining {
    fn push(&mut self, block: &Bytes, start: usize, end: usize, frames: &mut Frames) {
        let text = trim(&block[start..end]);
        frames.slice(start, start + text.len());
        let bytes = std::mem::take(&mut self.too_large) + (end - start) as u64;
        if bytes > self.codec.bytes_max {
            let text =
                format!("a record of {bytes} bytes is larger than `multiline.bytes_max` ({})", self.codec.bytes_max);
            frames
                .fail(Error::new(ErrorKind::TooLarge, text).hint("does `multiline.start` match where records begin?"));
        } else if std::str::from_utf8(text).is_err() {
            frames.fail(Error::new(ErrorKind::Decode, "the lines are no UTF-8 text"));
        }
    }
}

/// Without the line end.
fn trim(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Only sources join lines.
struct Never;

impl Encoder for Never {
    fn encode(&mut self, batch: &Batch, _: &mut Vec<u8>, _: &mut Vec<usize>, rejected: &mut Vec<(u32, Error)>) {
        let error = Error::new(ErrorKind::Unsupported, "`multiline` is for sources");
        rejected.extend((0..batch.len() as u32).map(|row| (row, error.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str, step: usize) -> Vec<String> {
        let options = Multiline {
            start: "^[0-9]".into(),
            wait: crate::options::multiline_wait(),
            bytes_max: millstream_core::Size(64),
        };
        let mut decoder = Joined::new(&options).unwrap().decoder();
        let (mut done, mut all) = (0, Vec::new());
        for to in (0..=text.len()).step_by(step).chain([text.len()]) {
            let end = to == text.len();
            let block = Bytes::copy_from_slice(&text.as_bytes()[done..to]);
            let mut frames = Frames::default();
            done += decoder.decode(&block, end, &mut frames);
            let (body, failed) = frames.take(&block, Form::Text);
            let millstream_core::Body::Bytes(column, _) = body else { unreachable!() };
            for row in 0..column.len() {
                let text = String::from_utf8_lossy(column.get(row).unwrap()).into_owned();
                all.push(if failed.iter().any(|(at, _)| *at as usize == row) { "!".into() } else { text });
            }
            if end && done == text.len() {
                break;
            }
        }
        all
    }

    #[test]
    fn lines_are_joined_however_the_blocks_fall() {
        let text = "1 a\n  at b\r\n  at c\n2 d\n3 e\n\n tail";
        for step in 1..text.len() {
            assert_eq!(decode(text, step), ["1 a\n  at b\r\n  at c", "2 d", "3 e\n\n tail"], "step {step}");
        }
    }

    #[test]
    fn a_record_that_never_ends_is_one_failure() {
        let text = format!("1 a\n{}2 b\n", " x\n".repeat(100));
        assert_eq!(decode(&text, 10), ["!", "2 b"]);
    }
}
