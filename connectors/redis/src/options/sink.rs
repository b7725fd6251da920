//! Options of the sink.

use std::time::Duration;

use millstream_codec::CodecOptions;
use millstream_core::{Result, Secret, Size, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Auth, Tls, check_fields, key_field, timeout, value_field, wrong};

/// Options of the sink `redis_stream`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisSinkOptions {
    /// The servers, and the stream unless `stream` names it: `redis://[user:password@]node[,node]/stream[?option=value]`.
    /// `rediss://` is TLS; several nodes are those of a cluster.
    pub url: Secret<String>,
    /// The stream to write. May hold `{stream}`, `{key}` and `{header:NAME}`. By default `{stream}`: where the record was
    /// read, or what its producer names.
    pub stream: Option<String>,
    /// Number of the database.
    pub db: Option<u32>,
    /// Who we are.
    pub auth: Option<Auth>,
    /// Certificates; only with `rediss://`.
    pub tls: Option<Tls>,
    /// How long to wait for a connection or an answer.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// Write so many shards, `k:0`, `k:1`, ..., instead of the one key `k`.
    pub shards: Option<u32>,
    /// Which shard a record goes to; only with `shards`. By default `key`.
    pub sharder: Option<Sharder>,
    /// How values are written. By default `bytes`: as they are.
    pub codec: Option<CodecOptions>,
    /// The field that holds the value.
    #[serde(default = "value_field")]
    pub value_field: String,
    /// The field that holds the key.
    #[serde(default = "key_field")]
    pub key_field: String,
    /// Which ids the entries get.
    #[serde(default)]
    pub ids: SinkIds,
    /// Drop old entries while writing.
    pub trim: Option<Trim>,
    /// Bytes that may be under way to the servers before they have answered.
    #[serde(default = "in_flight")]
    pub in_flight: Size,
    /// Count records as delivered only when replicas have them.
    pub wait: Option<Wait>,
    /// With `exactly_once`: bytes of the script that commits an epoch. Acknowledgements beyond are staged before it, as records
    /// always are.
    #[serde(default = "script_bytes")]
    pub script_bytes: Size,
}

/// Which ids entries get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SinkIds {
    /// `<ms>-*` of the record's event time, if its producer gave one, else the server's clock. Redis refuses a time that is
    /// before the newest entry's.
    #[default]
    Time,
    /// The server's clock.
    Auto,
    /// `<ns>-*` of the record's event time, else of our clock.
    Nanoseconds,
}

/// Which shard a record goes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sharder {
    /// By the hash of its key; without one, one after the other.
    #[default]
    Key,
    /// One after the other.
    RoundRobin,
    /// The number of the shard where it was read.
    Origin,
}

/// What to drop while writing. Redis drops whole nodes of its tree, so a little more may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Trim {
    /// Keep about so many entries of each key (`MAXLEN ~`).
    pub count: Option<u64>,
    /// Keep about the entries of this time (`MINID ~`).
    pub age: Option<Span>,
}

/// How many replicas must have a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// Number of replicas.
    pub replicas: u32,
    /// How long to wait for them.
    #[serde(default = "wait_timeout")]
    pub timeout: Span,
}

/// Some batches: enough to keep a fast network busy.
fn in_flight() -> Size {
    Size(8 << 20)
}

/// Redis reads a script as a whole before it does anything else; far below its limit for one value, which is 512 MiB.
fn script_bytes() -> Size {
    Size(4 << 20)
}

fn wait_timeout() -> Span {
    Span(Duration::from_secs(2))
}

impl RedisSinkOptions {
    /// What can be said without connecting.
    pub fn validate(&self) -> Result<()> {
        check_fields(&self.value_field, &self.key_field)?;
        if self.shards == Some(0) {
            return wrong("shards", "a stream of no shards holds no record", "leave `shards` out for a plain stream");
        }
        if self.sharder.is_some() && self.shards.is_none() {
            return wrong("sharder", "without `shards` there is nothing to choose", "say how many `shards` there are");
        }
        if self.trim.is_some_and(|trim| trim.count.is_some() == trim.age.is_some()) {
            return wrong("trim", "`trim` needs one bound", "give either `count` or `age`");
        }
        if self.in_flight.0 == 0 {
            return wrong("in_flight", "nothing could be sent", "write `8MiB`, say");
        }
        if self.wait.is_some_and(|wait| wait.replicas == 0) {
            return wrong("wait", "no replica need not be waited for", "leave `wait` out");
        }
        if self.wait.is_some_and(|wait| wait.timeout.0.is_zero()) {
            return wrong("wait", "no replica has anything in no time", "write `timeout: 2s`, say");
        }
        Ok(())
    }
}
