//! What became of a record that was sent.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use millstream_core::Result;
use tokio::sync::oneshot;

use super::queue::Queue;

/// A record that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivered {
    /// The sequence that consumers see; `None` where the system does not tell.
    pub sequence: Option<u128>,
    /// It may be there more than once: an earlier try to write it ended without an answer. Where the system can tell.
    pub repeated: bool,
}

/// A future of what becomes of a record: durable, or the error that rejected it.
///
/// It may be dropped: the record is written all the same, and if it is rejected the next
/// [`flush`](crate::Producer::flush) says so. It needs no runtime, and outlives its producer.
#[derive(Debug)]
#[must_use = "a record that was accepted is not durable yet: await the receipt, or call `flush`"]
pub struct Receipt {
    pub(super) outcome: oneshot::Receiver<Result<Delivered>>,
    pub(super) queue: Arc<Queue>,
}

impl Future for Receipt {
    type Output = Result<Delivered>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.outcome).poll(cx).map(|outcome| outcome.unwrap_or_else(|_| Err(self.queue.why_closed())))
    }
}
