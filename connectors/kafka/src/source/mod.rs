//! The source `kafka`: what the thread in `reader.rs` reads, in order.
//!
//! ```text
//!   broker ──► librdkafka's queue ──► Reader (its own thread) ──► Handover ──► KafkaSource::next
//!              (`prefetch` bytes)      batches, rebalances,       (4 MiB)
//!                                      commits, seeks
//! ```

mod acks;
mod assemble;
mod depth;
mod group;
mod handover;
pub(crate) mod owner;
mod places;
mod plan;
mod reader;
mod running;
mod scout;
mod settled;
mod shards;
mod start;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use millstream_core::{
    Batch, Companion, Error, ErrorKind, Event, Lag, Position, Result, Resume, SeekTo, ShardKey, Source, Stamp,
};
use rdkafka::consumer::Consumer as _;
use tokio::sync::oneshot;

pub(crate) use plan::{Planned, plan};

use self::{
    acks::Acks,
    handover::{Item, What},
    reader::Command,
    running::Running,
    start::partition_of,
};
use crate::{
    client::blocking,
    error::{gone, not_open},
    host::GroupCompanion,
    native,
};

/// A source as opened, or not yet.
pub(crate) struct KafkaSource {
    plan: Arc<Planned>,
    running: Option<Running>,
    /// Behind the last record of each shard that `next` has returned.
    positions: BTreeMap<ShardKey, i64>,
    /// Of the checkpoint, and not read here now: what it says stays true until the group gives us the shard.
    carried: Position,
    /// Records from begin to end, where it ends.
    size: Option<u64>,
    /// Where a program reads with a group: which records are done.
    acks: Option<Acks>,
}

impl KafkaSource {
    pub(crate) fn new(plan: Arc<Planned>) -> Self {
        KafkaSource {
            plan,
            running: None,
            positions: BTreeMap::new(),
            carried: Position::default(),
            size: None,
            acks: None,
        }
    }

    fn running(&self) -> Result<&Running> {
        self.running.as_ref().ok_or_else(not_open)
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        self.running()?.commands.send(command(answer)).map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    fn note(&mut self, marks: Vec<(ShardKey, Option<i64>)>) {
        for (shard, mark) in marks {
            match mark {
                Some(next) => {
                    self.carried.0.remove(&shard);
                    self.positions.insert(shard, next);
                }
                None => {
                    self.positions.remove(&shard);
                }
            }
        }
    }

    /// They are read from here; what was handed out before says nothing any more.
    fn note_begins(&mut self, marks: &[(ShardKey, Option<i64>)]) {
        if let Some(acks) = &mut self.acks {
            marks.iter().for_each(|(shard, mark)| mark.iter().for_each(|next| acks.begin(shard, *next)));
        }
    }

    fn forget(&mut self, shards: &[ShardKey]) {
        for shard in shards {
            self.positions.remove(shard);
            self.carried.0.remove(shard);
            self.acks.iter_mut().for_each(|acks| acks.end(shard));
        }
    }

    /// What an item says, if it says anything.
    fn event(&mut self, Item { what, marks }: Item) -> Option<Result<Event>> {
        if matches!(what, What::Added(_)) {
            self.note_begins(&marks);
        }
        self.note(marks);
        Some(Ok(match what {
            What::Read(read) if read.batch.is_empty() => return None,
            What::Read(read) => {
                self.acks.iter_mut().for_each(|acks| acks.hand(&read.batch));
                Event::Batch(read)
            }
            What::Added(shards) => Event::Added(shards),
            What::Leaving(shards) => Event::Leaving(shards),
            What::Lost(shards) => {
                self.forget(&shards);
                Event::Lost(shards)
            }
            What::Failed(error) => return Some(Err(error)),
            What::End => Event::End,
        }))
    }

    /// Opened again, a member of a group stays one: its partitions go back to where they are committed.
    async fn reopen(&mut self, resume: &Resume) -> Result<()> {
        let resume = resume.clone();
        self.carried = resume.position.clone().unwrap_or_default();
        let places = self.ask(|answer| Command::Reopen(Box::new(resume), answer)).await?;
        self.positions.clear();
        let marks: Vec<_> = places.into_iter().map(|(shard, next)| (shard, Some(next))).collect();
        self.note_begins(&marks);
        self.note(marks);
        Ok(())
    }
}

#[async_trait]
impl Source for KafkaSource {
    async fn open(&mut self, resume: &Resume) -> Result<()> {
        let grouped = self.plan.options.group.is_some();
        self.acks = (grouped && resume.stamp.is_none()).then(Acks::default);
        if grouped && self.running.is_some() {
            match self.reopen(resume).await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::debug!(error = %error.chain(), "joining anew"),
            }
        }
        if let Some(old) = self.running.take() {
            old.stop().await;
        }
        // A thread of this plan's that was dropped without being closed leaves its group first.
        self.plan.wait_for_last().await;
        (self.positions, self.carried) = (BTreeMap::new(), resume.position.clone().unwrap_or_default());
        let (plan, resume_here) = (self.plan.clone(), resume.clone());
        let started = blocking(move || running::connect(&plan, &resume_here)).await??;
        self.size = (resume.until_end && !grouped)
            .then(|| started.begins.iter().map(|begin| u64::try_from(begin.end - begin.offset).unwrap_or(0)).sum());
        for begin in &started.begins {
            self.carried.0.remove(&begin.shard);
            self.positions.insert(begin.shard.clone(), begin.offset);
        }
        if !grouped {
            // Partitions of topics that are no longer read.
            self.carried = Position::default();
        }
        self.running = Some(running::start(&self.plan, resume, started)?);
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        loop {
            let taken = self.running()?.handover.take().await;
            // From here on nothing waits: what was taken is returned.
            let item = taken.ok_or_else(gone)?;
            if let Some(event) = self.event(item) {
                return event;
            }
        }
    }

