//! Waiting for the epoch that holds what was pushed.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use millstream_core::{Epoch, Error, ErrorKind, Result};
use tokio::sync::oneshot;

/// What becomes of pushed records.
#[derive(Debug)]
pub(super) enum Told {
    Committed(Epoch),
    /// The pipeline ended, and had not read them.
    NotRead,
    /// The pipeline ended, and had read them.
    Unknown,
}

/// Where to tell it.
pub(super) type Answer = oneshot::Sender<Told>;

/// Resolves with the epoch that holds what was pushed when that epoch has committed.
///
/// From then on neither a failure nor a crash can undo it: each record is delivered, kept in saved state, filtered, dropped
/// by a rule or a dead letter; which of them is not told. (In `at_most_once` it means only that the records have been read.)
/// [`ErrorKind::Closed`]: the pipeline ended before; the message says whether the records had been read, and may have been
/// delivered, or not.
///
/// Works on any async executor. Cancel-safe; dropped, the records go their way all the same.
#[derive(Debug)]
#[must_use = "a receipt that nobody waits for tells nothing: `push` is enough"]
pub struct Receipt(oneshot::Receiver<Told>);

impl Receipt {
    /// A receipt, and who resolves it. An allocation for each: either side may go before the other.
    pub(super) fn new() -> (Answer, Receipt) {
        let (answer, told) = oneshot::channel();
        (answer, Receipt(told))
    }
}

impl Future for Receipt {
    type Output = Result<Epoch>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Epoch>> {
        let closed = |message: &str| Err(Error::new(ErrorKind::Closed, message));
        Pin::new(&mut self.0).poll(context).map(|told| match told {
            Ok(Told::Committed(epoch)) => Ok(epoch),
            Ok(Told::NotRead) => closed("the pipeline ended before it read the records: they are not delivered"),
            Ok(Told::Unknown) | Err(_) => {
                closed("the pipeline ended before the epoch had committed: the records may have been delivered or not")
            }
        })
    }
}
