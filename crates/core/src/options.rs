//! Options of components: from a tree of values to the component's own struct, with errors that know their place.

use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};
use serde_json::Value;

use crate::{Error, ErrorKind, Result};

/// Reads a component's options struct. A text stands for a number or boolean where one is wanted, because URLs, variables
/// and `-o` know only text. The error names the option's path, what was expected, and the nearest known name.
pub fn parse_options<T: DeserializeOwned>(options: &Value) -> Result<T> {
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(Lenient(options), &mut track);
    T::deserialize(deserializer).map_err(|Mismatch(message)| {
        let path = track.path();
        let mut keys: Vec<String> = path.iter().filter_map(segment).collect();
        let hint = unknown_name(&message).and_then(|(name, known)| {
            if keys.last() != Some(&name) {
                keys.push(name.clone());
            }
            suggest(&name, &known)
        });
        let error = Error::new(ErrorKind::Option, message);
        let error = hint.into_iter().fold(error, |error, hint| error.hint(hint));
        keys.into_iter().rev().fold(error, Error::within)
    })
}

/// `did you mean ...?` for a name that is not known, or the list of those that are.
pub fn suggest<S: AsRef<str>>(name: &str, known: &[S]) -> Option<String> {
    let near = known.iter().map(|known| (distance(name, known.as_ref()), known.as_ref())).min();
    match near {
        Some((distance, known)) if distance <= 1 + name.chars().count() / 3 => Some(format!("did you mean `{known}`?")),
        Some(_) => Some(format!("known are: {}", known.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", "))),
        None => None,
    }
}

/// Number of single-character edits between two names (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn segment(segment: &serde_path_to_error::Segment) -> Option<String> {
    match segment {
        serde_path_to_error::Segment::Seq { index } => Some(index.to_string()),
        serde_path_to_error::Segment::Map { key } => Some(key.clone()),
        serde_path_to_error::Segment::Enum { variant } => Some(variant.clone()),
        serde_path_to_error::Segment::Unknown => None,
    }
}

/// Takes serde's message about an unknown field or variant apart: the name, and the known ones.
fn unknown_name(message: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix("unknown option `")?;
    let (name, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some((name.to_owned(), known))
}

/// What did not fit; becomes an [`Error`] once the path is known.
#[derive(Debug)]
struct Mismatch(String);

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Mismatch {}

impl de::Error for Mismatch {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Mismatch(message.to_string())
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        Mismatch(format!("expected {}, found {}", expected(wanted), found(&unexpected)))
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        Self::invalid_type(unexpected, wanted)
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::unknown_variant(field, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let known: Vec<String> = expected.iter().map(|name| format!("`{name}`")).collect();
        Mismatch(format!("unknown option `{variant}`, expected {}", known.join(" or ")))
    }

    fn missing_field(field: &'static str) -> Self {
        Mismatch(format!("option `{field}` is missing"))
    }
}

/// A deserializer over JSON values that takes a text for a number or boolean.
#[derive(Clone, Copy)]
struct Lenient<'a>(&'a Value);

macro_rules! from_text {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
            match self.0.as_str().map(str::trim).and_then(|text| serde_json::from_str::<Value>(text).ok()) {
                Some(value @ (Value::Number(_) | Value::Bool(_))) => visit_scalar(&value, visitor),
                _ => self.deserialize_any(visitor),
            }
        }
    )* };
}

fn visit_scalar<'de, V: Visitor<'de>>(value: &Value, visitor: V) -> Result<V::Value, Mismatch> {
    match value {
        Value::Bool(flag) => visitor.visit_bool(*flag),
        Value::String(text) => visitor.visit_str(text),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => visitor.visit_u64(number),
            (None, Some(number)) => visitor.visit_i64(number),
            _ => visitor.visit_f64(number.as_f64().unwrap_or_default()),
        },
        _ => visitor.visit_unit(),
    }
}

/// What was expected, in words for people: serde knows only Rust's names.
fn expected(expected: &dyn de::Expected) -> String {
    let text = expected.to_string();
    let word = match text.as_str() {
        "u8" | "u16" | "u32" | "u64" | "u128" | "usize" => "a whole number from 0",
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "str" => "a text",
        "a sequence" => "a list",
        "a map" => "options",
        _ if text.starts_with("struct ") => "options",
        _ => return text.replace("string", "text"),
    };
    word.to_owned()
}

