//! Rows to JSON objects.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use csv_core::{ReadRecordResult, Reader, ReaderBuilder};
use millstream_core::{Decoder, Error, ErrorKind, Frames, Result};

use super::{options::Dialect, types::ColumnType};
use crate::{
    json,
    line::{TOO_LARGE_BYTES_KEPT, not_utf8, too_large},
};

/// Room for the first row; grows with the rows, up to `bytes_max`.
const ROW_BYTES: usize = 4 << 10;
const ROW_FIELDS: usize = 64;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

pub(super) struct CsvDecoder {
    dialect: Arc<Dialect>,
    rows: Rows,
    columns: Option<Vec<Column>>,
    /// The header has been read, or there is none.
    begun: bool,
    /// Nothing has been read yet: a byte order mark may come.
    first: bool,
}

/// A column: its name as the beginning of a JSON field, what it holds, and its name for people.
struct Column {
    field: Vec<u8>,
    kind: ColumnType,
    name: String,
}

impl CsvDecoder {
    pub(super) fn new(dialect: Arc<Dialect>) -> Self {
        let columns = dialect.columns.as_deref().map(|names| columns(names, &dialect));
        CsvDecoder { rows: Rows::new(&dialect), columns, begun: !dialect.header, first: true, dialect }
    }

    /// What the row that was just read says.
    fn row(&mut self, bytes: u64, frames: &mut Frames) {
        if std::mem::replace(&mut self.begun, true) {
            let start = frames.len();
            let mut result = Ok(());
            if bytes <= self.dialect.bytes_max {
                frames.own(|out| result = self.object(out));
            } else {
                result = Err(too_large("row", bytes, self.dialect.bytes_max));
                frames.own(|_| ());
            }
            if let Err(error) = result {
                debug_assert_eq!(frames.len(), start + 1);
                frames.fail(error);
            }
        } else if self.columns.is_none() {
            let names: Vec<String> = self
                .rows
                .fields()
                .map(|field| String::from_utf8_lossy(&self.rows.text[field]).trim().to_owned())
                .collect();
            self.columns = Some(columns(&unique(names), &self.dialect));
        }
    }

    /// Appends the row as a JSON object, or as it was read and the error.
    fn object(&mut self, out: &mut Vec<u8>) -> Result<()> {
        if self.columns.is_none() {
            let names: Vec<_> = (1..=self.rows.fields).map(|n| format!("column_{n}")).collect();
            self.columns = Some(columns(&names, &self.dialect));
        }
        let columns = self.columns.as_deref().unwrap_or_default();
        let start = out.len();
        let written = write_object(&self.rows, columns, &self.dialect, out);
        if written.is_err() {
            out.truncate(start);
            out.extend_from_slice(trim_line_end(&self.rows.raw));
        }
        written
    }
}

impl Decoder for CsvDecoder {
    fn decode(&mut self, block: &Bytes, end: bool, frames: &mut Frames) -> usize {
        let mut at = 0;
        if self.first {
            if block.len() < BYTE_ORDER_MARK.len() && BYTE_ORDER_MARK.starts_with(block) && !end {
                return 0;
            }
            self.first = false;
            at = if block.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        }
        while !frames.is_full() {
            let (taken, row) = self.rows.read(&block[at..], end);
            at += taken;
            match row {
                Some(bytes) => {
                    if bytes > self.dialect.bytes_max && self.begun {
                        frames.own(|out| out.extend_from_slice(&self.rows.raw));
                        frames.fail(too_large("row", bytes, self.dialect.bytes_max));
                    } else {
                        self.row(bytes, frames);
                    }
                    self.rows.clear();
                }
                None => break,
            }
        }
        at
    }

    fn preamble(&mut self, head: &[u8], end: bool) -> bool {
        if !self.dialect.header {
            self.first = false;
            return true;
        }
        let head = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head);
        let (_, row) = self.rows.read(head, end);
        let known = row.is_some() || end;
        if row.is_some() {
            self.row(0, &mut Frames::default());
        }
        self.rows = Rows::new(&self.dialect);
        if known {
            (self.begun, self.first) = (true, false);
        }
        known
    }

    fn unfinished(&self) -> u64 {
        self.rows.bytes
    }
}

/// The rows of a stream, one at a time; keeps what it needs of a row that is cut by a block's end.
struct Rows {
    reader: Reader,
    /// Fields, unquoted, one behind the other.
    text: Vec<u8>,
    ends: Vec<usize>,
    filled: usize,
    fields: usize,
    /// The row as it was read, up to a bound, and its whole length.
    raw: Vec<u8>,
    bytes: u64,
    bytes_max: u64,
}

