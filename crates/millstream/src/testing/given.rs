//! Records as a test gives them to a source.

use std::{any::Any, sync::Arc};

use bytes::Bytes;
use millstream_core::{Batch, BatchBuilder, Body, Error, ErrorKind, Form, Record, Result, Timestamp};
use serde::Serialize;

use super::source::shard;
use crate::typed::{Data, ToBytes, Typed};

/// A record that a test gives to a source: a value, and what else the record has.
///
/// Any value that can be serialised becomes one by itself. A source of bytes is given texts and bytes as they are, and other
/// values as JSON. A typed source is given values of its own type, or what reads as one: JSON that fits, `&str` for `String`.
///
/// ```
/// use millstream::testing::Given;
///
/// let order = Given::from(serde_json::json!({"id": 1, "total": 12.5})).key("customer-7").header("source", "web");
/// # let _ = order;
/// ```
#[derive(Clone, Debug)]
pub struct Given {
    value: Content,
    key: Option<Bytes>,
    headers: Vec<(String, Option<Bytes>)>,
    time: Option<Timestamp>,
}

#[derive(Clone, Debug)]
enum Content {
    None,
    Bytes(Bytes),
    Value { value: Arc<dyn Any + Send + Sync>, of: &'static str, json: std::result::Result<Bytes, String> },
}

impl<V: Serialize + Send + Sync + 'static> From<V> for Given {
    fn from(value: V) -> Self {
        let json = serde_json::to_vec(&value).map(Bytes::from).map_err(|error| error.to_string());
        Given::of(Content::Value { value: Arc::new(value), of: std::any::type_name::<V>(), json })
    }
}

impl Given {
    fn of(value: Content) -> Self {
        Given { value, key: None, headers: Vec::new(), time: None }
    }

    /// A record with exactly these bytes as its value.
    pub fn bytes(value: impl Into<Bytes>) -> Self {
        Given::of(Content::Bytes(value.into()))
    }

    /// A record without a value, as a log keeps it for a key that was deleted.
    pub fn tombstone() -> Self {
        Given::of(Content::None)
    }

    /// Gives it a key.
    #[must_use]
    pub fn key(mut self, key: impl ToBytes) -> Self {
        self.key = octets(&key);
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl ToBytes) -> Self {
        self.headers.push((name.into(), octets(&value)));
        self
    }

    /// Gives it an event time.
    #[must_use]
    pub fn time(mut self, time: Timestamp) -> Self {
        self.time = Some(time);
        self
    }

    /// The value as a source of bytes gives it.
    fn raw(&self) -> Result<Option<Bytes>> {
        match &self.value {
            Content::None => Ok(None),
            Content::Bytes(bytes) => Ok(Some(bytes.clone())),
            Content::Value { value, json, of } => {
                let as_is = text(&**value).map(|text| Bytes::copy_from_slice(text.as_bytes()));
                let as_is = as_is.or_else(|| value.downcast_ref::<Bytes>().cloned());
                let as_is = as_is.or_else(|| value.downcast_ref::<Vec<u8>>().cloned().map(Bytes::from));
                let as_is = as_is.or_else(|| value.downcast_ref::<&'static [u8]>().map(|of| Bytes::from_static(of)));
                let written = |why: &String| wrong(format!("cannot write a `{of}` as JSON: {why}"));
                as_is.map_or_else(|| json.clone().map(Some).map_err(|why| written(&why)), |bytes| Ok(Some(bytes)))
            }
        }
    }

    /// The value as a source of `T` gives it.
    fn typed<T: Data>(&self) -> Result<T> {
        let own = std::any::type_name::<T>();
        let (json, of) = match &self.value {
            Content::None => return Err(wrong(format!("the source gives values of `{own}`, and no tombstones"))),
            Content::Bytes(bytes) => (bytes.clone(), "bytes"),
            Content::Value { value, of, json } => match value.downcast_ref::<T>() {
                Some(value) => return Ok(value.clone()),
                None => (json.clone().unwrap_or_default(), *of),
            },
        };
        serde_json::from_slice(&json).map_err(|cause| {
            wrong(format!("the source gives values of `{own}`, and the test gave `{of}`")).caused_by(cause)
        })
    }
}

/// The text that a value is, where it is one.
fn text(value: &(dyn Any + Send + Sync)) -> Option<&str> {
    value.downcast_ref::<String>().map(String::as_str).or_else(|| value.downcast_ref::<&'static str>().copied())
}

fn octets(value: &impl ToBytes) -> Option<Bytes> {
    let mut bytes = Vec::new();
    value.append(&mut bytes).then(|| Bytes::from(bytes))
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::Option, message)
}

/// How a source makes values of its type out of what a test gives; sources of bytes have none.
#[derive(Clone, Copy)]
pub(crate) struct Typing(fn(&[Given]) -> Result<Body>);

impl Typing {
    pub(crate) fn of<T: Data>() -> Self {
        Typing(|given| Ok(Typed::body(given.iter().map(Given::typed::<T>).collect::<Result<Vec<T>>>()?)))
    }
}

/// The batch that a source gives for these records, the first of which has the sequence `first`.
pub(super) fn batch(source: &str, form: Form, typing: Option<Typing>, first: u64, given: &[Given]) -> Result<Batch> {
    let mut builder = BatchBuilder::new();
    for (given, sequence) in given.iter().zip(u128::from(first)..) {
        let value = if typing.is_some() { None } else { given.raw()? };
        let (key, headers, time) = (given.key.clone(), given.headers.clone(), given.time);
        let origin = shard(source);
        builder.push(&Record { origin, sequence, key, headers, time, value, form, ..Record::new("", Bytes::new()) });
    }
    let batch = builder.finish();
    match typing {
        Some(Typing(body)) => Ok(Batch::new(batch.gather_envelope(), body(given)?)),
        None => Ok(batch),
    }
}
