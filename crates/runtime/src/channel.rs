//! The edge between two stages: batches and barriers in order, bounded in batches and bytes.

use std::{sync::Arc, time::Instant};

use millstream_core::{Batch, Epoch, Last};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::metrics::Figure;

/// Batches that wait in one edge at most: enough to keep both sides busy, few enough to stay in the cache.
const QUEUE_BATCHES_MAX: usize = 4;

/// Bytes are counted in this unit, so that a semaphore's 32 bits are enough for any bound.
pub(crate) const UNIT: usize = 1024;

/// What flows along an edge.
#[derive(Debug)]
pub(crate) enum Message {
    /// Records.
    Batch(Batch),
    /// Everything before it belongs to this epoch or an earlier one.
    Barrier(Barrier),
    /// No more records, ever. Barriers still come.
    End,
}

/// The boundary of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Barrier {
    pub(crate) epoch: Epoch,
    pub(crate) last: Last,
    /// This run does nothing behind it: it ends, or is built anew.
    pub(crate) halts: bool,
}

/// A message with its share of the queue's bytes. In a box: a channel allots room for 32 of them at once, also to an idle
/// pipeline.
type Boxed = Box<(Message, Option<OwnedSemaphorePermit>)>;

/// Does not keep an edge open.
pub(crate) type WeakMessages = mpsc::WeakSender<Boxed>;

#[derive(Clone, Debug)]
pub(crate) struct Sender {
    messages: mpsc::Sender<Boxed>,
    bytes: Arc<Semaphore>,
    units_max: u32,
}

#[derive(Debug)]
pub(crate) struct Receiver {
    messages: mpsc::Receiver<Boxed>,
}

/// The other side has stopped; the pipeline is going down and somebody else tells why.
#[derive(Debug)]
pub(crate) struct Gone;

/// An edge that holds `bytes_max` bytes, or one larger batch.
pub(crate) fn edge(bytes_max: usize) -> (Sender, Receiver) {
    let units_max = u32::try_from(bytes_max / UNIT).unwrap_or(u32::MAX).clamp(1, Semaphore::MAX_PERMITS as u32);
    let (sender, receiver) = mpsc::channel(QUEUE_BATCHES_MAX);
    let bytes = Arc::new(Semaphore::new(units_max as usize));
    (Sender { messages: sender, bytes, units_max }, Receiver { messages: receiver })
}

impl Sender {
    /// Sends in order; waits for room, and adds that time to `blocked`.
    pub(crate) async fn send(&self, message: Message, blocked: &Figure) -> Result<(), Gone> {
        // The common case takes neither a clock reading nor a wait.
        let permit = match self.units(&message) {
            0 => None,
            units => match self.bytes.clone().try_acquire_many_owned(units) {
                Ok(permit) => Some(permit),
                Err(_) => {
                    let since = Instant::now();
                    let permit = self.bytes.clone().acquire_many_owned(units).await.map_err(|_| Gone)?;
                    blocked.add_time(since.elapsed());
                    Some(permit)
                }
            },
        };
        match self.messages.try_send(Box::new((message, permit))) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Gone),
            Err(mpsc::error::TrySendError::Full(message)) => {
                let since = Instant::now();
                let sent = self.messages.send(message).await.map_err(|_| Gone);
                blocked.add_time(since.elapsed());
                sent
            }
        }
    }
}

impl Sender {
    /// For looking at how full it is.
    pub(crate) fn look(&self) -> (WeakMessages, Arc<Semaphore>, u32) {
        (self.messages.downgrade(), self.bytes.clone(), self.units_max)
    }

    /// Sends if there is room now; gives the message back if not.
    pub(crate) fn try_send(&self, message: Message) -> Result<Option<Message>, Gone> {
        let permit = match self.units(&message) {
            0 => None,
            units => match self.bytes.clone().try_acquire_many_owned(units) {
                Ok(permit) => Some(permit),
                Err(_) => return Ok(Some(message)),
            },
        };
        match self.messages.try_send(Box::new((message, permit))) {
            Ok(()) => Ok(None),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Gone),
            Err(mpsc::error::TrySendError::Full(boxed)) => Ok(Some(boxed.0)),
        }
    }

    /// Waits for room for this message. Cancel-safe.
    pub(crate) fn room(&self, message: &Message) -> impl Future<Output = Result<Room, Gone>> + Send + use<> {
        let (units, bytes, messages) = (self.units(message), self.bytes.clone(), self.messages.clone());
        async move {
            let permit = match units {
                0 => None,
                units => Some(bytes.acquire_many_owned(units).await.map_err(|_| Gone)?),
            };
            let slot = messages.reserve_owned().await.map_err(|_| Gone)?;
            Ok(Room { slot, permit })
        }
    }

    fn units(&self, message: &Message) -> u32 {
        match message {
            Message::Batch(batch) => u32::try_from(batch.size() / UNIT).unwrap_or(u32::MAX).clamp(1, self.units_max),
            _ => 0,
        }
    }
}

/// Room for one message in an edge.
pub(crate) struct Room {
    slot: mpsc::OwnedPermit<Boxed>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Room {
    pub(crate) fn send(self, message: Message) {
        self.slot.send(Box::new((message, self.permit)));
    }
}

impl Receiver {
    /// The next message; `None` when the sender has gone. Cancel-safe.
    pub(crate) fn poll(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Option<Message>> {
        // The permit ends here: what a stage has taken is no longer the queue's.
        self.messages.poll_recv(context).map(|received| received.map(|boxed| boxed.0))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}
