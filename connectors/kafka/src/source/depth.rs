//! How much there is to read: where partitions end, as their brokers say now and then, less where we stand.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use millstream_core::ShardKey;
use rdkafka::Offset;

use super::{reader::Reader, start::partition_of};
use crate::{client::list_of, context::lock, native};

/// How old an end may be: as often as people look at it.
const EVERY: Duration = Duration::from_secs(2);

/// The ends of the partitions that are read. Shared between the source and the thread that asks for them.
#[derive(Clone, Debug, Default)]
pub(super) struct Depth(Arc<Mutex<BTreeMap<ShardKey, i64>>>);

impl Depth {
    /// A partition ends here.
    pub(super) fn note(&self, shard: &ShardKey, end: i64) {
        lock(&self.0).insert(shard.clone(), end);
    }

    pub(super) fn end(&self, shard: &ShardKey) -> Option<i64> {
        lock(&self.0).get(shard).copied()
    }
}

/// Asks for the ends from time to time.
pub(super) struct Sounder {
    pub(super) ends: native::Ends,
    pub(super) depth: Depth,
    pub(super) ask_at: Instant,
}

impl Sounder {
    pub(super) fn new(ends: native::Ends) -> Self {
        Sounder { ends, depth: Depth::default(), ask_at: Instant::now() + EVERY }
    }
}

impl Reader {
    /// Takes the answer to the last question, and asks again when it is time. Waits for nothing; what cannot be asked now is
    /// asked later.
    pub(super) fn sound(&mut self) {
        let Reader { sounder: Sounder { ends, depth, ask_at }, table, cluster, .. } = self;
        if let Some(answer) = ends.answer() {
            let mut all = lock(&depth.0);
            all.retain(|shard, _| table.get(shard).is_some());
            all.extend(answer.into_iter().filter(|(shard, _)| table.get(shard).is_some()));
        }
        if ends.is_asked() || *ask_at > Instant::now() {
            return;
        }
        *ask_at = Instant::now() + EVERY;
        let partitions: Vec<_> = table.iter().map(|reading| partition_of(&reading.key)).collect();
        if let Ok(list) = list_of(partitions.iter().map(|partition| (partition, Offset::End)))
            && !partitions.is_empty()
        {
            ends.ask(&list, cluster.access.timeout);
        }
    }
}
