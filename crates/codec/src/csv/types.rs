//! What a column holds: from a field's text to JSON.

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, format::StrftimeItems};
use millstream_core::{Error, ErrorKind, Result, Timestamp};

use crate::json;

/// What a column holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ColumnType {
    Text,
    Int,
    Float,
    Bool,
    /// RFC 3339 without a format, else strftime's.
    Time(Option<String>),
}

impl ColumnType {
    /// Reads `int`, `time(%d.%m.%Y)` and the like.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let format = text.strip_prefix("time(").and_then(|rest| rest.strip_suffix(')'));
        match (text, format) {
            ("text", _) => Ok(ColumnType::Text),
            ("int", _) => Ok(ColumnType::Int),
            ("float", _) => Ok(ColumnType::Float),
            ("bool", _) => Ok(ColumnType::Bool),
            ("time", _) => Ok(ColumnType::Time(None)),
            (_, Some(format)) if StrftimeItems::new(format).all(|item| item != chrono::format::Item::Error) => {
                Ok(ColumnType::Time(Some(format.to_owned())))
            }
            (_, Some(format)) => Err(Error::new(ErrorKind::Option, format!("`{format}` is no format of a time"))
                .hint("write it as strftime does: `time(%d.%m.%Y %H:%M:%S)`")),
            _ => Err(Error::new(ErrorKind::Option, format!("there is no column type `{text}`"))
                .hint("known are: text, int, float, bool, time, time(FORMAT)")),
        }
    }

    /// Appends a field as JSON.
    pub(super) fn write(&self, field: &str, out: &mut Vec<u8>) -> Result<()> {
        let wrong = |what: &str| {
            let error = Error::new(ErrorKind::Decode, format!("`{}` is no {what}", shortened(field)));
            if field.trim().is_empty() { error.hint("`null: [\"\"]` reads empty fields as null") } else { error }
        };
        match self {
            ColumnType::Text => json::write_string(field, out),
            ColumnType::Int => write_int(field.trim(), out).ok_or_else(|| wrong("int"))?,
            ColumnType::Float => write_float(field.trim(), out).ok_or_else(|| wrong("float"))?,
            ColumnType::Bool => {
                let lower = field.trim().to_ascii_lowercase();
                out.extend_from_slice(match lower.as_str() {
                    "true" | "yes" | "1" => b"true",
                    "false" | "no" | "0" => b"false",
                    _ => return Err(wrong("bool").hint("known are: true, false, yes, no, 1, 0")),
                });
            }
            ColumnType::Time(format) => {
                let time = match format {
                    None => Timestamp::parse(field.trim()).ok(),
                    Some(format) => parse_time(field.trim(), format),
                };
                let time = time.ok_or_else(|| wrong("time of this format"))?;
                json::write_string(&time.to_rfc3339(), out);
            }
        }
        Ok(())
    }
}

/// Digits as they are, of any length; a plus sign and leading zeros, which JSON does not know, go.
fn write_int(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits = digits.trim_start_matches('0');
    match (negative, digits) {
        (_, "") => out.push(b'0'),
        (negative, digits) => {
            out.extend_from_slice(if negative { b"-" } else { b"" });
            out.extend_from_slice(digits.as_bytes());
        }
    }
    Some(())
}

/// A number that JSON knows stays as it is; others (`.5`, `1.`, `+2`) are written anew; infinities are refused.
fn write_float(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let number: f64 = text.parse().ok().filter(|number: &f64| number.is_finite())?;
    match serde_json::from_str::<&serde_json::value::RawValue>(text) {
        Ok(raw) => out.extend_from_slice(raw.get().as_bytes()),
        Err(_) => serde_json::to_writer(out, &number).ok()?,
    }
    Some(())
}

fn parse_time(text: &str, format: &str) -> Option<Timestamp> {
    let time = DateTime::parse_from_str(text, format).ok().map(|time| time.to_utc());
    let time = time.or_else(|| NaiveDateTime::parse_from_str(text, format).ok().map(|time| time.and_utc()));
    let day = || NaiveDate::parse_from_str(text, format).ok().map(|day| day.and_time(NaiveTime::MIN).and_utc());
    time.or_else(day)?.timestamp_nanos_opt().map(Timestamp)
}

/// At most this many characters of a field are shown in an error.
const SHOWN_CHARS_MAX: usize = 40;

fn shortened(field: &str) -> String {
    match field.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((at, _)) => format!("{}...", &field[..at]),
        None => field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(column: &str, field: &str) -> Option<String> {
        let mut out = Vec::new();
        ColumnType::parse(column).unwrap().write(field, &mut out).ok()?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn fields_become_json() {
        for (column, field, json) in [
            ("int", "007", "7"),
            ("int", "-0", "0"),
            ("int", "123456789012345678901234567890", "123456789012345678901234567890"),
            ("float", "1.50", "1.50"),
            ("float", ".5", "0.5"),
            ("float", "+2", "2.0"),
            ("bool", "Yes", "true"),
            ("time(%d.%m.%Y)", "02.01.2026", "\"2026-01-02T00:00:00.000Z\""),
            ("time(%d.%m.%Y %H:%M)", "02.01.2026 03:04", "\"2026-01-02T03:04:00.000Z\""),
            ("time", "2026-01-02T03:04:05+01:00", "\"2026-01-02T02:04:05.000Z\""),
            ("text", "a\"b", "\"a\\\"b\""),
        ] {
            assert_eq!(write(column, field).as_deref(), Some(json), "{column} {field}");
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        for (column, field) in [
            ("int", ""),
            ("int", "1.5"),
            ("int", "-"),
            ("float", "NaN"),
            ("float", "1e999"),
            ("bool", "ja"),
            ("time(%Y)", "x"),
        ] {
            assert_eq!(write(column, field), None, "{column} {field}");
        }
        assert!(ColumnType::parse("time(%Q)").is_err() && ColumnType::parse("number").is_err());
    }
}
