//! Where a source stands, and what an epoch decides.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, ErrorKind, Result, ShardKey, Timestamp};

/// Number of an epoch; the first is 1. 0 stands for "before anything was committed".
pub type Epoch = u64;

/// Version of the checkpoint's format that this build writes.
pub const CHECKPOINT_VERSION: u32 = 1;

/// Where a source stands: for each shard what its connector needs to go on behind the last record that it handed over.
///
/// Opaque to all but the connector; JSON, so that `state show` can print it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub BTreeMap<ShardKey, Value>);

impl Position {
    /// The position of one shard in the connector's own type, if it is there.
    pub fn shard<T: serde::de::DeserializeOwned>(&self, shard: &ShardKey) -> Result<Option<T>> {
        let Some(value) = self.0.get(shard) else { return Ok(None) };
        serde_json::from_value(value.clone()).map(Some).map_err(|error| {
            Error::new(ErrorKind::StateMismatch, format!("cannot read the saved position of {shard}"))
                .caused_by(error)
                .hint("it was written by another connector or version; `millstream state reset` begins anew")
        })
    }

    /// Sets the position of one shard.
    pub fn set<T: Serialize>(&mut self, shard: ShardKey, position: &T) -> Result<()> {
        let value = serde_json::to_value(position).map_err(|error| {
            Error::new(ErrorKind::Bug, format!("cannot save the position of {shard}")).caused_by(error)
        })?;
        self.0.insert(shard, value);
        Ok(())
    }
}

/// Where to begin or to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeekTo {
    /// The oldest record that is still there.
    Beginning,
    /// Behind the newest record.
    End,
    /// What the group or the checkpoint has committed.
    Committed,
    /// The first record whose sequence is this or later.
    At(u128),
    /// The first record whose time is this or later.
    Time(Timestamp),
}

impl std::str::FromStr for SeekTo {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "beginning" => Ok(SeekTo::Beginning),
            "end" => Ok(SeekTo::End),
            "committed" => Ok(SeekTo::Committed),
            _ => {
                let seek = text.parse().map(SeekTo::At).ok().or_else(|| Timestamp::parse(text).map(SeekTo::Time).ok());
                seek.ok_or_else(|| {
                    Error::new(ErrorKind::Option, format!("`{text}` is no place in a stream"))
                        .hint("write `beginning`, `end`, `committed`, a sequence number or a time such as 2026-01-02T03:04:05Z")
                })
            }
        }
    }
}

impl std::fmt::Display for SeekTo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SeekTo::Beginning => f.write_str("beginning"),
            SeekTo::End => f.write_str("end"),
            SeekTo::Committed => f.write_str("committed"),
            SeekTo::At(sequence) => sequence.fmt(f),
            SeekTo::Time(time) => time.fmt(f),
        }
    }
}

impl Serialize for SeekTo {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SeekTo {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(sequence) => Ok(SeekTo::At(sequence.into())),
            Written::Text(text) => text.parse().map_err(|error: Error| {
                serde::de::Error::custom(format!("{error}; {}", error.hint_text().unwrap_or_default()))
            }),
        }
    }
}

impl schemars::JsonSchema for SeekTo {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SeekTo".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": ["string", "integer"],
            "description": "`beginning`, `end`, `committed`, a sequence number, or a time in RFC 3339.",
        })
    }
}

/// What to do when the records at the saved position are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnMissing {
    /// Stop, and say which shard it is.
    #[default]
    Fail,
    /// Go on at the oldest record that is there.
    Beginning,
    /// Go on behind the newest one.
    End,
}

/// What a sink has prepared for an epoch: the length that counts, or the name of a transaction. Opaque to all but the sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(pub Value);

impl Token {
    /// A token that holds the sink's own type.
    pub fn new<T: Serialize>(token: &T) -> Result<Self> {
        let value = serde_json::to_value(token);
        value
            .map(Token)
            .map_err(|error| Error::new(ErrorKind::Bug, "cannot save what a sink has prepared").caused_by(error))
    }

    /// The sink's own type.
    pub fn read<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_value(self.0.clone()).map_err(|error| {
            Error::new(ErrorKind::StateMismatch, "cannot read what the sink has prepared")
                .caused_by(error)
                .hint("it was written by another sink or version; `millstream state reset` begins anew")
        })
    }
}

/// Who commits: kept beside positions and transactions in other systems, so that a later run knows its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Name of the pipeline.
    pub pipeline: String,
    /// The store of its checkpoints.
    pub store_id: String,
    /// The epoch.
    pub epoch: Epoch,
}

/// What is durable of an epoch. Writing it is the one act that decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Format version; see [`CHECKPOINT_VERSION`].
    pub version: u32,
    /// The store that wrote it.
    pub store_id: String,
    /// Fingerprint of the plan that ran.
    pub plan: String,
    /// The epoch that it decides.
    pub epoch: Epoch,
    /// Where each source stands, by its name.
    pub sources: BTreeMap<String, SourceCheckpoint>,
    /// Tokens that are not known to be committed, oldest first, by the sink's name.
    pub sinks: BTreeMap<String, Vec<(Epoch, Token)>>,
    /// The pending segments of keyed state that belong to it, epoch and hash, oldest first; where its epoch changed no state,
    /// the newest one before it, so that a lost volume is noticed. Empty: there is no state.
    pub segments: Vec<(Epoch, u64)>,
    /// All inputs had ended by themselves.
    pub finished: bool,
    /// It was the last one of a run that the next one goes on from.
    #[serde(default)]
    pub drained: bool,
    /// The system whose transaction decided it; `None`: our own store did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// When it was decided.
    pub decided_at: Timestamp,
}

/// Where one source stands in a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCheckpoint {
    /// Its position.
    pub position: Position,
    /// It had ended by itself.
    pub ended: bool,
    /// Where the next run is to go on instead, because somebody has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seek: Option<SeekTo>,
}
