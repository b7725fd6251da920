//! From JSON text to a value. Texts without escapes are slices of the source's buffer.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use millstream_core::{Error, ErrorKind, Result};
use regex::Regex;
use vrl::value::{KeyString, ObjectMap, Value, ValueRegex};

use crate::needs::Needs;

/// Deepest nesting: bounds the stack that parsing, comparing and dropping take.
const DEPTH_MAX: usize = 128;

/// Parses one JSON value; of an object only the fields that are needed. The others are checked.
///
/// An integer beyond 64 bits becomes a value that no operator and no function computes with, and that is written with
/// its digits: see [`beyond_64_bits`].
pub(crate) fn parse(raw: &Bytes, needs: &Needs) -> Result<Value> {
    if let Err(error) = std::str::from_utf8(raw) {
        return Err(Fault { at: error.valid_up_to(), what: "expected UTF-8" }.into());
    }
    let mut parser = Parser { raw, at: 0, depth: 0 };
    parser.space();
    let value = match needs {
        Needs::Fields(_) if parser.peek() == Some(b'{') => {
            parser.nested(|parser| parser.object(|name| needs.wants(name)))?
        }
        _ => parser.value()?,
    };
    parser.space();
    match parser.peek() {
        None => Ok(value),
        Some(_) => Err(parser.fault("expected the end").into()),
    }
}

/// The digits of an integer that fits no 64 bits, if `value` is one.
pub(crate) fn beyond_64_bits(value: &Value) -> Option<&str> {
    let Value::Regex(regex) = value else { return None };
    let text = regex.as_str();
    let digits = text.strip_prefix('-').unwrap_or(text);
    (digits.len() >= 19 && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(text)
}

/// A value with the digits of an integer that fits no 64 bits: a pattern, which nothing computes with by accident.
pub(crate) fn from_digits(digits: &str) -> Option<Value> {
    Some(Value::Regex(ValueRegex::new(Arc::new(Regex::new(digits).ok()?))))
}

#[derive(Debug)]
struct Fault {
    at: usize,
    what: &'static str,
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Error::new(ErrorKind::Decode, format!("the value is not JSON: {} at byte {}", fault.what, fault.at))
    }
}

