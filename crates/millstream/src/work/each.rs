//! Records handled one by one by futures, many at once.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use futures::{FutureExt, StreamExt, future::Either, stream::FuturesUnordered};
use millstream_core::{BATCH_RECORDS_MAX, Batch, Change, Error, ErrorKind, Operator, Output, Result, panicked};
use tokio::{sync::watch, task::coop::unconstrained};

use super::{Held, InSpan, Limits, Row, Slots, in_span, limits::Share};
use crate::typed::{Data, typed};

/// A future of user code: a panic is an error, and so is taking longer than `limit`, from now on.
///
/// Made of parts and not an `async fn`, which would hold `work` once more for each layer: it is moved for each record.
pub(crate) fn every<U>(
    work: impl Future<Output = Result<U>> + Send,
    limit: Option<Duration>,
) -> impl Future<Output = Result<U>> + Send {
    let ended = |ended: std::thread::Result<Result<U>>| ended.unwrap_or_else(|panic| Err(panicked(&*panic)));
    let contained = AssertUnwindSafe(work).catch_unwind().map(ended);
    let Some(limit) = limit else { return Either::Left(contained) };
    Either::Right(tokio::time::timeout(limit, contained).map(move |ended| {
        ended.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, format!("the step took longer than {}", millstream_core::Span(limit))))
        })
    }))
}

/// An operator that begins `start` for each record: a future that keeps the time-out, and does not panic.
///
/// `keyed`: of each key one record at a time is under way; when it fails, those of its key behind it are given back.
pub(crate) fn each<T: Data, U: Data, F>(
    start: impl Fn(&Batch, usize, Option<Duration>) -> F + Send + Sync + 'static,
    limits: Arc<Limits>,
    keyed: bool,
) -> impl Operator
where
    F: Future<Output = Result<U>> + Send + 'static,
{
    let begin = move |number: u32, batch: &Batch, row: usize, limit: Option<Duration>| {
        start(batch, row, limit).map(move |result| (number, result))
    };
    Each {
        begin,
        ordered: !limits.unordered(),
        raised: limits.raised(),
        share: limits.share(),
        limits,
        keyed,
        held: Held::default(),
        taken: Slots::default(),
        next: 0,
        order: VecDeque::new(),
        waiting: VecDeque::new(),
        unlocked: BinaryHeap::new(),
        keys: HashMap::new(),
        running: FuturesUnordered::new(),
        begun: 0,
        done: Vec::new(),
        failed: Vec::new(),
        returned: Vec::new(),
        types: std::marker::PhantomData::<fn() -> T>,
    }
}

/// A record that was taken.
struct Taken<U> {
    at: Row,
    /// Counted in the order of taking.
    nth: u64,
    key: Option<Arc<[u8]>>,
    value: Option<U>,
}

struct Each<T, U, B, R> {
    begin: B,
    ordered: bool,
    limits: Arc<Limits>,
    raised: watch::Receiver<()>,
    share: Share,
    keyed: bool,
    held: Held,
    taken: Slots<Taken<U>>,
    next: u64,
    /// What is to be emitted next, where order counts; what has failed since is skipped.
    order: VecDeque<(u64, u32)>,
    /// What can begin, in the order of taking; and what had to wait for its key.
    waiting: VecDeque<(u64, u32)>,
    unlocked: BinaryHeap<Reverse<(u64, u32)>>,
    /// Of each key the record under way and those behind it.
    keys: HashMap<Arc<[u8]>, VecDeque<u32>>,
    running: FuturesUnordered<InSpan<R>>,
    /// Begun, and neither emitted nor failed.
    begun: usize,
    /// Done, where order does not count.
    done: Vec<u32>,
    failed: Vec<(u32, Error)>,
    returned: Vec<u32>,
    types: std::marker::PhantomData<fn() -> T>,
}

