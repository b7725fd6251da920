//! A member of a fake group.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use millstream_core::{
    BatchBuilder, Companion, Error, ErrorKind, Event, Position, Result, Resume, ShardKey, Source, Stamp,
};
use tokio::time::Instant;

use crate::{
    FakeGroup,
    group::{News, Offsets, State},
};

pub(crate) struct Member {
    group: FakeGroup,
    /// How far each of our shards has been read.
    next: BTreeMap<ShardKey, usize>,
    /// Shards of which no more is read.
    leaving: BTreeSet<ShardKey>,
    turn: usize,
    /// A host takes our offsets: they need not be committed again.
    accompanies: AtomicBool,
}

impl Member {
    pub(crate) fn new(group: FakeGroup) -> Self {
        Member { group, next: BTreeMap::new(), leaving: BTreeSet::new(), turn: 0, accompanies: AtomicBool::new(false) }
    }

    fn heard(&mut self, news: News) -> Event {
        match &news {
            News::Added(shards) => {
                let state = self.group.shared.lock();
                for shard in shards {
                    let next = state.offsets.get(shard).map_or(0, |(next, _)| *next);
                    self.next.insert(shard.clone(), next);
                    self.leaving.remove(shard);
                }
            }
            News::Leaving(shards) => self.leaving.extend(shards.iter().cloned()),
            News::Lost(shards) => self.next.retain(|shard, _| !shards.contains(shard)),
        }
        news.into()
    }

    /// Records of one shard; shards take turns.
    fn read(&mut self, state: &State) -> Option<Event> {
        let shards: Vec<ShardKey> = self.next.keys().filter(|shard| !self.leaving.contains(*shard)).cloned().collect();
        for shard in (0..shards.len()).map(|i| &shards[(self.turn + i) % shards.len()]) {
            let (Some(next), Some(records)) = (self.next.get_mut(shard), state.records.get(shard)) else { continue };
            let end = records.len().min(*next + self.group.batch);
            if *next < end {
                let mut builder = BatchBuilder::new();
                records[*next..end].iter().for_each(|record| builder.push(record));
                *next = end;
                self.turn += 1;
                return Some(Event::Batch(builder.finish().into()));
            }
        }
        None
    }
}

/// Where a shard begins: the group's offset wins, unless our own pipeline has set it and our checkpoint knows that epoch.
fn begin(state: &State, shard: &ShardKey, resume: &Resume) -> Result<usize> {
    let saved = resume.position.as_ref().map(|position| position.shard::<usize>(shard)).transpose()?.flatten();
    let Some((offset, by)) = state.offsets.get(shard) else { return Ok(saved.unwrap_or(0)) };
    let ours = by.as_ref().zip(resume.stamp.as_ref()).filter(|(by, stamp)| by.pipeline == stamp.pipeline);
    match ours {
        Some((by, stamp)) if by.store_id == stamp.store_id && by.epoch <= stamp.epoch => Ok(saved.unwrap_or(*offset)),
        Some(_) if resume.keyed => Err(Error::new(
            ErrorKind::StateMismatch,
            format!("cannot read {shard}: the group's offset is of an epoch that our state does not have"),
        )),
        _ => Ok(*offset),
    }
}

#[async_trait]
impl Source for Member {
    async fn open(&mut self, resume: &Resume) -> Result<()> {
        let mut state = self.group.shared.lock();
        state.opened += 1;
        state.resumed = resume.position.iter().flat_map(|position| position.0.keys().cloned()).collect();
        if !state.open_failures.is_empty() {
            return Err(state.open_failures.remove(0));
        }
        self.leaving.clear();
        // All that counts is in what is assigned now, but for shards that were asked for: the answer is still to come.
        state.news.clear();
        if !state.asked.is_empty() {
            let asked = state.asked.iter().cloned().collect();
            state.news.push_back(News::Leaving(asked));
        }
        let shards = state.assigned.iter().cloned();
        self.next = shards.map(|shard| Ok((shard.clone(), begin(&state, &shard, resume)?))).collect::<Result<_>>()?;
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        let shared = self.group.shared.clone();
        loop {
            let changed = shared.changed.notified();
            let news = shared.lock().news.pop_front();
            if let Some(news) = news {
                return Ok(self.heard(news));
            }
            {
                let state = shared.lock();
                if let Some(read) = self.read(&state) {
                    return Ok(read);
                }
                if state.ended {
                    return Ok(Event::End);
                }
            }
            changed.await;
        }
    }

    async fn news(&mut self) -> Event {
        let shared = self.group.shared.clone();
        loop {
            let changed = shared.changed.notified();
            let news = shared.lock().news.pop_front();
            if let Some(news) = news {
                return self.heard(news);
            }
            changed.await;
        }
    }

    fn position(&self) -> Result<Position> {
        let mut position = Position::default();
        self.next.iter().try_for_each(|(shard, next)| position.set(shard.clone(), next))?;
        Ok(position)
    }

    async fn commit(&mut self, upto: &Position, stamp: Option<&Stamp>) -> Result<()> {
        let mut state = self.group.shared.lock();
        for shard in upto.0.keys() {
            let Some(next) = upto.shard::<usize>(shard)? else { continue };
            if !state.assigned.contains(shard) {
                return Err(state.violated(format!("{shard} was committed, and belongs to another member")));
            }
            if self.accompanies.load(Ordering::Relaxed) {
                continue;
            }
            state.offsets.insert(shard.clone(), (next, stamp.cloned()));
        }
        Ok(())
    }

    fn shards(&self) -> Vec<ShardKey> {
        self.next.keys().cloned().collect()
    }

    async fn release(&mut self, shards: &[ShardKey]) -> Result<()> {
        let mut state = self.group.shared.lock();
        for shard in shards {
            let read = self.next.remove(shard);
            let committed = state.offsets.get(shard).map(|(next, _)| *next);
            if read.unwrap_or(0) != committed.unwrap_or(0) {
                return Err(state.violated(format!("{shard} was released before what was read of it counts")));
            }
            state.assigned.remove(shard);
            state.asked.remove(shard);
            state.released.push(shard.clone());
        }
        Ok(())
    }

    async fn keep_alive(&mut self) -> Result<()> {
        self.group.shared.lock().renewed.push(Instant::now());
        Ok(())
    }

    fn companion(&self) -> Option<Companion> {
        self.accompanies.store(true, Ordering::Relaxed);
        let offsets = Offsets { group: self.group.shared.clone(), offsets: self.next.clone() };
        Some(Arc::new(offsets))
    }
}
