//! Batches to the bytes of the file: the hot half of the sink. It does no I/O.

use std::{borrow::Cow, sync::Arc};

use millstream_codec::{
    log::stream_key,
    ss::{SsWriter, StreamHandle},
};
use millstream_core::{Batch, Error, ErrorKind, Result, ShardKey, Shards, Timestamp};

use super::{
    output::{Begun, Target},
    turn::Turning,
};
use crate::ss::options::refused;

/// Turns records into bytes.
pub(super) struct Encoding {
    pub(super) writer: SsWriter,
    /// Bytes that are not yet handed to the disk.
    pub(super) out: Vec<u8>,
    pub(super) turning: Turning,
    pub(super) target: Arc<Target>,
    /// The newest dictionary of shards, with the handle of each: sources give the same one again and again.
    dictionary: Arc<Vec<ShardKey>>,
    slots: Vec<Slot>,
    /// The newest shard that all records of a batch had.
    same: Option<(ShardKey, StreamHandle)>,
    /// No more records will come.
    pub(super) ended: bool,
    pub(super) dropped: Dropped,
}

/// Where the records of a shard go.
#[derive(Clone)]
enum Slot {
    Unknown,
    Known(StreamHandle),
    Refused(Error),
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    /// The sequence of each record; 0 for one that was rejected.
    pub(super) sequences: Sequences,
    pub(super) rejected: Vec<(u32, Error)>,
}

/// Sequences of a write, kept small until they are asked for.
#[derive(Debug)]
pub(super) enum Sequences {
    /// So many from this one on.
    Run(u64, usize),
    Each(Vec<u64>),
}

impl Default for Sequences {
    fn default() -> Self {
        Sequences::Run(0, 0)
    }
}

impl Sequences {
    fn push(&mut self, sequence: u64) {
        match self {
            Sequences::Run(_, 0) => *self = Sequences::Run(sequence, 1),
            Sequences::Run(first, count) if first.checked_add(*count as u64) == Some(sequence) => *count += 1,
            Sequences::Run(..) => {
                let mut each = self.iter().collect::<Vec<_>>();
                each.push(sequence);
                *self = Sequences::Each(each);
            }
            Sequences::Each(each) => each.push(sequence),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        let (first, count, each) = match self {
            Sequences::Run(first, count) => (*first, *count as u64, &[][..]),
            Sequences::Each(each) => (0, 0, each.as_slice()),
        };
        (0..count).map(move |at| first + at).chain(each.iter().copied())
    }
}

/// What the format cannot keep, counted.
#[derive(Debug, Default)]
pub(super) struct Dropped {
    keys: u64,
    headers: u64,
    tombstones: u64,
    warned: bool,
}

impl Encoding {
    pub(super) fn new(begun: Begun, target: Arc<Target>) -> Self {
        let Begun { writer, out, started_at } = begun;
        Encoding {
            writer,
            out,
            turning: Turning::new(&target.place, started_at),
            target,
            dictionary: Arc::default(),
            slots: Vec::new(),
            same: None,
            ended: false,
            dropped: Dropped::default(),
        }
    }