    async fn news(&mut self) -> Event {
        loop {
            let taken = match &self.running {
                Some(running) => running.handover.take_news().await,
                None => std::future::pending().await,
            };
            if let Some(Ok(event)) = self.event(taken) {
                return event;
            }
        }
    }

    fn position(&self) -> Result<Position> {
        let mut position = self.carried.clone();
        for (shard, next) in &self.positions {
            position.set(shard.clone(), next)?;
        }
        Ok(position)
    }

    async fn commit(&mut self, upto: &Position, stamp: Option<&Stamp>) -> Result<()> {
        if self.plan.options.group.is_none() {
            return Ok(());
        }
        let mut offsets = Vec::with_capacity(self.positions.len());
        for shard in self.positions.keys() {
            let upto = upto.shard::<i64>(shard)?;
            let done = match &mut self.acks {
                Some(acks) => acks.done_before(shard, upto),
                None => upto,
            };
            offsets.extend(done.map(|offset| (shard.clone(), offset)));
        }
        let stamp = stamp.cloned();
        self.ask(|answer| Command::Commit(offsets, stamp, answer)).await
    }

    async fn acknowledge(&mut self, records: &Batch) -> Result<()> {
        match &mut self.acks {
            Some(acks) => acks.done(records),
            None => {
                return Err(Error::new(ErrorKind::Unsupported, "only a group takes note of single records")
                    .hint("give `group`; in a pipeline positions are committed with epochs"));
            }
        }
        Ok(())
    }

    async fn seek(&mut self, to: &SeekTo, shards: Option<&[ShardKey]>) -> Result<()> {
        let (to, shards) = (to.clone(), shards.map(<[ShardKey]>::to_vec));
        let moved = self.ask(|answer| Command::Seek(to, shards, answer)).await?;
        let marks: Vec<_> = moved.read.into_iter().map(|(shard, offset)| (shard, Some(offset))).collect();
        self.note_begins(&marks);
        self.note(marks);
        if self.acks.is_none() {
            // Saved with the next checkpoint: what was sought outlives a crash before the group gives the partitions.
            for (shard, offset) in moved.awaited {
                self.carried.set(shard, &offset)?;
            }
        }
        Ok(())
    }

    fn shards(&self) -> Vec<ShardKey> {
        self.positions.keys().cloned().collect()
    }

    fn lag(&self) -> Option<Lag> {
        let consumer = self.running.as_ref()?.consumer.upgrade()?;
        let depth = &self.running.as_ref()?.depth;
        let behind = self.positions.iter().map(|(shard, next)| {
            let (topic, partition) = partition_of(shard);
            // The one comes with records; the other is asked for, also while none come.
            let end = native::watermarks(&consumer, &topic, partition).map(|(_, end)| end).max(depth.end(shard))?;
            Some(u64::try_from(end - next).unwrap_or(0))
        });
        Some(Lag { records: behind.sum(), bytes: None })
    }

    fn size(&self) -> Option<Lag> {
        self.size.map(|records| Lag { records: Some(records), bytes: None })
    }

    async fn release(&mut self, shards: &[ShardKey]) -> Result<()> {
        let leaving = shards.to_vec();
        self.ask(|answer| Command::Release(leaving, answer)).await?;
        self.forget(shards);
        Ok(())
    }

    fn companion(&self) -> Option<Companion> {
        self.plan.options.group.as_ref()?;
        let running = self.running.as_ref()?;
        let offsets = self.positions.iter().map(|(shard, next)| (partition_of(shard), *next)).collect();
        let member = running.consumer.upgrade().and_then(|consumer| consumer.group_metadata());
        // A member of the next generation may not commit what it had in the last one. What has gone is told before the group gets
        // to know it, and so before there is a next one.
        let member = member.filter(|_| !running.handover.has_gone()).map(Arc::new);
        Some(Arc::new(GroupCompanion { cluster: self.plan.address.cluster(), offsets, member }))
    }

    async fn close(&mut self) -> Result<()> {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
        Ok(())
    }
}
