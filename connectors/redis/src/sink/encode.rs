//! Records as `XADD`s.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use millstream_codec::{CodecOptions, MessageCodec};
use millstream_core::{Batch, Error, ErrorKind, Form, RecordRef, Result, Timestamp, WriteId};
use xxhash_rust::xxh3::{Xxh3DefaultBuilder, xxh3_64};

use super::{
    pipe::{Chunk, Cut},
    template::Template,
};
use crate::{
    client::{Topology, slot, tagged_slot},
    error::refused,
    exact::{Packed, Staging},
    options::{NULL_FIELD, RedisSinkOptions, Sharder, SinkIds, Trim},
    resp::Commands,
    server::Server,
};

/// What a tombstone's field holds; readers look only at its name.
const NULL_VALUE: &[u8] = b"1";

/// Redis' own limit for one word of a command, unless it says another (`proto-max-bulk-len`).
pub(super) const WORD_BYTES_MAX: u64 = 512 << 20;

/// A command takes about so many bytes beside its record's.
const COMMAND_BYTES: usize = 80;

/// What a word takes beside its bytes where it is packed.
const PACKED_WORD_BYTES: usize = 5;

/// A script can hand about 8,000 words to a command, two for each header.
const STAGED_HEADERS_MAX: usize = 3900;

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
    codec: MessageCodec,
    word_bytes_max: u64,
    /// A value in the codec's form.
    scratch: Vec<u8>,
    /// Records without a key go around.
    turn: u64,
}

/// What a batch becomes: commands for each node, and records that cannot be written.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    pub(super) chunks: Vec<(Arc<str>, Chunk)>,
    pub(super) rejected: Vec<(u32, Error)>,
    /// The keys that they go to, with their slots; each once.
    pub(super) keys: Vec<(u16, Vec<u8>)>,
}

/// The commands of one node while they are encoded.
struct Building {
    node: Arc<str>,
    commands: Commands,
    cuts: Vec<Cut>,
}

impl Building {
    fn new(node: &Arc<str>, batch: &Batch, topology: &Topology) -> Self {
        // In a cluster nobody knows which share will be its.
        let (records, bytes) = if topology.is_cluster() { (0, 0) } else { (batch.len(), batch.size()) };
        let bytes = bytes + records * COMMAND_BYTES;
        Building { node: node.clone(), commands: Commands::with_capacity(bytes), cuts: Vec::with_capacity(records) }
    }
}

/// A batch on its way, and what is the same for all of its records.
struct Round<'a> {
    topology: &'a Topology,
    server: &'a Server,
    batch: &'a Batch,
    nodes: Vec<Building>,
    /// Keys so far, with their slots, and which of `nodes` has them.
    keys: Vec<(u16, Vec<u8>, usize)>,
    /// Where each of them lies. A batch over shards changes its key with each record, so it is looked up by hash.
    places: HashMap<Vec<u8>, usize, Xxh3DefaultBuilder>,
    /// Which of `keys` came last: runs of one key are the rule.
    newest: usize,
}

impl Encoder {
    pub(super) fn new(options: &RedisSinkOptions) -> Result<Self> {
        let codec = options.codec.clone().map_or_else(|| CodecOptions::named("bytes"), Ok)?;
        Ok(Encoder {
            template: Template::parse(options.stream.as_deref())?,
            shards: options.shards,
            sharder: options.sharder.unwrap_or_default(),
            value_field: options.value_field.clone(),
            key_field: options.key_field.clone(),
            ids: options.ids,
            trim: options.trim,
            codec: codec.message().map_err(|error| error.within("codec"))?,
            word_bytes_max: WORD_BYTES_MAX,
            scratch: Vec::new(),
            turn: 0,
        })
    }

    /// The server takes words of so many bytes.
    pub(super) fn limit_words(&mut self, bytes_max: u64) {
        self.word_bytes_max = bytes_max.min(WORD_BYTES_MAX);
    }

    /// Bytes of the longest word that the server is known to take.
    pub(super) fn word_bytes_max(&self) -> u64 {
        self.word_bytes_max
    }

    /// The stream, if it is the same for all records.
    pub(super) fn constant(&self) -> Option<&str> {
        self.template.constant()
    }

