//! Records as `XADD`s.

use std::sync::Arc;

use bytes::Bytes;
use millstream_core::{Batch, Error, ErrorKind, RecordRef, Result, Timestamp, WriteId};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    pipe::{Chunk, Cut},
    template::Template,
};
use crate::{
    client::{Topology, slot},
    error::refused,
    options::{NULL_FIELD, RedisSinkOptions, Sharder, SinkIds, Trim},
    resp::Commands,
    server::Server,
};

/// What a tombstone's field holds; readers look only at its name.
const NULL_VALUE: &[u8] = b"1";

/// How records become entries, and of which keys.
#[derive(Debug)]
pub(super) struct Encoder {
    template: Template,
    shards: Option<u32>,
    sharder: Sharder,
    value_field: String,
    key_field: String,
    ids: SinkIds,
    trim: Option<Trim>,
    /// Records without a key go around.
    turn: u64,
}

/// What a batch becomes: commands for each node, and records that cannot be written.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    pub(super) chunks: Vec<(Arc<str>, Chunk)>,
    pub(super) rejected: Vec<(u32, Error)>,
}

/// The commands of one node while they are encoded.
struct Building {
    node: Arc<str>,
    commands: Commands,
    cuts: Vec<Cut>,
}

/// A batch on its way, and what is the same for all of its records.
struct Round<'a> {
    topology: &'a Topology,
    server: &'a Server,
    nodes: Vec<Building>,
    now: Timestamp,
    /// The newest key, its slot, and which of `nodes` has it: runs of one key are the rule.
    newest: Option<(Vec<u8>, u16, usize)>,
}

impl Encoder {
    pub(super) fn new(options: &RedisSinkOptions) -> Result<Self> {
        Ok(Encoder {
            template: Template::parse(options.stream.as_deref().unwrap_or_default())?,
            shards: options.shards,
            sharder: options.sharder.unwrap_or_default(),
            value_field: options.value_field.clone(),
            key_field: options.key_field.clone(),
            ids: options.ids,
            trim: options.trim,
            turn: 0,
        })
    }

    /// The stream, if it is the same for all records.
    pub(super) fn constant(&self) -> Option<&str> {
        self.template.constant()
    }

    /// Whether streams are written in shards.
    pub(super) fn sharded(&self) -> bool {
        self.shards.is_some()
    }

    /// The commands for a batch. Nothing is changed that a second call for the same batch would notice.
    pub(super) fn encode(
        &mut self,
        batch: &Batch,
        id: WriteId,
        topology: &Topology,
        server: &Server,
    ) -> Result<Encoded> {
        let mut round = Round { topology, server, nodes: Vec::new(), now: Timestamp::now(), newest: None };
        let mut rejected = Vec::new();
        let appended = batch.envelope().0.told.appended;
        let trim = self.trim(round.now);
        let mut key = Vec::new();
        let turn = self.turn;
        for (row, record) in batch.iter().enumerate() {
            let placed = self.key(&record, &mut key).and_then(|()| self.check(&record));
            match placed.and_then(|()| self.id(&record, appended, round.now)) {
                Ok(entry_id) => {
                    let (slot, node) = round.place(&key)?;
                    let Some(building) = round.nodes.get_mut(node) else { continue };
                    self.command(&mut building.commands, &key, trim.as_ref(), &entry_id, &record);
                    // Batches are far below 4 GiB.
                    let end = building.commands.size() as u32;
                    building.cuts.push(Cut { row: row as u32, end, slot });
                }
                Err(error) => rejected.push((row as u32, error)),
            }
        }
        // Only a batch that is on its way moves the turn on; `turn` was advanced while choosing.
        debug_assert!(self.turn >= turn);
        let chunk = |building: Building| {
            let chunk = Chunk::new(id, Bytes::from(building.commands.into_bytes()), building.cuts);
            (building.node, chunk)
        };
        Ok(Encoded { chunks: round.nodes.into_iter().map(chunk).collect(), rejected })
    }

