//! Batches out of what many files give.
//!
//! A large piece becomes a batch of its own, without a copy; small pieces of any number of files are copied into one
//! batch, so that a thousand slow files do not make a thousand batches.

use std::{collections::BTreeMap, mem::take};

use bytes::Bytes;
use millstream_core::{
    Batch, BatchBuilder, Body, Envelope, Error, Form, Frames, Read, Sequences, ShardKey, Shards, Times, Told,
};

use super::mark::TailMark;

/// A piece of this many records is not copied; below, a batch of its own costs more than the copy.
const OWN_BATCH_RECORDS: usize = 512;
/// The same in bytes: large records.
const OWN_BATCH_BYTES: usize = 64 << 10;

/// What a source says next, and where it then stands.
#[derive(Debug, Default)]
pub(crate) struct Item {
    /// Shards that are read from now on.
    pub(crate) added: Vec<ShardKey>,
    /// Records.
    pub(crate) read: Option<Read>,
    /// Where these shards stand behind it; without a mark they are no longer read.
    pub(crate) marks: BTreeMap<ShardKey, Option<TailMark>>,
    /// Bytes of the records, about.
    pub(crate) bytes: u64,
}

/// Collects items.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    items: Vec<Item>,
    builder: BatchBuilder,
    failed: Vec<(u32, Error)>,
    marks: BTreeMap<ShardKey, Option<TailMark>>,
    bytes: u64,
}

impl Assembler {
    /// Takes the records of a piece; the first has the sequence `first`. Those before the sequence `from` are dropped.
    pub(crate) fn records(
        &mut self,
        shard: &ShardKey,
        (first, from): (u64, u64),
        (block, form): (&Bytes, Form),
        frames: &mut Frames,
    ) {
        let (body, mut failed) = frames.take(block, form);
        let rows = body.len();
        let dropped = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX).min(rows);
        let Body::Bytes(column, _) = &body else { return };
        let bytes: usize = column.extents()[dropped..].iter().map(|extent| extent.len()).sum();
        if dropped == rows {
            return;
        }
        self.bytes += bytes as u64;
        failed.retain(|(row, _)| *row as usize >= dropped);
        if dropped == 0 && (rows >= OWN_BATCH_RECORDS || bytes >= OWN_BATCH_BYTES) {
            let piece = bytes as u64;
            let bytes = take(&mut self.bytes) - piece;
            self.finish_batch(bytes);
            let envelope = Envelope {
                shards: Shards::Same(shard.clone()),
                sequences: Sequences::Run(first.into()),
                times: Times::Absent,
                keys: None,
                headers: None,
                told: Told::default(),
            };
            let read = Read::new(Batch::new(envelope, body), failed);
            self.items.push(Item { read: Some(read), bytes: piece, ..Item::default() });
            return;
        }
        let base = self.builder.len() as u32;
        self.failed.extend(failed.into_iter().map(|(row, error)| (base + row - dropped as u32, error)));
        for row in dropped..rows {
            self.builder.push_value(shard, u128::from(first) + row as u128, None, form, None, column.get(row));
        }
    }

    /// Says where a shard stands behind the newest piece.
    pub(crate) fn mark(&mut self, shard: ShardKey, mark: Option<TailMark>) {
        match self.items.last_mut() {
            // The newest piece is a batch of its own.
            Some(item) if self.builder.is_empty() => item.marks.insert(shard, mark),
            _ => self.marks.insert(shard, mark),
        };
    }

    /// Says that a shard is read from now on.
    pub(crate) fn added(&mut self, shard: ShardKey) {
        self.flush();
        match self.items.last_mut() {
            Some(item) if item.read.is_none() => item.added.push(shard),
            _ => self.items.push(Item { added: vec![shard], ..Item::default() }),
        }
    }

    /// Whether there is enough for one turn.
    pub(crate) fn is_full(&self) -> bool {
        self.builder.is_full() || self.items.iter().any(|item| item.read.is_some())
    }

    /// All items in order.
    pub(crate) fn finish(&mut self) -> Vec<Item> {
        self.flush();
        take(&mut self.items)
    }

    fn flush(&mut self) {
        let bytes = take(&mut self.bytes);
        self.finish_batch(bytes);
        if !self.marks.is_empty() {
            self.items.push(Item { marks: take(&mut self.marks), ..Item::default() });
        }
    }

    fn finish_batch(&mut self, bytes: u64) {
        if !self.builder.is_empty() {
            let read = Read::new(self.builder.finish(), take(&mut self.failed));
            let marks = take(&mut self.marks);
            self.items.push(Item { read: Some(read), marks, bytes, added: Vec::new() });
        }
    }
}
