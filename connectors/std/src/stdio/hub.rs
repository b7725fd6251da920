//! Who gets which record: the consumers of one input.
//!
//! ```text
//!   input ─► reading thread ─┐               ┌─► queue ─► source          (no group: every record it asks for)
//!                            ├─► deliver ────┤
//!   loopback: sinks ─────────┘               └─► queue ─► source, source  (a group: record by record in turn)
//! ```
//!
//! Queues are bounded, and a full one is waited for: the slowest consumer sets the pace. Nothing is read as long as no
//! consumer is open, and nothing is thrown away for want of one.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::Poll,
};

use millstream_codec::log::BROADCAST;
use millstream_core::{Error, Read, Result, Shards};
use tokio::sync::Notify;

/// Batches that may wait for one consumer; each is about 1 MiB or 4096 records at most.
const BATCHES_MAX: usize = 8;

/// What waits in a consumer's queue.
pub(super) type Item = Result<Read>;

/// What the reading thread, the sources and the sinks share. Its lock is taken once a batch on each side.
#[derive(Debug, Default)]
pub(super) struct Hub {
    state: Mutex<State>,
    /// For who delivers: a consumer has come or gone or has room again. One for threads, one for tasks.
    changed: Condvar,
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    consumers: Vec<Consumer>,
    /// Grows with each change of the consumers.
    version: u64,
    next_id: u64,
    /// Whose turn it is in each group.
    turns: HashMap<Arc<str>, usize>,
    /// What the last member of a group has left behind for whoever comes. Bounded by what a member can hold.
    left: HashMap<Arc<str>, Vec<Item>>,
    /// Consumers that were opened at least once: reading has begun.
    opened: bool,
    /// No more consumers can come: reading ends.
    abandoned: bool,
    /// No more records come from the input.
    input_ended: bool,
    /// No more records come from anywhere.
    ended: bool,
    loopback: bool,
    producers: usize,
    producers_ever: bool,
}

#[derive(Debug)]
struct Consumer {
    id: u64,
    streams: Vec<String>,
    group: Option<Arc<str>>,
    items: VecDeque<Item>,
    /// There are items, or there will be none.
    news: Arc<Notify>,
}

impl Consumer {
    fn wants(&self, stream: &str) -> bool {
        self.streams.is_empty() || stream == BROADCAST || self.streams.iter().any(|asked| asked == stream)
    }

    /// Whether it may get some of a delivery.
    fn wants_some(&self, item: &Item) -> bool {
        match item {
            Ok(read) => match &read.batch.envelope().0.shards {
                Shards::Same(shard) => self.wants(&shard.stream),
                Shards::Each(..) => read.batch.iter().any(|record| self.wants(&record.origin().stream)),
            },
            Err(_) => true,
        }
    }

    fn push(&mut self, item: Item) {
        self.items.push_back(item);
        self.news.notify_one();
    }
}

/// The streams that consumers ask for.
pub(super) struct Asked {
    pub(super) version: u64,
    pub(super) streams: Vec<String>,
}

