//! What users write.

use std::{fmt, time::Duration};

use millstream_codec::CodecOptions;
use millstream_core::{Error, ErrorKind, Result, Secret, SeekTo, Size, Span};
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
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
}

/// One name, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Names {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// User and password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// A user of the server's access control list. By default the server's default user.
    pub user: Option<String>,
    /// The password.
    pub password: Secret<String>,
}

/// Certificates. All files are PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The authorities to trust, instead of those of the system.
    pub ca: Option<String>,
    /// Our certificate, with `key`.
    pub cert: Option<String>,
    /// The private key of `cert`.
    pub key: Option<String>,
    /// The name that the server's certificate must have, where it is not the node's.
    pub server_name: Option<String>,
}

/// What may be written for a group; `group` reads it.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
enum Group {
    /// Its name; all else as usual.
    Name(String),
    /// All of it.
    Full(GroupOptions),
}

/// A group, and how we take part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupOptions {
    /// Name of the group. It is made where it is not there.
    pub name: String,
    /// Our name in the group; two that run at the same time must not share one. By default made from the pipeline and its
    /// store, so that a pipeline that is started again goes on with what it had taken.
    pub member: Option<String>,
    /// Make streams that are not there, instead of waiting for them.
    #[serde(default)]
    pub mkstream: bool,
    /// When records count as done.
    #[serde(default)]
    pub ack: Ack,
    /// Take over records of members that have not shown up for this long.
    #[serde(default = "claim_idle")]
    pub claim_idle: Span,
    /// A record that has been handed out more often than this goes to the dead letters.
    #[serde(default = "max_deliveries")]
    pub max_deliveries: u32,
}

/// When records count as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ack {
    /// With the epoch that commits them.
    #[default]
    Epoch,
    /// As soon as they are read: Redis keeps no pending list (`NOACK`).
    None,
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

/// Longer than any healthy network takes; short enough that every error is there within 10 s.
fn timeout() -> Span {
    Span(Duration::from_secs(5))
}

fn value_field() -> String {
    "msg".to_owned()
}

fn key_field() -> String {
    "_key".to_owned()
}

/// Cheap: one small round trip.
fn discover() -> Span {
    Span(Duration::from_secs(2))
}

/// Longer than a restart takes, short enough for people who wait.
fn claim_idle() -> Span {
    Span(Duration::from_secs(60))
}

fn max_deliveries() -> u32 {
    5
}

/// Some batches: enough to keep a fast network busy.
fn in_flight() -> Size {
    Size(8 << 20)
}

fn wait_timeout() -> Span {
    Span(Duration::from_secs(2))
}

impl GroupOptions {
    /// A group of this name; all else as usual.
    pub fn named(name: impl Into<String>) -> Self {
        GroupOptions {
            name: name.into(),
            member: None,
            mkstream: false,
            ack: Ack::Epoch,
            claim_idle: claim_idle(),
            max_deliveries: max_deliveries(),
        }
    }
}

fn wrong<T>(key: &str, message: impl Into<String>, hint: &str) -> Result<T> {
    Err(Error::new(ErrorKind::Option, message).hint(hint).within(key))
}

fn check_fields(value: &str, key: &str) -> Result<()> {
    if value == key || value == NULL_FIELD || key == NULL_FIELD {
        return wrong("key_field", "value, key and tombstone need three fields", "give each a name of its own");
    }
    Ok(())
}

/// The field that says that a record has no value.
pub(crate) const NULL_FIELD: &str = "_null";

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
        if let Some(group) = &self.group {
            group.validate().map_err(|error| error.within("group"))?;
        }
        Ok(())
    }
}

/// Reads a group from its name, or from all of it; by hand, because serde's untagged enums lose where an error lies.
fn group<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<GroupOptions>, D::Error> {
    struct Written;

    impl<'de> Visitor<'de> for Written {
        type Value = Option<GroupOptions>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the name of a group, or `name` with its options")
        }

        fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
            Ok(Some(GroupOptions::named(name)))
        }

        fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
            GroupOptions::deserialize(MapAccessDeserializer::new(map)).map(Some)
        }
    }

    deserializer.deserialize_any(Written)
}

impl GroupOptions {
    fn validate(&self) -> Result<()> {
        if self.name.is_empty() {
            return wrong("name", "the name of the group is empty", "name the group");
        }
        if self.max_deliveries == 0 {
            return wrong("max_deliveries", "every record would be a dead letter", "write `5`, say");
        }
        if self.claim_idle.0 < Duration::from_millis(100) {
            return wrong("claim_idle", "members that are merely slow would lose their records", "write `1m`, say");
        }
        Ok(())
    }
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
        Ok(())
    }
}
