//! Walking over JSON text that is known to be valid, without parsing it.

use std::borrow::Cow;

use vrl::path::{OwnedSegment, OwnedValuePath};

use super::parse::unescape;

/// A field of an object: its name, the name as it is written, the value's text.
type Field<'a> = (Cow<'a, [u8]>, &'a [u8], &'a [u8]);

/// The fields of an object, in their order. `None` if it is no object.
pub(super) fn fields(raw: &[u8]) -> Option<impl Iterator<Item = Field<'_>>> {
    let mut at = skip_space(raw, 0);
    if raw.get(at) != Some(&b'{') {
        return None;
    }
    at += 1;
    Some(std::iter::from_fn(move || {
        at = skip_separator(raw, at);
        if raw.get(at) != Some(&b'"') {
            return None;
        }
        let key = raw.get(at..skip_string(raw, at))?;
        at = skip_separator(raw, at + key.len());
        let value = raw.get(at..skip_value(raw, at))?;
        at += value.len();
        Some((text(key), key, value))
    }))
}

/// The items of an array, in their order; `None` if it is no array.
pub(crate) fn items(raw: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let mut at = skip_space(raw, 0);
    if raw.get(at) != Some(&b'[') {
        return None;
    }
    at += 1;
    Some(std::iter::from_fn(move || {
        at = skip_separator(raw, at);
        if at >= raw.len() || raw[at] == b']' {
            return None;
        }
        let value = raw.get(at..skip_value(raw, at))?;
        at += value.len();
        Some(value)
    }))
}

/// The text of the value at a path; of a name that occurs twice, the last one.
pub(crate) fn find<'a>(raw: &'a [u8], path: &OwnedValuePath) -> Option<&'a [u8]> {
    path.segments.iter().try_fold(raw, |raw, segment| match segment {
        OwnedSegment::Field(name) => {
            fields(raw)?.filter(|(key, ..)| **key == *name.as_bytes()).last().map(|(_, _, value)| value)
        }
        OwnedSegment::Index(index) => items(raw)?.nth(usize::try_from(*index).ok()?),
    })
}

/// What a text in quotes says.
fn text(quoted: &[u8]) -> Cow<'_, [u8]> {
    let inner = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
    if inner.contains(&b'\\') { Cow::Owned(unescape(inner).unwrap_or_default()) } else { Cow::Borrowed(inner) }
}

fn skip_space(raw: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = raw.get(at) {
        at += 1;
    }
    at
}

/// White space, commas and colons: where the text is valid, they need not be told apart.
fn skip_separator(raw: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t' | b',' | b':') = raw.get(at) {
        at += 1;
    }
    at
}

fn skip_string(raw: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(&byte) = raw.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    raw.len()
}

fn skip_value(raw: &[u8], at: usize) -> usize {
    let (mut at, mut depth) = (at, 0usize);
    while let Some(&byte) = raw.get(at) {
        match byte {
            b'"' => {
                at = skip_string(raw, at);
                if depth == 0 {
                    return at;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth <= 1 => return if depth == 1 { at + 1 } else { at },
            b'}' | b']' => depth -= 1,
            b',' | b' ' | b'\n' | b'\r' | b'\t' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    raw.len()
}
