//! Where the reading of a stream file stands, as it is saved.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use millstream_codec::ss::Message;
use millstream_core::{Error, ErrorKind, Position, Result, ShardKey};
use serde::{Deserialize, Serialize};

/// Where reading stands. One offset serves all streams; what a seek of some of them has set apart is in the gates.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mark {
    /// A message boundary; 0 while the file is not there yet.
    pub(super) offset: u64,
    /// Hash of the bytes before `offset`.
    pub(super) proof: u64,
    /// When the file was made, in milliseconds since the epoch.
    pub(super) created_at: u64,
    pub(super) gates: Arc<Gates>,
}

/// From where on the records of each shard are handed over.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Gates {
    /// Of shards that are not in `shards`.
    pub(super) rest: Gate,
    pub(super) shards: HashMap<ShardKey, Gate>,
}

/// What a record must reach to be the first one of its shard that is handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gate {
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) offset: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) sequence: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) time_ms: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Gate {
    pub(super) const OPEN: Gate = Gate { offset: 0, sequence: 0, time_ms: 0 };

    pub(super) fn is_open(&self) -> bool {
        *self == Gate::OPEN
    }

    pub(super) fn lets_in(&self, message: &Message) -> bool {
        message.offset >= self.offset && message.sequence >= self.sequence && message.time_ms >= self.time_ms
    }

    /// The same for a reader that goes back to before `offset`, up to which all has been handed over that was to be.
    pub(super) fn behind(self, offset: u64) -> Gate {
        Gate { offset: self.offset.max(offset), ..self }
    }

    /// The same for a reader that has come to `offset`.
    fn at(self, offset: u64) -> Gate {
        Gate { offset: if self.offset <= offset { 0 } else { self.offset }, ..self }
    }
}

impl Gates {
    /// The gate of a shard.
    pub(super) fn of(&self, shard: &ShardKey) -> Gate {
        self.shards.get(shard).copied().unwrap_or(self.rest)
    }

    /// Without what the offset alone says.
    fn at(&self, offset: u64) -> Gates {
        let rest = self.rest.at(offset);
        let shards = self.shards.iter().map(|(shard, gate)| (shard.clone(), gate.at(offset)));
        Gates { rest, shards: shards.filter(|(_, gate)| *gate != rest).collect() }
    }
}

/// The saved form.
#[derive(Serialize, Deserialize)]
struct Saved {
    offset: u64,
    #[serde(default)]
    proof: u64,
    #[serde(default)]
    created_at: u64,
    #[serde(default, skip_serializing_if = "Gate::is_open")]
    from: Gate,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    shards: BTreeMap<ShardKey, Gate>,
}

impl Mark {
    /// Of a file that is not there yet.
    pub(super) fn nowhere(gates: Gates) -> Self {
        Mark { offset: 0, proof: 0, created_at: 0, gates: Arc::new(gates) }
    }

    /// The position of the source that reads `path`.
    pub(super) fn save(&self, path: &str) -> Result<Position> {
        let Gates { rest, shards } = self.gates.at(self.offset);
        let Mark { offset, proof, created_at, .. } = *self;
        let saved = Saved { offset, proof, created_at, from: rest, shards: shards.into_iter().collect() };
        let mut position = Position::default();
        position.set(ShardKey::new(path, 0), &saved)?;
        Ok(position)
    }

    /// Reads a saved position; `None` if it says nothing.
    pub(super) fn load(position: &Position, path: &str) -> Result<Option<Self>> {
        let Some(saved) = position.shard::<Saved>(&ShardKey::new(path, 0))? else {
            let Some(other) = position.0.keys().next() else { return Ok(None) };
            return Err(Error::new(
                ErrorKind::StateMismatch,
                format!("the saved position is of `{}`, not of `{path}`", other.stream),
            )
            .hint("bring the path back, or begin anew: `millstream state reset PIPELINE`"));
        };
        let Saved { offset, proof, created_at, from, shards } = saved;
        let gates = Gates { rest: from, shards: shards.into_iter().collect() };
        Ok(Some(Mark { offset, proof, created_at, gates: Arc::new(gates) }))
    }
}
