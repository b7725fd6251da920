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
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use millstream_codec::log::BROADCAST;
use millstream_core::{Error, Read, Result, Shards};
use tokio::sync::mpsc;

/// Batches that may wait for one consumer; each is about 1 MiB or 4096 records at most.
const BATCHES_MAX: usize = 8;

/// What waits in a consumer's queue.
pub(super) type Item = Result<Read>;

/// What the reading thread, the sources and the sinks share.
#[derive(Debug, Default)]
pub(super) struct Hub {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    consumers: Arc<Vec<Consumer>>,
    /// Grows with each change of the consumers.
    version: u64,
    next_id: u64,
    /// Whose turn it is in each group.
    turns: HashMap<Arc<str>, usize>,
    /// What members of a group have left behind for whoever comes, or for when the others have room. Bounded by what a
    /// member can hold.
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

#[derive(Clone, Debug)]
struct Consumer {
    id: u64,
    streams: Arc<[String]>,
    group: Option<Arc<str>>,
    queue: mpsc::Sender<Item>,
}

impl Consumer {
    fn wants(&self, stream: &str) -> bool {
        self.streams.is_empty() || stream == BROADCAST || self.streams.iter().any(|asked| asked == stream)
    }
}

/// The streams that consumers ask for.
pub(super) struct Asked {
    pub(super) version: u64,
    pub(super) streams: Vec<String>,
}

/// One delivery: into whose queue.
type Send = (Consumer, Item);

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

    /// Adds a consumer: its number and its queue.
    pub(super) fn subscribe(&self, streams: Vec<String>, group: Option<String>) -> (u64, mpsc::Receiver<Item>) {
        let (queue, items) = mpsc::channel(BATCHES_MAX);
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        if !state.ended {
            let group: Option<Arc<str>> = group.map(Arc::from);
            let consumer = Consumer { id, streams: streams.into(), group: group.clone(), queue };
            Arc::make_mut(&mut state.consumers).push(consumer);
            if let Some(group) = group {
                state.share_left(&group);
            }
            state.version += 1;
            self.changed.notify_all();
        }
        (id, items)
    }

    pub(super) fn unsubscribe(&self, id: u64) {
        let mut state = self.lock();
        Arc::make_mut(&mut state.consumers).retain(|consumer| consumer.id != id);
        state.version += 1;
    }

    /// A member of a group has gone: the others take over what it was given and did not use.
    pub(super) fn hand_on(&self, id: u64, group: &str, items: Vec<Item>) {
        self.unsubscribe(id);
        let (mut state, group) = (self.lock(), Arc::from(group));
        state.left.entry(Arc::clone(&group)).or_default().extend(items);
        state.share_left(&group);
    }

    /// A consumer is open. `true`: it is the first one, reading must begin.
    pub(super) fn opened(&self) -> bool {
        !std::mem::replace(&mut self.lock().opened, true)
    }

    /// No handle is left.
    pub(super) fn abandon(&self) {
        self.lock().abandoned = true;
        self.changed.notify_all();
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

    /// Delivers from the reading thread. Waits for a consumer if there is none; `false`: there will never be one.
    pub(super) fn deliver_blocking(&self, item: Item) -> bool {
        {
            let mut state = self.lock();
            while state.consumers.is_empty() && !state.abandoned && !state.ended {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.abandoned || state.ended {
                return false;
            }
        }
        let mut sends = self.route(item);
        while let Some((consumer, item)) = sends.pop() {
            if let Err(mpsc::error::SendError(item)) = consumer.queue.blocking_send(item) {
                sends.extend(self.reroute(&consumer, item));
            }
        }
        true
    }

    /// Delivers what a sink has written.
    pub(super) async fn deliver(&self, read: Read) {
        let mut sends = self.route(Ok(read));
        while let Some((consumer, item)) = sends.pop() {
            if let Err(mpsc::error::SendError(item)) = consumer.queue.send(item).await {
                sends.extend(self.reroute(&consumer, item));
            }
        }
    }

    /// A consumer has gone: the others of its group take over what it was to get.
    fn reroute(&self, gone: &Consumer, item: Item) -> Vec<Send> {
        self.unsubscribe(gone.id);
        match &gone.group {
            Some(group) => {
                let mut state = self.lock();
                let members = members(&state.consumers, group);
                state.share(group, &members, &item)
            }
            None => Vec::new(),
        }
    }

    fn route(&self, item: Item) -> Vec<Send> {
        let mut state = self.lock();
        let waiting: Vec<_> = state.left.keys().cloned().collect();
        waiting.iter().for_each(|group| state.share_left(group));
        let consumers = state.consumers.clone();
        if let [only] = consumers.as_slice()
            && only.streams.is_empty()
        {
            return vec![(only.clone(), item)];
        }
        let mut sends = Vec::new();
        for (i, consumer) in consumers.iter().enumerate() {
            match &consumer.group {
                None => sends.extend(wanted(consumer, &item).map(|item| (consumer.clone(), item))),
                Some(group) => {
                    let members = members(&consumers, group);
                    // Once for each group: with its first member.
                    if consumers.iter().position(|other| other.group == consumer.group) == Some(i) {
                        sends.extend(state.share(group, &members, &item));
                    }
                }
            }
        }
        sends
    }
}

impl State {
    fn end(&mut self) {
        self.ended = true;
        self.consumers = Arc::default();
        self.version += 1;
    }

    /// Without loopback the input's end is the end; with it, also the last producer's.
    fn end_if_done(&mut self) {
        if self.input_ended && (!self.loopback || (self.producers_ever && self.producers == 0)) {
            self.end();
        }
    }

    /// Deals out what members of a group have left behind, as far as there is room now.
    fn share_left(&mut self, group: &Arc<str>) {
        let members = members(&self.consumers, group);
        let items = self.left.remove(group).unwrap_or_default();
        let mut left = Vec::new();
        for item in items {
            let sends = if members.is_empty() { Vec::new() } else { self.share(group, &members, &item) };
            if sends.is_empty() {
                left.push(item);
            }
            for (member, item) in sends {
                let sent = member.queue.try_send(item);
                left.extend(sent.err().map(mpsc::error::TrySendError::into_inner));
            }
        }
        if !left.is_empty() {
            self.left.insert(group.clone(), left);
        }
    }

    /// Deals records out to the members of a group in turn.
    fn share(&mut self, group: &Arc<str>, members: &[Consumer], item: &Item) -> Vec<Send> {
        let turn = self.turns.entry(group.clone()).or_default();
        let read = match item {
            Ok(read) => read,
            Err(error) => {
                return members.first().map(|first| (first.clone(), Err(error.clone()))).into_iter().collect();
            }
        };
        let mut picks = vec![Vec::new(); members.len()];
        for (i, record) in read.batch.iter().enumerate() {
            let stream = &record.origin().stream;
            let next = (0..members.len()).map(|k| (*turn + k) % members.len()).find(|k| members[*k].wants(stream));
            if let Some(next) = next {
                picks[next].push(i as u32);
                *turn = next + 1;
            }
        }
        let dealt = members.iter().zip(picks).filter(|(_, picks)| !picks.is_empty());
        dealt.map(|(member, picks)| (member.clone(), Ok(pick(read, picks)))).collect()
    }
}

fn members(consumers: &[Consumer], group: &Arc<str>) -> Vec<Consumer> {
    consumers.iter().filter(|consumer| consumer.group.as_ref() == Some(group)).cloned().collect()
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
