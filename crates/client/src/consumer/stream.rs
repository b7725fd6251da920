//! A consumer as a stream.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::{Stream, stream::FusedStream};
use millstream_core::{Record, Result};

use super::{Consumer, ConsumerState};

/// The records of a consumer, owned. Made by [`Consumer::into_stream`].
#[derive(Debug)]
pub struct RecordStream {
    consumer: Consumer,
    ended: bool,
}

impl RecordStream {
    pub(crate) fn new(consumer: Consumer) -> Self {
        RecordStream { consumer, ended: false }
    }

    /// The consumer, to acknowledge or look at its state.
    pub fn consumer(&self) -> &Consumer {
        &self.consumer
    }

    /// The consumer, to seek or commit. A stream that has ended goes on if the consumer does.
    pub fn consumer_mut(&mut self) -> &mut Consumer {
        self.ended = false;
        &mut self.consumer
    }

    /// The consumer back; nothing is lost.
    pub fn into_consumer(self) -> Consumer {
        self.consumer
    }
}

impl Stream for RecordStream {
    type Item = Result<Record>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = match self.consumer.poll_next(cx) {
            Poll::Ready(next) => next.transpose(),
            Poll::Pending => return Poll::Pending,
        };
        self.ended = match &next {
            None => true,
            // A record at fault is followed by others.
            Some(Err(_)) => matches!(self.consumer.state(), ConsumerState::Failed(_)),
            Some(Ok(_)) => false,
        };
        Poll::Ready(next)
    }
}

impl FusedStream for RecordStream {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}