    /// The key that a record goes to.
    fn key(&mut self, record: &RecordRef<'_>, key: &mut Vec<u8>) -> Result<()> {
        self.template.fill(record, key)?;
        let Some(shards) = self.shards else { return Ok(()) };
        let number = match (self.sharder, record.key()) {
            (Sharder::Key, Some(key)) => xxh3_64(key),
            (Sharder::Origin, _) => record.origin().shard,
            (Sharder::Key, None) | (Sharder::RoundRobin, _) => {
                self.turn = self.turn.wrapping_add(1);
                self.turn.wrapping_sub(1)
            }
        };
        let mut digits = [0; 20];
        key.push(b':');
        key.extend_from_slice(crate::resp::digits(number % u64::from(shards.max(1)), &mut digits));
        Ok(())
    }

    /// A header must not be taken for something else when it is read.
    fn check(&self, record: &RecordRef<'_>) -> Result<()> {
        for (name, _) in record.headers() {
            if name == self.value_field || name == self.key_field || name == NULL_FIELD {
                return Err(Error::new(
                    ErrorKind::Data,
                    format!("the header `{name}` has the name of a field with another meaning"),
                )
                .hint("rename the header, or the field with `value_field` or `key_field`"));
            }
        }
        Ok(())
    }

    /// What stands for the id of the entry; empty: the server's choice.
    fn id(&self, record: &RecordRef<'_>, appended: bool, now: Timestamp) -> Result<String> {
        let given = record.time().filter(|_| !appended);
        let half = match (self.ids, given) {
            (SinkIds::Auto, _) | (SinkIds::Time, None) => return Ok(String::new()),
            (SinkIds::Time, Some(time)) => time.as_millis(),
            (SinkIds::Nanoseconds, given) => given.unwrap_or(now).0,
        };
        if half < 0 {
            return Err(Error::new(ErrorKind::Data, "the record's time is before 1970, which no entry id can say")
                .hint("`ids: auto` uses the server's clock"));
        }
        Ok(format!("{half}-*"))
    }

    fn trim(&self, now: Timestamp) -> Option<(&'static [u8], String)> {
        let trim = self.trim?;
        if let Some(count) = trim.count {
            return Some((b"MAXLEN", count.to_string()));
        }
        let oldest = now.0.saturating_sub(i64::try_from(trim.age?.0.as_nanos()).unwrap_or(i64::MAX)).max(0);
        let half = if self.ids == SinkIds::Nanoseconds { oldest } else { oldest / 1_000_000 };
        Some((b"MINID", half.to_string()))
    }

    fn command(
        &self,
        commands: &mut Commands,
        key: &[u8],
        trim: Option<&(&'static [u8], String)>,
        id: &str,
        record: &RecordRef<'_>,
    ) {
        let fields = 1 + usize::from(record.key().is_some()) + record.headers().count();
        commands.begin(3 + if trim.is_some() { 3 } else { 0 } + 2 * fields);
        commands.word(b"XADD");
        commands.word(key);
        if let Some((what, bound)) = trim {
            commands.word(what);
            commands.word(b"~");
            commands.word(bound.as_bytes());
        }
        commands.word(if id.is_empty() { b"*" } else { id.as_bytes() });
        if let Some(key) = record.key() {
            commands.word(self.key_field.as_bytes());
            commands.word(key);
        }
        for (name, value) in record.headers() {
            commands.word(name.as_bytes());
            commands.word(value.unwrap_or_default());
        }
        match record.value() {
            Some(value) => {
                commands.word(self.value_field.as_bytes());
                commands.word(value);
            }
            None => {
                commands.word(NULL_FIELD.as_bytes());
                commands.word(NULL_VALUE);
            }
        }
    }
}

impl Round<'_> {
    /// The slot of a key, and which of `nodes` has it.
    fn place(&mut self, key: &[u8]) -> Result<(u16, usize)> {
        if let Some((_, slot, node)) = self.newest.as_ref().filter(|(newest, ..)| newest == key) {
            return Ok((*slot, *node));
        }
        let slot = if self.topology.is_cluster() { slot(key) } else { 0 };
        let node = self.topology.node(slot);
        let node = node.ok_or_else(|| refused("write", self.server, "CLUSTERDOWN nobody has the slot of a key"))?;
        let at = self.nodes.iter().position(|building| building.node == *node).unwrap_or_else(|| {
            self.nodes.push(Building { node: node.clone(), commands: Commands::default(), cuts: Vec::new() });
            self.nodes.len() - 1
        });
        self.newest = Some((key.to_vec(), slot, at));
        Ok((slot, at))
    }
}
