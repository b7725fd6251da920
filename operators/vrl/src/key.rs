//! The canonical bytes of a key: what keyed state is stored under. Stored, so they never change.
//!
//! Keys are equal by JSON type and value: `1` and `1.0` are one key, `1` and `"1"` are two. One byte says the type:
//!
//! ```text
//!   1  false      2  true
//!   3  integer    8 bytes, big-endian, sign bit flipped: also of a number without fraction
//!   4  integer beyond 64 bits, as decimal digits
//!   5  number     8 bytes of an IEEE double, big-endian
//!   6  text       its bytes; a time is its RFC 3339 text
//!   7  array      each item: length in 4 bytes, big-endian, then its canonical bytes
//!   8  object     each field, sorted by name: length and bytes of the name, length and canonical bytes of the value
//!   9  null       inside of arrays and objects
//! ```

use bytes::Bytes;
use vrl::value::{ObjectMap, Value};

use crate::{json, metadata::text_of};

/// Numbers without fraction below this have all their digits in 128 bits.
const EXACT_MAX: f64 = 1e38;

/// Appends the canonical bytes of a key.
pub(crate) fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Bytes(bytes) => text(bytes, out),
        Value::String(string) => text(string.as_bytes(), out),
        Value::Boolean(flag) => out.push(1 + u8::from(*flag)),
        Value::Integer(number) => integer(*number, out),
        Value::Float(number) => float(number.into_inner(), out),
        Value::Regex(regex) => match json::beyond_64_bits(value) {
            Some(digits) => digits_of(digits, out),
            None => text(regex.as_str().as_bytes(), out),
        },
        Value::Timestamp(_) => text(&text_of(value).unwrap_or_default(), out),
        Value::Array(items) => {
            out.push(7);
            items.iter().for_each(|item| with_length(out, |out| encode(item, out)));
        }
        Value::Object(map) => {
            out.push(8);
            for (name, value) in map {
                with_length(out, |out| out.extend_from_slice(name.as_bytes()));
                with_length(out, |out| encode(value, out));
            }
        }
        Value::Null => out.push(9),
    }
}

/// The key that these bytes are; null where they are none.
pub(crate) fn decode(bytes: &[u8]) -> Value {
    let Some((kind, rest)) = bytes.split_first() else { return Value::Null };
    match kind {
        1 => Value::Boolean(false),
        2 => Value::Boolean(true),
        3 => rest.try_into().map_or(Value::Null, |bytes| Value::Integer(i64::from_be_bytes(bytes) ^ i64::MIN)),
        4 => std::str::from_utf8(rest).ok().and_then(json::from_digits).unwrap_or(Value::Null),
        5 => rest.try_into().map_or(Value::Null, |bytes| Value::from_f64_or_zero(f64::from_be_bytes(bytes))),
        6 => Value::Bytes(Bytes::copy_from_slice(rest)),
        7 => Value::Array(parts(rest).map(decode).collect()),
        8 => {
            let mut parts = parts(rest);
            let mut map = ObjectMap::new();
            while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
                map.insert(String::from_utf8_lossy(name).into(), decode(value));
            }
            Value::Object(map)
        }
        _ => Value::Null,
    }
}

fn text(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(6);
    out.extend_from_slice(bytes);
}

fn integer(number: i64, out: &mut Vec<u8>) {
    out.push(3);
    out.extend_from_slice(&(number ^ i64::MIN).to_be_bytes());
}

fn digits_of(digits: &str, out: &mut Vec<u8>) {
    out.push(4);
    out.extend_from_slice(digits.as_bytes());
}

fn float(number: f64, out: &mut Vec<u8>) {
    if number.fract() == 0.0 && number.abs() < EXACT_MAX {
        let exact = number as i128;
        return match i64::try_from(exact) {
            Ok(number) => integer(number, out),
            Err(_) => digits_of(&exact.to_string(), out),
        };
    }
    out.push(5);
    out.extend_from_slice(&number.to_be_bytes());
}

fn with_length(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    // A key is part of a record, which is far below 4 GiB.
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn parts(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        bytes = rest;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(json: &str) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&json::parse(&Bytes::copy_from_slice(json.as_bytes()), &crate::needs::Needs::All).unwrap(), &mut out);
        out
    }

    #[test]
    fn keys_are_equal_by_json_type_and_value() {
        for (one, other) in [
            ("1", "1.0"),
            ("-0.0", "0"),
            ("100000000000000000000", "1e20"),
            (r#"{"a":1,"b":2}"#, r#"{ "b": 2, "a": 1.0 }"#),
            (r#""\u0061""#, r#""a""#),
        ] {
            assert_eq!(bytes_of(one), bytes_of(other), "{one} {other}");
        }
        for (one, other) in
            [("1", r#""1""#), ("true", "1"), ("[]", "{}"), ("[1,2]", "[12]"), ("1.5", "1"), ("[null]", "[]")]
        {
            assert_ne!(bytes_of(one), bytes_of(other), "{one} {other}");
        }
    }

    #[test]
    fn keys_read_back() {
        for key in ["true", "-7", "1.5", r#""é""#, "[1,[\"a\",null]]", r#"{"a":{"b":[]}}"#, "-99999999999999999999"] {
            let mut text = Vec::new();
            json::write_value(&mut text, &decode(&bytes_of(key)), None);
            assert_eq!(String::from_utf8(text).unwrap(), key);
        }
    }

    /// Stored state depends on these: they must never change.
    #[test]
    fn keys_have_fixed_bytes() {
        assert_eq!(bytes_of(r#""whale""#), b"\x06whale");
        assert_eq!(bytes_of("1"), [3, 128, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(bytes_of("1.5"), [5, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes_of("[true]"), [7, 0, 0, 0, 1, 2]);
        assert_eq!(bytes_of(r#"{"a":null}"#), [8, 0, 0, 0, 1, b'a', 0, 0, 0, 1, 9]);
        assert_eq!(bytes_of("18446744073709551616"), b"\x0418446744073709551616");
    }
}
