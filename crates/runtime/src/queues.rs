//! How full the queues before each stage are, for those who ask.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use serde::Serialize;
use tokio::sync::Semaphore;

use crate::{
    channel::{Sender, UNIT, WeakMessages},
    lease::lock,
};

/// What waits before one stage, in the queues of all its workers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct QueueFigures {
    /// Batches.
    pub batches: usize,
    /// Batches that have room.
    pub batches_max: usize,
    /// Bytes, in units of 1 KiB for each batch.
    pub bytes: usize,
    /// Bytes that have room; one larger batch may go beyond.
    pub bytes_max: usize,
}

/// The queues of a pipeline that runs.
#[derive(Debug, Default)]
pub(crate) struct Queues(Mutex<BTreeMap<String, Vec<Queue>>>);

/// Looks into an edge without keeping it open.
#[derive(Debug)]
struct Queue {
    messages: WeakMessages,
    bytes: Arc<Semaphore>,
    bytes_max: usize,
}

impl Queues {
    /// Those of the run before are gone.
    pub(crate) fn clear(&self) {
        lock(&self.0).clear();
    }

    /// An edge to a worker of `stage`.
    pub(crate) fn add(&self, stage: &str, edge: &Sender) {
        let (messages, bytes, units_max) = edge.look();
        let queue = Queue { messages, bytes, bytes_max: units_max as usize * UNIT };
        lock(&self.0).entry(stage.to_owned()).or_default().push(queue);
    }

    pub(crate) fn read(&self) -> BTreeMap<String, QueueFigures> {
        let sum = |queues: &Vec<Queue>| {
            queues.iter().fold(QueueFigures::default(), |mut sum, queue| {
                if let Some(messages) = queue.messages.upgrade() {
                    sum.batches += messages.max_capacity() - messages.capacity();
                    sum.batches_max += messages.max_capacity();
                    sum.bytes += queue.bytes_max.saturating_sub(queue.bytes.available_permits() * UNIT);
                    sum.bytes_max += queue.bytes_max;
                }
                sum
            })
        };
        lock(&self.0).iter().map(|(stage, queues)| (stage.clone(), sum(queues))).collect()
    }
}
