//! The source: its place is the number of the next record.

use std::time::Duration;

use async_trait::async_trait;
use millstream_core::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Batch, Body, ColumnBuilder, Envelope, Error, ErrorKind, Event, Forms, Lag,
    Position, Result, Resume, SeekTo, Sequences, ShardKey, Shards, Source, Times, Timestamp, Told,
};
use tokio::time::{Instant, sleep_until};

use super::GeneratePlan;

/// At high rates the records of this time come as one batch; at low rates each comes when it is due.
const TICK: Duration = Duration::from_millis(10);

/// A pipeline that falls behind is given this much at once when it goes on; what it has missed beyond is not made up for.
const BEHIND_MAX: Duration = Duration::from_secs(1);

pub(super) struct GenerateSource {
    plan: GeneratePlan,
    /// Number of the next record, from 1; its sequence.
    next: u64,
    pace: Option<Pace>,
    /// The last number in this run.
    last: u64,
}

/// When records are due: record `first` at `started`, each other one `1 / rate` seconds behind.
#[derive(Clone, Copy)]
struct Pace {
    started: Instant,
    first: u64,
    rate: f64,
}

impl Pace {
    fn due(&self, n: u64) -> Instant {
        // Beyond what a clock can hold, some 500 years, is never.
        let seconds = n.saturating_sub(self.first) as f64 / self.rate;
        let wait = Duration::try_from_secs_f64(seconds).unwrap_or(NEVER).min(NEVER);
        self.started + wait
    }

    /// How many records from `next` on are due.
    fn count(&self, next: u64, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.started).as_secs_f64();
        // Saturates; a clock that is a little off costs a record's delay.
        let due = self.first.saturating_add((elapsed * self.rate) as u64).saturating_add(1);
        due.saturating_sub(next)
    }
}

/// A century.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl GenerateSource {
    pub(super) fn new(plan: GeneratePlan) -> Self {
        GenerateSource { plan, next: 1, pace: None, last: u64::MAX }
    }

    /// Waits until records are due, and says how many.
    async fn wait(&mut self) -> u64 {
        let Some(rate) = self.plan.planned.rate else {
            // Somebody else's turn: without a rate this source is always ready.
            tokio::task::yield_now().await;
            return BATCH_RECORDS_MAX as u64;
        };
        let pace = *self.pace.get_or_insert_with(|| Pace { started: Instant::now(), first: self.next, rate });
        let tick = ((rate * TICK.as_secs_f64()) as u64).clamp(1, BATCH_RECORDS_MAX as u64);
        let wanted = tick.min((self.last - self.next).saturating_add(1));
        let due = pace.due(self.next.saturating_add(wanted - 1));
        sleep_until(due).await;
        let now = Instant::now();
        if now > due + BEHIND_MAX {
            self.pace = Some(Pace { started: now - BEHIND_MAX.min(now.duration_since(due)), first: self.next, rate });
        }
        pace.count(self.next, now).clamp(wanted, BATCH_RECORDS_MAX as u64)
    }

    fn batch(&mut self, count: u64) -> Batch {
        let (first, now) = (self.next, Timestamp::now());
        let mut column = ColumnBuilder::default();
        while (column.len() as u64) < count && self.next <= self.last && column.size() < BATCH_BYTES_MAX {
            column.push_with(|out| self.plan.template.write(self.next, now, self.plan.planned.seed, out));
            self.next += 1;
        }
        let envelope = Envelope {
            shards: Shards::Same(shard()),
            sequences: Sequences::Run(first.into()),
            times: Times::Same(now),
            keys: None,
            headers: None,
            told: Told::default(),
        };
        Batch::new(envelope, Body::Bytes(column.finish(), Forms::Same(self.plan.form)))
    }
}

fn shard() -> ShardKey {
    ShardKey::new("generate", 0)
}

#[async_trait]
impl Source for GenerateSource {
    async fn open(&mut self, resume: &Resume) -> Result<()> {
        match resume.position.as_ref().map(|position| position.shard::<u64>(&shard())).transpose()?.flatten() {
            Some(next) => self.next = next.max(1),
            None => self.seek(&resume.start, None).await?,
        }
        // One less than the largest number, so that there is always a next one.
        self.last = self.plan.planned.count.unwrap_or(u64::MAX - 1).min(u64::MAX - 1);
        if resume.until_end && self.plan.planned.count.is_none() {
            self.last = self.next - 1; // Without a count the end, as it is now, is here.
        }
        self.pace = None;
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        if self.next > self.last {
            return Ok(Event::End);
        }
        // The only wait; nothing has changed before it.
        let count = self.wait().await;
        Ok(Event::Batch(self.batch(count).into()))
    }

    fn position(&self) -> Result<Position> {
        let mut position = Position::default();
        position.set(shard(), &self.next)?;
        Ok(position)
    }

    async fn seek(&mut self, to: &SeekTo, _: Option<&[ShardKey]>) -> Result<()> {
        self.next = match to {
            SeekTo::Beginning | SeekTo::Committed => 1,
            SeekTo::End => self.plan.planned.count.map_or(self.next, |count| count.saturating_add(1)),
            SeekTo::At(sequence) => u64::try_from(*sequence).unwrap_or(u64::MAX).max(1),
            SeekTo::Time(_) => {
                return Err(Error::new(ErrorKind::Unsupported, "generated records have no time to seek to"));
            }
        };
        self.pace = None;
        Ok(())
    }

    fn shards(&self) -> Vec<ShardKey> {
        vec![shard()]
    }

    fn lag(&self) -> Option<Lag> {
        let left = self.plan.planned.count?.saturating_add(1).saturating_sub(self.next);
        Some(Lag { records: Some(left), bytes: None })
    }

    fn size(&self) -> Option<Lag> {
        self.lag()
    }
}