impl<T, U, B, R> Each<T, U, B, R>
where
    T: Data,
    U: Data,
    B: Fn(u32, &Batch, usize, Option<Duration>) -> R + Send,
    R: Future<Output = (u32, Result<U>)> + Send,
{
    fn take(&mut self, batch: Batch) {
        let id = self.held.add(batch.clone());
        let records = batch.records();
        for row in 0..batch.len() {
            let key: Option<Arc<[u8]>> = if self.keyed { records.get(row).key().map(Arc::from) } else { None };
            let (nth, at) = (self.next, Row { batch: id, row: row as u32 });
            self.next += 1;
            let number = self.taken.insert(Taken { at, nth, key: key.clone(), value: None });
            if self.ordered {
                self.order.push_back((nth, number));
            }
            let free = key.is_none_or(|key| {
                let queue = self.keys.entry(key).or_default();
                queue.push_back(number);
                queue.len() == 1
            });
            if free {
                self.waiting.push_back((nth, number));
            }
        }
    }

    /// Begins as much as may be under way, the oldest first; at least one, so that it always goes on.
    fn begin(&mut self) {
        let (most, limit) = (self.limits.in_flight(), self.limits.timeout());
        while self.begun < most || self.running.is_empty() {
            let unlocked = self.unlocked.peek().map(|Reverse(next)| *next);
            let next = match (self.waiting.front().copied(), unlocked) {
                (Some(waiting), Some(unlocked)) if unlocked < waiting => self.unlocked.pop().map(|Reverse(next)| next),
                (None, Some(_)) => self.unlocked.pop().map(|Reverse(next)| next),
                _ => self.waiting.pop_front(),
            };
            let Some((_, number)) = next else { return };
            let Some(at) = self.taken.get(number).map(|taken| taken.at) else { continue };
            let Some(batch) = self.held.get(at.batch) else { continue };
            let work = (self.begin)(number, batch, at.row as usize, limit);
            self.running.push(in_span(work, self.held.span(at.batch)));
            self.begun += 1;
        }
    }

    /// A record is done or has failed.
    fn finish(&mut self, number: u32, result: Result<U>) {
        let Some(taken) = self.taken.get_mut(number) else { return };
        let key = taken.key.clone();
        let succeeded = result.is_ok();
        match result {
            Ok(value) => {
                taken.value = Some(value);
                if !self.ordered {
                    self.done.push(number);
                    self.begun -= 1;
                }
            }
            Err(error) => {
                self.failed.push((number, error));
                self.begun -= 1;
            }
        }
        let Some(key) = key else { return };
        let Some(queue) = self.keys.get_mut(&key) else { return };
        queue.pop_front();
        match queue.front().copied() {
            Some(next) if succeeded => {
                let nth = self.taken.get(next).map_or(0, |taken| taken.nth);
                self.unlocked.push(Reverse((nth, next)));
            }
            Some(_) => self.returned.extend(self.keys.remove(&key).into_iter().flatten()),
            None => drop(self.keys.remove(&key)),
        }
    }

    /// Takes note of all that is done by now, so that it goes on together. Without tokio's budget for each turn of a task, which
    /// 128 sleeps use up: the set of futures has a bound of its own.
    async fn finish_ready(&mut self) {
        let all = poll_fn(|context| {
            while let Poll::Ready(Some((number, result))) = self.running.poll_next_unpin(context) {
                self.finish(number, result);
            }
            Poll::Ready(())
        });
        unconstrained(all).await;
    }

    fn has_news(&self) -> bool {
        !self.failed.is_empty() || !self.done.is_empty() || self.head_is_done()
    }

    fn head_is_done(&self) -> bool {
        let head = self.order.front().and_then(|(nth, number)| self.taken.get(*number).filter(|head| head.nth == *nth));
        head.is_some_and(|head| head.value.is_some())
    }

    /// Hands over what is done, in order where that counts, and what has failed.
    fn emit(&mut self, out: &mut Output) {
        for (number, error) in std::mem::take(&mut self.failed) {
            if let Some(taken) = self.taken.remove(number) {
                self.held.fail(taken.at, error, out);
            }
        }
        if !self.returned.is_empty() {
            let returned = std::mem::take(&mut self.returned);
            let rows: Vec<Row> =
                returned.into_iter().filter_map(|number| self.taken.remove(number)).map(|t| t.at).collect();
            self.held.give_back(&rows, out);
        }
        let (mut rows, mut values) = (Vec::new(), Vec::new());
        if self.ordered {
            while let Some(&(nth, number)) = self.order.front() {
                match self.taken.get_mut(number).filter(|taken| taken.nth == nth) {
                    Some(Taken { value: None, .. }) => break,
                    // It has failed or was given back.
                    None => {}
                    Some(Taken { at, value, .. }) => {
                        rows.push(*at);
                        values.extend(value.take());
                        self.taken.remove(number);
                        self.begun -= 1;
                    }
                }
                self.order.pop_front();
            }
        } else {
            let mut done: Vec<Taken<U>> =
                std::mem::take(&mut self.done).into_iter().filter_map(|number| self.taken.remove(number)).collect();
            // Together with what came together. Records of a key stay in order: later ones are in later batches.
            done.sort_unstable_by_key(|taken| taken.nth);
            for taken in done {
                rows.push(taken.at);
                values.extend(taken.value);
            }
        }
        self.held.emit(&rows, values, out);
        self.begin();
    }
}

#[async_trait]
impl<T, U, B, R> Operator for Each<T, U, B, R>
where
    T: Data,
    U: Data,
    B: Fn(u32, &Batch, usize, Option<Duration>) -> R + Send + Sync,
    R: Future<Output = (u32, Result<U>)> + Send,
{
    async fn restore(&mut self, _: Vec<Change>) -> Result<()> {
        Ok(())
    }

    async fn process(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<()> {
        if let Some(batch) = typed::<T>(batch, out) {
            self.take(batch);
            self.begin();
        }
        Ok(())
    }

    /// What waits for its key may be more than can be under way, so that a hot key does not keep the others out: so many records,
    /// and as many bytes as the worker may hold.
    fn is_full(&self) -> bool {
        let most = self.limits.in_flight() + BATCH_RECORDS_MAX;
        let some_wait = self.taken.len() > self.begun;
        !self.waiting.is_empty() || self.taken.len() >= most || (some_wait && self.held.bytes() >= self.share.bytes())
    }

    async fn ready(&mut self) {
        while !self.has_news() {
            self.begin();
            tokio::select! {
                biased;
                Some((number, result)) = unconstrained(self.running.next()) => self.finish(number, result),
                // Begins more, and has room for more input.
                Ok(()) = self.raised.changed() => return,
                else => std::future::pending().await,
            }
        }
    }

    async fn advance(&mut self, out: &mut Output) -> Result<()> {
        self.finish_ready().await;
        self.emit(out);
        Ok(())
    }

    async fn settle(&mut self, out: &mut Output) -> Result<()> {
        loop {
            self.emit(out);
            let Some((number, result)) = unconstrained(self.running.next()).await else { return Ok(()) };
            self.finish(number, result);
            self.finish_ready().await;
        }
    }

    fn changes(&mut self) -> Result<Vec<Change>> {
        Ok(Vec::new())
    }

    async fn close(&mut self) -> Result<()> {
        self.running.clear();
        Ok(())
    }
}
