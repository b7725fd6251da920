//! Several inputs as one: barriers are let through when all inputs have given them.

use std::{future::poll_fn, task::Poll};

use crate::channel::{Barrier, Gone, Message, Receiver};

/// What the inputs of a stage say next.
#[derive(Debug)]
pub(crate) enum Input {
    /// Records of one input.
    Batch(usize, millstream_core::Batch),
    /// All inputs have given this barrier.
    Barrier(Barrier),
    /// All inputs have ended; barriers still come.
    End,
}

/// The inputs of a stage.
#[derive(Debug)]
pub(crate) struct Inputs {
    inputs: Vec<One>,
    /// An input that is ahead is not read until the others have given its barrier: for stages with state, and for all in
    /// `exactly_once`. Otherwise records of the next epoch may pass before the barrier, and a crash repeats them.
    hold_back: bool,
    turn: usize,
    end_told: bool,
}

#[derive(Debug)]
struct One {
    /// Which input of the stage it belongs to: with several workers before it, an input has several edges.
    input: usize,
    receiver: Receiver,
    /// Barriers given and not yet let through.
    ahead: std::collections::VecDeque<Barrier>,
    ended: bool,
}

impl Inputs {
    pub(crate) fn new(receivers: Vec<(usize, Receiver)>, hold_back: bool) -> Self {
        let one = |(input, receiver)| One { input, receiver, ahead: Default::default(), ended: false };
        let inputs = receivers.into_iter().map(one).collect();
        Inputs { inputs, hold_back, turn: 0, end_told: false }
    }

    /// The next thing to do; inputs take turns. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Input, Gone> {
        poll_fn(|context| self.poll(context)).await
    }

    /// Whether nothing waits in any input's queue: a good moment to flush.
    pub(crate) fn is_empty(&self) -> bool {
        self.inputs.iter().all(|input| input.receiver.is_empty())
    }

    fn poll(&mut self, context: &mut std::task::Context<'_>) -> Poll<Result<Input, Gone>> {
        loop {
            if self.inputs.iter().all(|input| !input.ahead.is_empty()) {
                let barriers = self.inputs.iter_mut().filter_map(|input| input.ahead.pop_front());
                if let Some(barrier) = barriers.last() {
                    return Poll::Ready(Ok(Input::Barrier(barrier)));
                }
            }
            if !self.end_told && self.inputs.iter().all(|input| input.ended) {
                self.end_told = true;
                return Poll::Ready(Ok(Input::End));
            }
            let count = self.inputs.len();
            let mut heard = None;
            for i in (0..count).map(|step| (self.turn + step) % count) {
                let input = &mut self.inputs[i];
                if self.hold_back && !input.ahead.is_empty() {
                    continue;
                }
                if let Poll::Ready(message) = input.receiver.poll(context) {
                    heard = Some((i, message));
                    break;
                }
            }
            let Some((i, message)) = heard else { return Poll::Pending };
            self.turn = (i + 1) % count;
            match message {
                None => return Poll::Ready(Err(Gone)),
                Some(Message::Batch(batch)) => return Poll::Ready(Ok(Input::Batch(self.inputs[i].input, batch))),
                Some(Message::Barrier(barrier)) => self.inputs[i].ahead.push_back(barrier),
                Some(Message::End) => self.inputs[i].ended = true,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream_core::{Batch, BatchBuilder, Form, Last, ShardKey};

    use super::*;
    use crate::{
        channel::{Sender, edge},
        metrics::Figure,
    };

    fn batch(value: &str) -> Batch {
        let mut builder = BatchBuilder::new();
        builder.push_value(&ShardKey::new("s", 0), 0, None, Form::Text, None, Some(value.as_bytes()));
        builder.finish()
    }

    async fn give(sender: &Sender, message: Message) {
        sender.send(message, &Figure::default()).await.unwrap();
    }

    fn barrier(epoch: u64) -> Message {
        Message::Barrier(Barrier { epoch, last: Last::No, halts: false })
    }

    async fn heard(inputs: &mut Inputs) -> String {
        match inputs.next().await.unwrap() {
            Input::Batch(_, batch) => String::from_utf8_lossy(batch.get(0).value().unwrap()).into_owned(),
            Input::Barrier(barrier) => format!("barrier {}", barrier.epoch),
            Input::End => "end".to_owned(),
        }
    }

    #[tokio::test]
    async fn an_input_that_is_ahead_is_held_back() {
        let ((a, a_in), (b, b_in)) = (edge(1 << 20), edge(1 << 20));
        let mut inputs = Inputs::new(vec![(0, a_in), (1, b_in)], true);
        give(&a, barrier(1)).await;
        give(&a, Message::Batch(batch("a after"))).await;
        give(&b, Message::Batch(batch("b before"))).await;
        give(&b, barrier(1)).await;
        assert_eq!(heard(&mut inputs).await, "b before");
        assert_eq!(heard(&mut inputs).await, "barrier 1");
        assert_eq!(heard(&mut inputs).await, "a after");
    }

    #[tokio::test]
    async fn without_alignment_records_pass_and_the_barrier_waits() {
        let ((a, a_in), (b, b_in)) = (edge(1 << 20), edge(1 << 20));
        let mut inputs = Inputs::new(vec![(0, a_in), (1, b_in)], false);
        give(&a, barrier(1)).await;
        give(&a, Message::Batch(batch("a after"))).await;
        assert_eq!(heard(&mut inputs).await, "a after");
        give(&b, barrier(1)).await;
        assert_eq!(heard(&mut inputs).await, "barrier 1");
    }

    #[tokio::test]
    async fn the_end_comes_when_all_have_ended_and_barriers_still_pass() {
        let ((a, a_in), (b, b_in)) = (edge(1 << 20), edge(1 << 20));
        let mut inputs = Inputs::new(vec![(0, a_in), (1, b_in)], true);
        give(&a, Message::End).await;
        give(&a, barrier(1)).await;
        give(&b, barrier(1)).await;
        give(&b, Message::End).await;
        assert_eq!(heard(&mut inputs).await, "barrier 1");
        assert_eq!(heard(&mut inputs).await, "end");
        give(&a, barrier(2)).await;
        give(&b, barrier(2)).await;
        assert_eq!(heard(&mut inputs).await, "barrier 2");
    }
}
