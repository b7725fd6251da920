//! Options of the sink.

use std::{borrow::Cow, time::Duration};

use millstream_codec::CodecOptions;
use millstream_core::{Result, Secret, Size, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Address, KafkaAuth, KafkaTls, Properties, timeout, wrong};

/// Options of the sink `kafka`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSinkOptions {
    /// The brokers and the topic: `kafka://host:9092[,host:9092...]/topic`, or `kafka+tls://` for TLS.
    pub url: Secret<String>,
    /// Take each record's topic from elsewhere; the topic in the URL is for records that name none. Where the URL names none,
    /// the default is `stream`.
    pub topic_by: Option<TopicBy>,
    /// Which partition of its topic a record goes to.
    #[serde(default)]
    pub partition: PartitionBy,
    /// How many replicas must have a record before it counts as written.
    #[serde(default)]
    pub acks: Acks,
    /// Whether the brokers refuse what was sent twice over a bad connection. By default yes, with `acks: all`.
    pub idempotent: Option<bool>,
    /// How batches are compressed.
    #[serde(default)]
    pub compression: Compression,
    /// How records are packed.
    #[serde(default)]
    pub batch: KafkaBatch,
    /// How much may wait to be sent; then writing waits.
    #[serde(default = "buffer")]
    pub buffer: Size,
    /// The largest record; the topic's own limit `max.message.bytes` counts too.
    pub record_bytes_max: Option<Size>,
    /// How long a record may take to be delivered before the sink fails and is opened again.
    #[serde(default = "delivery_timeout")]
    pub delivery_timeout: Span,
    /// The topic with the checkpoints of pipelines that write exactly once; it is made if it is not there.
    #[serde(default = "checkpoint_topic")]
    pub checkpoint_topic: String,
    /// How long the brokers keep a transaction of a pipeline that has died; epochs are kept below half of it.
    #[serde(default = "transaction_timeout")]
    pub transaction_timeout: Span,
    /// How values are written. By default `bytes`: as they are.
    pub codec: Option<CodecOptions>,
    /// How long to wait for a connection, and for an answer.
    #[serde(default = "timeout")]
    pub timeout: Span,
    /// TLS.
    pub tls: Option<KafkaTls>,
    /// Authentication.
    pub auth: Option<KafkaAuth>,
    /// Any property of librdkafka that has no option of its own.
    #[serde(default)]
    pub property: Properties,
}

/// Where a record names its topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TopicBy {
    /// The stream that it was read from, or that the program has given.
    Stream,
    /// The header of this name.
    Header(String),
}

/// Which partition of its topic a record goes to: `key`, `round_robin`, `sticky`, `origin`, or the number of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PartitionBy {
    /// By the hash of its key, as Java's client does it (murmur2); without a key any.
    #[default]
    Key,
    /// One after the other.
    RoundRobin,
    /// One for each batch that comes in, the next one for the next.
    Sticky,
    /// That of its origin: a copy keeps partitions.
    Origin,
    /// This one.
    Number(u32),
}

/// How many replicas must have a record before it counts as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub enum Acks {
    /// All that are in sync.
    #[default]
    #[serde(rename = "all")]
    All,
    /// The leader: what it alone has is lost with it.
    #[serde(rename = "1")]
    One,
    /// None: records may be lost without a word.
    #[serde(rename = "0")]
    None,
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// By gzip.
    Gzip,
    /// By snappy.
    Snappy,
    /// By LZ4.
    Lz4,
    /// By Zstandard.
    Zstd,
}

impl Compression {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

/// How records are packed into requests.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaBatch {
    /// Most records of a batch.
    pub count: u32,
    /// Most bytes of a batch, before compression.
    pub bytes: Size,
    /// How long a record waits for others. Without it as long as those before it are on their way, and no longer than 50 ms.
    pub linger: Option<Span>,
}

impl Default for KafkaBatch {
    fn default() -> Self {
        // Librdkafka's own, but for the linger: a lone record should not wait.
        KafkaBatch { count: 10_000, bytes: Size(1_000_000), linger: None }
    }
}

/// Twice what the fastest broker here takes in a tenth of a second.
fn buffer() -> Size {
    Size(64 << 20)
}

/// As Java's client: longer than a leader change, a broker's restart or a short pause.
fn delivery_timeout() -> Span {
    Span(Duration::from_secs(120))
}

fn checkpoint_topic() -> String {
    "millstream-checkpoints".to_owned()
}

/// As other clients do it: a dead pipeline holds up readers no longer than this.
fn transaction_timeout() -> Span {
    Span(Duration::from_secs(60))
}

