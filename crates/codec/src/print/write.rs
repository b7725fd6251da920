//! One record as one line.

use millstream_core::{Form, RecordRef, Result};

use crate::{
    Newline, base64, json,
    lines::write_line,
    log::{HeaderWriter, write_decimal},
};

pub(super) fn log(
    record: &RecordRef<'_>,
    newline: Newline,
    headers: &mut HeaderWriter,
    out: &mut Vec<u8>,
) -> Result<()> {
    let origin = record.origin();
    headers.write(record.time(), &origin.stream, record.sequence(), origin.shard, out);
    payload(record, newline, out)
}

/// The value; nothing for a tombstone.
pub(super) fn payload(record: &RecordRef<'_>, newline: Newline, out: &mut Vec<u8>) -> Result<()> {
    write_line(record.value().unwrap_or_default(), record.form(), newline, out)
}

pub(super) fn ndjson(record: &RecordRef<'_>, decode_json: bool, out: &mut Vec<u8>) -> Result<()> {
    let origin = record.origin();
    out.extend_from_slice(b"{\"stream\":");
    json::write_string(&origin.stream, out);
    out.extend_from_slice(b",\"shard\":");
    write_decimal(origin.shard.into(), out);
    out.extend_from_slice(b",\"sequence\":");
    write_decimal(record.sequence(), out);
    out.extend_from_slice(b",\"time\":");
    match record.time() {
        Some(time) => json::write_string(&time.to_rfc3339(), out),
        None => out.extend_from_slice(b"null"),
    }
    field("key", record.key(), out);
    out.extend_from_slice(b",\"headers\":[");
    for (i, (name, value)) in record.headers().enumerate() {
        out.extend_from_slice(if i == 0 { b"[" } else { b",[" });
        json::write_string(name, out);
        out.push(b',');
        match value.map(std::str::from_utf8) {
            None => out.extend_from_slice(b"null"),
            Some(Ok(text)) => json::write_string(text, out),
            Some(Err(_)) => {
                out.extend_from_slice(b"{\"base64\":\"");
                base64::encode(value.unwrap_or_default(), out);
                out.extend_from_slice(b"\"}");
            }
        }
        out.push(b']');
    }
    out.push(b']');
    match record.value() {
        Some(value) if decode_json && json::validate(value).is_ok() => {
            out.extend_from_slice(b",\"value\":");
            json::write_value(value, Form::Json, out)?;
        }
        value => field("value", value, out),
    }
    out.push(b'}');
    Ok(())
}

/// `"name":"text"`, `"name_base64":"..."` for what is no UTF-8, `"name":null` for what is not there.
fn field(name: &str, bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    match bytes.map(std::str::from_utf8) {
        None => out.extend_from_slice(b"\":null"),
        Some(Ok(text)) => {
            out.extend_from_slice(b"\":");
            json::write_string(text, out);
        }
        Some(Err(_)) => {
            out.extend_from_slice(b"_base64\":\"");
            base64::encode(bytes.unwrap_or_default(), out);
            out.push(b'"');
        }
    }
}