    /// Appends the records of a batch whose body is bytes.
    pub(super) fn encode(&mut self, batch: &Batch, now: Timestamp) -> Result<Encoded> {
        let mut encoded = Encoded::default();
        let Some((column, _, values)) = batch.values() else { return Ok(encoded) };
        let (now_ms, limited) = (millis(now), self.limit().is_some());
        self.turn(now)?;
        let (envelope, rows) = batch.envelope();
        let (indexes, same) = match &envelope.shards {
            Shards::Same(shard) => (None, self.same(shard)),
            Shards::Each(dictionary, indexes) => {
                if !Arc::ptr_eq(dictionary, &self.dictionary) {
                    (self.dictionary, self.slots) = (dictionary.clone(), vec![Slot::Unknown; dictionary.len()]);
                }
                (Some(indexes), Slot::Unknown)
            }
        };
        if indexes.is_some() {
            encoded.sequences = Sequences::Each(Vec::with_capacity(batch.len()));
        }
        let mut absent = 0;
        for at in 0..batch.len() {
            let row = rows.get(at);
            let handle = match indexes {
                None => &same,
                Some(indexes) => self.slot(indexes.get(row).map_or(usize::MAX, |index| *index as usize)),
            };
            let handle = match handle {
                Slot::Known(handle) => Ok(*handle),
                Slot::Refused(error) => Err(error.clone()),
                Slot::Unknown => Err(Error::new(ErrorKind::Bug, "cannot tell the stream of a record")),
            };
            let time_ms = envelope.time(row).map_or(now_ms, millis);
            let value = column.get(values.get(at));
            absent += u64::from(value.is_none());
            let value = value.unwrap_or_default();
            let handle = if limited { handle.and_then(|handle| self.make_room(handle, value.len())) } else { handle };
            let appended = handle.and_then(|handle| self.writer.append_to(handle, time_ms, value, &mut self.out));
            encoded.sequences.push(appended.as_ref().map_or(0, |sequence| *sequence));
            if let Err(error) = appended {
                encoded.rejected.push((at as u32, error));
            }
        }
        if absent > 0 || envelope.keys.is_some() || envelope.headers.is_some() {
            self.dropped.count(batch, absent);
        }
        Ok(encoded)
    }

    /// No more records will come.
    pub(super) fn end(&mut self) -> Result<()> {
        self.ended = true;
        if self.target.end_of_stream {
            self.writer.end(millis(Timestamp::now()), &mut self.out)?;
        }
        Ok(())
    }

    /// Where all records of one shard go.
    fn same(&mut self, shard: &ShardKey) -> Slot {
        if let Some((known, handle)) = &self.same
            && known == shard
        {
            return Slot::Known(*handle);
        }
        match self.handle(shard) {
            Ok(handle) => {
                self.same = Some((shard.clone(), handle));
                Slot::Known(handle)
            }
            Err(error) => Slot::Refused(error),
        }
    }

    #[inline]
    fn slot(&mut self, index: usize) -> &Slot {
        if let Some(Slot::Unknown) = self.slots.get(index) {
            self.learn(index);
        }
        self.slots.get(index).unwrap_or(&Slot::Unknown)
    }

    #[cold]
    fn learn(&mut self, index: usize) {
        let Some(shard) = self.dictionary.get(index).cloned() else { return };
        let learned = self.handle(&shard).map_or_else(Slot::Refused, Slot::Known);
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = learned;
        }
    }

    /// The handle of the stream that records of a shard go to.
    fn handle(&mut self, from: &ShardKey) -> Result<StreamHandle> {
        // Names of other systems, such as paths, are written with `_` for what a key cannot hold.
        let stream = self.target.stream.as_deref().map_or_else(|| stream_key(&from.stream), Cow::Borrowed);
        if let Some(what) = refused(&stream) {
            let text = format!("cannot write to a stream called `{stream}`: {what}");
            return Err(Error::new(ErrorKind::Rejected, text).hint("give the sink a fixed `stream: NAME`"));
        }
        self.writer.stream(&stream, self.target.shard.unwrap_or(from.shard))
    }
}

/// Milliseconds since 1970; what is before that is at it, because the format cannot say it.
fn millis(time: Timestamp) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(0)
}

impl Dropped {
    #[cold]
    fn count(&mut self, batch: &Batch, absent: u64) {
        self.tombstones += absent;
        for record in batch.iter() {
            self.keys += u64::from(record.key().is_some());
            self.headers += record.headers().count() as u64;
        }
        if !self.warned && self.keys + self.headers + self.tombstones > 0 {
            self.warned = true;
            tracing::warn!("a .ss file keeps no keys, headers and absent values: those of records are dropped");
        }
    }

    /// Says how many, if any.
    pub(super) fn report(&mut self) {
        let Dropped { keys, headers, tombstones, warned } = std::mem::take(self);
        if warned {
            tracing::warn!(keys, headers, tombstones, "dropped what a .ss file cannot keep");
        }
    }
}
