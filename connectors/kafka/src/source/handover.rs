//! What the reading thread hands over to the source: a queue bounded in bytes.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, PoisonError},
    time::Duration,
};

use millstream_core::{Batch, Error, Read, ShardKey};
use tokio::sync::Notify;

use crate::context::lock;

/// Bytes of records that wait here; what is read further ahead stays in librdkafka's queue, which `prefetch` bounds. A few
/// batches, so that neither side waits for the other's turn.
const BYTES_MAX: usize = 4 << 20;

/// What the source says next.
#[derive(Debug)]
pub(super) enum What {
    Read(Read),
    Added(Vec<ShardKey>),
    Leaving(Vec<ShardKey>),
    Lost(Vec<ShardKey>),
    Failed(Error),
    End,
}

/// That, and where shards stand behind it; without an offset they are no longer read.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) what: What,
    pub(super) marks: Vec<(ShardKey, Option<i64>)>,
}

impl Item {
    fn bytes(&self) -> usize {
        match &self.what {
            What::Read(read) => read.batch.size(),
            _ => 0,
        }
    }
}

#[derive(Default)]
pub(super) struct Handover {
    queue: Mutex<Queue>,
    /// Told to the one who takes.
    filled: Notify,
    /// Told to the one who fills.
    room: Condvar,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    /// Nobody fills it any more.
    ended: bool,
}

impl Queue {
    /// Takes what waits of shards out of the oldest `count` items: what is behind came after they had come back.
    fn forget(&mut self, shards: &[ShardKey], count: usize) {
        for item in self.items.iter_mut().take(count) {
            item.marks.retain(|(shard, _)| !shards.contains(shard));
            if let What::Read(read) = &mut item.what {
                *read = without(read, shards);
            }
        }
        self.items
            .retain(|item| !matches!(&item.what, What::Read(read) if read.batch.is_empty()) || !item.marks.is_empty());
        self.bytes = self.items.iter().map(Item::bytes).sum();
    }
}

impl Handover {
    pub(super) fn push(&self, item: Item) {
        let mut queue = lock(&self.queue);
        queue.bytes += item.bytes();
        queue.items.push_back(item);
        drop(queue);
        self.filled.notify_one();
    }

    /// Whether there is room, after waiting for some.
    pub(super) fn has_room(&self, wait: Duration) -> bool {
        let queue = lock(&self.queue);
        let full = |queue: &mut Queue| queue.bytes >= BYTES_MAX;
        let waited = self.room.wait_timeout_while(queue, wait, full).unwrap_or_else(PoisonError::into_inner);
        !waited.1.timed_out() || waited.0.bytes < BYTES_MAX
    }

    /// There will be more records after all: an end that nobody has taken yet is none.
    pub(super) fn forget_end(&self) {
        lock(&self.queue).items.retain(|item| !matches!(item.what, What::End));
    }

    /// Whether everything has been taken.
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.queue).items.is_empty()
    }

    /// Whether shards that have gone are not taken note of yet.
    pub(super) fn has_gone(&self) -> bool {
        let gone =
            |item: &Item| matches!(item.what, What::Lost(_)) || item.marks.iter().any(|(_, mark)| mark.is_none());
        lock(&self.queue).items.iter().any(gone)
    }

    /// The oldest item; `None` when no more will come. Cancel-safe.
    pub(super) async fn take(&self) -> Option<Item> {
        loop {
            {
                let mut queue = lock(&self.queue);
                if let Some(item) = queue.items.pop_front() {
                    queue.bytes -= item.bytes();
                    self.room.notify_one();
                    return Some(item);
                }
                if queue.ended {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }

    /// The oldest item that says which shards are read, past records; waits for ever when no more will come. Of shards that
    /// go no records follow. Cancel-safe.
    pub(super) async fn take_news(&self) -> Item {
        loop {
            {
                let mut queue = lock(&self.queue);
                let news = |item: &Item| matches!(item.what, What::Added(_) | What::Leaving(_) | What::Lost(_));
                let found = queue.items.iter().position(news);
                if let Some((at, item)) = found.and_then(|at| Some((at, queue.items.remove(at)?))) {
                    if let What::Leaving(shards) | What::Lost(shards) = &item.what {
                        queue.forget(shards, at);
                        self.room.notify_one();
                    }
                    return item;
                }
            }
            self.filled.notified().await;
        }
    }

    /// Takes out what waits of these shards: they go elsewhere.
    pub(super) fn forget(&self, shards: &[ShardKey]) {
        lock(&self.queue).forget(shards, usize::MAX);
        self.room.notify_one();
    }

    /// Takes out everything.
    pub(super) fn clear(&self) {
        let mut queue = lock(&self.queue);
        (queue.items, queue.bytes) = (VecDeque::new(), 0);
        self.room.notify_one();
    }

    /// Says that nobody fills it any more.
    pub(super) fn end(&self) {
        lock(&self.queue).ended = true;
        self.filled.notify_one();
    }
}

/// The records of other shards, and which of those are at fault.
fn without(read: &Read, shards: &[ShardKey]) -> Read {
    let batch: &Batch = &read.batch;
    let kept: Vec<u32> =
        (0..batch.len()).filter(|&i| !shards.contains(batch.get(i).origin())).map(|i| i as u32).collect();
    if kept.len() == batch.len() {
        return Read { batch: batch.clone(), failed: read.failed.clone(), alone: read.alone };
    }
    let failed =
        read.failed.iter().filter_map(|(row, error)| Some((kept.binary_search(row).ok()? as u32, error.clone())));
    Read::new(batch.select(kept.clone()), failed.collect())
}

#[cfg(test)]
mod tests {
    use millstream_core::{BatchBuilder, Record};

    use super::*;

    fn read(shard: &ShardKey, value: &str) -> Item {
        let mut builder = BatchBuilder::new();
        builder.push(&Record { origin: shard.clone(), ..Record::new("t", value.to_owned()) });
        Item { what: What::Read(Read::new(builder.finish(), Vec::new())), marks: vec![(shard.clone(), Some(1))] }
    }

    #[tokio::test]
    async fn what_comes_after_a_lost_shard_has_come_back_is_kept() {
        let (handover, shard) = (Handover::default(), ShardKey::new("t", 0));
        handover.push(read(&shard, "before"));
        handover.push(Item { what: What::Lost(vec![shard.clone()]), marks: Vec::new() });
        let marks = vec![(shard.clone(), Some(0))];
        handover.push(Item { what: What::Added(vec![shard.clone()]), marks: marks.clone() });
        handover.push(read(&shard, "after"));
        assert!(matches!(handover.take_news().await.what, What::Lost(_)));
        let added = handover.take().await.unwrap();
        assert!(matches!(added.what, What::Added(_)));
        assert_eq!(added.marks, marks);
        let Item { what: What::Read(read), .. } = handover.take().await.unwrap() else { panic!("records") };
        assert_eq!(read.batch.get(0).to_record().value.as_deref(), Some(&b"after"[..]));
        assert!(handover.is_empty());
    }
}
