//! Building a batch record by record.

use std::{collections::HashMap, sync::Arc};

use crate::{
    Batch, Body, Envelope, Form, Record, RecordRef, ShardKey, Timestamp,
    batch::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX},
    body::Forms,
    column::{ColumnBuilder, HeadersBuilder},
    envelope::{Sequences, Shards, Times, Told},
};

/// Builds a [`Batch`] by appending records, of one shard or of many. Columns that no record needs are not made.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    values: ColumnBuilder,
    keys: Option<ColumnBuilder>,
    headers: Option<HeadersBuilder>,
    times: Vec<Option<Timestamp>>,
    any_time: bool,
    sequences: Vec<u128>,
    forms: Vec<Form>,
    dictionary: Vec<ShardKey>,
    lookup: HashMap<ShardKey, u32>,
    shards: Vec<u32>,
    originals: Option<ColumnBuilder>,
    indexes: Option<Vec<u64>>,
    deliveries: Option<Vec<u32>>,
    attempts: Option<Vec<u32>>,
    appended: bool,
    side_bytes: usize,
}

impl BatchBuilder {
    /// An empty one.
    pub fn new() -> Self {
        BatchBuilder::default()
    }

    /// Appends a record.
    pub fn push(&mut self, record: &Record) {
        let headers = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
        self.start(&record.origin, record.sequence, record.time, record.form);
        self.key(record.key.as_deref());
        self.headers(headers);
        self.value(record.value.as_deref());
        self.derived(record.index, record.original.as_ref().map(|bytes| Some(&**bytes)), record.value.as_deref());
        self.deliveries(record.deliveries);
        self.attempts(record.attempts);
    }

    /// Appends a copy of a record of another batch.
    pub fn push_ref(&mut self, record: &RecordRef<'_>) {
        self.start(record.origin(), record.sequence(), record.time(), record.form());
        self.key(record.key());
        self.headers(record.headers());
        self.value(record.value());
        self.derived(record.index(), record.kept_original(), record.value());
        self.deliveries(record.deliveries());
        self.attempts(record.attempts());
    }

    /// Appends a plain record of a source: a value, and perhaps a key.
    pub fn push_value(
        &mut self,
        origin: &ShardKey,
        sequence: u128,
        time: Option<Timestamp>,
        form: Form,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) {
        self.start(origin, sequence, time, form);
        self.key(key);
        self.value(value);
        self.derived(0, None, value);
    }

    /// Says how often the record that was appended last has been handed out.
    pub fn deliveries(&mut self, times: u32) {
        if times != 1 || self.deliveries.is_some() {
            let rows = self.sequences.len();
            let deliveries = self.deliveries.get_or_insert_default();
            deliveries.resize(rows, 1);
            deliveries.pop();
            deliveries.push(times);
        }
    }

    fn attempts(&mut self, times: u32) {
        if times != 0 || self.attempts.is_some() {
            let attempts = self.attempts.get_or_insert_default();
            attempts.resize(self.sequences.len() - 1, 0);
            attempts.push(times);
        }
    }

