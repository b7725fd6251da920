//! The step that gathers records to batches and lets a handler have them.

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use millstream_core::{Batch, Change, Operator, Output, Result, Timestamp};
use tokio::sync::watch;

use super::{Batching, Trigger, batching::Key, pending::Pending};
use crate::{
    failure::contained,
    typed::{Data, typed, view, written_bytes},
    work::{Crew, Gathered, Held, Outcomes, Row, Set},
};

pub(crate) struct Grouping<T, U, B, R> {
    batching: Batching<T>,
    pending: Pending<T>,
    crew: Crew<U, B, R>,
    held: Held,
    changed: watch::Receiver<()>,
    /// No more input comes in this run: what still does was given back, and must not stay open.
    drained: bool,
}

impl<T, U, B, R> Grouping<T, U, B, R>
where
    T: Data,
    U: Data,
    B: Fn(u32, Gathered, Option<Duration>) -> R + Send,
    R: Future<Output = (u32, Result<Outcomes<U>>)> + Send,
{
    pub(crate) fn new(batching: Batching<T>, crew: Crew<U, B, R>) -> Self {
        let changed = batching.parameters.changed();
        Grouping { batching, pending: Pending::new(), crew, held: Held::default(), changed, drained: false }
    }

    /// Records of which only the number counts: whole slices go into batches.
    fn take_slices(&mut self, batch: Batch, now: Timestamp) {
        let (records, memory) = (batch.len() as u32, memory_of(&batch));
        let id = self.held.add(batch);
        let mut row = 0;
        while row < records {
            let open = self.pending.open(None, now, || None);
            let most = self.batching.parameters.count();
            let room = most.saturating_sub(self.pending.len(open)).max(1);
            let end = row + (records - row).min(u32::try_from(room).unwrap_or(u32::MAX));
            if self.pending.add(open, id, row..end, memory) >= most {
                self.close(open, Trigger::Count);
            }
            row = end;
        }
    }

    /// Records that are looked at one by one. An error or panic of what looks at them costs only its record. One that has failed
    /// before is handled alone.
    fn take_each(&mut self, batch: Batch, now: Timestamp, out: &mut Output) {
        let memory = memory_of(&batch);
        let id = self.held.add(batch.clone());
        let (records, mut key, batching) = (batch.records(), Vec::new(), self.batching.clone());
        let tried = has_tried(&batch);
        let failed = view::<T>(&batch).each(|row, value| {
            key.clear();
            let at = Row { batch: id, row: row as u32 };
            let key = match &batching.key {
                Key::None => None,
                Key::Record => records.get(row).key(),
                Key::By(by) => by(value, &mut key).then_some(&key[..]),
            };
            if tried && records.get(row).attempts() > 0 {
                self.crew.push(Set::alone(at, key.map(Bytes::copy_from_slice)));
                return Ok(());
            }
            let flush = batching.flush.as_ref().is_some_and(|mark| mark(value));
            let bytes = if batching.parameters.bytes() == u64::MAX { 0 } else { written_bytes(value) as u64 };
            let open = self.pending.open(key, now, || batching.splitter());
            // The splitter may panic: then the record is in no batch.
            let split = self.pending.splits(open, value);
            let count = self.pending.add(open, id, at.row..at.row + 1, memory);
            let bytes = self.pending.count_bytes(open, bytes);
            let reached = || batching.parameters.reached(split, count, bytes);
            let trigger = if flush { Some(Trigger::FlushMark) } else { reached() };
            trigger.into_iter().for_each(|trigger| self.close(open, trigger));
            Ok(())
        });
        for (row, error) in failed {
            out.fail(&batch, row as usize, error);
            self.held.release(id, 1);
        }
    }

    fn close(&mut self, open: u32, trigger: Trigger) {
        if let Some(set) = self.pending.close(open, trigger, &self.held) {
            self.crew.push(set);
        }
    }

    /// Closes batches whose first record came at `upto` or before.
    fn close_older(&mut self, upto: Timestamp, trigger: Trigger) {
        while let Some(set) = self.pending.close_older(upto, trigger, &self.held) {
            self.crew.push(set);
        }
    }

    /// Where what closes a batch has changed, what is open may have all of its records by now.
    fn note_changes(&mut self) {
        // The parameters keep the other end.
        if self.changed.has_changed().unwrap_or(false) {
            self.changed.mark_unchanged();
            let closed = self.pending.close_full(&self.held, &self.batching.parameters);
            closed.into_iter().for_each(|set| self.crew.push(set));
        }
    }

    fn emit(&mut self, out: &mut Output) {
        let (failed, mut back) = self.crew.emit(&mut self.held, out);
        if !failed.is_empty() {
            back.extend(self.crew.take_back(&self.held, &failed, out));
            back.extend(self.pending.take_back(&self.held, &failed, out));
            self.held.give_back(&back, out);
        }
        self.crew.begin(&self.held);
    }
}

