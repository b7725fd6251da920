//! A record from the line that [`Format::Ndjson`](super::Format::Ndjson) writes.

use bytes::Bytes;
use millstream_core::{Error, ErrorKind, Form, Record, Result, ShardKey, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::base64;

/// Everything may be left out but the value.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(default)]
    stream: Option<String>,
    #[serde(default)]
    shard: u64,
    #[serde(default)]
    sequence: u128,
    #[serde(default)]
    time: Option<String>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    key_base64: Option<String>,
    #[serde(default)]
    headers: Vec<(String, Option<HeaderValue>)>,
    #[serde(default, borrow, deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(default)]
    value_base64: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum HeaderValue {
    Text(String),
    Coded { base64: String },
}

/// Keeps `null` apart from nothing.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

/// Reads a line of the format `ndjson`: the record that was written. A value that is not a text is JSON ([`Form::Json`]), `null` is a tombstone. Without
/// `stream` the record belongs to `stream`.
pub fn read_record(line: &[u8], stream: &str) -> Result<Record> {
    let wrong = |what: &str| {
        Error::new(ErrorKind::Decode, format!("cannot read a record: {what}"))
            .hint("write one object a line: {\"value\":\"...\",\"key\":\"...\",\"headers\":[[\"name\",\"text\"]]}")
    };
    let line: Line<'_> = serde_json::from_slice(line).map_err(|error| wrong(&error.to_string()))?;
    let coded = |text: &str| base64::decode(text.as_bytes()).map(Bytes::from).ok_or_else(|| wrong("base64 is damaged"));
    let key = match (line.key, line.key_base64) {
        (Some(_), Some(_)) => return Err(wrong("it has `key` and `key_base64`")),
        (key, None) => key.map(Bytes::from),
        (None, Some(text)) => Some(coded(&text)?),
    };
    let (value, form) = match (line.value.map(RawValue::get), line.value_base64) {
        (Some(_), Some(_)) => return Err(wrong("it has `value` and `value_base64`")),
        (None, Some(text)) => (Some(coded(&text)?), Form::Bytes),
        (None, None) => return Err(wrong("it has no `value`")),
        (Some("null"), None) => (None, Form::Text),
        (Some(json), None) if json.starts_with('"') => {
            let text: String = serde_json::from_str(json).map_err(|error| wrong(&error.to_string()))?;
            (Some(Bytes::from(text)), Form::Text)
        }
        (Some(json), None) => (Some(Bytes::copy_from_slice(json.as_bytes())), Form::Json),
    };
    let mut headers = Vec::with_capacity(line.headers.len());
    for (name, value) in line.headers {
        let value = match value {
            None => None,
            Some(HeaderValue::Text(text)) => Some(Bytes::from(text)),
            Some(HeaderValue::Coded { base64 }) => Some(coded(&base64)?),
        };
        headers.push((name, value));
    }
    Ok(Record {
        origin: ShardKey::new(line.stream.as_deref().unwrap_or(stream), line.shard),
        sequence: line.sequence,
        time: line.time.as_deref().map(Timestamp::parse).transpose().map_err(|error| wrong(error.message()))?,
        key,
        headers,
        value,
        form,
        index: 0,
        original: None,
        deliveries: 1,
        attempts: 0,
    })
}