    /// Says that the times of this batch are those at which the system took the records.
    pub fn appended(&mut self) {
        self.appended = true;
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.sequences.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    /// Bytes of values, keys and headers so far.
    pub fn size(&self) -> usize {
        self.values.size() + self.side_bytes
    }

    /// Whether a batch should be cut here.
    pub fn is_full(&self) -> bool {
        self.len() >= BATCH_RECORDS_MAX || self.size() >= BATCH_BYTES_MAX
    }

    /// The batch; the builder is empty again.
    pub fn finish(&mut self) -> Batch {
        let all = std::mem::take(self);
        let rows = all.sequences.len();
        let shards = match <[ShardKey; 1]>::try_from(all.dictionary) {
            Ok([only]) => Shards::Same(only),
            Err(none) if none.is_empty() => Shards::Same(ShardKey::new("", 0)),
            Err(many) => Shards::Each(Arc::new(many), Arc::new(all.shards)),
        };
        let times = match all.times.first() {
            Some(first) if all.any_time && all.times.iter().all(|time| time == first) => {
                first.map_or(Times::Absent, Times::Same)
            }
            Some(_) if all.any_time => Times::Each(Arc::new(all.times)),
            _ => Times::Absent,
        };
        let forms = match all.forms.first() {
            Some(first) if all.forms.iter().any(|form| form != first) => Forms::Each(Arc::new(all.forms)),
            first => Forms::Same(first.copied().unwrap_or_default()),
        };
        let envelope = Envelope {
            shards,
            sequences: sequences(all.sequences),
            times,
            keys: all.keys.map(|mut keys| {
                keys.pad(rows);
                keys.finish()
            }),
            headers: all.headers.map(|mut headers| {
                headers.pad(rows);
                headers.finish()
            }),
            told: Told {
                appended: all.appended,
                deliveries: all.deliveries.map(|mut deliveries| {
                    deliveries.resize(rows, 1);
                    Arc::new(deliveries)
                }),
                attempts: all.attempts.map(|mut attempts| {
                    attempts.resize(rows, 0);
                    Arc::new(attempts)
                }),
            },
        };
        let mut batch = Batch::new(envelope, Body::Bytes(all.values.finish(), forms));
        let originals = all.originals.map(|mut originals| {
            originals.pad(rows);
            originals.finish()
        });
        let indexes = all.indexes.map(|mut indexes| {
            indexes.resize(rows, 0);
            indexes
        });
        batch.attach(originals, indexes);
        batch
    }

    fn start(&mut self, origin: &ShardKey, sequence: u128, time: Option<Timestamp>, form: Form) {
        // Runs of one shard are the rule, so the newest one is compared before the table is asked.
        let newest = self.shards.last().copied().filter(|&index| self.dictionary[index as usize] == *origin);
        let shard = newest.or_else(|| self.lookup.get(origin).copied()).unwrap_or_else(|| {
            let index = self.dictionary.len() as u32;
            // One shard is the rule, and needs no table.
            if let [only] = self.dictionary.as_slice() {
                self.lookup.insert(only.clone(), 0);
            }
            if index > 0 {
                self.lookup.insert(origin.clone(), index);
            }
            self.dictionary.push(origin.clone());
            index
        });
        self.shards.push(shard);
        self.sequences.push(sequence);
        self.any_time |= time.is_some();
        self.times.push(time);
        self.forms.push(form);
    }

    fn key(&mut self, key: Option<&[u8]>) {
        if let Some(key) = key {
            let keys = self.keys.get_or_insert_default();
            keys.pad(self.sequences.len() - 1);
            keys.push(Some(key));
            self.side_bytes += key.len();
        }
    }

    fn headers<'a>(&mut self, headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>) {
        let mut headers = headers.peekable();
        if headers.peek().is_some() {
            let rows = self.sequences.len() - 1;
            let builder = self.headers.get_or_insert_default();
            builder.pad(rows);
            let mut bytes = 0;
            builder.push(headers.inspect(|(name, value)| bytes += name.len() + value.map_or(0, <[u8]>::len)));
            self.side_bytes += bytes;
        }
    }

    fn value(&mut self, value: Option<&[u8]>) {
        self.values.push(value);
    }

    fn derived(&mut self, index: u64, original: Option<Option<&[u8]>>, value: Option<&[u8]>) {
        let rows = self.sequences.len();
        if index != 0 {
            let indexes = self.indexes.get_or_insert_default();
            indexes.resize(rows - 1, 0);
            indexes.push(index);
        }
        if original.is_some() || self.originals.is_some() {
            if self.originals.is_none() {
                // Records before this one were as their source gave them.
                let values = std::mem::take(&mut self.values).finish();
                let (mut originals, mut again) = (ColumnBuilder::default(), ColumnBuilder::default());
                for row in 0..rows - 1 {
                    originals.push(values.get(row));
                }
                (0..rows).for_each(|row| again.push(values.get(row)));
                self.values = again;
                self.originals = Some(originals);
            }
            if let Some(originals) = &mut self.originals {
                originals.push(original.unwrap_or(value));
            }
        }
    }
}

/// A run if each sequence is one more than the one before, else offsets from the smallest.
fn sequences(all: Vec<u128>) -> Sequences {
    let base = all.first().copied().unwrap_or_default();
    if all.iter().zip(base..).all(|(&sequence, expected)| sequence == expected) {
        return Sequences::Run(base);
    }
    let base = all.iter().copied().min().unwrap_or_default();
    // Sequences of one batch lie within 2^64 of each other; where a foreign system breaks that, the offset saturates.
    Sequences::Each(
        base,
        Arc::new(all.iter().map(|sequence| u64::try_from(sequence - base).unwrap_or(u64::MAX)).collect()),
    )
}
