//! Handlers of batches that are an object of the user's, one for each worker.

use std::{future::Future, marker::PhantomData, sync::Arc};

use async_trait::async_trait;
use futures::FutureExt;
use millstream_core::{Batch, Change, Error, ErrorKind, Operator, Output, Result, Timestamp};
use tokio::sync::Mutex;

use super::BatchOf;
use crate::{
    failure::{Failure, contained, outcome},
    typed::Data,
    work::{Answer, Outcomes, every},
};

/// A handler of batches with something of its own, such as a connection: a factory makes one for each worker.
///
/// Each of the hooks is called once in the life of such an object: `init` before the first batch; `drain` behind the last one of
/// a run that ends well; `terminate` at the very end, also after errors, and also if `init` has failed.
///
/// ```
/// use millstream::{BatchWorker, prelude::*};
///
/// /// Writes each batch in one transaction of its connection.
/// struct Insert(Option<Connection>);
/// # struct Connection;
/// # impl Connection {
/// #     async fn open() -> std::io::Result<Self> { Ok(Connection) }
/// #     async fn insert(&mut self, _: &[u64]) -> std::io::Result<()> { Ok(()) }
/// # }
///
/// impl BatchWorker<u64> for Insert {
///     type Answer = std::io::Result<()>;
///     type Error = std::io::Error;
///
///     async fn init(&mut self) -> std::io::Result<()> {
///         self.0 = Some(Connection::open().await?);
///         Ok(())
///     }
///
///     async fn handle(&mut self, batch: BatchOf<u64>) -> std::io::Result<()> {
///         match &mut self.0 {
///             Some(connection) => connection.insert(&batch).await,
///             None => Err(std::io::ErrorKind::NotConnected.into()),
///         }
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> millstream::Result<()> {
/// let pipeline = Pipeline::new("insert").in_memory();
/// pipeline.values(0..10u64).batch(Batching::count(4)).step(|| Insert(None)).name("insert").drop();
/// assert_eq!(pipeline.run().await?.stages["insert"].records_out, 10);
/// # Ok(())
/// # }
/// ```
pub trait BatchWorker<T>: Send + 'static {
    /// What it says of the records of a batch; see [`Answer`].
    type Answer: Answer + Send;

    /// What its hooks fail with: [`Error`], or any other [`Failure`], such as the error of the client that it owns.
    type Error: Failure + Send;

    /// Before the first batch: connect. An error stops the pipeline, or restarts it where that can help.
    fn init(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send {
        async { Ok(()) }
    }

    /// Handles a batch, one at a time. A panic is an error of all its records, if they are not
    /// [`repeatable`](crate::Batched::repeatable), and so is what takes longer than the step's `timeout`: the future is dropped
    /// where it stands.
    fn handle(&mut self, batch: BatchOf<T>) -> impl Future<Output = Self::Answer> + Send;

    /// No more batches come in this run: say goodbye properly.
    fn drain(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send {
        async { Ok(()) }
    }

    /// The end: let go of everything.
    fn terminate(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// Where the worker is: whoever has the lock lets it work.
pub(super) struct Post<W>(Arc<Mutex<Option<W>>>);

impl<W> Clone for Post<W> {
    fn clone(&self) -> Self {
        Post(self.0.clone())
    }
}

impl<W> Post<W> {
    pub(super) fn empty() -> Self {
        Post(Arc::new(Mutex::new(None)))
    }

    /// What the worker says of a batch.
    pub(super) async fn handle<T: Data>(self, batch: BatchOf<T>) -> Result<Outcomes<<W::Answer as Answer>::Value>>
    where
        W: BatchWorker<T>,
    {
        let (records, mut worker) = (batch.len(), self.0.lock().await);
        let worker = worker.as_mut().ok_or_else(|| Error::new(ErrorKind::Bug, "a batch has nobody to handle it"))?;
        worker.handle(batch).await.outcomes(records)
    }
}

/// A step that gathers batches for a worker, and the life of that worker.
pub(super) struct Served<O: 'static, T: 'static, W: BatchWorker<T>, M: 'static> {
    /// Gathers, and lets the worker at the post have the batches.
    gathering: O,
    post: Post<W>,
    make: Arc<M>,
    begun: bool,
    /// It is to be told of the drain, behind the last batch.
    draining: bool,
    over: bool,
    types: PhantomData<fn(T)>,
}

impl<O: 'static, T: 'static, W: BatchWorker<T>, M: 'static> Served<O, T, W, M> {
    pub(super) fn new(gathering: O, post: Post<W>, make: Arc<M>) -> Self {
        Served { gathering, post, make, begun: false, draining: false, over: false, types: PhantomData }
    }

    /// The end of the worker, once.
    fn end_of_life(&mut self) -> Option<impl Future<Output = ()> + Send + use<O, T, W, M>> {
        if !self.begun || std::mem::replace(&mut self.over, true) {
            return None;
        }
        let post = self.post.clone();
        Some(async move {
            // A batch that it was at is given up with the step.
            let Some(mut worker) = post.0.lock().await.take() else { return };
            if let Err(error) = every(worker.terminate().map(Ok), None).await {
                tracing::warn!(error = %error.chain(), "`terminate` failed");
            }
        })
    }
}

#[async_trait]
impl<O: Operator, T: 'static, W: BatchWorker<T>, M: Fn() -> W + Send + Sync + 'static> Operator for Served<O, T, W, M> {
    fn keyless_group(&mut self, group: u16) {
        self.gathering.keyless_group(group);
    }

    async fn restore(&mut self, state: Vec<Change>) -> Result<()> {
        let made = contained(|| Ok((self.make)()))?;
        let begun = {
            let mut post = self.post.0.lock().await;
            let worker = post.insert(made);
            self.begun = true;
            every(worker.init().map(outcome), None).await
        };
        let begun = match begun {
            Ok(()) => self.gathering.restore(state).await,
            failed => failed,
        };
        if begun.is_err() {
            // It never becomes part of a stage, so nobody else would.
            self.close().await?;
        }
        begun
    }

    async fn process(&mut self, input: usize, batch: Batch, out: &mut Output) -> Result<()> {
        self.gathering.process(input, batch, out).await
    }

    fn is_full(&self) -> bool {
        self.gathering.is_full()
    }

    fn held(&self) -> usize {
        self.gathering.held()
    }

    async fn ready(&mut self) {
        self.gathering.ready().await;
    }

    async fn advance(&mut self, out: &mut Output) -> Result<()> {
        self.gathering.advance(out).await
    }

    async fn settle(&mut self, out: &mut Output) -> Result<()> {
        self.gathering.settle(out).await?;
        // What is given back comes once more.
        if out.has_returned() || !std::mem::take(&mut self.draining) {
            return Ok(());
        }
        match self.post.0.lock().await.as_mut() {
            Some(worker) => every(worker.drain().map(outcome), None).await,
            None => Ok(()),
        }
    }

    async fn end(&mut self, out: &mut Output) -> Result<()> {
        self.gathering.end(out).await
    }

    fn timer_at(&self) -> Option<Timestamp> {
        self.gathering.timer_at()
    }

    async fn on_timer(&mut self, now: Timestamp, out: &mut Output) -> Result<()> {
        self.gathering.on_timer(now, out).await
    }

    fn changes(&mut self) -> Result<Vec<Change>> {
        self.gathering.changes()
    }

    async fn drain(&mut self, out: &mut Output) -> Result<()> {
        // What was still open is its last work; all of it is done when this has settled.
        self.draining = true;
        self.gathering.drain(out).await
    }

    async fn close(&mut self) -> Result<()> {
        let closed = self.gathering.close().await;
        if let Some(end) = self.end_of_life() {
            end.await;
        }
        closed
    }
}

/// A pipeline that fails drops its tasks where they stand; a worker is brought to its end all the same.
impl<O: 'static, T: 'static, W: BatchWorker<T>, M: 'static> Drop for Served<O, T, W, M> {
    fn drop(&mut self) {
        if let Some(end) = self.end_of_life()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(end);
        }
    }
}
