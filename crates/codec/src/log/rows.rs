//! The rows of a batch of lines: as long as no line has a header, nothing but where they lie.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use millstream_core::{
    BATCH_RECORDS_MAX, Batch, Body, Column, Envelope, Error, Extent, Form, Forms, Read, Sequences, ShardKey, Shards,
    Times, Timestamp,
};

use super::Header;

/// Streams whose numbers are remembered. When there are more, all are forgotten, and lines without a sequence are
/// counted from 1 again: names may come from anyone, and memory is bounded.
const STREAMS_MAX: usize = 4096;

/// The number of the first record of a shard: in plain input it is the line's.
const SEQUENCE_FIRST: u128 = 1;

pub(super) struct Rows {
    streams: Streams,
    extents: Vec<Extent>,
    failed: Vec<(u32, Error)>,
    /// Sequence of the first row, as long as all rows are plain.
    first: u128,
    /// Empty as long as all rows are plain.
    told: Vec<Facts>,
    /// Smallest and largest sequence of the batch.
    range: (u128, u128),
}

/// What is known of a row.
#[derive(Clone, Copy)]
struct Facts {
    stream: u32,
    sequence: u128,
    time: Option<Timestamp>,
}

impl Rows {
    /// `stream` is the stream of plain rows.
    pub(super) fn new(stream: &str) -> Self {
        let streams = Streams::new(stream);
        Rows { streams, extents: Vec::new(), failed: Vec::new(), first: 0, told: Vec::new(), range: (0, 0) }
    }

    /// Appends a row. `false`: it does not fit this batch.
    pub(super) fn push(&mut self, header: Option<&Header<'_>>, start: usize, end: usize) -> bool {
        let plain = header.is_none_or(|header| header.time.is_none() && header.stream.is_none());
        if plain && self.told.is_empty() {
            let sequence = self.streams.number(0, None);
            if self.extents.is_empty() {
                self.first = sequence;
            }
        } else {
            let header = header.copied().unwrap_or_default();
            if self.streams.all.len() >= STREAMS_MAX {
                if !self.extents.is_empty() {
                    return false;
                }
                self.streams.forget();
            }
            let stream = self.streams.index(header.stream, header.shard.unwrap_or_default());
            let sequence = header.sequence.unwrap_or(self.streams.next[stream as usize]);
            self.tell();
            let (low, high) = match self.told.is_empty() {
                true => (sequence, sequence),
                false => (self.range.0.min(sequence), self.range.1.max(sequence)),
            };
            if u64::try_from(high - low).is_err() {
                return false;
            }
            self.range = (low, high);
            self.streams.number(stream, Some(sequence));
            self.told.push(Facts { stream, sequence, time: header.time });
        }
        // A block is far smaller than 4 GiB; beyond that the row reads as absent.
        self.extents.push(match (u32::try_from(start), u32::try_from(end)) {
            (Ok(start), Ok(end)) => Extent { start, end },
            _ => Extent::ABSENT,
        });
        true
    }

    /// Writes down what is known of the plain rows so far.
    fn tell(&mut self) {
        if self.told.is_empty() && !self.extents.is_empty() {
            let rows = self.extents.len() as u128;
            self.told.extend((self.first..self.first + rows).map(|sequence| Facts { stream: 0, sequence, time: None }));
            self.range = (self.first, self.first + rows - 1);
        }
    }

    /// Says that the newest row is at fault.
    pub(super) fn fail(&mut self, error: Error) {
        self.failed.push((self.extents.len().saturating_sub(1) as u32, error));
    }

    pub(super) fn is_full(&self) -> bool {
        self.extents.len() >= BATCH_RECORDS_MAX
    }

    /// The rows as a batch over `data`; empty again.
    pub(super) fn take(&mut self, data: Bytes, form: Form) -> Option<Read> {
        if self.extents.is_empty() {
            return None;
        }
        let told = std::mem::take(&mut self.told);
        let column = Column::new(data, std::mem::take(&mut self.extents));
        let envelope = match told.first() {
            None => Envelope {
                shards: Shards::Same(self.streams.all[0].clone()),
                sequences: Sequences::Run(self.first),
                times: Times::Absent,
                keys: None,
                headers: None,
                told: Default::default(),
            },
            Some(first) => Envelope {
                shards: match told.iter().all(|row| row.stream == first.stream) {
                    true => Shards::Same(self.streams.all[first.stream as usize].clone()),
                    false => {
                        let indexes = told.iter().map(|row| row.stream).collect();
                        Shards::Each(self.streams.all.clone(), Arc::new(indexes))
                    }
                },
                sequences: sequences(&told, self.range.0),
                times: match told.iter().any(|row| row.time.is_some()) {
                    true => Times::Each(Arc::new(told.iter().map(|row| row.time).collect())),
                    false => Times::Absent,
                },
                keys: None,
                headers: None,
                told: Default::default(),
            },
        };
        let batch = Batch::new(envelope, Body::Bytes(column, Forms::Same(form)));
        Some(Read::new(batch, std::mem::take(&mut self.failed)))
    }
}

fn sequences(told: &[Facts], base: u128) -> Sequences {
    if told.iter().enumerate().all(|(i, row)| row.sequence - base == i as u128) {
        return Sequences::Run(base);
    }
    // `push` keeps the distance within 64 bits.
    let offsets = told.iter().map(|row| u64::try_from(row.sequence - base).unwrap_or(u64::MAX)).collect();
    Sequences::Each(base, Arc::new(offsets))
}

/// The shards seen so far, and the sequence that the next line without one gets there.
struct Streams {
    all: Arc<Vec<ShardKey>>,
    next: Vec<u128>,
    /// Shards and their indexes, by stream.
    lookup: HashMap<Arc<str>, Vec<(u64, u32)>>,
    /// The one used last: runs of one stream are the rule.
    last: u32,
}

impl Streams {
    fn new(plain: &str) -> Self {
        let mut streams = Streams { all: Arc::default(), next: Vec::new(), lookup: HashMap::new(), last: 0 };
        streams.insert(plain, 0);
        streams
    }

    fn index(&mut self, stream: Option<&str>, shard: u64) -> u32 {
        let Some(stream) = stream else { return 0 };
        let last = &self.all[self.last as usize];
        if last.shard == shard && *last.stream == *stream {
            return self.last;
        }
        let known = self.lookup.get(stream).and_then(|shards| shards.iter().find(|(known, _)| *known == shard));
        self.last = match known {
            Some((_, index)) => *index,
            None => self.insert(stream, shard),
        };
        self.last
    }

    fn insert(&mut self, stream: &str, shard: u64) -> u32 {
        let index = self.next.len() as u32;
        let key = ShardKey::new(stream, shard);
        self.lookup.entry(key.stream.clone()).or_default().push((shard, index));
        Arc::make_mut(&mut self.all).push(key);
        self.next.push(SEQUENCE_FIRST);
        index
    }

    /// The sequence of a record, and notes that it was seen.
    fn number(&mut self, stream: u32, given: Option<u128>) -> u128 {
        let next = &mut self.next[stream as usize];
        let sequence = given.unwrap_or(*next);
        *next = sequence.saturating_add(1);
        sequence
    }

    /// Forgets all but the stream of plain rows.
    fn forget(&mut self) {
        let (plain, next) = (self.all[0].stream.clone(), self.next[0]);
        *self = Streams::new(&plain);
        self.next[0] = next;
    }
}
