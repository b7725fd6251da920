//! JSON as bytes: looked at, put on one line, made of text; never parsed into a tree.

use millstream_core::{Error, ErrorKind, Form};
use serde::de::IgnoredAny;

/// Whether `bytes` are one JSON value; the error says where they are not.
pub(crate) fn validate(bytes: &[u8]) -> Result<(), Error> {
    serde_json::from_slice::<IgnoredAny>(bytes).map(drop).map_err(|error| {
        Error::new(ErrorKind::Decode, format!("a value is not JSON: {error}"))
            .hint("if it is plain text, use `codec: lines` or `text`")
    })
}

/// Appends JSON without the white space between its tokens: the line feeds there go, numbers and text stay as they are.
pub(crate) fn write_one_line(value: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let (mut text, mut escaped) = (false, false);
    for &byte in value {
        if text {
            if byte == b'\n' {
                return Err(Error::new(ErrorKind::Rejected, "a JSON value has a line break inside of a text")
                    .hint("it is not JSON: there line breaks are written as \\n"));
            }
            (text, escaped) = (escaped || byte != b'"', !escaped && byte == b'\\');
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            text = byte == b'"';
        }
        out.push(byte);
    }
    Ok(())
}

/// Appends a text as a JSON string.
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    // Writing to a vector does not fail, and a text is always a JSON string.
    let _ = serde_json::to_writer(out, text);
}

/// Appends a value as one line of JSON: JSON as it is, text as a JSON string; bytes that are JSON as they are, else as text.
pub(crate) fn write_value(value: &[u8], form: Form, out: &mut Vec<u8>) -> Result<(), Error> {
    let text = || {
        std::str::from_utf8(value).map_err(|error| {
            Error::new(ErrorKind::Rejected, "a value that is not UTF-8 cannot be written as JSON")
                .caused_by(error)
                .hint("encode it first, with `encode_base64` in a `map` step")
        })
    };
    let json = match form {
        Form::Json => true,
        Form::Text => false,
        Form::Bytes => validate(value).is_ok(),
    };
    if !json {
        write_string(text()?, out);
    } else if memchr::memchr2(b'\n', b'\r', value).is_some() {
        write_one_line(value, out)?;
    } else {
        out.extend_from_slice(value);
    }
    Ok(())
}