impl Rows {
    fn new(dialect: &Dialect) -> Self {
        let reader = ReaderBuilder::new().delimiter(dialect.delimiter).quoting(dialect.quotes).build();
        Rows {
            reader,
            text: vec![0; ROW_BYTES],
            ends: vec![0; ROW_FIELDS],
            filled: 0,
            fields: 0,
            raw: Vec::new(),
            bytes: 0,
            bytes_max: dialect.bytes_max,
        }
    }

    /// Goes on in the current row: bytes taken, and the row's length once it is complete.
    fn read(&mut self, input: &[u8], end: bool) -> (usize, Option<u64>) {
        let mut at = 0;
        loop {
            // An empty input tells the reader that there is no more.
            if at == input.len() && !end {
                return (at, None);
            }
            let too_long = self.bytes > self.bytes_max;
            if too_long {
                // The rest is only skipped: its fields fall on top of each other.
                (self.filled, self.fields) = (0, 0);
            }
            let (result, read, wrote, ended) =
                self.reader.read_record(&input[at..], &mut self.text[self.filled..], &mut self.ends[self.fields..]);
            let kept = if too_long { TOO_LARGE_BYTES_KEPT } else { usize::MAX };
            let part = &input[at..at + read];
            self.raw.extend_from_slice(&part[..part.len().min(kept.saturating_sub(self.raw.len()))]);
            self.bytes += read as u64;
            if self.bytes > self.bytes_max {
                self.raw.truncate(TOO_LARGE_BYTES_KEPT);
            }
            at += read;
            self.filled += wrote;
            self.fields += ended;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => self.text.resize(self.text.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::Record => return (at, Some(self.bytes)),
                ReadRecordResult::End => {
                    self.clear();
                    return (at, None);
                }
            }
        }
    }

    fn clear(&mut self) {
        (self.filled, self.fields, self.bytes) = (0, 0, 0);
        self.raw.clear();
    }

    /// Where each field lies in `text`.
    fn fields(&self) -> impl Iterator<Item = Range<usize>> {
        let mut start = 0;
        self.ends[..self.fields].iter().map(move |&end| std::mem::replace(&mut start, end)..end)
    }
}

fn write_object(rows: &Rows, columns: &[Column], dialect: &Dialect, out: &mut Vec<u8>) -> Result<()> {
    if rows.fields != columns.len() {
        let (found, wanted) = (rows.fields, columns.len());
        return Err(Error::new(ErrorKind::Decode, format!("a row has {found} fields, and there are {wanted} columns"))
            .hint("look for a delimiter without quotes, or set `delimiter`"));
    }
    let text = std::str::from_utf8(&rows.text[..rows.filled]).map_err(|_| not_utf8("row", &rows.raw))?;
    for (column, field) in columns.iter().zip(rows.fields()) {
        out.extend_from_slice(&column.field);
        // A field may end within a character if delimiters do; they are ASCII, so it does not.
        let field = text.get(field).unwrap_or_default();
        if dialect.null.iter().any(|null| null == field) {
            out.extend_from_slice(b"null");
        } else {
            column.kind.write(field, out).map_err(|error| error.context(format!("column `{}`", column.name)))?;
        }
    }
    out.extend_from_slice(if columns.is_empty() { b"{}" } else { b"}" });
    Ok(())
}

fn columns(names: &[String], dialect: &Dialect) -> Vec<Column> {
    let column = |(i, name): (usize, &String)| {
        let mut field = vec![if i == 0 { b'{' } else { b',' }];
        json::write_string(name, &mut field);
        field.push(b':');
        let kind = dialect.types.get(name).cloned().unwrap_or(ColumnType::Text);
        Column { field, kind, name: name.clone() }
    };
    names.iter().enumerate().map(column).collect()
}

/// Names of which no two are the same: the second `a` becomes `a_2`.
fn unique(names: Vec<String>) -> Vec<String> {
    let mut known = std::collections::BTreeSet::new();
    let mut result = Vec::with_capacity(names.len());
    for name in names {
        let mut candidate = name.clone();
        let mut n = 2;
        while !known.insert(candidate.clone()) {
            candidate = format!("{name}_{n}");
            n += 1;
        }
        result.push(candidate);
    }
    result
}

fn trim_line_end(raw: &[u8]) -> &[u8] {
    let start = raw.iter().position(|byte| !b"\r\n".contains(byte)).unwrap_or(raw.len());
    let end = raw.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(start, |at| at + 1);
    &raw[start..end]
}
