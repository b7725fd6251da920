//! The partitions that are read, and where each stands.

use std::{collections::HashMap, sync::Arc};

use millstream_core::ShardKey;

use super::start::Begin;

/// A partition that is read.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) key: ShardKey,
    /// Behind the newest record that was taken.
    pub(super) next: i64,
    /// Records before this one are passed over.
    pub(super) skip_to: i64,
    /// Where to stop.
    pub(super) until: Option<i64>,
    pub(super) state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Active,
    /// It stands at `until`.
    Done,
    /// It is to be given away: no more of it is taken.
    Leaving,
    /// A batch of it came damaged: what is behind is not taken before that was read again.
    Damaged,
}

/// All of them, found by topic and partition without an allocation.
#[derive(Debug, Default)]
pub(super) struct Table {
    topics: HashMap<Arc<str>, HashMap<i32, usize>>,
    all: Vec<Option<Reading>>,
    /// A batch came damaged, and was not read again yet: what the client said of it.
    damaged: Option<String>,
}

impl Table {
    pub(super) fn insert(&mut self, begin: &Begin, until_end: bool) {
        let until = until_end.then_some(begin.end);
        let state = if until.is_some_and(|until| begin.offset >= until) { State::Done } else { State::Active };
        let reading = Reading { key: begin.shard.clone(), next: begin.offset, skip_to: begin.skip_to, until, state };
        let partition = i32::try_from(begin.shard.shard).unwrap_or(i32::MAX);
        let of_topic = self.topics.entry(begin.shard.stream.clone()).or_default();
        match of_topic.get(&partition).and_then(|&at| self.all.get_mut(at)) {
            Some(place) => *place = Some(reading),
            None => {
                of_topic.insert(partition, self.all.len());
                self.all.push(Some(reading));
            }
        }
    }

    pub(super) fn remove(&mut self, shard: &ShardKey) {
        if let Some(at) = i32::try_from(shard.shard).ok().and_then(|partition| self.find(&shard.stream, partition))
            && let Some(place) = self.all.get_mut(at)
        {
            // Its place is kept for when it comes back: indexes stay what they are.
            *place = None;
        }
    }

    /// The index of a partition, whether or not it is read now.
    pub(super) fn find(&self, topic: &str, partition: i32) -> Option<usize> {
        self.topics.get(topic)?.get(&partition).copied()
    }

    pub(super) fn at(&mut self, index: usize) -> Option<&mut Reading> {
        self.all.get_mut(index)?.as_mut()
    }

    pub(super) fn get(&mut self, shard: &ShardKey) -> Option<&mut Reading> {
        let index = self.find(&shard.stream, i32::try_from(shard.shard).ok()?)?;
        self.at(index)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Reading> {
        self.all.iter().flatten()
    }

    pub(super) fn len(&self) -> usize {
        self.iter().count()
    }

    /// A batch of a partition came damaged.
    pub(super) fn damage(&mut self, index: usize, said: String) {
        if let Some(reading) = self.at(index).filter(|reading| reading.state == State::Active) {
            reading.state = State::Damaged;
            self.damaged = Some(said);
        }
    }

    pub(super) fn damaged(&self) -> Option<&str> {
        self.damaged.as_deref()
    }

    /// What came damaged is read again from here on.
    pub(super) fn mend(&mut self) {
        self.damaged = None;
        let damaged = self.all.iter_mut().flatten().filter(|reading| reading.state == State::Damaged);
        damaged.for_each(|reading| reading.state = State::Active);
    }

    /// Whether there are some, and all stand at their end.
    pub(super) fn all_done(&self) -> bool {
        let mut all = self.iter().peekable();
        all.peek().is_some() && all.all(|reading| reading.state == State::Done)
    }
}
