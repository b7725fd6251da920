//! Records that a sink was given, and what a test says about them.

#![allow(clippy::panic, reason = "an assertion of a test fails by panicking, at the place of its caller")]

use std::fmt;

use millstream_core::{Form, Record};
use serde::de::DeserializeOwned;

/// Records that a sink was given, in the order in which they came: with their values as bytes, text, JSON or values of a type,
/// their keys and headers.
///
/// Assertions and readings panic with what is there, at the line of the test.
#[derive(Clone, PartialEq, Eq)]
pub struct Records {
    sink: String,
    records: Vec<Record>,
}

/// Records that a message shows.
const SHOWN_MAX: usize = 20;

impl Records {
    pub(super) fn new(sink: &str, records: Vec<Record>) -> Self {
        Records { sink: sink.to_owned(), records }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// All of each record.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Their values; a tombstone has none.
    pub fn bytes(&self) -> Vec<Option<&[u8]>> {
        self.records.iter().map(|record| record.value.as_deref()).collect()
    }

    /// Their values as text. Panics if one is not UTF-8.
    #[track_caller]
    pub fn texts(&self) -> Vec<String> {
        let read =
            |record: &Record| std::str::from_utf8(octets(record)).map(str::to_owned).map_err(|why| why.to_string());
        self.read("text", read)
    }

    /// Their values as JSON. Panics if one is not.
    #[track_caller]
    pub fn json(&self) -> Vec<serde_json::Value> {
        self.read("JSON", |record| serde_json::from_slice(octets(record)).map_err(|why| why.to_string()))
    }

    /// Their values as values of `T`, from JSON; or as typed streams write them where JSON cannot say them. Panics if one does
    /// not fit.
    #[track_caller]
    pub fn values<T: DeserializeOwned>(&self) -> Vec<T> {
        let read = |record: &Record| {
            let json = serde_json::from_slice(octets(record));
            match json {
                Err(why) if record.form == Form::Bytes => {
                    rmp_serde::from_slice(octets(record)).map_err(|_| why.to_string())
                }
                json => json.map_err(|why| why.to_string()),
            }
        };
        self.read(std::any::type_name::<T>(), read)
    }

    /// Their keys as text, lossy; `None` for a record without one.
    pub fn keys(&self) -> Vec<Option<String>> {
        let text = |record: &Record| record.key.as_deref().map(|key| String::from_utf8_lossy(key).into_owned());
        self.records.iter().map(text).collect()
    }

    /// The value of a header of each record as text, lossy; of its last one where there are several.
    pub fn header(&self, name: &str) -> Vec<Option<String>> {
        let of = |record: &Record| {
            let found = record.headers.iter().rev().find(|(of, _)| of == name);
            found.and_then(|(_, value)| value.as_deref()).map(|value| String::from_utf8_lossy(value).into_owned())
        };
        self.records.iter().map(of).collect()
    }

    /// Asserts that these are their values, in this order.
    #[track_caller]
    pub fn equals<T: DeserializeOwned + PartialEq + fmt::Debug>(&self, expected: &[T]) {
        let came = self.values::<T>();
        if came != expected {
            let first = came.iter().zip(expected).position(|(came, expected)| came != expected);
            let at = first.unwrap_or(came.len().min(expected.len()));
            panic!(
                "`{}` was given other records than expected; they differ at {at}\n  expected {}: {}\n      came {}: {}",
                self.sink,
                expected.len(),
                shown(expected),
                came.len(),
                shown(&came)
            );
        }
    }

    /// Asserts that these are their values, in any order.
    #[track_caller]
    pub fn equals_unordered<T: DeserializeOwned + PartialEq + fmt::Debug>(&self, expected: &[T]) {
        let mut extra = self.values::<T>();
        let mut missing = Vec::new();
        for wanted in expected {
            match extra.iter().position(|came| came == wanted) {
                Some(at) => drop(extra.swap_remove(at)),
                None => missing.push(wanted),
            }
        }
        if !missing.is_empty() || !extra.is_empty() {
            let (missing, extra) = (shown(&missing), shown(&extra));
            let (sink, came) = (&self.sink, self.len());
            panic!(
                "`{sink}` was given other records than expected, {came} in all\n  missing: {missing}\n    extra: {extra}"
            );
        }
    }

    /// Asserts that these are their values as text, in this order.
    #[track_caller]
    pub fn equals_texts<S: AsRef<str>>(&self, expected: &[S]) {
        let (came, expected) = (self.texts(), expected.iter().map(AsRef::as_ref).collect::<Vec<&str>>());
        if came != expected {
            let (sink, many) = (&self.sink, came.len());
            let (wanted, came) = (shown(&expected), shown(&came));
            panic!(
                "`{sink}` was given other records than expected\n  expected {}: {wanted}\n      came {many}: {came}",
                expected.len()
            );
        }
    }

    /// Asserts that there are none.
    #[track_caller]
    pub fn is_nothing(&self) {
        if !self.is_empty() {
            panic!("`{}` was to be given nothing, and was given {self:?}", self.sink);
        }
    }

    #[track_caller]
    fn read<T>(&self, what: &str, read: impl Fn(&Record) -> Result<T, String>) -> Vec<T> {
        let read = |(row, record): (usize, &Record)| match read(record) {
            Ok(value) => Ok(value),
            Err(why) => Err(format!("record {row} of `{}` is no {what}: {why}: {}", self.sink, text(record))),
        };
        match self.records.iter().enumerate().map(read).collect() {
            Ok(values) => values,
            Err(message) => panic!("{message}"),
        }
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<String> = self.records.iter().map(text).collect();
        write!(f, "{} at `{}`: {}", self.len(), self.sink, shown(&texts))
    }
}

fn octets(record: &Record) -> &[u8] {
    record.value.as_deref().unwrap_or_default()
}

/// A record as people see it.
pub(super) fn text(record: &Record) -> String {
    let value = record.value.as_deref().map_or_else(|| "(no value)".into(), String::from_utf8_lossy);
    match &record.key {
        Some(key) => format!("{}: {value}", String::from_utf8_lossy(key)),
        None => value.into_owned(),
    }
}

fn shown<T: fmt::Debug>(values: &[T]) -> String {
    let some: Vec<&T> = values.iter().take(SHOWN_MAX).collect();
    match values.len().checked_sub(SHOWN_MAX) {
        None | Some(0) => format!("{some:?}"),
        Some(more) => format!("{some:?} and {more} more"),
    }
}