impl KafkaSinkOptions {
    /// What can be said without connecting.
    pub(crate) fn validate(&self) -> Result<Address> {
        let address = Address::parse(self.url.expose()).map_err(|error| error.within("url"))?;
        if address.topics.len() > 1 {
            return Err(wrong("url", "a sink writes to one topic", "name one, or none and give `topic_by`"));
        }
        if self.acks != Acks::All && self.idempotent == Some(true) {
            return Err(wrong("idempotent", "brokers refuse repeats only with `acks: all`", "leave one of them out"));
        }
        if let Some(TopicBy::Header(name)) = &self.topic_by
            && name.is_empty()
        {
            return Err(wrong("topic_by", "the header has no name", "write `topic_by: { header: topic }`"));
        }
        self.validate_sizes()?;
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if self.checkpoint_topic.is_empty() || !self.checkpoint_topic.chars().all(legal) {
            return Err(wrong(
                "checkpoint_topic",
                "that is no name of a topic",
                "use letters, digits, `.`, `_` and `-`",
            ));
        }
        if self.transaction_timeout.0 < Duration::from_secs(2)
            || self.transaction_timeout.0 > Duration::from_secs(86_400)
        {
            return Err(wrong("transaction_timeout", "a transaction lives from 2 s to a day", "write `60s`, say"));
        }
        if self.delivery_timeout.0 < Duration::from_millis(100) || self.delivery_timeout.0 > Duration::from_secs(86_400)
        {
            return Err(wrong("delivery_timeout", "a delivery takes from 100 ms to a day", "write `2m`, say"));
        }
        address.validate(&self.tls, &self.auth, self.timeout)?;
        self.property.validate()?;
        Ok(address)
    }

    fn validate_sizes(&self) -> Result<()> {
        if self.buffer.0 < 1 << 20 || self.buffer.0 > 2 << 30 {
            return Err(wrong("buffer", "the buffer takes from 1 MiB to 2 GiB", "write `64MiB`, say"));
        }
        if self.batch.count == 0 || self.batch.count > 1_000_000 {
            return Err(
                wrong("count", "a batch holds from 1 to 1,000,000 records", "write `10000`, say").within("batch")
            );
        }
        if self.batch.bytes.0 == 0 || self.batch.bytes.0 > 1 << 30 {
            return Err(wrong("bytes", "a batch takes from 1 B to 1 GiB", "write `1MB`, say").within("batch"));
        }
        if self.batch.linger.is_some_and(|linger| linger.0 > Duration::from_secs(900)) {
            return Err(
                wrong("linger", "a record cannot wait for more than 15 min", "write `5ms`, say").within("batch")
            );
        }
        if self.record_bytes_max.is_some_and(|size| size.0 == 0 || size.0 > 1_000_000_000) {
            return Err(wrong("record_bytes_max", "a record takes from 1 B to 1 GB", "write `1MiB`, say"));
        }
        Ok(())
    }

    /// Where records name their topic.
    pub(crate) fn topic_by(&self, address: &Address) -> Option<TopicBy> {
        self.topic_by.clone().or_else(|| address.topics.is_empty().then_some(TopicBy::Stream))
    }

    /// Whether brokers refuse repeats.
    pub(crate) fn idempotent(&self) -> bool {
        self.idempotent.unwrap_or(self.acks == Acks::All)
    }
}

impl Acks {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Acks::All => "all",
            Acks::One => "1",
            Acks::None => "0",
        }
    }
}

/// `all`, 1 or "1", 0 or "0".
impl<'de> Deserialize<'de> for Acks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "all" | "-1" => Ok(Acks::All),
            "1" => Ok(Acks::One),
            "0" => Ok(Acks::None),
            other => Err(de::Error::custom(format!("expected `all`, `1` or `0`, found `{other}`"))),
        }
    }
}

impl<'de> Deserialize<'de> for PartitionBy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match text.as_str() {
            "key" => PartitionBy::Key,
            "round_robin" => PartitionBy::RoundRobin,
            "sticky" => PartitionBy::Sticky,
            "origin" => PartitionBy::Origin,
            number => PartitionBy::Number(number.parse().ok().filter(|number| *number <= i32::MAX as u32).ok_or_else(|| {
                de::Error::custom(format!(
                    "expected `key`, `round_robin`, `sticky`, `origin` or the number of a partition, found `{number}`"
                ))
            })?),
        })
    }
}

impl Serialize for PartitionBy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            PartitionBy::Key => serializer.serialize_str("key"),
            PartitionBy::RoundRobin => serializer.serialize_str("round_robin"),
            PartitionBy::Sticky => serializer.serialize_str("sticky"),
            PartitionBy::Origin => serializer.serialize_str("origin"),
            PartitionBy::Number(number) => serializer.serialize_u32(*number),
        }
    }
}

impl JsonSchema for PartitionBy {
    fn schema_name() -> Cow<'static, str> {
        "KafkaPartitionBy".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [{ "enum": ["key", "round_robin", "sticky", "origin"] }, { "type": "integer", "minimum": 0 }],
            "description": "`key` (the hash of the key as Java's client makes it; without a key any), `round_robin`, `sticky` (one for each batch), `origin` (the partition that it was read from), or the number of a partition.",
        })
    }
}
