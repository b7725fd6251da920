//! Properties of librdkafka that have no option of their own.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use millstream_core::Result;
use rdkafka::ClientConfig;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use super::wrong;

/// Properties of librdkafka by name; dots in names may also be levels: `linger.ms: 5` is `linger: { ms: 5 }`.
///
/// Their values are never shown: they may be secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Properties(BTreeMap<String, String>);

/// What an option says, or what we rely on: setting it behind our back would break a promise.
const OWNED: &[(&str, &str)] = &[
    ("acks", "`acks`"),
    ("auto.offset.reset", "`start` and `on_missing`"),
    ("batch.num.messages", "`batch.count`"),
    ("batch.size", "`batch.bytes`"),
    ("bootstrap.servers", "`url`"),
    ("compression.codec", "`compression`"),
    ("compression.type", "`compression`"),
    ("delivery.timeout.ms", "`delivery_timeout`"),
    ("enable.auto.commit", "nothing: positions are committed with epochs"),
    ("enable.auto.offset.store", "nothing: positions are committed with epochs"),
    ("enable.idempotence", "`idempotent`"),
    ("enable.partition.eof", "nothing: it is always on"),
    ("fetch.message.max.bytes", "`property: { max.partition.fetch.bytes: ... }`"),
    ("group.id", "`group`"),
    ("group.instance.id", "`membership.instance`"),
    ("group.protocol", "`membership.protocol`"),
    ("isolation.level", "`isolation`"),
    ("linger.ms", "`batch.linger`"),
    ("max.poll.interval.ms", "`membership.rebalance_timeout`"),
    ("message.max.bytes", "`record_bytes_max`"),
    ("message.timeout.ms", "`delivery_timeout`"),
    ("metadata.broker.list", "`url`"),
    ("partition.assignment.strategy", "`membership.assignor`"),
    ("partitioner", "`partition`"),
    ("queue.buffering.max.kbytes", "`buffer`"),
    ("queue.buffering.max.messages", "`buffer`"),
    ("queue.buffering.max.ms", "`batch.linger`"),
    ("queued.max.messages.kbytes", "`prefetch`"),
    ("request.required.acks", "`acks`"),
    ("sasl.mechanism", "`auth.mechanism`"),
    ("sasl.mechanisms", "`auth.mechanism`"),
    ("sasl.password", "`auth.password`"),
    ("sasl.username", "`auth.user`"),
    ("security.protocol", "`tls` and `auth`, or the scheme `kafka+tls`"),
    ("session.timeout.ms", "`membership.session_timeout`"),
    ("ssl.ca.location", "`tls.ca`"),
    ("ssl.certificate.location", "`tls.cert`"),
    ("ssl.key.location", "`tls.key`"),
    ("ssl.key.password", "`tls.key_password`"),
    ("transaction.timeout.ms", "`transaction_timeout`"),
    ("transactional.id", "nothing: it is the pipeline's name"),
];

impl Properties {
    /// Checks names and values without connecting, by the client library itself.
    pub(crate) fn validate(&self) -> Result<()> {
        for (name, value) in &self.0 {
            let place = |message: String, hint: &str| Err(wrong(name, message, hint).within("property"));
            if let Some((_, option)) = OWNED.iter().find(|(owned, _)| owned == name) {
                return place(format!("`{name}` is not set as a property"), &format!("use {option}"));
            }
            if let Err(error) = ClientConfig::new().set(name, value).create_native_config() {
                return place(
                    format!("`{name}` is no property of librdkafka, or cannot have that value"),
                    &describe(&error, value),
                );
            }
        }
        Ok(())
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// What the library says of it, without the value.
fn describe(error: &rdkafka::error::KafkaError, value: &str) -> String {
    match error {
        rdkafka::error::KafkaError::ClientConfig(_, what, ..) if value.is_empty() || !what.contains(value) => {
            what.clone()
        }
        _ => "librdkafka's CONFIGURATION.md lists names and values".to_owned(),
    }
}

impl<'de> Deserialize<'de> for Properties {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut flat = BTreeMap::new();
        let written = BTreeMap::<String, Value>::deserialize(deserializer)?;
        written.into_iter().try_for_each(|(name, value)| flatten(name, value, &mut flat)).map_err(de::Error::custom)?;
        Ok(Properties(flat))
    }
}

fn flatten(name: String, value: Value, flat: &mut BTreeMap<String, String>) -> Result<(), String> {
    let text = match value {
        Value::Object(inner) => {
            return inner.into_iter().try_for_each(|(key, value)| flatten(format!("{name}.{key}"), value, flat));
        }
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Array(_) | Value::Null => return Err(format!("expected a text or a number for `{name}`")),
    };
    match flat.insert(name.clone(), text) {
        None => Ok(()),
        Some(_) => Err(format!("`{name}` is given twice")),
    }
}

impl Serialize for Properties {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.keys().map(|name| (name, "***")))
    }
}

impl fmt::Debug for Properties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl schemars::JsonSchema for Properties {
    fn schema_name() -> Cow<'static, str> {
        "KafkaProperties".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "object",
            "description": "Properties of librdkafka by name, for what has no option of its own: `property: { socket.keepalive.enable: true }`.",
            "additionalProperties": true,
        })
    }
}
