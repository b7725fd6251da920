//! Steps that are an object of the user's, one for each worker.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::FutureExt;
use millstream_core::{Batch, Change, Error, ErrorKind, Operator, Output, Result};
use tokio::time::Instant;
use tracing::Span;

use super::{Held, Limits, Row, every, in_span};
use crate::{
    failure::{Failure, contained, outcome},
    typed::{Data, typed, view},
};

/// A step with something of its own, such as a connection: a factory makes one for each worker.
///
/// Each of the hooks is called once in the life of such an object: `init` before the first record; `drain` behind the last
/// one of a run that ends well; `terminate` at the very end, also after errors, and also if `init` has failed.
///
/// ```
/// use millstream::{Result, Worker};
///
/// struct Numbering(u64);
///
/// impl Worker<String> for Numbering {
///     type Output = String;
///     type Error = millstream::Error;
///
///     async fn handle(&mut self, line: String) -> Result<String> {
///         self.0 += 1;
///         Ok(format!("{:>4} {line}", self.0))
///     }
/// }
/// ```
pub trait Worker<T>: Send + 'static {
    /// What it makes of a record.
    type Output: Data;

    /// What it fails with: [`Error`], or any other [`Failure`], such as the error of the client that it owns.
    type Error: Failure + Send;

    /// Before the first record: connect. An error stops the pipeline, or restarts it where that can help.
    fn init(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send {
        async { Ok(()) }
    }

    /// Handles a record, one at a time. An error or panic costs only its record, and what takes longer than the step's
    /// `timeout` fails: the future is dropped where it stands.
    fn handle(&mut self, value: T) -> impl Future<Output = Result<Self::Output, Self::Error>> + Send;

    /// No more records come in this run: say goodbye properly.
    fn drain(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send {
        async { Ok(()) }
    }

    /// The end: let go of everything.
    fn terminate(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

pub(crate) fn working<T: Data, W: Worker<T>>(
    make: Arc<impl Fn() -> W + Send + Sync + 'static>,
    limits: Arc<Limits>,
    keyed: bool,
) -> impl Operator {
    Working {
        make,
        worker: None,
        begun: false,
        drained: false,
        over: false,
        limits,
        keyed,
        held: Held::default(),
        waiting: VecDeque::new(),
        turn: None,
        done: None,
    }
}

/// What a turn of the worker came to: the worker again, with outcomes for the first records of the turn.
struct Turn<W, U> {
    worker: W,
    values: Vec<U>,
    /// The record behind them failed; those behind that were not begun.
    failed: Option<Error>,
}

type Turning<W, U> = Pin<Box<dyn Future<Output = Turn<W, U>> + Send>>;

struct Working<T: Data, W: Worker<T>, M: 'static> {
    make: Arc<M>,
    worker: Option<W>,
    begun: bool,
    drained: bool,
    over: bool,
    limits: Arc<Limits>,
    keyed: bool,
    held: Held,
    waiting: VecDeque<Row>,
    turn: Option<Turning<W, W::Output>>,
    done: Option<(Vec<W::Output>, Option<Error>)>,
}

/// Records of one turn: few, so that what waits for the worker hears of it soon; more than one, so that a quick worker is not
/// held up by the turns.
const TURN_RECORDS_MAX: usize = 32;

/// A turn that has taken so long ends with the record that it is at: what is done goes on.
const TURN_TIME_MAX: Duration = Duration::from_millis(1);

impl<T: Data, W: Worker<T>, M: Fn() -> W + Send + Sync + 'static> Working<T, W, M> {
    /// Lets the worker handle the next records, if it is free.
    fn begin(&mut self) {
        if self.done.is_some() || self.waiting.is_empty() {
            return;
        }
        let Some(mut worker) = self.worker.take() else { return };
        let limit = self.limits.timeout();
        let records: Vec<(Batch, u32, Option<Span>)> = self
            .waiting
            .iter()
            .take(TURN_RECORDS_MAX)
            .filter_map(|at| self.held.get(at.batch).map(|batch| (batch.clone(), at.row, self.held.span(at.batch))))
            .collect();
        self.turn = Some(Box::pin(async move {
            let (mut values, began) = (Vec::with_capacity(records.len()), Instant::now());
            for (batch, row, span) in records {
                let work = async {
                    let value = view::<T>(&batch).get(row as usize).cloned();
                    let value = value.ok_or_else(|| Error::new(ErrorKind::Bug, "a record has no value"))?;
                    outcome(worker.handle(value).await)
                };
                let mut waited = false;
                match noting_waits(in_span(every(work, limit), span), &mut waited).await {
                    Ok(value) => values.push(value),
                    Err(error) => return Turn { worker, values, failed: Some(error) },
                }
                // Records that need not wait are quick, or hold up the whole task: for those the clock is read now and then.
                if (waited || values.len().is_power_of_two()) && began.elapsed() >= TURN_TIME_MAX {
                    break;
                }
            }
            Turn { worker, values, failed: None }
        }));
    }

    /// Waits for the end of a turn; `false` if there is none.
    async fn turn(&mut self) -> bool {
        self.begin();
        let Some(turn) = &mut self.turn else { return false };
        let Turn { worker, values, failed } = turn.await;
        (self.turn, self.worker, self.done) = (None, Some(worker), Some((values, failed)));
        true
    }

    fn emit(&mut self, out: &mut Output) {
        let Some((values, failed)) = self.done.take() else { return };
        let rows: Vec<Row> = self.waiting.drain(..values.len().min(self.waiting.len())).collect();
        self.held.emit(&rows, values, out);
        if let Some(error) = failed
            && let Some(at) = self.waiting.pop_front()
        {
            let key = |held: &Held, at: Row| {
                let key = held.get(at.batch).and_then(|batch| batch.get(at.row as usize).key());
                key.map(<[u8]>::to_vec)
            };
            let failed = if self.keyed { key(&self.held, at) } else { None };
            self.held.fail(at, error, out);
            if failed.is_some() {
                let (back, rest): (Vec<Row>, Vec<Row>) =
                    self.waiting.drain(..).partition(|at| key(&self.held, *at) == failed);
                self.waiting.extend(rest);
                self.held.give_back(&back, out);
            }
        }
        self.begin();
    }
}

/// The same future, which tells whether it had to wait for anything.
async fn noting_waits<R>(work: impl Future<Output = R>, waited: &mut bool) -> R {
    let mut work = pin!(work);
    poll_fn(|context| {
        let polled = work.as_mut().poll(context);
        *waited |= polled.is_pending();
        polled
    })
    .await
}

#[async_trait]
impl<T: Data, W: Worker<T>, M: Fn() -> W + Send + Sync + 'static> Operator for Working<T, W, M> {
    async fn restore(&mut self, _: Vec<Change>) -> Result<()> {
        let worker = self.worker.insert(contained(|| Ok((self.make)()))?);
        self.begun = true;
        let begun = every(worker.init().map(outcome), None).await;
        if begun.is_err() {
            // It never becomes part of a stage, so nobody else would.
            self.close().await?;
        }
        begun
    }

    async fn process(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<()> {
        if let Some(batch) = typed::<T>(batch, out) {
            let records = batch.len() as u32;
            let batch = self.held.add(batch);
            self.waiting.extend((0..records).map(|row| Row { batch, row }));
            self.begin();
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        !self.waiting.is_empty()
    }

    async fn ready(&mut self) {
        if self.done.is_none() && !self.turn().await {
            std::future::pending().await
        }
    }

    async fn advance(&mut self, out: &mut Output) -> Result<()> {
        self.emit(out);
        Ok(())
    }

    async fn settle(&mut self, out: &mut Output) -> Result<()> {
        self.emit(out);
        while self.turn().await {
            self.emit(out);
        }
        Ok(())
    }

    fn changes(&mut self) -> Result<Vec<Change>> {
        Ok(Vec::new())
    }

    async fn drain(&mut self, _: &mut Output) -> Result<()> {
        match &mut self.worker {
            Some(worker) if !std::mem::replace(&mut self.drained, true) => {
                every(worker.drain().map(outcome), None).await
            }
            _ => Ok(()),
        }
    }

    async fn close(&mut self) -> Result<()> {
        if let Some(end) = self.end() {
            end.await;
        }
        Ok(())
    }
}

impl<T: Data, W: Worker<T>, M: 'static> Working<T, W, M> {
    /// The end of the worker, once.
    fn end(&mut self) -> Option<impl Future<Output = ()> + Send + use<T, W, M>> {
        if !self.begun || std::mem::replace(&mut self.over, true) {
            return None;
        }
        let (worker, turn) = (self.worker.take(), self.turn.take());
        Some(async move {
            let worker = match (worker, turn) {
                (None, Some(turn)) => tokio::time::timeout(LAST_TURN_MAX, turn).await.ok().map(|turn| turn.worker),
                (worker, _) => worker,
            };
            let Some(mut worker) = worker else {
                tracing::warn!("a worker that hangs is dropped without `terminate`");
                return;
            };
            if let Err(error) = every(worker.terminate().map(Ok), None).await {
                tracing::warn!(error = %error.chain(), "`terminate` failed");
            }
        })
    }
}

/// How long a record that a worker is at when all ends may hold up its `terminate`.
const LAST_TURN_MAX: Duration = Duration::from_secs(5);

/// A pipeline that fails drops its tasks where they stand; a worker is brought to its end all the same.
impl<T: Data, W: Worker<T>, M: 'static> Drop for Working<T, W, M> {
    fn drop(&mut self) {
        if let Some(end) = self.end()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(end);
        }
    }
}