struct Parser<'a> {
    raw: &'a Bytes,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn fault(&self, what: &'static str) -> Fault {
        Fault { at: self.at, what }
    }

    fn peek(&self) -> Option<u8> {
        self.raw.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn spaced_value(&mut self) -> Result<Value, Fault> {
        self.space();
        let value = self.value()?;
        self.space();
        Ok(value)
    }

    fn value(&mut self) -> Result<Value, Fault> {
        match self.peek() {
            Some(b'"') => self.string().map(Value::Bytes),
            Some(b'{') => self.nested(|parser| parser.object(|_| true)),
            Some(b'[') => self.nested(Self::array),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word(b"true", Value::Boolean(true)),
            Some(b'f') => self.word(b"false", Value::Boolean(false)),
            Some(b'n') => self.word(b"null", Value::Null),
            _ => Err(self.fault("expected a value")),
        }
    }

    fn word(&mut self, word: &[u8], value: Value) -> Result<Value, Fault> {
        if !self.raw[self.at..].starts_with(word) {
            return Err(self.fault("expected a value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn nested<T>(&mut self, inner: impl FnOnce(&mut Self) -> Result<T, Fault>) -> Result<T, Fault> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.fault("nested too deeply"));
        }
        self.at += 1;
        self.space();
        let value = inner(self)?;
        self.at += 1;
        self.depth -= 1;
        Ok(value)
    }

    /// Goes over a value that nobody wants; it must be one all the same.
    fn skip(&mut self) -> Result<(), Fault> {
        match self.peek() {
            Some(b'"') => {
                let (start, end, escaped) = self.string_extent()?;
                if escaped { self.unescape(start, end).map(drop) } else { Ok(()) }
            }
            Some(b'{') => self.nested(|parser| parser.object(|_| false)).map(drop),
            Some(b'[') => self.nested(Self::skip_items),
            Some(b'-' | b'0'..=b'9') => self.number_extent().map(drop),
            _ => self.value().map(drop),
        }
    }

    fn skip_items(&mut self) -> Result<(), Fault> {
        if self.peek() == Some(b']') {
            return Ok(());
        }
        loop {
            self.space();
            self.skip()?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => return Ok(()),
                _ => return Err(self.fault("expected `,` or `]`")),
            }
        }
    }

    /// From behind the brace up to, not including, the closing one; with the fields that are wanted.
    fn object(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Result<Value, Fault> {
        let mut map = ObjectMap::new();
        if self.peek() == Some(b'}') {
            return Ok(Value::Object(map));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.fault("expected a name"));
            }
            let key = self.key()?;
            self.space();
            if self.peek() != Some(b':') {
                return Err(self.fault("expected `:`"));
            }
            self.at += 1;
            self.space();
            if wanted(&key) {
                let value = self.value()?;
                // All of the text has been checked, and quotes cut it at character boundaries.
                map.insert(KeyString::from(String::from_utf8_lossy(&key)), value);
            } else {
                self.skip()?;
            }
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => return Ok(Value::Object(map)),
                _ => return Err(self.fault("expected `,` or `}`")),
            }
            self.space();
        }
    }

    /// From behind the bracket up to, not including, the closing one.
    fn array(&mut self) -> Result<Value, Fault> {
        let mut items = Vec::new();
        if self.peek() == Some(b']') {
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.spaced_value()?);
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => return Ok(Value::Array(items)),
                _ => return Err(self.fault("expected `,` or `]`")),
            }
        }
    }

    fn key(&mut self) -> Result<Cow<'a, [u8]>, Fault> {
        let (start, end, escaped) = self.string_extent()?;
        let raw: &'a Bytes = self.raw;
        if escaped { self.unescape(start, end).map(Cow::Owned) } else { Ok(Cow::Borrowed(&raw[start..end])) }
    }

    fn string(&mut self) -> Result<Bytes, Fault> {
        let (start, end, escaped) = self.string_extent()?;
        if escaped { self.unescape(start, end).map(Bytes::from) } else { Ok(self.raw.slice(start..end)) }
    }

    /// Where the text between the quotes begins and ends, and whether it has escapes.
    fn string_extent(&mut self) -> Result<(usize, usize, bool), Fault> {
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(0..=0x1f) => return Err(self.fault("control character in a text")),
                Some(_) => self.at += 1,
                None => return Err(self.fault("expected `\"`")),
            }
        }
        let end = self.at;
        self.at += 1;
        Ok((start, end, escaped))
    }

    fn unescape(&self, start: usize, end: usize) -> Result<Vec<u8>, Fault> {
        unescape(&self.raw[start..end]).map_err(|at| Fault { at: start + at, what: "unknown escape" })
    }

    fn digits(&mut self) -> Result<(), Fault> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { Err(self.fault("expected a digit")) } else { Ok(()) }
    }

    /// Goes over a number; answers whether it is an integer.
    fn number_extent(&mut self) -> Result<bool, Fault> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        let mut integer = true;
        if self.peek() == Some(b'.') {
            integer = false;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            integer = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(integer)
    }

    fn number(&mut self) -> Result<Value, Fault> {
        let start = self.at;
        let integer = self.number_extent()?;
        let text = std::str::from_utf8(&self.raw[start..self.at]).unwrap_or_default();
        if integer && text != "-0" {
            if let Ok(number) = text.parse() {
                return Ok(Value::Integer(number));
            }
            return from_digits(text).ok_or_else(|| self.fault("a number too long"));
        }
        // Never NaN: the grammar has no such number.
        Ok(Value::from_f64_or_zero(text.parse().unwrap_or(0.0)))
    }
}

/// Takes escapes out; on an unknown one answers where it is. Half of a surrogate pair becomes U+FFFD.
pub(super) fn unescape(text: &[u8]) -> Result<Vec<u8>, usize> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        if byte != b'\\' {
            out.push(byte);
            at += 1;
            continue;
        }
        let plain = match text.get(at + 1) {
            Some(b'u') => {
                let mut unit = unit(text, at).ok_or(at)?;
                at += 6;
                if let 0xd800..=0xdbff = unit
                    && let Some(low @ 0xdc00..=0xdfff) = self::unit(text, at)
                {
                    unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                    at += 6;
                }
                let character = char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER);
                out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'r') => b'\r',
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(&same @ (b'"' | b'\\' | b'/')) => same,
            _ => return Err(at),
        };
        out.push(plain);
        at += 2;
    }
    Ok(out)
}

/// The UTF-16 unit that `\uXXXX` at `at` stands for.
fn unit(text: &[u8], at: usize) -> Option<u32> {
    let digits = text.get(at..at + 6)?.strip_prefix(b"\\u")?;
    let mut unit = 0;
    for &digit in digits {
        unit = unit * 16 + char::from(digit).to_digit(16)?;
    }
    Some(unit)
}
