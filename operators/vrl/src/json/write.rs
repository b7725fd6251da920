//! From a value to JSON text, with help of the text that it was parsed from.

use std::{borrow::Cow, io::Write as _};

use bytes::Bytes;
use chrono::SecondsFormat;
use vrl::value::{ObjectMap, Value};

use super::{
    parse::{beyond_64_bits, parse},
    scan::{fields, items},
};
use crate::{
    changes::{Changes, How},
    needs::Needs,
};

/// Whether JSON can say the value; if not, what stands in the way.
pub(crate) fn check(value: &Value) -> Result<(), &'static str> {
    match value {
        Value::Float(number) if !number.is_finite() => Err("a number beyond all bounds"),
        Value::Bytes(bytes) if std::str::from_utf8(bytes).is_err() => Err("bytes that are no UTF-8 text"),
        Value::Array(items) => items.iter().try_for_each(check),
        Value::Object(map) => map.values().try_for_each(check),
        _ => Ok(()),
    }
}

/// Appends a value; names of objects in the order of `changes` where it knows them, else sorted.
pub(crate) fn write_value(out: &mut Vec<u8>, value: &Value, changes: Option<&Changes>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Boolean(true) => out.extend_from_slice(b"true"),
        Value::Boolean(false) => out.extend_from_slice(b"false"),
        Value::Integer(number) => print(out, format_args!("{number}")),
        Value::Float(number) => print(out, format_args!("{:?}", number.into_inner())),
        Value::Bytes(bytes) => write_text(out, bytes),
        Value::String(text) => write_text(out, text.as_bytes()),
        Value::Timestamp(time) => print(out, format_args!("\"{}\"", time.to_rfc3339_opts(SecondsFormat::AutoSi, true))),
        Value::Regex(regex) => match beyond_64_bits(value) {
            Some(digits) => out.extend_from_slice(digits.as_bytes()),
            None => write_text(out, regex.as_str().as_bytes()),
        },
        Value::Array(items) => {
            let mut list = List::open(out, b'[');
            items.iter().for_each(|item| write_value(list.next(out), item, None));
            out.push(b']');
        }
        Value::Object(map) => {
            let mut list = List::open(out, b'{');
            write_new_fields(out, &mut list, map, changes, |_| false);
            out.push(b'}');
        }
    }
}

/// Appends a value of which `raw` is the text before `changes` were made to it.
pub(crate) fn write_changed(out: &mut Vec<u8>, value: &Value, raw: &[u8], changes: &Changes) {
    match (changes.how(), value) {
        (How::Written, _) => write_value(out, value, Some(changes)),
        (How::Replaced, _) => write_compared(out, value, raw, Some(changes)),
        (How::Inside, Value::Object(map)) if write_merged(out, map, raw, Some(changes), false) => {}
        (How::Inside, _) => write_value(out, value, Some(changes)),
    }
}

/// Appends a value that took the place of `raw`: what is the same in both keeps its text.
fn write_compared(out: &mut Vec<u8>, value: &Value, raw: &[u8], changes: Option<&Changes>) {
    match value {
        Value::Object(map) if write_merged(out, map, raw, changes, true) => {}
        Value::Array(new) if let Some(mut old) = items(raw) => {
            let mut list = List::open(out, b'[');
            for item in new {
                match old.next() {
                    Some(raw) => write_compared(list.next(out), item, raw, None),
                    None => write_value(list.next(out), item, None),
                }
            }
            out.push(b']');
        }
        Value::Object(_) | Value::Array(_) => write_value(out, value, changes),
        scalar => match parse(&Bytes::copy_from_slice(raw), &Needs::All) {
            Ok(old) if old == *scalar => out.extend_from_slice(raw.trim_ascii()),
            _ => write_value(out, scalar, changes),
        },
    }
}

/// Appends an object: first the fields that `raw` has, in its order, then the new ones. `false` if `raw` is no object.
///
/// With `replaced` fields without a change of their own are compared with the text; otherwise they are as they were.
fn write_merged(out: &mut Vec<u8>, map: &ObjectMap, raw: &[u8], changes: Option<&Changes>, replaced: bool) -> bool {
    let Some(fields_before) = fields(raw) else { return false };
    let mut list = List::open(out, b'{');
    let mut seen: Vec<Cow<'_, [u8]>> = Vec::new();
    for (name, key, text) in fields_before {
        let change = changes.and_then(|changes| changes.child(&name));
        if change.is_none() && !replaced {
            // Perhaps not even parsed.
            list.key(out, key);
            out.extend_from_slice(text);
            continue;
        }
        let Some(value) = std::str::from_utf8(&name).ok().and_then(|name| map.get(name)) else { continue };
        match change {
            // A name that stands there twice is written once when it is assigned.
            Some(_) if seen.contains(&name) => continue,
            Some(change) => {
                list.key(out, key);
                write_changed(out, value, text, change);
            }
            None => {
                list.key(out, key);
                write_compared(out, value, text, None);
            }
        }
        seen.push(name);
    }
    if replaced {
        write_new_fields(out, &mut list, map, changes, |name| seen.iter().any(|seen| **seen == *name.as_bytes()));
    } else if let Some(changes) = changes {
        for (name, change) in changes.children() {
            if let Some(value) = map.get(name)
                && !seen.iter().any(|seen| **seen == *name.as_bytes())
            {
                write_text(list.next(out), name.as_bytes());
                out.push(b':');
                write_value(out, value, Some(change));
            }
        }
    }
    out.push(b'}');
    true
}

/// Appends the fields that are not `known`: for an object as it was written down in its written order; otherwise the ones
/// without a change of their own sorted, then those with one in the order of assignment.
fn write_new_fields(
    out: &mut Vec<u8>,
    list: &mut List,
    map: &ObjectMap,
    changes: Option<&Changes>,
    known: impl Fn(&str) -> bool,
) {
    let mut write = |name: &str, value: &Value, change: Option<&Changes>| {
        write_text(list.next(out), name.as_bytes());
        out.push(b':');
        write_value(out, value, change);
    };
    for (name, value) in map {
        if !known(name) && changes.is_none_or(|changes| changes.child(name.as_bytes()).is_none()) {
            write(name, value, None);
        }
    }
    for (name, change) in changes.into_iter().flat_map(Changes::children) {
        if let Some(value) = map.get(name)
            && !known(name)
        {
            write(name, value, Some(change));
        }
    }
}

/// Commas between what is in an object or array.
struct List {
    first: bool,
}

impl List {
    fn open(out: &mut Vec<u8>, bracket: u8) -> Self {
        out.push(bracket);
        List { first: true }
    }

    fn next<'a>(&mut self, out: &'a mut Vec<u8>) -> &'a mut Vec<u8> {
        if !std::mem::take(&mut self.first) {
            out.push(b',');
        }
        out
    }

    fn key(&mut self, out: &mut Vec<u8>, key: &[u8]) {
        self.next(out).extend_from_slice(key);
        out.push(b':');
    }
}

fn print(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    // Writing to memory does not fail.
    let _ = out.write_fmt(arguments);
}

fn write_text(out: &mut Vec<u8>, bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let text = text.as_bytes();
    out.push(b'"');
    let mut start = 0;
    for (at, &byte) in text.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text[start..at]);
        start = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            8 => out.extend_from_slice(b"\\b"),
            12 => out.extend_from_slice(b"\\f"),
            _ => print(out, format_args!("\\u{byte:04x}")),
        }
    }
    out.extend_from_slice(&text[start..]);
    out.push(b'"');
}
