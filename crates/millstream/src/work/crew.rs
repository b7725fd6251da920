//! Sets of records handled by futures, a set each.

use std::{
    collections::{HashSet, VecDeque},
    future::{Future, poll_fn},
    marker::PhantomData,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use millstream_core::{Batch, Error, Output, Result};
use tokio::sync::watch;

use super::{Held, InSpan, Limits, Outcomes, Row, Slots, in_span};
use crate::{batch::Trigger, typed::Data};

/// Records that are handled together.
#[derive(Debug)]
pub(crate) struct Set {
    pub(crate) rows: Vec<Row>,
    pub(crate) key: Option<Bytes>,
    pub(crate) trigger: Trigger,
    /// How many of them, the first, were counted as absorbed into state.
    pub(crate) absorbed: usize,
}

impl Set {
    /// A record that is handled again, so that what it fails with is no other's failure.
    pub(crate) fn alone(at: Row, key: Option<Bytes>) -> Self {
        Set { rows: vec![at], key, trigger: Trigger::Retry, absorbed: 0 }
    }
}

/// The records of a set with the batches that they are in: what its future gets.
#[derive(Clone)]
pub(crate) struct Gathered {
    pub(crate) batches: Vec<Batch>,
    /// Which of the batches, and which record of it.
    pub(crate) rows: Vec<(u32, u32)>,
    pub(crate) key: Option<Bytes>,
    pub(crate) trigger: Trigger,
}

/// Whether sets may be under way beside each other where records of a key must not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Apart {
    /// Nothing is promised of keys.
    No,
    /// Each set has records of one key: another set of that key waits.
    ByKey,
    /// A set may have records of any key: one at a time.
    All,
}

/// What was handled: its records, and what they came to.
struct Handled<U> {
    set: Set,
    outcomes: Option<Result<Outcomes<U>>>,
}

/// Begins sets in order, with a bound on how many are under way; hands over what they came to in the same order.
pub(crate) struct Crew<U, B, R> {
    begin: B,
    limits: Arc<Limits>,
    raised: watch::Receiver<()>,
    apart: Apart,
    /// What is behind a record that failed of its key in the same set is to be handled again, behind it.
    in_line: bool,
    queue: VecDeque<Set>,
    running: FuturesUnordered<InSpan<R>>,
    sets: Slots<Handled<U>>,
    order: VecDeque<u32>,
    /// Keys of sets that are under way, where that matters.
    busy: HashSet<Bytes>,
    types: PhantomData<fn() -> U>,
}