fn found(unexpected: &de::Unexpected<'_>) -> String {
    match unexpected {
        de::Unexpected::Bool(flag) => flag.to_string(),
        de::Unexpected::Unsigned(number) => number.to_string(),
        de::Unexpected::Signed(number) => number.to_string(),
        de::Unexpected::Float(number) => number.to_string(),
        de::Unexpected::Str(text) => format!("the text \"{text}\""),
        de::Unexpected::Seq => "a list".to_owned(),
        de::Unexpected::Map => "several keys".to_owned(),
        de::Unexpected::Unit => "nothing".to_owned(),
        other => other.to_string(),
    }
}

impl<'de> de::Deserializer<'de> for Lenient<'de> {
    type Error = Mismatch;

    from_text!(deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128 deserialize_u8
        deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64);

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.0 {
            Value::Array(items) => visitor.visit_seq(de::value::SeqDeserializer::new(items.iter().map(Lenient))),
            Value::Object(map) => visitor.visit_map(Entries { entries: map.iter(), value: None }),
            scalar => visit_scalar(scalar, visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Mismatch> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Mismatch> {
        match self.0 {
            Value::String(variant) => visitor.visit_enum(variant.as_str().into_deserializer()),
            Value::Object(map) if map.len() == 1 => {
                visitor.visit_enum(de::value::MapAccessDeserializer::new(Entries { entries: map.iter(), value: None }))
            }
            other => Err(Mismatch(format!("expected one name, or one name with its options, found {}", kind(other)))),
        }
    }

    /// A number or boolean where a text is wanted is that text: `password: 12345`.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        match self.0 {
            Value::Number(number) => visitor.visit_string(number.to_string()),
            Value::Bool(flag) => visitor.visit_string(flag.to_string()),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Mismatch> {
        self.deserialize_str(visitor)
    }

    serde::forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "several keys",
    }
}

impl<'de> IntoDeserializer<'de, Mismatch> for Lenient<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

struct Entries<'a> {
    entries: serde_json::map::Iter<'a>,
    value: Option<&'a Value>,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = Mismatch;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Mismatch> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some(value);
        seed.deserialize(key.as_str().into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Mismatch> {
        seed.deserialize(Lenient(self.value.take().unwrap_or(&Value::Null)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Size, Span};
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Options {
        path: String,
        #[serde(default)]
        count: Option<u64>,
        #[serde(default)]
        follow: bool,
        #[serde(default)]
        rotate: Option<Rotate>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Rotate {
        every: Option<Span>,
        size: Option<Size>,
    }

    #[test]
    fn text_stands_for_numbers_and_booleans() {
        let options = serde_json::json!({"path": 7, "count": "12", "follow": "true", "rotate": {"every": "1h"}});
        let parsed: Options = parse_options(&options).unwrap();
        assert_eq!(parsed.path, "7");
        assert_eq!((parsed.count, parsed.follow), (Some(12), true));
    }

    #[test]
    fn an_unknown_option_has_a_place_and_a_suggestion() {
        let options = serde_json::json!({"path": "x", "rotate": {"evry": "1h"}});
        let error = parse_options::<Options>(&options).unwrap_err();
        assert_eq!(error.place().unwrap().path, ["rotate", "evry"]);
        assert_eq!(error.hint_text(), Some("did you mean `every`?"));
    }

    #[test]
    fn a_wrong_value_has_a_place() {
        let error =
            parse_options::<Options>(&serde_json::json!({"path": "x", "rotate": {"every": "soon"}})).unwrap_err();
        assert_eq!(error.place().unwrap().path, ["rotate", "every"]);
        let error = parse_options::<Options>(&serde_json::json!({"path": "x", "count": "many"})).unwrap_err();
        assert_eq!(error.message(), "expected a whole number from 0, found the text \"many\"");
        let error = parse_options::<Options>(&serde_json::json!({"count": 3})).unwrap_err();
        assert_eq!(error.message(), "option `path` is missing");
    }
}