    /// The keys that are written, where they are the same for all records and their ids say times.
    pub(super) fn keys_with_times(&self) -> Vec<String> {
        match (self.constant().filter(|_| self.ids != SinkIds::Auto), self.shards) {
            (None, _) => Vec::new(),
            (Some(stream), None) => vec![stream.to_owned()],
            (Some(stream), Some(shards)) => (0..shards).map(|shard| format!("{stream}:{shard}")).collect(),
        }
    }

    /// The slot of all keys that are written, if there is only one.
    pub(super) fn slot(&self) -> Option<u16> {
        let whole = self.constant().filter(|_| !self.sharded());
        whole.map(|name| slot(name.as_bytes())).or_else(|| tagged_slot(self.template.prefix()?.as_bytes()))
    }

    /// Whether streams are written in shards.
    pub(super) fn sharded(&self) -> bool {
        self.shards.is_some()
    }

    /// The commands for a batch: an `XADD` for each record, or with `staging` an `RPUSH` of it.
    pub(super) fn encode(
        &mut self,
        batch: &Batch,
        id: WriteId,
        (topology, server): (&Topology, &Server),
        mut staging: Option<&mut Staging>,
    ) -> Result<Encoded> {
        let mut round = Round {
            topology,
            server,
            batch,
            nodes: Vec::new(),
            keys: Vec::new(),
            places: HashMap::default(),
            newest: 0,
        };
        let mut rejected = Vec::new();
        let (appended, now) = (batch.envelope().0.told.appended, Timestamp::now());
        let trim = self.trim(now);
        let (mut key, mut packed) = (Vec::new(), Packed::default());
        // Nearly always there is nothing to look at: no value grows that much by its codec.
        let large = batch.size() as u64 > self.word_bytes_max / 8;
        for (row, record) in batch.iter().enumerate() {
            let placed = self.key(&record, &mut key).and_then(|()| self.check(&record, staging.is_some()));
            let placed = placed.and_then(|()| self.value(&record)).and_then(|()| self.id(&record, appended, now));
            let entry = placed.and_then(|id| {
                let entry = Entry { encoder: self, key: &key, trim: trim.as_ref(), id, record };
                if large { entry.check_size(staging.is_some()).map(|()| entry) } else { Ok(entry) }
            });
            match entry {
                Ok(entry) => {
                    let (slot, node) = round.place(&key)?;
                    let Some(building) = round.nodes.get_mut(node) else { continue };
                    match &mut staging {
                        None => entry.add(&mut building.commands),
                        Some(staging) => entry.stage(&mut building.commands, staging.list(slot), &mut packed),
                    }
                    // Batches are far below 4 GiB.
                    let end = building.commands.size() as u32;
                    building.cuts.push(Cut { row: row as u32, end, slot });
                }
                Err(error) => rejected.push((row as u32, error)),
            }
        }
        let chunk = |building: Building| {
            let chunk = Chunk::new(id, Bytes::from(building.commands.into_bytes()), building.cuts);
            (building.node, chunk)
        };
        let keys = round.keys.into_iter().map(|(slot, key, _)| (slot, key)).collect();
        Ok(Encoded { chunks: round.nodes.into_iter().map(chunk).collect(), rejected, keys })
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
    fn check(&self, record: &RecordRef<'_>, staged: bool) -> Result<()> {
        if staged && record.headers().nth(STAGED_HEADERS_MAX).is_some() {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("the record has more than {STAGED_HEADERS_MAX} headers"),
            ));
        }
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

    /// Puts the value into `scratch`, unless it is in the codec's form as it stands.
    fn value(&mut self, record: &RecordRef<'_>) -> Result<()> {
        self.scratch.clear();
        match record.value().filter(|_| self.encodes(record)) {
            Some(value) => self.codec.encode(value, record.form(), &mut self.scratch),
            None => Ok(()),
        }
    }

    /// Whether the value has another form than the codec's.
    fn encodes(&self, record: &RecordRef<'_>) -> bool {
        self.codec.form() == Form::Json && record.form() != Form::Json
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
}

/// One record on its way to be an entry.
struct Entry<'a> {
    encoder: &'a Encoder,
    key: &'a [u8],
    trim: Option<&'a (&'static [u8], String)>,
    /// Empty: the server's choice.
    id: String,
    record: RecordRef<'a>,
}