/// Whether some of the records have failed before.
fn has_tried(batch: &Batch) -> bool {
    batch.envelope().0.told.attempts.is_some()
}

/// Bytes of memory of one record of a batch.
fn memory_of(batch: &Batch) -> u64 {
    (batch.size() / batch.len().max(1)) as u64 + BOOKKEEPING_BYTES
}

/// What an open batch keeps of each record beside itself.
const BOOKKEEPING_BYTES: u64 = 32;

#[async_trait]
impl<T, U, B, R> Operator for Grouping<T, U, B, R>
where
    T: Data,
    U: Data,
    B: Fn(u32, Gathered, Option<Duration>) -> R + Send + Sync,
    R: Future<Output = (u32, Result<Outcomes<U>>)> + Send,
{
    fn keyless_group(&mut self, group: u16) {
        self.pending.keyless_group(group);
    }

    async fn restore(&mut self, state: Vec<Change>) -> Result<()> {
        // The splitters of open batches see their records once more.
        let closed = contained(|| self.pending.restore(state, &mut self.held, &self.batching))?;
        closed.into_iter().for_each(|set| self.crew.push(set));
        Ok(())
    }

    async fn process(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<()> {
        let Some(batch) = typed::<T>(batch, out) else { return Ok(()) };
        self.note_changes();
        // One look at the clock for the batch: its records came together.
        let now = Timestamp::now();
        if self.batching.judges() || has_tried(&batch) {
            self.take_each(batch, now, out);
        } else {
            self.take_slices(batch, now);
        }
        while self.pending.memory() > self.batching.parameters.memory()
            && let Some(oldest) = self.pending.oldest()
        {
            self.close_older(oldest, Trigger::Memory);
        }
        if self.drained {
            self.close_older(Timestamp(i64::MAX), Trigger::Drain);
        }
        self.pending.absorb(out);
        self.crew.begin(&self.held);
        self.pending.compact(&mut self.held);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.crew.is_full()
    }

    async fn ready(&mut self) {
        tokio::select! {
            () = self.crew.ready(&self.held) => {}
            // What is open may be full or due by now: `advance` looks at the one, and the stage at its timers.
            Ok(()) = self.changed.changed() => self.changed.mark_changed(),
        }
    }

    async fn advance(&mut self, out: &mut Output) -> Result<()> {
        self.note_changes();
        self.crew.finish_ready().await;
        self.emit(out);
        Ok(())
    }

    async fn settle(&mut self, out: &mut Output) -> Result<()> {
        self.emit(out);
        while self.crew.finish_one().await {
            self.emit(out);
        }
        // A record that cannot be saved cannot wait for the rest of its batch.
        for (at, error) in self.pending.write_down(&self.held, out) {
            self.held.fail(at, error, out);
        }
        Ok(())
    }

    async fn end(&mut self, _: &mut Output) -> Result<()> {
        self.close_older(Timestamp(i64::MAX), Trigger::End);
        self.crew.begin(&self.held);
        Ok(())
    }

    fn timer_at(&self) -> Option<Timestamp> {
        let (oldest, linger) = (self.pending.oldest()?, self.batching.parameters.linger()?);
        Some(Timestamp(oldest.0.saturating_add(i64::try_from(linger.as_nanos()).unwrap_or(i64::MAX))))
    }

    async fn on_timer(&mut self, now: Timestamp, _: &mut Output) -> Result<()> {
        if let Some(linger) = self.batching.parameters.linger() {
            let upto = now.0.saturating_sub(i64::try_from(linger.as_nanos()).unwrap_or(i64::MAX));
            self.close_older(Timestamp(upto), Trigger::Linger);
        }
        self.crew.begin(&self.held);
        Ok(())
    }

    fn changes(&mut self) -> Result<Vec<Change>> {
        Ok(self.pending.changes())
    }

    async fn drain(&mut self, _: &mut Output) -> Result<()> {
        self.drained = true;
        self.close_older(Timestamp(i64::MAX), Trigger::Drain);
        self.crew.begin(&self.held);
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        self.crew.clear();
        Ok(())
    }
}