impl Hub {
    pub(super) fn new(loopback: bool) -> Self {
        let hub = Hub::default();
        hub.lock().loopback = loopback;
        hub
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics while it holds the lock; if it did, the state would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells who delivers to look again.
    fn tell_deliverers(&self) {
        self.changed.notify_all();
        self.room.notify_waiters();
    }

    /// Adds a consumer: its number, and what tells it to call [`Hub::take`] again.
    pub(super) fn subscribe(&self, streams: Vec<String>, group: Option<String>) -> (u64, Arc<Notify>) {
        let (mut state, news) = (self.lock(), Arc::new(Notify::new()));
        let id = state.next_id;
        state.next_id += 1;
        let group: Option<Arc<str>> = group.map(Arc::from);
        let consumer = Consumer { id, streams, group: group.clone(), items: VecDeque::new(), news: news.clone() };
        state.consumers.push(consumer);
        state.version += 1;
        if let Some(group) = group {
            let left = state.left.remove(&group).unwrap_or_default();
            state.share_all(&group, left);
        }
        self.tell_deliverers();
        (id, news)
    }

    pub(super) fn unsubscribe(&self, id: u64) {
        self.lock().remove(id);
        self.tell_deliverers();
    }

    /// A member of a group has gone: the others take over `items`, which it had taken, and what it was still to get.
    pub(super) fn hand_on(&self, id: u64, group: &str, mut items: Vec<Item>) {
        let mut state = self.lock();
        items.extend(state.remove(id).into_iter().flat_map(|gone| gone.items));
        state.share_all(&Arc::from(group), items);
        drop(state);
        self.tell_deliverers();
    }

    /// The next item of a consumer; `None` where no more will come. Pending: it is told when to look again.
    pub(super) fn take(&self, id: u64) -> Poll<Option<Item>> {
        let mut state = self.lock();
        let ended = state.ended;
        let Some(consumer) = state.consumers.iter_mut().find(|consumer| consumer.id == id) else {
            return Poll::Ready(None);
        };
        let was_full = consumer.items.len() >= BATCHES_MAX;
        let item = consumer.items.pop_front();
        drop(state);
        if was_full {
            self.tell_deliverers();
        }
        if item.is_none() && !ended { Poll::Pending } else { Poll::Ready(item) }
    }

    /// A consumer is open. `true`: it is the first one, reading must begin.
    pub(super) fn opened(&self) -> bool {
        !std::mem::replace(&mut self.lock().opened, true)
    }

    /// No handle is left.
    pub(super) fn abandon(&self) {
        self.lock().abandoned = true;
        self.tell_deliverers();
    }

    /// The input is at its end.
    pub(super) fn end_input(&self) {
        let mut state = self.lock();
        state.input_ended = true;
        state.end_if_done();
    }

    /// Every consumer ends behind what it has been given.
    pub(super) fn end(&self) {
        self.lock().end();
        self.tell_deliverers();
    }

    pub(super) fn add_producer(&self) {
        let mut state = self.lock();
        state.producers += 1;
        state.producers_ever = true;
    }

    pub(super) fn remove_producer(&self) {
        let mut state = self.lock();
        state.producers = state.producers.saturating_sub(1);
        state.end_if_done();
    }

    pub(super) fn loopback(&self) -> bool {
        self.lock().loopback
    }

    /// The streams asked for, if that has changed since `version`.
    pub(super) fn asked(&self, version: Option<u64>) -> Option<Asked> {
        let state = self.lock();
        (version != Some(state.version)).then(|| Asked {
            version: state.version,
            streams: state.consumers.iter().flat_map(|consumer| consumer.streams.iter().cloned()).collect(),
        })
    }

    /// Delivers from the reading thread, when all have room. Waits for a consumer if there is none; `false`: there will never
    /// be one.
    pub(super) fn deliver_blocking(&self, item: Item) -> bool {
        let mut state = self.lock();
        while !state.abandoned && !state.ended {
            if !state.consumers.is_empty() && state.has_room(&item) {
                state.give(&item);
                return true;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        false
    }

    /// Delivers what a sink has written, when all have room.
    pub(super) async fn deliver(&self, read: Read) {
        let item = Ok(read);
        loop {
            let room = self.room.notified();
            {
                let mut state = self.lock();
                if state.ended || state.has_room(&item) {
                    return state.give(&item);
                }
            }
            room.await;
        }
    }
}

impl State {
    fn remove(&mut self, id: u64) -> Option<Consumer> {
        let at = self.consumers.iter().position(|consumer| consumer.id == id)?;
        self.version += 1;
        Some(self.consumers.remove(at))
    }

    fn end(&mut self) {
        self.ended = true;
        self.consumers.iter().for_each(|consumer| consumer.news.notify_one());
    }

    /// Without loopback the input's end is the end; with it, also the last producer's.
    fn end_if_done(&mut self) {
        if self.input_ended && (!self.loopback || (self.producers_ever && self.producers == 0)) {
            self.end();
        }
    }

    fn has_room(&self, item: &Item) -> bool {
        self.consumers.iter().all(|consumer| consumer.items.len() < BATCHES_MAX || !consumer.wants_some(item))
    }

    /// Everybody gets of a delivery what is for them, until the end.
    fn give(&mut self, item: &Item) {
        if self.ended {
            return;
        }
        for at in 0..self.consumers.len() {
            match self.consumers[at].group.clone() {
                None => {
                    if let Some(item) = wanted(&self.consumers[at], item) {
                        self.consumers[at].push(item);
                    }
                }
                // Once for each group: with its first member.
                Some(group) if self.members(&group).next() == Some(at) => drop(self.share(&group, item)),
                Some(_) => {}
            }
        }
    }

    /// The places of the members of a group.
    fn members<'a>(&'a self, group: &'a Arc<str>) -> impl Iterator<Item = usize> + 'a {
        let places = self.consumers.iter().enumerate();
        places.filter(move |(_, consumer)| consumer.group.as_ref() == Some(group)).map(|(at, _)| at)
    }

    /// Deals out what was left behind in a group, whether there is room or not; what nobody is there for waits.
    fn share_all(&mut self, group: &Arc<str>, items: Vec<Item>) {
        let waiting: Vec<Item> = items.into_iter().filter(|item| !self.share(group, item)).collect();
        if !waiting.is_empty() {
            self.left.entry(group.clone()).or_default().extend(waiting);
        }
    }

    /// Deals records out to the members of a group in turn. `false`: there is nobody for any of them.
    fn share(&mut self, group: &Arc<str>, item: &Item) -> bool {
        let members: Vec<usize> = self.members(group).collect();
        let read = match (item, &members[..]) {
            (_, []) => return false,
            (Ok(read), [_, _, ..]) => read,
            // An error is for one of them.
            (_, [only, ..]) => {
                let wanted = wanted(&self.consumers[*only], item);
                let some = wanted.is_some();
                wanted.into_iter().for_each(|item| self.consumers[*only].push(item));
                return some;
            }
        };
        let turn = self.turns.entry(group.clone()).or_default();
        let mut picks = vec![Vec::new(); members.len()];
        for (i, record) in read.batch.iter().enumerate() {
            let stream = &record.origin().stream;
            let mut in_turn = (0..members.len()).map(|k| (*turn + k) % members.len());
            if let Some(next) = in_turn.find(|k| self.consumers[members[*k]].wants(stream)) {
                picks[next].push(i as u32);
                *turn = next + 1;
            }
        }
        let mut taken = false;
        for (member, picks) in members.into_iter().zip(picks).filter(|(_, picks)| !picks.is_empty()) {
            self.consumers[member].push(Ok(pick(read, picks)));
            taken = true;
        }
        taken
    }
}

/// The part of a delivery that a consumer asks for.
fn wanted(consumer: &Consumer, item: &Item) -> Option<Item> {
    let read = match item {
        Ok(read) => read,
        Err(error) => return Some(Err(Error::clone(error))),
    };
    let all = match &read.batch.envelope().0.shards {
        _ if consumer.streams.is_empty() => true,
        Shards::Same(shard) if consumer.wants(&shard.stream) => true,
        Shards::Same(_) => return None,
        Shards::Each(..) => false,
    };
    if all {
        return Some(Ok(Read::new(read.batch.clone(), read.failed.clone())));
    }
    let picks: Vec<u32> = (0..read.batch.len())
        .filter(|i| consumer.wants(&read.batch.get(*i).origin().stream))
        .map(|i| i as u32)
        .collect();
    (!picks.is_empty()).then(|| Ok(pick(read, picks)))
}

/// Some of the records, with their errors. `picks` ascends.
fn pick(read: &Read, picks: Vec<u32>) -> Read {
    let at = |row: &u32| picks.binary_search(row).ok().map(|at| at as u32);
    let failed = read.failed.iter().filter_map(|(row, error)| Some((at(row)?, error.clone()))).collect();
    Read::new(read.batch.select(picks), failed)
}
