//! What waits for its turn: in order, or for each key in order.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use millstream_core::{Batch, BatchBuilder, Change, Error, ErrorKind, Output, Record, Result, group};
use tokio::time::Instant;

use super::BURST;
use crate::park::saved;

/// Fewer keys than these are not worth a walk.
const KEYS_SWEPT_MIN: usize = 65_536;

/// Records that wait, in lines. Without keys there is one line.
#[derive(Debug, Default)]
pub(super) struct Queue {
    lines: HashMap<Bytes, Line>,
    /// When the front of each line that is not empty may go.
    due: BTreeSet<(Instant, Bytes)>,
    records: usize,
    bytes: usize,
    /// There is a line for each key.
    by_key: bool,
    /// Lines at which those whose time has passed are forgotten.
    swept_at: usize,
    next_id: u64,
    /// Parts of what has been saved that have gone since.
    gone: Vec<u64>,
}

#[derive(Debug)]
struct Line {
    parts: VecDeque<Part>,
    /// The earliest time of the next record.
    next_at: Instant,
}

/// Records of one line that came together.
#[derive(Debug)]
struct Part {
    id: u64,
    batch: Batch,
    /// How many records the saved one has.
    saved: usize,
}

impl Queue {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, batch: Batch, by_key: bool) {
        if std::mem::replace(&mut self.by_key, by_key) != by_key {
            self.line_up();
        }
        if !by_key {
            return self.line(Bytes::new(), batch);
        }
        let mut rows: BTreeMap<&[u8], Vec<u32>> = BTreeMap::new();
        for (row, record) in batch.iter().enumerate() {
            rows.entry(record.key().unwrap_or_default()).or_default().push(row as u32);
        }
        for (key, rows) in rows {
            self.line(Bytes::copy_from_slice(key), batch.select(rows));
        }
    }

    /// Puts all that waits in other lines, in the order in which it came.
    fn line_up(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        self.due.clear();
        (self.records, self.bytes) = (0, 0);
        let mut parts: Vec<Part> = lines.into_values().flat_map(|line| line.parts).collect();
        parts.sort_unstable_by_key(|part| part.id);
        for part in parts {
            if part.saved > 0 {
                self.gone.push(part.id);
            }
            self.push(part.batch, self.by_key);
        }
    }

    fn line(&mut self, key: Bytes, batch: Batch) {
        let now = Instant::now();
        if self.lines.len() >= self.swept_at.max(KEYS_SWEPT_MIN) && !self.lines.contains_key(&key) {
            self.lines.retain(|_, line| !line.parts.is_empty() || line.next_at > now);
            // Not again before there are twice as many.
            self.swept_at = 2 * self.lines.len();
        }
        self.bytes += batch.size();
        self.records += batch.len();
        let line = self.lines.entry(key.clone()).or_insert_with(|| Line { parts: VecDeque::new(), next_at: now });
        if line.parts.is_empty() {
            self.due.insert((line.next_at, key));
        }
        line.parts.push_back(Part { id: self.next_id, batch, saved: 0 });
        self.next_id += 1;
    }

    /// Records that wait.
    pub(super) fn len(&self) -> usize {
        self.records
    }

    /// When something may go.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The limit has changed: nobody waits for longer than until `latest`, those that nothing waits of now neither.
    pub(super) fn hurry(&mut self, latest: Instant) {
        self.lines.values_mut().for_each(|line| line.next_at = line.next_at.min(latest));
        let due = std::mem::take(&mut self.due);
        self.due = due.into_iter().map(|(at, key)| (at.min(latest), key)).collect();
    }

    /// Emits what may go now.
    pub(super) fn let_go(&mut self, now: Instant, interval: Duration, out: &mut Output) {
        while self.due().is_some_and(|at| at <= now)
            && let Some((_, key)) = self.due.pop_first()
        {
            let Some(line) = self.lines.get_mut(&key) else { continue };
            // Unused time beyond the burst is lost.
            let earliest = now.checked_sub(BURST).unwrap_or(now);
            line.next_at = line.next_at.max(earliest);
            while line.next_at <= now
                && let Some(part) = line.parts.front_mut()
            {
                let room = match interval.as_nanos() {
                    0 => usize::MAX,
                    nanos => {
                        usize::try_from((now - line.next_at).as_nanos() / nanos).unwrap_or(usize::MAX).saturating_add(1)
                    }
                };
                let all = part.batch.len();
                let going = room.min(all);
                line.next_at += interval.saturating_mul(going as u32);
                self.bytes -= part.batch.size();
                self.records -= going;
                if going == all {
                    out.emit(0, part.batch.clone());
                    if part.saved > 0 {
                        self.gone.push(part.id);
                    }
                    line.parts.pop_front();
                } else {
                    out.emit(0, part.batch.slice(0, going));
                    part.batch = part.batch.slice(going, all);
                    self.bytes += part.batch.size();
                }
            }
            if !line.parts.is_empty() {
                self.due.insert((line.next_at, key));
            }
        }
    }

    /// What waits, for the state of the epoch.
    pub(super) fn changes(&mut self) -> Result<Vec<Change>> {
        let mut changes: Vec<Change> = self.gone.drain(..).map(|id| change(id, None)).collect();
        for part in self.lines.values_mut().flat_map(|line| &mut line.parts) {
            if part.saved == part.batch.len() {
                continue;
            }
            let records: Vec<Record> =
                (0..part.batch.len()).map(|row| saved(&part.batch, row)).collect::<Result<_>>()?;
            let value = rmp_serde::to_vec_named(&records)
                .map_err(|cause| Error::new(ErrorKind::Bug, "cannot save records that wait").caused_by(cause))?;
            changes.push(change(part.id, Some(value.into())));
            part.saved = part.batch.len();
        }
        Ok(changes)
    }

    pub(super) fn restore(&mut self, state: Vec<Change>, by_key: bool) -> Result<()> {
        let damaged = || Error::new(ErrorKind::Corrupt, "cannot read records that wait from the saved state");
        let mut parts = BTreeMap::new();
        for change in state {
            let id = <[u8; 8]>::try_from(&*change.key).map(u64::from_be_bytes).map_err(|_| damaged())?;
            let Some(value) = change.value else { continue };
            let records: Vec<Record> = rmp_serde::from_slice(&value).map_err(|cause| damaged().caused_by(cause))?;
            parts.insert(id, records);
        }
        self.next_id = parts.keys().next_back().map_or(0, |id| id + 1);
        // They go in again as they came, under new ids: the limit may be another one now.
        for (id, records) in parts {
            self.gone.push(id);
            let mut builder = BatchBuilder::new();
            records.iter().for_each(|record| builder.push(record));
            self.push(builder.finish(), by_key);
        }
        Ok(())
    }
}

fn change(id: u64, value: Option<Bytes>) -> Change {
    let key = Bytes::copy_from_slice(&id.to_be_bytes());
    Change { group: group(&key), key, value }
}
