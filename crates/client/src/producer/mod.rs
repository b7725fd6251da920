//! Writing a stream.
//!
//! ```text
//!   Producer::send ─► budget ─► queue ─► task (on the streamer's thread): batches ─► Sink
//!   Receipt        ◄──────────── outcomes of each flush ◄────────────────────────────┘
//! ```

mod into_record;
mod queue;
mod receipt;
mod task;
mod writer;

use std::sync::Arc;

use millstream_core::{Error, ErrorKind, Record, Result, ShardKey, SinkPlan};
use tokio::sync::{mpsc, oneshot};

pub use into_record::{IntoBytes, IntoRecord};
pub use receipt::{Delivered, Receipt};

use self::{
    queue::Queue,
    task::{Job, Task},
    writer::{Pending, Writer},
};
use crate::{ProducerOptions, Retrying, engine::Engine};

/// Writes records to a stream. Cheap to clone; all clones write through one sink, in the order in which `send` accepts.
///
/// Records that are sent one by one are written in batches: a lone one at once, and what comes while a write is under way
/// with the next. An error that can pass is waited out ([`Retry`](crate::Retry)), which [`Producer::state`] shows; any other
/// ends the producer, and every receipt, `send` and `flush` gives it.
///
/// **Dropping** the last clone writes what was accepted in the background, within
/// [`drain_timeout`](ProducerOptions::drain_timeout). Nothing waits for that when the process ends: await the receipts,
/// [`Producer::flush`] or [`Producer::end`] before.
#[derive(Clone, Debug)]
pub struct Producer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    stream: Arc<str>,
    record_bytes_max: Option<u64>,
    /// Bounded by the budget that each record takes its share of.
    jobs: mpsc::UnboundedSender<Job>,
    queue: Arc<Queue>,
    /// Dropped with the last clone.
    _alive: oneshot::Sender<()>,
}

/// How a producer stands.
#[derive(Clone, Debug)]
pub enum ProducerState {
    /// The sink is being opened for the first time.
    Opening,
    /// All is well.
    Writing,
    /// An error is being waited out.
    Retrying(Retrying),
    /// It has been ended.
    Ended,
    /// An error has ended it.
    Failed(Error),
}

pub(crate) fn start(
    plan: Box<dyn SinkPlan>,
    stream: &str,
    options: ProducerOptions,
    engine: &Engine,
) -> Result<Producer> {
    let (jobs, queued) = mpsc::unbounded_channel();
    let (alive, gone) = oneshot::channel();
    let queue = Arc::new(Queue::new(&options));
    let capabilities = plan.capabilities();
    let writer = Writer::new(plan.create()?, plan.describe(), capabilities, options.clone(), queue.clone());
    let (drain_timeout, hold) = (options.drain_timeout, engine.clone());
    let task = Task { writer, jobs: queued, next: None, options };
    engine.spawn(async move {
        let _plan = plan;
        Box::pin(task.run(gone, drain_timeout)).await;
        drop(hold);
    });
    let shared =
        Shared { stream: stream.into(), record_bytes_max: capabilities.record_bytes_max, jobs, queue, _alive: alive };
    Ok(Producer { shared: Arc::new(shared) })
}

impl Producer {
    /// Accepts a record: a [`Record`], a value, or `(key, value)`. Waits only while the budget of records whose outcome is
    /// not known is full.
    ///
    /// Accepted is not durable: the [`Receipt`] tells. Cancel-safe: dropped before its end it has accepted nothing.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`]: the system does not take records of that size. [`ErrorKind::Closed`]: the producer was ended. Or
    /// the error that has ended it.
    pub async fn send(&self, record: impl IntoRecord) -> Result<Receipt> {
        let (record, cost) = self.prepare(record.into_record())?;
        self.shared.queue.acquire(cost).await?;
        self.accept(record, cost)
    }

    /// Accepts a record if there is room now; else as [`Producer::send`].
    ///
    /// # Errors
    /// [`ErrorKind::Full`]: there is none.
    pub fn try_send(&self, record: impl IntoRecord) -> Result<Receipt> {
        let (record, cost) = self.prepare(record.into_record())?;
        self.shared.queue.try_acquire(cost)?;
        self.accept(record, cost)
    }

    fn prepare(&self, mut record: Record) -> Result<(Record, u32)> {
        let bytes = record.value.as_ref().map_or(0, |value| value.len());
        if let Some(most) = self.shared.record_bytes_max.filter(|most| bytes as u64 > *most) {
            let what = format!("cannot send a record of {bytes} bytes: the system takes {most}");
            return Err(Error::new(ErrorKind::TooLarge, what).hint("split it, or raise the system's limit"));
        }
        if record.origin.stream.is_empty() {
            record.origin = ShardKey { stream: self.shared.stream.clone(), shard: record.origin.shard };
        }
        let cost = self.shared.queue.cost(&record);
        Ok((record, cost))
    }

    fn accept(&self, record: Record, cost: u32) -> Result<Receipt> {
        let (reply, outcome) = oneshot::channel();
        let queue = self.shared.queue.clone();
        match self.shared.jobs.send(Job::Record(Box::new(record), Pending { reply, cost })) {
            Ok(()) => Ok(Receipt { outcome, queue }),
            Err(_) => Err(queue.why_closed()),
        }
    }

    /// Waits until everything that was accepted before is durable.
    ///
    /// Cancel-safe: dropped before its end it changes nothing.
    ///
    /// # Errors
    /// Some records were rejected since the last `flush`: how many, and the first cause; the receipts tell which. Or the error
    /// that has ended the producer.
    pub async fn flush(&self) -> Result<()> {
        self.ask(Job::Flush).await
    }

    /// Ends the stream: waits until everything is durable, writes the end of the stream where the system has one, gives files
    /// their final names, and closes the sink. All clones are ended with it.
    ///
    /// Dropped before its end it goes on in the background.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    pub async fn end(&self) -> Result<()> {
        self.ask(Job::End).await
    }

    async fn ask(&self, job: impl FnOnce(oneshot::Sender<Result<()>>) -> Job) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        if self.shared.jobs.send(job(reply)).is_err() {
            return Err(self.shared.queue.why_closed());
        }
        answer.await.unwrap_or_else(|_| Err(self.shared.queue.why_closed()))
    }

    /// How it stands.
    pub fn state(&self) -> ProducerState {
        self.shared.queue.state()
    }
}
