//! Where the reading of a stream file stands, as it is saved.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use millstream_core::{Error, ErrorKind, Position, Result, ShardKey};
use serde::{Deserialize, Serialize};

use crate::ss::series::Name;

/// Where reading stands. One place serves all streams; what a seek of some of them has set apart is in the gates.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mark {
    /// Which file of a series it is.
    pub(super) file: Name,
    /// A message boundary; 0 while the file is not there yet.
    pub(super) offset: u64,
    /// Hash of the bytes before `offset`.
    pub(super) proof: u64,
    /// When the file was made, in milliseconds since the epoch.
    pub(super) created_at: u64,
    pub(super) gates: Arc<Gates>,
    /// All of the file was read, and no more will come: the last sequences up to there. It may be deleted.
    pub(super) over: Option<Arc<LastSequences>>,
}

/// The last sequence of each shard, as far as it is known.
pub(super) type LastSequences = BTreeMap<ShardKey, u64>;

/// From where on the records of each shard are handed over.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Gates {
    /// Of shards that are not in `shards`.
    pub(super) rest: Gate,
    pub(super) shards: HashMap<ShardKey, Gate>,
}

/// What a record must reach to be the first one of its shard that is handed over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gate {
    #[serde(default, skip_serializing_if = "Name::is_empty")]
    pub(super) file: Name,
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
    pub(super) fn is_open(&self) -> bool {
        *self == Gate::default()
    }

    /// Whether it lets in a record that lies at `offset` of `file`.
    pub(super) fn lets_in(&self, file: &Name, offset: u64, sequence: u64, time_ms: u64) -> bool {
        (file, offset) >= (&self.file, self.offset) && sequence >= self.sequence && time_ms >= self.time_ms
    }

    /// The same for a reader that goes back to before a place, up to which all has been handed over that was to be.
    pub(super) fn behind(&self, file: &Name, offset: u64) -> Gate {
        let (file, offset) = (file, offset).max((&self.file, self.offset));
        Gate { file: file.clone(), offset, ..*self }
    }

    /// The same for a reader that has come to a place.
    fn at(&self, file: &Name, offset: u64) -> Gate {
        match (&self.file, self.offset) <= (file, offset) {
            true => Gate { file: Name::default(), offset: 0, ..*self },
            false => self.clone(),
        }
    }
}

impl Gates {
    /// The gate of a shard.
    pub(super) fn of(&self, shard: &ShardKey) -> Gate {
        self.shards.get(shard).unwrap_or(&self.rest).clone()
    }

    /// Without what the place alone says.
    fn at(&self, file: &Name, offset: u64) -> Gates {
        let rest = self.rest.at(file, offset);
        let shards = self.shards.iter().map(|(shard, gate)| (shard.clone(), gate.at(file, offset)));
        let shards = shards.filter(|(_, gate)| *gate != rest).collect();
        Gates { rest, shards }
    }
}

/// The saved form.
#[derive(Serialize, Deserialize)]
struct Saved {
    #[serde(default, skip_serializing_if = "Name::is_empty")]
    file: Name,
    offset: u64,
    #[serde(default)]
    proof: u64,
    #[serde(default)]
    created_at: u64,
    #[serde(default, skip_serializing_if = "Gate::is_open")]
    from: Gate,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    shards: BTreeMap<ShardKey, Gate>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    over: Option<Arc<LastSequences>>,
}

impl Mark {
    /// Of a file that is not there yet.
    pub(super) fn nowhere(gates: Gates) -> Self {
        Mark { file: Name::default(), offset: 0, proof: 0, created_at: 0, gates: Arc::new(gates), over: None }
    }

    /// The position of the source that reads `path`.
    pub(super) fn save(&self, path: &str) -> Result<Position> {
        let Mark { file, offset, proof, created_at, gates, over } = self.clone();
        let Gates { rest, shards } = gates.at(&file, offset);
        let saved = Saved { file, offset, proof, created_at, from: rest, shards: shards.into_iter().collect(), over };
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
        let Saved { file, offset, proof, created_at, from, shards, over } = saved;
        let gates = Gates { rest: from, shards: shards.into_iter().collect() };
        Ok(Some(Mark { file, offset, proof, created_at, gates: Arc::new(gates), over }))
    }
}
