//! How a source takes part in a group.

use std::{fmt, time::Duration};

use millstream_core::{Result, Span};
use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::wrong;

/// What may be written for a group; `group` reads it.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "only its schema is used")]
pub(super) enum Group {
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
    /// A record that has been handed out more often than this goes to the dead letters. A restart inside the process hands out
    /// again what was not committed.
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
    /// As soon as they are read: Redis keeps no pending list (`NOACK`). What was read ahead is lost when the process ends, also
    /// when that is in good order.
    None,
}

/// Longer than a restart takes, short enough for people who wait.
fn claim_idle() -> Span {
    Span(Duration::from_secs(60))
}

fn max_deliveries() -> u32 {
    5
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

    pub(super) fn validate(&self) -> Result<()> {
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

/// Reads a group from its name, or from all of it; by hand, because serde's untagged enums lose where an error lies.
pub(super) fn group<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<GroupOptions>, D::Error> {
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
