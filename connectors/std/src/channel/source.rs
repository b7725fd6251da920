//! The source at the other end of a channel.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use millstream_core::{
    Batch, Event, Form, Lag, Position, Read, Result, Resume, ShardKey, Source, SourceCapabilities, SourcePlan, Stamp,
};

use super::queue::{Queue, Taken};

/// Makes a batch of what was pushed.
pub(super) trait Assemble<I>: Send + Sync + 'static {
    /// The items as records of this shard with ascending sequences from the one given.
    fn batch(&self, shard: &ShardKey, sequence: u64, items: Vec<I>) -> Batch;
}

/// Plan and sources of a channel: when the last of them has gone, nobody will ever read.
struct Reading<I>(Arc<Queue<I>>);

impl<I> Drop for Reading<I> {
    fn drop(&mut self) {
        self.0.over();
    }
}

pub(super) struct ChannelPlan<I, A> {
    reading: Arc<Reading<I>>,
    assemble: Arc<A>,
    shard: ShardKey,
    form: Form,
}

impl<I, A> ChannelPlan<I, A> {
    pub(super) fn new(queue: Arc<Queue<I>>, assemble: A, stream: String, form: Form) -> Self {
        let reading = Arc::new(Reading(queue));
        ChannelPlan { reading, assemble: Arc::new(assemble), shard: ShardKey::new(stream, 0), form }
    }
}

impl<I, A> fmt::Debug for ChannelPlan<I, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelPlan").field("shard", &self.shard).finish_non_exhaustive()
    }
}

impl<I: Send + 'static, A: Assemble<I>> SourcePlan for ChannelPlan<I, A> {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities::ONCE
    }

    fn form(&self) -> Form {
        self.form
    }

    fn describe(&self) -> String {
        format!("the channel `{}`", self.shard.stream)
    }

    fn create(&self) -> Result<Box<dyn Source>> {
        let (reading, assemble, shard) = (self.reading.clone(), self.assemble.clone(), self.shard.clone());
        Ok(Box::new(ChannelSource { reading, assemble, shard }))
    }

    fn over(&self) {
        self.reading.0.over();
    }
}

struct ChannelSource<I, A> {
    reading: Arc<Reading<I>>,
    assemble: Arc<A>,
    shard: ShardKey,
}

#[async_trait]
impl<I: Send + 'static, A: Assemble<I>> Source for ChannelSource<I, A> {
    /// What a run of an earlier process was given is gone, but its sequences are not given again.
    async fn open(&mut self, resume: &Resume) -> Result<()> {
        let next = resume.position.as_ref().map(|position| position.shard(&self.shard)).transpose()?;
        self.reading.0.open(next.flatten());
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        let queue = &self.reading.0;
        loop {
            match queue.take() {
                // Nothing is awaited behind it.
                Taken::Items { sequence, items, awaited } => {
                    let batch = self.assemble.batch(&self.shard, sequence, items);
                    return Ok(Event::Batch(Read { batch, failed: Vec::new(), alone: awaited }));
                }
                Taken::End => return Ok(Event::End),
                Taken::Nothing => queue.arrived().await,
            }
        }
    }

    /// Behind what was handed over. Nobody can go back to it.
    fn position(&self) -> Result<Position> {
        let mut position = Position::default();
        position.set(self.shard.clone(), &self.reading.0.next())?;
        Ok(position)
    }

    async fn commit(&mut self, upto: &Position, stamp: Option<&Stamp>) -> Result<()> {
        if let Some(next) = upto.shard(&self.shard)? {
            self.reading.0.committed(next, stamp.map_or(0, |stamp| stamp.epoch));
        }
        Ok(())
    }

    fn shards(&self) -> Vec<ShardKey> {
        vec![self.shard.clone()]
    }

    fn lag(&self) -> Option<Lag> {
        Some(self.reading.0.lag())
    }
}
