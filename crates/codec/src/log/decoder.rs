//! Lines to batches.

use bytes::Bytes;
use millstream_core::{Error, ErrorKind, Form, Read, Result};

use super::{BROADCAST, Header, Headers, LogOptions, bytes_max, header::HeaderReader, rows::Rows};
use crate::{
    CodecOptions, MessageCodec,
    line::{Cutter, Piece, Then, not_utf8, too_large},
};

/// Reads lines with headers: stream, shard, sequence and time of each, and its payload as a slice of the block.
///
/// A line without a sequence gets the one behind the last of its shard, from 1: in plain input that is the line's number.
pub struct LogDecoder {
    cutter: Cutter,
    rows: Rows,
    form: Form,
    lines: Lines,
}

/// What lines are, and how many there were.
struct Lines {
    headers: Headers,
    streams: Vec<String>,
    /// Streams that are not asked for by name are read too.
    others: bool,
    payload: MessageCodec,
    skip_blank: bool,
    bytes_max: u64,
    count: u64,
    header: HeaderReader,
}

/// What one call read.
#[derive(Debug, Default)]
pub struct LogRead {
    /// Bytes at the front of the block that are done with.
    pub taken: usize,
    /// The records, if there are some.
    pub read: Option<Read>,
}

impl LogDecoder {
    /// A decoder for one stream of bytes.
    pub fn new(options: &LogOptions) -> Result<Self> {
        let payload = options.codec.message()?;
        let bytes_max = bytes_max(&options.codec).0;
        Ok(LogDecoder {
            cutter: Cutter::new(bytes_max),
            rows: Rows::new(&options.stream),
            form: payload.form(),
            lines: Lines {
                headers: options.headers,
                streams: options.streams.clone(),
                others: options.streams.is_empty(),
                payload,
                skip_blank: matches!(options.codec, CodecOptions::Ndjson(_)),
                bytes_max,
                count: 0,
                header: HeaderReader::default(),
            },
        })
    }

    /// Asks for other streams from the next call on; with `others`, records of streams that are not among them are read too.
    pub fn ask(&mut self, streams: Vec<String>, others: bool) {
        (self.lines.streams, self.lines.others) = (streams, others);
    }

    /// What the values are.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Takes the lines at the front of `block`, up to a batch. Call it with the rest of the block as long as that takes or gives something; then with
    /// the rest and more behind it. `end`: nothing more will come, the rest is a line.
    pub fn decode(&mut self, block: &Bytes, end: bool) -> LogRead {
        let (rows, lines) = (&mut self.rows, &mut self.lines);
        let mut own = None;
        let taken = self.cutter.cut(block, end, |piece| match piece {
            Piece::Line { start, end, utf8 } => lines.take(&block[start..end], start, utf8, None, rows),
            Piece::Long { start, end, bytes } => lines.take(&block[start..end], start, true, Some(bytes), rows),
            Piece::LongBefore { head, bytes } => {
                own = Some(Bytes::copy_from_slice(head));
                lines.take(head, 0, true, Some(bytes), rows)
            }
        });
        let data = own.unwrap_or_else(|| block.slice(..taken));
        LogRead { taken, read: rows.take(data, self.form) }
    }

    /// How many of the bytes taken belong to a line that is not complete.
    pub fn unfinished(&self) -> u64 {
        self.cutter.unfinished()
    }
}

impl Lines {
    /// Takes one line, which begins at `at` in its block. `long`: how long it really is.
    fn take(&mut self, line: &[u8], at: usize, utf8: bool, long: Option<u64>, rows: &mut Rows) -> Then {
        let header = match self.headers {
            Headers::Off => None,
            _ if line.first() != Some(&b'[') => None,
            _ => self.header.parse(line).filter(|(header, _)| counts(self.headers, &self.streams, header)),
        };
        let wanted = match &header {
            Some((Header { stream: Some(stream), .. }, _)) => self.wanted(stream),
            _ => true,
        };
        let payload = header.as_ref().map_or(0, |(_, payload)| *payload);
        let blank = self.skip_blank && long.is_none() && line[payload..].iter().all(u8::is_ascii_whitespace);
        if wanted && !blank && !rows.push(header.as_ref().map(|(header, _)| header), at + payload, at + line.len()) {
            return Then::Back;
        }
        self.count += 1;
        if wanted
            && !blank
            && let Err(error) = self.check(line, payload, utf8, long, header.is_some())
        {
            rows.fail(error.context(format!("cannot read line {}", self.count)));
        }
        Then::unless(rows.is_full())
    }

    fn wanted(&self, stream: &str) -> bool {
        self.others || stream == BROADCAST || self.streams.iter().any(|asked| asked == stream)
    }

    fn check(&self, line: &[u8], payload: usize, utf8: bool, long: Option<u64>, header: bool) -> Result<()> {
        if let Some(bytes) = long {
            return Err(too_large("line", bytes, self.bytes_max));
        }
        if self.headers == Headers::Strict && !header && line.first() == Some(&b'[') {
            return Err(Error::new(ErrorKind::Decode, "a line begins with `[`, and that is no header")
                .hint("write `[time | stream | sequence | shard] payload`, or read with `headers: lenient`"));
        }
        match self.payload.form() {
            Form::Bytes => Ok(()),
            _ if !utf8 => Err(not_utf8("line", line)),
            Form::Text => Ok(()), // Checked with its block.
            Form::Json => self.payload.check(&line[payload..]),
        }
    }
}

/// Whether what looks like a header is one.
fn counts(headers: Headers, streams: &[String], header: &Header<'_>) -> bool {
    let asked = |stream: &str| streams.iter().any(|asked| asked == stream);
    headers == Headers::Strict || !header.only_key() || header.stream.is_some_and(asked)
}
