//! Records for people and pipes: what `--format log`, `ndjson` and `raw` mean, in one place.
//!
//! | format | one record |
//! |---|---|
//! | `log` | `[2026-01-02T03:04:05.678 \| orders \| 17 \| 0] payload`, the stdio line protocol |
//! | `ndjson` | `{"stream":"orders","shard":0,"sequence":17,"time":"...","key":null,"headers":[],"value":"..."}` |
//! | `raw` | the bare value and a line feed |

mod read;
mod write;

use std::{fmt, str::FromStr};

use millstream_core::{Batch, Error, ErrorKind, RecordRef, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Newline, log::HeaderWriter};

pub use read::read_record;

/// How a whole record becomes a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// The stdio line protocol: `[time | stream | sequence | shard] payload`.
    #[default]
    Log,
    /// One JSON object with everything that is known of the record.
    Ndjson,
    /// The bare value.
    Raw,
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "log" => Ok(Format::Log),
            "ndjson" => Ok(Format::Ndjson),
            "raw" => Ok(Format::Raw),
            _ => Err(Error::new(ErrorKind::Option, format!("there is no format `{text}`"))
                .hint("known are: log, ndjson, raw")),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Log => "log",
            Format::Ndjson => "ndjson",
            Format::Raw => "raw",
        })
    }
}

/// Writes records in a [`Format`], each as one line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Printer {
    /// The format.
    pub format: Format,
    /// What becomes of a value with a line break in `log` and `raw`. JSON is put on one line in any case.
    pub newline: Newline,
    /// In `ndjson`: a value that is JSON is put in as JSON, not as a text.
    pub decode_json: bool,
}

impl Printer {
    /// Appends a record and a line feed; after an error `out` is as before. The batch's body must be bytes.
    pub fn print(&self, record: &RecordRef<'_>, out: &mut Vec<u8>) -> Result<()> {
        self.print_next(record, &mut HeaderWriter::default(), out)
    }

    /// Appends a record's bare value and a line feed, whatever the format; after an error `out` is as before.
    pub fn print_value(&self, record: &RecordRef<'_>, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        let written = write::payload(record, self.newline, out);
        match &written {
            Ok(()) => out.push(b'\n'),
            Err(_) => out.truncate(start),
        }
        written
    }

    fn print_next(&self, record: &RecordRef<'_>, headers: &mut HeaderWriter, out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        let written = match self.format {
            Format::Log => write::log(record, self.newline, headers, out),
            Format::Ndjson => write::ndjson(record, self.decode_json, out),
            Format::Raw => write::payload(record, self.newline, out),
        };
        match &written {
            Ok(()) => out.push(b'\n'),
            Err(_) => out.truncate(start),
        }
        written
    }

    /// Appends all records of a batch whose body is bytes; what cannot be written goes to `rejected`.
    pub fn print_batch(&self, batch: &Batch, out: &mut Vec<u8>, rejected: &mut Vec<(u32, Error)>) {
        let mut headers = HeaderWriter::default();
        for (i, record) in batch.iter().enumerate() {
            if let Err(error) = self.print_next(&record, &mut headers, out) {
                rejected.push((i as u32, error));
            }
        }
    }
}
