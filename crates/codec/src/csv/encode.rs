//! JSON objects to rows.

use std::{fmt, sync::Arc};

use millstream_core::{Batch, Encoder, Error, ErrorKind, RecordRef, Result};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::options::Dialect;

pub(super) struct CsvEncoder {
    dialect: Arc<Dialect>,
    columns: Option<Vec<String>>,
}

impl CsvEncoder {
    pub(super) fn new(dialect: Arc<Dialect>) -> Self {
        CsvEncoder { columns: dialect.columns.clone(), dialect }
    }

    /// Without `columns`, those of the first record that is an object.
    fn learn(&mut self, batch: &Batch) {
        if self.columns.is_none() {
            let row = batch.iter().find_map(|record| match parse(&record) {
                Ok(Row::Object(fields)) => Some(fields),
                _ => None,
            });
            self.columns = row.map(|fields| fields.into_iter().map(|(name, _)| name).collect());
        }
    }

    fn write(&self, record: &RecordRef<'_>, out: &mut Vec<u8>) -> Result<()> {
        let (first, columns) = (out.len(), self.columns.as_deref());
        let mut fields = 0;
        let mut field = |value: Option<&RawValue>, out: &mut Vec<u8>| {
            if fields > 0 {
                out.push(self.dialect.delimiter);
            }
            fields += 1;
            write_value(value, &self.dialect, out)
        };
        match (parse(record)?, columns) {
            (Row::Array(values), None) => {
                for value in values {
                    field(Some(value), out)?;
                }
            }
            (Row::Array(values), Some(columns)) => {
                if values.len() != columns.len() {
                    let (found, wanted) = (values.len(), columns.len());
                    return Err(rejected(format!("a list of {found} values does not fit {wanted} columns")));
                }
                for value in values {
                    field(Some(value), out)?;
                }
            }
            (Row::Object(values), columns) => {
                let columns = columns.unwrap_or_default();
                if self.dialect.columns.is_none()
                    && let Some((name, _)) = values.iter().find(|(name, _)| !columns.contains(name))
                {
                    return Err(rejected(format!(
                        "field `{name}` is not among the columns, which the first record gave"
                    ))
                    .hint("name the columns with `columns`; other fields are then left out"));
                }
                for (i, column) in columns.iter().enumerate() {
                    // In records of one kind a field stands where its column does.
                    let at = values.get(i).filter(|(name, _)| name == column);
                    let value = at.or_else(|| values.iter().find(|(name, _)| name == column)).map(|(_, value)| *value);
                    field(value, out)?;
                }
            }
        }
        if out.len() == first {
            // A blank line is no row: one empty column is written as quotes.
            out.extend_from_slice(if self.dialect.quotes { b"\"\"" } else { b"" });
        }
        out.push(b'\n');
        Ok(())
    }
}

impl Encoder for CsvEncoder {
    fn preamble(&mut self, first: &Batch, out: &mut Vec<u8>) {
        self.learn(first);
        let Some(columns) = self.columns.as_deref().filter(|_| self.dialect.header) else { return };
        let start = out.len();
        for (i, column) in columns.iter().enumerate() {
            if i > 0 {
                out.push(self.dialect.delimiter);
            }
            if write_text(column, &self.dialect, out).is_err() {
                return out.truncate(start);
            }
        }
        out.push(b'\n');
    }

    fn encode(&mut self, batch: &Batch, out: &mut Vec<u8>, ends: &mut Vec<usize>, rejected: &mut Vec<(u32, Error)>) {
        self.learn(batch);
        for (i, record) in batch.iter().enumerate() {
            let start = out.len();
            match self.write(&record, out) {
                Ok(()) => ends.push(out.len()),
                Err(error) => {
                    out.truncate(start);
                    rejected.push((i as u32, error));
                }
            }
        }
    }
}

fn rejected(message: String) -> Error {
    Error::new(ErrorKind::Rejected, message)
}

/// A record's value: its fields in order, as JSON.
enum Row<'a> {
    Object(Vec<(String, &'a RawValue)>),
    Array(Vec<&'a RawValue>),
}

fn parse<'a>(record: &RecordRef<'a>) -> Result<Row<'a>> {
    let value = record.value().ok_or_else(|| rejected("a tombstone is no row".to_owned()))?;
    serde_json::from_slice(value).map_err(|error| {
        rejected("a value is neither a JSON object nor a list, so it is no row".to_owned())
            .caused_by(error)
            .hint("make it an object with a `map` step")
    })
}

impl<'de> Deserialize<'de> for Row<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Row<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object or a list")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row<'de>, A::Error> {
                let mut fields: Vec<(String, &'de RawValue)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    match fields.iter_mut().find(|(known, _)| *known == name) {
                        Some(known) => known.1 = value, // As in every JSON reader, the last one counts.
                        None => fields.push((name, value)),
                    }
                }
                Ok(Row::Object(fields))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Row<'de>, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    values.push(value);
                }
                Ok(Row::Array(values))
            }
        }
        deserializer.deserialize_any(Fields)
    }
}

fn write_value(value: Option<&RawValue>, dialect: &Dialect, out: &mut Vec<u8>) -> Result<()> {
    let json = value.map_or("null", RawValue::get);
    match json.as_bytes().first() {
        Some(b'n') => write_text(dialect.null.first().map_or("", String::as_str), dialect, out),
        Some(b'"') => {
            let text: String = serde_json::from_str(json)
                .map_err(|error| rejected("a text is not JSON".to_owned()).caused_by(error))?;
            write_text(&text, dialect, out)
        }
        _ => write_text(json, dialect, out),
    }
}

fn write_text(text: &str, dialect: &Dialect, out: &mut Vec<u8>) -> Result<()> {
    let special = |byte: u8| byte == dialect.delimiter || b"\r\n".contains(&byte) || (dialect.quotes && byte == b'"');
    if !text.bytes().any(special) {
        out.extend_from_slice(text.as_bytes());
        return Ok(());
    }
    if !dialect.quotes {
        return Err(rejected("a value holds the delimiter or a line break, and quotes are off".to_owned())
            .hint("`quotes: true` writes it in quotes"));
    }
    out.push(b'"');
    for byte in text.bytes() {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
    Ok(())
}