impl Entry<'_> {
    /// As an `XADD`.
    fn add(&self, commands: &mut Commands) {
        commands.begin(1 + self.len());
        commands.word(b"XADD");
        self.words(|word| commands.word(word));
    }

    /// As an `RPUSH` of what a script will add: the place of the id, and the words behind `XADD`.
    fn stage(&self, commands: &mut Commands, list: &[u8], packed: &mut Packed) {
        packed.clear();
        packed.array(1 + self.len());
        packed.text(if self.trim.is_some() { b"5" } else { b"2" });
        self.words(|word| packed.text(word));
        commands.push(&[b"RPUSH", list, packed.bytes()]);
    }

    /// The server closes the connection on a word that is too long, and all that is behind it goes with it.
    fn check_size(&self, staged: bool) -> Result<()> {
        // The array, and the place of the id.
        let (mut longest, mut packed) = (0, 2 * PACKED_WORD_BYTES + 1);
        self.words(|word| {
            longest = longest.max(word.len());
            packed += PACKED_WORD_BYTES + word.len();
        });
        let (bytes, most) = (if staged { packed } else { longest }, self.encoder.word_bytes_max);
        if bytes as u64 <= most {
            return Ok(());
        }
        Err(too_large(if staged { "the record" } else { "a part of the record" }, bytes as u64, most))
    }

    fn len(&self) -> usize {
        let fields = 1 + usize::from(self.record.key().is_some()) + self.record.headers().count();
        2 + if self.trim.is_some() { 3 } else { 0 } + 2 * fields
    }

    /// The words behind `XADD`.
    #[inline]
    fn words(&self, mut word: impl FnMut(&[u8])) {
        word(self.key);
        if let Some((what, bound)) = self.trim {
            word(what);
            word(b"~");
            word(bound.as_bytes());
        }
        word(if self.id.is_empty() { b"*" } else { self.id.as_bytes() });
        if let Some(key) = self.record.key() {
            word(self.encoder.key_field.as_bytes());
            word(key);
        }
        for (name, value) in self.record.headers() {
            word(name.as_bytes());
            word(value.unwrap_or_default());
        }
        match self.record.value() {
            Some(value) => {
                word(self.encoder.value_field.as_bytes());
                word(if self.encoder.encodes(&self.record) { &self.encoder.scratch } else { value });
            }
            None => {
                word(NULL_FIELD.as_bytes());
                word(NULL_VALUE);
            }
        }
    }
}

/// A record that the server would not take.
pub(super) fn too_large(what: &str, bytes: u64, most: u64) -> Error {
    Error::new(ErrorKind::TooLarge, format!("{what} has {bytes} bytes, and the server takes {most}"))
        .hint("split the record, or raise `proto-max-bulk-len` of the server")
}

impl Round<'_> {
    /// The slot of a key, and which of `nodes` has it.
    fn place(&mut self, key: &[u8]) -> Result<(u16, usize)> {
        if let Some((slot, _, node)) = self.keys.get(self.newest).filter(|(_, newest, _)| newest == key) {
            return Ok((*slot, *node));
        }
        if let Some((at, (slot, _, node))) = self.places.get(key).and_then(|at| Some((*at, self.keys.get(*at)?))) {
            self.newest = at;
            return Ok((*slot, *node));
        }
        let slot = if self.topology.is_cluster() { slot(key) } else { 0 };
        let node = self.topology.node(slot);
        let node = node.ok_or_else(|| refused("write", self.server, "CLUSTERDOWN nobody has the slot of a key"))?;
        let node = self.nodes.iter().position(|building| building.node == *node).unwrap_or_else(|| {
            self.nodes.push(Building::new(node, self.batch, self.topology));
            self.nodes.len() - 1
        });
        self.newest = self.keys.len();
        // One key is the rule, and needs no table.
        if let [(_, only, _)] = self.keys.as_slice() {
            self.places.insert(only.clone(), 0);
        }
        if self.newest > 0 {
            self.places.insert(key.to_vec(), self.newest);
        }
        self.keys.push((slot, key.to_vec(), node));
        Ok((slot, node))
    }
}
