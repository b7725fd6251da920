//! Batches out of messages: their bytes are copied once, into the batch; nothing else is allocated for a record.

use std::{mem::take, sync::Arc};

use millstream_codec::MessageCodec;
use millstream_core::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Batch, Body, ColumnBuilder, Envelope, Error, ErrorKind, Forms, HeadersBuilder,
    Read, Sequences, ShardKey, Shards, Times, Timestamp, Told,
};

use super::handover::{Item, What};
use crate::native::Message;

pub(super) struct Assembler {
    codec: MessageCodec,
    with_headers: bool,
    values: ColumnBuilder,
    keys: Option<ColumnBuilder>,
    headers: Option<HeadersBuilder>,
    times: Vec<Option<Timestamp>>,
    offsets: Vec<i64>,
    /// Shards of this batch, each with the offset behind its newest record; and for each record which one it is of.
    dictionary: Vec<(ShardKey, i64)>,
    shards: Vec<u32>,
    failed: Vec<(u32, Error)>,
    bytes: usize,
    /// The broker gave the times.
    appended: bool,
    done: Vec<Item>,
    /// Bytes of values in the newest batch: how much room the next one begins with.
    room: usize,
}

impl Assembler {
    pub(super) fn new(codec: MessageCodec, with_headers: bool) -> Self {
        Assembler {
            codec,
            with_headers,
            values: ColumnBuilder::default(),
            keys: None,
            headers: None,
            times: Vec::new(),
            offsets: Vec::new(),
            dictionary: Vec::new(),
            shards: Vec::new(),
            failed: Vec::new(),
            bytes: 0,
            appended: false,
            done: Vec::new(),
            room: 0,
        }
    }

    /// Takes a record of a shard.
    pub(super) fn push(&mut self, shard: &ShardKey, message: &Message<'_>) {
        let (time, appended) = message.time();
        if self.offsets.len() >= BATCH_RECORDS_MAX
            || self.bytes >= BATCH_BYTES_MAX
            || (appended != self.appended && !self.offsets.is_empty())
        {
            self.cut();
        }
        let row = self.offsets.len();
        if row == 0 {
            self.begin();
            self.appended = appended;
        }
        let (key, value) = (message.key(), message.value());
        self.values.push(value);
        if let Some(key) = key {
            let keys = self.keys.get_or_insert_default();
            keys.pad(row);
            keys.push(Some(key));
        }
        let fault = if self.with_headers { self.push_headers(row, message) } else { None };
        self.times.push(time);
        self.offsets.push(message.offset());
        let which = self.which(shard);
        self.shards.push(which);
        // `which` has just been found there, or put there.
        self.dictionary[which as usize].1 = message.offset() + 1;
        self.bytes += value.map_or(0, <[u8]>::len) + key.map_or(0, <[u8]>::len);
        let checked = value.map_or(Ok(()), |value| self.codec.check(value));
        if let Some(error) = fault.or(checked.err()) {
            self.failed.push((row as u32, error));
        }
    }

    fn push_headers(&mut self, row: usize, message: &Message<'_>) -> Option<Error> {
        let (mut any, mut bytes, mut broken) = (false, 0, None);
        for (name, value) in message.headers() {
            any = true;
            bytes += name.len() + value.map_or(0, <[u8]>::len);
            if std::str::from_utf8(name).is_err() {
                broken = Some(name);
            }
        }
        if !any {
            return None;
        }
        self.bytes += bytes;
        let builder = self.headers.get_or_insert_default();
        builder.pad(row);
        let Some(broken) = broken else {
            builder.push(message.headers().map(|(name, value)| (std::str::from_utf8(name).unwrap_or_default(), value)));
            return None;
        };
        // A name that is no UTF-8 cannot be kept; its record is at fault, but nothing else is lost of it.
        let all: Vec<_> = message.headers().map(|(name, value)| (String::from_utf8_lossy(name), value)).collect();
        builder.push(all.iter().map(|(name, value)| (&**name, *value)));
        let name = String::from_utf8_lossy(broken);
        Some(Error::new(ErrorKind::Decode, format!("the name of the header `{name}` is no UTF-8")))
    }

    fn begin(&mut self) {
        self.values = ColumnBuilder::with_capacity(BATCH_RECORDS_MAX.min(self.shards.capacity().max(16)), self.room);
    }

    fn which(&mut self, shard: &ShardKey) -> u32 {
        // Runs of one shard are the rule. Stream names of one shard are one allocation.
        let same = |other: &ShardKey| other.shard == shard.shard && Arc::ptr_eq(&other.stream, &shard.stream);
        if let Some(&newest) = self.shards.last()
            && same(&self.dictionary[newest as usize].0)
        {
            return newest;
        }
        let found = self.dictionary.iter().position(|(other, _)| same(other));
        let which = found.unwrap_or_else(|| {
            self.dictionary.push((shard.clone(), 0));
            self.dictionary.len() - 1
        });
        which as u32
    }

    /// Ends the batch that is begun.
    pub(super) fn cut(&mut self) {
        let rows = self.offsets.len();
        if rows == 0 {
            return;
        }
        let dictionary = take(&mut self.dictionary);
        let marks = dictionary.iter().map(|(shard, next)| (shard.clone(), Some(*next))).collect();
        let offsets = take(&mut self.offsets);
        let times = take(&mut self.times);
        let shards = take(&mut self.shards);
        (self.offsets, self.times) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        self.shards = Vec::with_capacity(rows);
        self.room = self.values.size() + self.values.size() / 8;
        self.bytes = 0;
        let envelope = Envelope {
            shards: match <[(ShardKey, i64); 1]>::try_from(dictionary) {
                Ok([(only, _)]) => Shards::Same(only),
                Err(many) => {
                    Shards::Each(Arc::new(many.into_iter().map(|(shard, _)| shard).collect()), Arc::new(shards))
                }
            },
            sequences: sequences(&offsets),
            times: match times.first() {
                Some(Some(first)) if times.iter().all(|time| *time == Some(*first)) => Times::Same(*first),
                _ if times.iter().all(Option::is_none) => Times::Absent,
                _ => Times::Each(Arc::new(times)),
            },
            keys: self.keys.take().map(|mut keys| {
                keys.pad(rows);
                keys.finish()
            }),
            headers: self.headers.take().map(|mut headers| {
                headers.pad(rows);
                headers.finish()
            }),
            told: Told { appended: self.appended, ..Told::default() },
        };
        let body = Body::Bytes(take(&mut self.values).finish(), Forms::Same(self.codec.form()));
        let read = Read::new(Batch::new(envelope, body), take(&mut self.failed));
        self.done.push(Item { what: What::Read(read), marks });
    }

    /// All batches that are done, with the one that is begun.
    pub(super) fn finish(&mut self) -> Vec<Item> {
        self.cut();
        take(&mut self.done)
    }
}

/// A run if each offset is one more than the one before, else distances from the smallest.
fn sequences(offsets: &[i64]) -> Sequences {
    let base = offsets.iter().copied().min().unwrap_or_default();
    if offsets.iter().zip(base..).all(|(&offset, expected)| offset == expected) {
        return Sequences::Run(base.max(0) as u128);
    }
    Sequences::Each(base.max(0) as u128, Arc::new(offsets.iter().map(|offset| (offset - base) as u64).collect()))
}
