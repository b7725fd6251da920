//! Options of the source.

use std::time::Duration;

use millstream_codec::CodecOptions;
use millstream_core::{Error, OnMissing, Result, Secret, SeekTo, Size, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Auth, GroupOptions, Names, Tls, check_fields,
    group::{Group, group},
    key_field, timeout, value_field, wrong,
};

/// Options of the source `redis_stream`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisSourceOptions {
    /// The servers, and the streams unless `stream` names them:
    /// `redis://[user:password@]node[,node]/stream[,stream][?option=value]`. `rediss://` is TLS; several nodes are those
    /// of a cluster.
    pub url: Secret<String>,
    /// The streams to read. A stream `k` is the key `k`, or its shards `k:0`, `k:1`, ...
    pub stream: Option<Names>,
    /// Number of the database.
    pub db: Option<u32>,
    /// Who we are.
    pub auth: Option<Auth>,
    /// Certificates; only with `rediss://`.
    pub tls: Option<Tls>,
    /// How long to wait for a connection or an answer.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// Where to begin without a saved position: `beginning`, `end`, a sequence number or a time. A group that is there
    /// goes on where it is.
    pub start: Option<SeekTo>,
    /// What to do when records behind the saved position were trimmed. A group has its place at the server, which does not say.
    #[serde(default)]
    pub on_missing: OnMissing,
    /// Share the records with the other members of this group, and let Redis remember what is done.
    #[serde(default, deserialize_with = "group")]
    #[schemars(with = "Option<Group>")]
    pub group: Option<GroupOptions>,
    /// The field that holds the value.
    #[serde(default = "value_field")]
    pub value_field: String,
    /// The field that holds the key.
    #[serde(default = "key_field")]
    pub key_field: String,
    /// What the first half of an entry's id is, and so the record's time.
    #[serde(default)]
    pub ids: SourceIds,
    /// What the values are. By default `bytes`.
    pub codec: Option<CodecOptions>,
    /// How much one read asks for.
    #[serde(default)]
    pub batch: Batch,
    /// How often to look for new shards.
    #[serde(default = "discover")]
    pub discover: Span,
}

/// What the first half of an id is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SourceIds {
    /// Milliseconds since 1970, as Redis makes them.
    #[default]
    Milliseconds,
    /// Nanoseconds since 1970.
    Nanoseconds,
}

/// How much one read asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Batch {
    /// Entries of each key.
    pub count: u32,
    /// Bytes of one answer: fewer entries are asked for when they are large. One entry alone may be larger.
    pub bytes: Size,
}

impl Default for Batch {
    fn default() -> Self {
        // 1,000 is where more entries a call make no difference any more; a batch holds 1 MiB.
        Batch { count: 1000, bytes: Size(1 << 20) }
    }
}

/// Cheap: one small round trip.
fn discover() -> Span {
    Span(Duration::from_secs(2))
}

impl RedisSourceOptions {
    /// What can be said without connecting.
    pub fn validate(&self) -> Result<()> {
        check_fields(&self.value_field, &self.key_field)?;
        if self.batch.count == 0 {
            return wrong("count", "a read of no entries reads nothing", "write `1000`, say")
                .map_err(|error: Error| error.within("batch"));
        }
        if self.start == Some(SeekTo::Committed) && self.group.is_none() {
            return wrong("start", "without a group Redis knows nothing of what was committed", "name a `group`");
        }
        if self.on_missing != OnMissing::Fail && self.group.is_some() {
            return wrong(
                "on_missing",
                "a group keeps its place at the server",
                "leave it out, or read without a `group`",
            );
        }
        if let Some(group) = &self.group {
            group.validate().map_err(|error| error.within("group"))?;
        }
        Ok(())
    }
}
