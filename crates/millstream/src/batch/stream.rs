//! Batches of a stream, until a handler is given.

use std::{future::Future, sync::Arc};

use millstream_core::{Operator, Result};

use super::{
    BatchOf, BatchWorker, Batching,
    batching::Key,
    grouping::Grouping,
    repeat::repeated,
    worker::{Post, Served},
};
use crate::{
    made::Made,
    stream::{Keyed, Stream, at},
    typed::Data,
    work::{Answer, Apart, Crew, Gathered, Limits, Outcomes, every},
};

/// A stream in batches: [`handle`](Batched::handle) says who gets them.
#[must_use = "batches need a handler: `handle`, or `step`"]
#[derive(Debug)]
pub struct Batched<T, K> {
    stream: Stream<T, K>,
    batching: Batching<T>,
    repeatable: bool,
}

impl<T: Data, K> Batched<T, K> {
    pub(crate) fn new(stream: Stream<T, K>, batching: Batching<T>) -> Self {
        Batched { stream, batching, repeatable: false }
    }

    /// Handling a record twice does no harm. Then a batch that fails as a whole, by a panic or an error that another try cannot
    /// help, is handled again at once record by record, with [`Trigger::Retry`](crate::Trigger::Retry): only what fails by itself
    /// has failed. And where the stream is partitioned, what is behind a record that failed of its key in the same batch is
    /// handled again in a later one, so that each key stays in order.
    pub fn repeatable(self) -> Self {
        Batched { repeatable: true, ..self }
    }

    /// Calls `handler` with each batch; what it answers ([`Answer`]) says what becomes of each record. A panic is an error of the
    /// whole batch, if that is not [`repeatable`](Batched::repeatable), and so is a time-out. A record that is tried again comes
    /// alone, with [`Trigger::Retry`](crate::Trigger::Retry).
    ///
    /// One batch at a time is under way if [`in_flight`](Stream::in_flight) does not say more; what they come to goes on in
    /// their order. Behind [`partition_by`](Stream::partition_by), batches may only be under way beside each other where they
    /// are [by key](Batching::by_key).
    ///
    /// Open batches are saved with each epoch, so a batch may wait for longer than that; they go to the handler when the
    /// pipeline drains or its input ends. They are state, so name the step.
    pub fn handle<A, F, H>(self, handler: H) -> Stream<A::Value, at::Batches>
    where
        A: Answer,
        F: Future<Output = A> + Send + 'static,
        H: Fn(BatchOf<T>) -> F + Send + Sync + 'static,
    {
        let handler = Arc::new(handler);
        let several = self.apart() != Apart::All;
        self.enter(several, move |gather| {
            let handler = handler.clone();
            let handle = move |gathered: Gathered| {
                let handler = handler.clone();
                async move {
                    let group = BatchOf::<T>::gather(gathered);
                    let records = group.len();
                    handler(group).await.outcomes(records)
                }
            };
            gather.grouping(handle)
        })
    }

    /// The same with an object that handles the batches: `make` makes one for each worker, so that it can own a connection. See
    /// [`BatchWorker`].
    pub fn step<W: BatchWorker<T>>(
        self,
        make: impl Fn() -> W + Send + Sync + 'static,
    ) -> Stream<<W::Answer as Answer>::Value, at::Worker> {
        let make = Arc::new(make);
        self.enter(false, move |gather| {
            let post = Post::empty();
            let at = post.clone();
            let handle = move |gathered: Gathered| {
                let at = at.clone();
                async move { at.handle(BatchOf::<T>::gather(gathered)).await }
            };
            Served::new(gather.grouping(handle), post, make.clone())
        })
    }

    fn apart(&self) -> Apart {
        match (self.stream.keyed, &self.batching.key) {
            (Keyed::No, _) => Apart::No,
            (_, Key::Record) => Apart::ByKey,
            _ => Apart::All,
        }
    }

    /// Adds the step that `make` makes for each worker; `several` batches of a worker may be under way at once.
    fn enter<U, L, O: Operator + 'static>(
        self,
        several: bool,
        make: impl Fn(Gathering<T>) -> O + Send + Sync + 'static,
    ) -> Stream<U, L> {
        let (apart, limits) = (self.apart(), Limits::new(1));
        let Batched { stream, batching, repeatable } = self;
        let options = vec![limits.options(several), Arc::new(batching.parameters.clone())];
        let gathering = Gathering { batching, limits: limits.clone(), apart, repeatable };
        let made = Made::operator("batch", move || make(gathering.clone()));
        stream.enter(Made { stateful: true, options, ..made }, Some(limits))
    }
}

/// What a step that gathers is made of, but for the handler.
struct Gathering<T> {
    batching: Batching<T>,
    limits: Arc<Limits>,
    apart: Apart,
    repeatable: bool,
}

impl<T> Clone for Gathering<T> {
    fn clone(&self) -> Self {
        Gathering { batching: self.batching.clone(), limits: self.limits.clone(), ..*self }
    }
}

impl<T: Data> Gathering<T> {
    fn grouping<U: Data, F>(self, handle: impl Fn(Gathered) -> F + Send + Sync + 'static) -> impl Operator
    where
        F: Future<Output = Result<Outcomes<U>>> + Send + 'static,
    {
        let Gathering { batching, limits, apart, repeatable } = self;
        let handle = Arc::new(handle);
        let begin = move |number: u32, set: Gathered, limit| {
            let handle = handle.clone();
            async move {
                let handled = match repeatable {
                    true => repeated(&*handle, set, limit, apart).await,
                    false => every(handle(set), limit).await,
                };
                (number, handled)
            }
        };
        let crew = Crew::new(begin, limits, apart);
        Grouping::new(batching, if repeatable { crew.in_line() } else { crew })
    }
}