impl<U, B, R> Crew<U, B, R>
where
    U: Data,
    B: Fn(u32, Gathered, Option<Duration>) -> R + Send,
    R: Future<Output = (u32, Result<Outcomes<U>>)> + Send,
{
    pub(crate) fn new(begin: B, limits: Arc<Limits>, apart: Apart) -> Self {
        Crew {
            begin,
            raised: limits.raised(),
            limits,
            apart,
            in_line: false,
            queue: VecDeque::new(),
            running: FuturesUnordered::new(),
            sets: Slots::default(),
            order: VecDeque::new(),
            busy: HashSet::new(),
            types: PhantomData,
        }
    }

    /// Records of a set are handled as if one by one: none passes one that failed of its key.
    pub(crate) fn in_line(self) -> Self {
        Crew { in_line: true, ..self }
    }

    pub(crate) fn push(&mut self, set: Set) {
        self.queue.push_back(set);
    }

    /// Sets that cannot begin yet.
    pub(crate) fn is_full(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Begins as many sets as may be under way.
    pub(crate) fn begin(&mut self, held: &Held) {
        let (most, limit) = (self.limits.in_flight(), self.limits.timeout());
        let most = if self.apart == Apart::All { 1 } else { most };
        // Sets that are done and wait for those before them count, so that their number is bounded.
        while self.sets.len() < most || self.running.is_empty() {
            let busy = |key: &Option<Bytes>| key.as_ref().is_some_and(|key| self.busy.contains(key));
            let next = match self.apart {
                Apart::ByKey => self.queue.iter().position(|set| !busy(&set.key)),
                Apart::No | Apart::All => Some(0),
            };
            let Some(set) = next.and_then(|next| self.queue.remove(next)) else { return };
            if self.apart == Apart::ByKey {
                self.busy.extend(set.key.clone());
            }
            let gathered = gather(&set, held);
            // Where it has records of several batches: that of the first.
            let span = set.rows.first().and_then(|first| held.span(first.batch));
            let number = self.sets.insert(Handled { set, outcomes: None });
            self.order.push_back(number);
            self.running.push(in_span((self.begin)(number, gathered, limit), span));
        }
    }

    fn finish(&mut self, number: u32, result: Result<Outcomes<U>>) {
        if let Some(handled) = self.sets.get_mut(number) {
            handled.outcomes = Some(result);
        }
    }

    /// Whether there is something to hand over.
    fn has_news(&self) -> bool {
        let head = self.order.front().and_then(|number| self.sets.get(*number));
        head.is_some_and(|head| head.outcomes.is_some())
    }

    /// Waits until there is something to hand over, or more may begin. Cancel-safe.
    pub(crate) async fn ready(&mut self, held: &Held) {
        while !self.has_news() {
            self.begin(held);
            tokio::select! {
                biased;
                Some((number, result)) = self.running.next() => self.finish(number, result),
                Ok(()) = self.raised.changed() => return,
                else => std::future::pending().await,
            }
        }
    }

    /// Takes note of all that is done by now.
    pub(crate) async fn finish_ready(&mut self) {
        poll_fn(|context| {
            while let Poll::Ready(Some((number, result))) = self.running.poll_next_unpin(context) {
                self.finish(number, result);
            }
            Poll::Ready(())
        })
        .await;
    }

    /// Waits for the next set; `false` if none is under way.
    pub(crate) async fn finish_one(&mut self) -> bool {
        let Some((number, result)) = self.running.next().await else { return false };
        self.finish(number, result);
        self.finish_ready().await;
        true
    }

    /// Hands over what is done, in order. Where records of a key are handled in order, it answers with the keys of those that
    /// failed, and with those behind them that are in line.
    pub(crate) fn emit(&mut self, held: &mut Held, out: &mut Output) -> (HashSet<Bytes>, Vec<Row>) {
        let (mut rows, mut values, mut keys, mut behind) = (Vec::new(), Vec::new(), HashSet::new(), Vec::new());
        while self.has_news()
            && let Some(number) = self.order.pop_front()
            && let Some(Handled { set, outcomes: Some(outcomes) }) = self.sets.remove(number)
        {
            let _ = set.key.as_ref().is_some_and(|key| self.busy.remove(key));
            // What was counted into the state comes out of it.
            out.created(set.absorbed);
            let fail = |at: Row, error: Error, keys: &mut HashSet<Bytes>, held: &mut Held, out: &mut Output| {
                if self.apart != Apart::No {
                    let key = held.get(at.batch).and_then(|batch| batch.get(at.row as usize).key());
                    keys.extend(key.map(Bytes::copy_from_slice));
                }
                held.fail(at, error, out);
            };
            match outcomes {
                Err(error) => set.rows.into_iter().for_each(|at| fail(at, error.clone(), &mut keys, held, out)),
                Ok(outcomes) => {
                    for (at, outcome) in set.rows.iter().zip(outcomes.complete(set.rows.len())) {
                        match outcome {
                            _ if self.in_line && !keys.is_empty() && has_key(held, *at, &keys) => behind.push(*at),
                            Ok(value) => {
                                rows.push(*at);
                                values.push(value);
                            }
                            Err(error) => fail(*at, error, &mut keys, held, out),
                        }
                    }
                }
            }
        }
        held.emit(&rows, values, out);
        (keys, behind)
    }

    /// Takes records of these keys out of the sets that have not begun, in order.
    pub(crate) fn take_back(&mut self, held: &Held, keys: &HashSet<Bytes>, out: &mut Output) -> Vec<Row> {
        let mut taken = Vec::new();
        for set in &mut self.queue {
            let absorbed = std::mem::take(&mut set.absorbed);
            let mut nth = 0;
            set.rows.retain(|at| {
                let back = has_key(held, *at, keys);
                let counted = nth < absorbed;
                nth += 1;
                match back {
                    true => {
                        taken.push(*at);
                        out.created(usize::from(counted));
                    }
                    false => set.absorbed += usize::from(counted),
                }
                !back
            });
        }
        self.queue.retain(|set| !set.rows.is_empty());
        taken
    }

    pub(crate) fn clear(&mut self) {
        self.running.clear();
    }
}

/// Whether a held record has one of these keys.
pub(crate) fn has_key(held: &Held, at: Row, keys: &HashSet<Bytes>) -> bool {
    held.get(at.batch).and_then(|batch| batch.get(at.row as usize).key()).is_some_and(|key| keys.contains(key))
}

fn gather(set: &Set, held: &Held) -> Gathered {
    let (mut batches, mut ids) = (Vec::new(), Vec::<u32>::new());
    let mut rows = Vec::with_capacity(set.rows.len());
    for at in &set.rows {
        // Records come in runs of one batch, and of few batches.
        let known = ids.iter().rposition(|id| *id == at.batch);
        let place = known.unwrap_or_else(|| {
            batches.extend(held.get(at.batch).cloned());
            ids.push(at.batch);
            ids.len() - 1
        });
        rows.push((place as u32, at.row));
    }
    Gathered { batches, rows, key: set.key.clone(), trigger: set.trigger }
}
