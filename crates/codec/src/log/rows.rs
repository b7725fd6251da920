//! The rows of a batch of lines: where they lie, and what their headers say, told once for a run of rows.

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
    runs: Vec<Run>,
    /// Smallest and largest sequence of the batch.
    range: (u128, u128),
}

/// Rows of one shard and time whose sequences follow each other: the rule.
#[derive(Clone, Copy)]
struct Run {
    /// Number of its first row.
    row: usize,
    stream: u32,
    time: Option<Timestamp>,
    /// Sequence of its first row.
    first: u128,
}

impl Run {
    /// Whether a row goes on with it.
    fn takes(&self, row: usize, stream: u32, time: Option<Timestamp>, sequence: u128) -> bool {
        self.stream == stream && self.time == time && self.first.checked_add((row - self.row) as u128) == Some(sequence)
    }
}

impl Rows {
    /// `stream` is the stream of plain rows.
    pub(super) fn new(stream: &str) -> Self {
        let streams = Streams::new(stream);
        Rows { streams, extents: Vec::new(), failed: Vec::new(), runs: Vec::new(), range: (0, 0) }
    }

    /// Appends a row. `false`: it does not fit this batch.
    pub(super) fn push(&mut self, header: Option<&Header<'_>>, start: usize, end: usize) -> bool {
        let Header { time, stream, sequence, shard } = header.copied().unwrap_or_default();
        let stream = match stream {
            None => 0,
            Some(stream) => {
                if self.streams.all.len() >= STREAMS_MAX {
                    if !self.extents.is_empty() {
                        return false;
                    }
                    self.streams.forget();
                }
                self.streams.index(stream, shard.unwrap_or_default())
            }
        };
        let sequence = sequence.unwrap_or(self.streams.next[stream as usize]);
        let row = self.extents.len();
        let (low, high) = match row {
            0 => (sequence, sequence),
            _ => (self.range.0.min(sequence), self.range.1.max(sequence)),
        };
        if u64::try_from(high - low).is_err() {
            return false;
        }
        self.range = (low, high);
        self.streams.next[stream as usize] = sequence.saturating_add(1);
        if !self.runs.last().is_some_and(|run| run.takes(row, stream, time, sequence)) {
            self.runs.push(Run { row, stream, time, first: sequence });
        }
        // A block is far smaller than 4 GiB; beyond that the row reads as absent.
        self.extents.push(match (u32::try_from(start), u32::try_from(end)) {
            (Ok(start), Ok(end)) => Extent { start, end },
            _ => Extent::ABSENT,
        });
        true
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
        let first = *self.runs.first()?;
        let rows = self.extents.len();
        // The next batch will be about as long.
        let extents = std::mem::replace(&mut self.extents, Vec::with_capacity(rows));
        let shards = match self.runs.iter().all(|run| run.stream == first.stream) {
            true => Shards::Same(self.streams.all[first.stream as usize].clone()),
            false => Shards::Each(self.streams.all.clone(), Arc::new(self.each(rows, |run| run.stream))),
        };
        let times = match self.runs.iter().all(|run| run.time == first.time) {
            true => first.time.map_or(Times::Absent, Times::Same),
            false => Times::Each(Arc::new(self.each(rows, |run| run.time))),
        };
        let envelope = Envelope {
            shards,
            sequences: self.sequences(rows),
            times,
            keys: None,
            headers: None,
            told: Default::default(),
        };
        self.runs.clear();
        let batch = Batch::new(envelope, Body::Bytes(Column::new(data, extents), Forms::Same(form)));
        Some(Read::new(batch, std::mem::take(&mut self.failed)))
    }

    /// The runs, each with the number of the first row behind it.
    fn ends(&self, rows: usize) -> impl Iterator<Item = (&Run, usize)> {
        self.runs.iter().zip(self.runs.iter().skip(1).map(|run| run.row).chain([rows]))
    }

    /// What `of` says of a run, for each of its rows.
    fn each<T: Clone>(&self, rows: usize, of: impl Fn(&Run) -> T) -> Vec<T> {
        let mut each = Vec::with_capacity(rows);
        self.ends(rows).for_each(|(run, end)| each.resize(end, of(run)));
        each
    }

    fn sequences(&self, rows: usize) -> Sequences {
        let base = self.range.0;
        if self.runs.iter().all(|run| run.first - base == run.row as u128) {
            return Sequences::Run(base);
        }
        let mut offsets = Vec::with_capacity(rows);
        for (run, end) in self.ends(rows) {
            // `push` keeps the distance within 64 bits.
            let first = u64::try_from(run.first - base).unwrap_or(u64::MAX);
            offsets.extend((0..(end - run.row) as u64).map(|row| first.saturating_add(row)));
        }
        Sequences::Each(base, Arc::new(offsets))
    }
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

    fn index(&mut self, stream: &str, shard: u64) -> u32 {
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

    /// Forgets all but the stream of plain rows.
    fn forget(&mut self) {
        let (plain, next) = (self.all[0].stream.clone(), self.next[0]);
        *self = Streams::new(&plain);
        self.next[0] = next;
    }
}
