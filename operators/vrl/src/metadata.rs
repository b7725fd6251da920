//! `%key`, `%headers`, `%stream`, `%shard`, `%sequence`, `%time` and `%vars`: what a record is beside its value.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::DateTime;
use millstream_core::{
    Batch, ColumnBuilder, Error, ErrorKind, HeadersBuilder, RecordRef, Result, Times, Timestamp, suggest,
};
use vrl::{
    path::{OwnedSegment, OwnedValuePath},
    value::{
        Kind, ObjectMap, Value,
        kind::{Collection, Field},
    },
};

use crate::json;

/// All names below `%`.
pub(crate) const NAMES: [&str; 7] = ["key", "headers", "stream", "shard", "sequence", "time", "vars"];
/// Those that a program may set.
pub(crate) const SETTABLE: [&str; 3] = ["key", "headers", "time"];

/// Which parts a program looks at; the others are not made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Uses {
    key: bool,
    headers: bool,
    stream: bool,
    shard: bool,
    sequence: bool,
    time: bool,
}

impl Uses {
    /// Also what is at `path`.
    pub(crate) fn add(&mut self, path: &OwnedValuePath) {
        let name = match path.segments.first() {
            Some(OwnedSegment::Field(name)) => Some(name.as_str()),
            _ => None,
        };
        for (flag, known) in [
            (&mut self.key, "key"),
            (&mut self.headers, "headers"),
            (&mut self.stream, "stream"),
            (&mut self.shard, "shard"),
            (&mut self.sequence, "sequence"),
            (&mut self.time, "time"),
        ] {
            *flag |= name.is_none_or(|name| name == known);
        }
    }

    /// Whether it looks at any.
    pub(crate) fn any(self) -> bool {
        self.key || self.headers || self.stream || self.shard || self.sequence || self.time
    }

    /// Brings `metadata` up to the record.
    pub(crate) fn fill(self, metadata: &mut Value, record: &RecordRef<'_>) {
        let Value::Object(map) = metadata else { return };
        if !self.any() {
            return;
        }
        let mut set = |name: &str, value: Value| match map.get_mut(name) {
            Some(slot) => *slot = value,
            None => {
                map.insert(name.into(), value);
            }
        };
        if self.key {
            set("key", record.key().map_or(Value::Null, bytes));
        }
        if self.headers {
            set("headers", headers(record));
        }
        if self.stream {
            set("stream", bytes(record.origin().stream.as_bytes()));
        }
        if self.shard {
            set("shard", integer(u128::from(record.origin().shard)));
        }
        if self.sequence {
            set("sequence", integer(record.sequence()));
        }
        if self.time {
            set("time", record.time().map_or(Value::Null, |time| DateTime::from_timestamp_nanos(time.0).into()));
        }
    }
}

/// The metadata of no record: only the pipeline's variables.
pub(crate) fn of_vars(vars: &BTreeMap<String, String>) -> Value {
    let vars = vars.iter().map(|(name, value)| (name.as_str().into(), bytes(value.as_bytes()))).collect();
    Value::Object(ObjectMap::from([("vars".into(), Value::Object(vars))]))
}

/// The types of metadata.
pub(crate) fn kind(vars: &BTreeMap<String, String>) -> Kind {
    let headers = Kind::object(Collection::from_unknown(Kind::bytes().or_null().or_array(Collection::any())));
    let vars: BTreeMap<Field, Kind> = vars.keys().map(|name| (Field::from(name.as_str()), Kind::bytes())).collect();
    let known: BTreeMap<Field, Kind> = BTreeMap::from([
        ("key".into(), Kind::bytes().or_null()),
        ("headers".into(), headers),
        ("stream".into(), Kind::bytes()),
        ("shard".into(), Kind::integer()),
        // Beyond 64 bits in some systems; such a one is a value that cannot be computed with.
        ("sequence".into(), Kind::integer().or_regex()),
        ("time".into(), Kind::timestamp().or_null()),
        ("vars".into(), Kind::object(vars)),
    ]);
    Kind::object(known)
}

/// Checks that `%` has such a name.
pub(crate) fn check(path: &OwnedValuePath, vars: &BTreeMap<String, String>) -> Result<()> {
    let unknown = |text: String, near: Option<String>| {
        let error = Error::new(ErrorKind::Syntax, text);
        Err(near.into_iter().fold(error, |error, hint| error.hint(hint)))
    };
    match path.segments.as_slice() {
        [OwnedSegment::Field(first), ..] if !NAMES.contains(&first.as_str()) => {
            unknown(format!("a record has no `%{first}`"), suggest(first, &NAMES))
        }
        [OwnedSegment::Field(first), OwnedSegment::Field(name), ..]
            if first.as_str() == "vars" && !vars.contains_key(name.as_str()) =>
        {
            let known: Vec<_> = vars.keys().collect();
            let near = suggest(name, &known).unwrap_or_else(|| "declare it below `vars`".to_owned());
            unknown(format!("there is no variable `{name}`"), Some(near))
        }
        _ => Ok(()),
    }
}

/// New keys, headers and times for the records of a batch, in their order.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    keys: ColumnBuilder,
    headers: HeadersBuilder,
    times: Vec<Option<Timestamp>>,
    rows: usize,
}

