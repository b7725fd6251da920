//! One record, owned; and the names of where it comes from.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result, Timestamp};

/// A shard of a stream: the thing within which records have an order and a sequence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardKey {
    /// Name of the log: a topic, a stream key, a file.
    pub stream: Arc<str>,
    /// Its partition, counted from 0.
    pub shard: u64,
}

impl ShardKey {
    /// The shard `shard` of `stream`.
    pub fn new(stream: impl Into<Arc<str>>, shard: u64) -> Self {
        ShardKey { stream: stream.into(), shard }
    }
}

/// `stream/shard`; the stream may hold slashes itself.
impl fmt::Display for ShardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.stream, self.shard)
    }
}

impl std::str::FromStr for ShardKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.rsplit_once('/').and_then(|(stream, shard)| Some((stream, shard.parse().ok()?)));
        let (stream, shard) = parts.ok_or_else(|| {
            Error::new(ErrorKind::Option, format!("`{text}` is not a shard")).hint("write it as `stream/0`")
        })?;
        Ok(ShardKey::new(stream, shard))
    }
}

impl Serialize for ShardKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ShardKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What the bytes of a value are, as far as a codec or a step has said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Nobody has said.
    #[default]
    Bytes,
    /// UTF-8 text; as JSON it is a string.
    Text,
    /// One JSON value.
    Json,
}

/// One record that owns its bytes: what dead letters, parked records and producers carry.
///
/// On the way through a pipeline records live in a [`Batch`](crate::Batch) and are read through a
/// [`RecordRef`](crate::RecordRef).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Where it was read.
    pub origin: ShardKey,
    /// Its position there.
    pub sequence: u128,
    /// Which of the outputs of that source record it is; 0 for the record itself.
    #[serde(default)]
    pub index: u64,
    /// Event time.
    #[serde(default)]
    pub time: Option<Timestamp>,
    /// Key.
    #[serde(default)]
    pub key: Option<Bytes>,
    /// Headers in order, repeats kept, values may be absent.
    #[serde(default)]
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Value; absent in a tombstone.
    pub value: Option<Bytes>,
    /// What the value's bytes are.
    #[serde(default)]
    pub form: Form,
    /// The value as the source gave it, where a step has replaced it since.
    #[serde(default)]
    pub original: Option<Bytes>,
    /// How often the system has handed it out, this time included, where it counts that; else 1.
    #[serde(default = "first_time", skip_serializing_if = "is_first_time")]
    pub deliveries: u32,
    /// How often the step before which it stands has failed on it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempts: u32,
}

fn is_zero(attempts: &u32) -> bool {
    *attempts == 0
}

fn first_time() -> u32 {
    1
}

fn is_first_time(deliveries: &u32) -> bool {
    *deliveries == 1
}

impl Record {
    /// A record with this value and nothing else; `stream/0@0`.
    pub fn new(stream: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Self {
        Record {
            origin: ShardKey::new(stream, 0),
            sequence: 0,
            index: 0,
            time: None,
            key: None,
            headers: Vec::new(),
            value: Some(value.into()),
            form: Form::Bytes,
            original: None,
            deliveries: 1,
            attempts: 0,
        }
    }

    /// `stream/shard@sequence`, and `#index` for a derived one.
    pub fn id(&self) -> String {
        record_id(&self.origin, self.sequence, self.index)
    }
}

/// `stream/shard@sequence`, and `#index` where it is not 0.
pub(crate) fn record_id(origin: &ShardKey, sequence: u128, index: u64) -> String {
    match index {
        0 => format!("{origin}@{sequence}"),
        _ => format!("{origin}@{sequence}#{index}"),
    }
}