impl Edits {
    /// The record stays as it is.
    pub(crate) fn keep(&mut self, record: &RecordRef<'_>) {
        self.keys.push(record.key());
        self.headers.push(record.headers());
        self.times.push(record.time());
        self.rows += 1;
    }

    /// The record gets what the program made of `metadata`.
    pub(crate) fn set(&mut self, metadata: &Value, uses: Uses, record: &RecordRef<'_>) -> Result<()> {
        let Value::Object(map) = metadata else { return Err(wrong("%", metadata, "an object")) };
        let get = |name: &str| map.get(name).unwrap_or(&Value::Null);
        let time = if uses.time { time_of(get("time"))? } else { record.time() };
        let headers = uses.headers.then(|| changed_headers(get("headers"), record)).transpose()?.flatten();
        if uses.key {
            self.keys.push(text_of(get("key")).as_deref());
        } else {
            self.keys.push(record.key());
        }
        match headers {
            Some(all) => self.headers.push(all.iter().map(|(name, value)| (name.as_str(), value.as_deref()))),
            None => self.headers.push(record.headers()),
        }
        self.times.push(time);
        self.rows += 1;
        Ok(())
    }

    /// The records up to and with record `at` stay as they are, as far as they have not been set.
    pub(crate) fn keep_up_to(&mut self, at: usize, batch: &Batch) {
        while self.rows <= at {
            self.keep(&batch.get(self.rows));
        }
    }

    /// The batch with these keys, headers and times.
    pub(crate) fn apply(self, batch: Batch, uses: Uses) -> Batch {
        let mut envelope = batch.gather_envelope();
        if uses.key {
            envelope.keys = Some(self.keys.finish());
        }
        if uses.headers {
            envelope.headers = Some(self.headers.finish());
        }
        if uses.time {
            envelope.times = Times::Each(self.times.into());
        }
        batch.with_envelope(envelope)
    }
}

/// A value as text: for keys, headers and names. Nothing for null; JSON for objects and arrays.
pub(crate) fn text_of(value: &Value) -> Option<Bytes> {
    match value {
        Value::Null => None,
        Value::Bytes(bytes) => Some(bytes.clone()),
        Value::String(text) => Some(text.as_bytes().clone()),
        Value::Timestamp(time) => Some(time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true).into()),
        other => {
            let mut out = Vec::new();
            json::write_value(&mut out, other, None);
            Some(out.into())
        }
    }
}

fn bytes(bytes: &[u8]) -> Value {
    Value::Bytes(Bytes::copy_from_slice(bytes))
}

fn integer(number: u128) -> Value {
    match i64::try_from(number) {
        Ok(number) => Value::Integer(number),
        Err(_) => json::from_digits(&number.to_string()).unwrap_or(Value::Null),
    }
}

/// An object: name to text; to an array of them for a header that occurs more than once; to null for one without a value.
fn headers(record: &RecordRef<'_>) -> Value {
    let mut map = ObjectMap::new();
    for (name, value) in record.headers() {
        let value = value.map_or(Value::Null, bytes);
        match map.get_mut(name) {
            None => {
                map.insert(name.into(), value);
            }
            Some(Value::Array(all)) => all.push(value),
            Some(one) => *one = Value::Array(vec![std::mem::replace(one, Value::Null), value]),
        }
    }
    Value::Object(map)
}

type HeaderList = Vec<(String, Option<Bytes>)>;

/// The headers that the program made, if they differ from the record's: those that it had in their order, then new ones.
fn changed_headers(value: &Value, record: &RecordRef<'_>) -> Result<Option<HeaderList>> {
    if *value == headers(record) {
        return Ok(None);
    }
    let map = match value {
        Value::Null => return Ok(Some(Vec::new())),
        Value::Object(map) => map,
        other => return Err(wrong("%headers", other, "an object")),
    };
    let mut names: Vec<&str> = Vec::new();
    for name in record.headers().map(|(name, _)| name).chain(map.keys().map(|name| name.as_str())) {
        if map.contains_key(name) && !names.contains(&name) {
            names.push(name);
        }
    }
    let mut all = Vec::new();
    for name in names {
        match map.get(name) {
            Some(Value::Array(items)) => all.extend(items.iter().map(|item| (name.to_owned(), text_of(item)))),
            Some(value) => all.push((name.to_owned(), text_of(value))),
            None => {}
        }
    }
    Ok(Some(all))
}

fn time_of(value: &Value) -> Result<Option<Timestamp>> {
    let nanos = match value {
        Value::Null => return Ok(None),
        Value::Timestamp(time) => time.timestamp_nanos_opt(),
        Value::Bytes(_) | Value::String(_) => {
            let text = text_of(value).unwrap_or_default();
            Timestamp::parse(&String::from_utf8_lossy(&text)).ok().map(|time| time.0)
        }
        _ => None,
    };
    nanos.map(|nanos| Some(Timestamp(nanos))).ok_or_else(|| wrong("%time", value, "a timestamp or RFC 3339 text"))
}

fn wrong(name: &str, value: &Value, wanted: &str) -> Error {
    Error::new(ErrorKind::Data, format!("`{name}` is {}, not {wanted}", crate::fault::shown(value)))
}
