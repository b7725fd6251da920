//! Batches of a stream, until a handler is given.

use std::{future::Future, sync::Arc};

use millstream_core::Operator;

use super::{
    BatchOf, BatchWorker, Batching,
    batching::Key,
    grouping::Grouping,
    worker::{Post, Served},
};
use crate::{
    made::Made,
    stream::{Keyed, Stream, at},
    typed::Data,
    work::{Answer, Apart, Crew, Gathered, Limits, every},
};

/// A stream in batches: [`handle`](Batched::handle) says who gets them.
#[must_use = "batches need a handler: `handle`, or `step`"]
#[derive(Debug)]
pub struct Batched<T, K> {
    pub(crate) stream: Stream<T, K>,
    pub(crate) batching: Batching<T>,
}

impl<T: Data, K> Batched<T, K> {
    /// Calls `handler` with each batch; what it answers ([`Answer`]) says what becomes of each record. A panic or a time-out
    /// is an error of the whole batch.
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
        self.enter(move |batching, limits, apart| {
            let handler = handler.clone();
            let handle = move |gathered: Gathered| {
                let handler = handler.clone();
                async move {
                    let group = BatchOf::<T>::gather(gathered);
                    let records = group.len();
                    handler(group).await.outcomes(records)
                }
            };
            grouping(batching, handle, limits, apart)
        })
    }

    /// The same with an object that handles the batches: `make` makes one for each worker, so that it can own a connection. See
    /// [`BatchWorker`].
    pub fn step<W: BatchWorker<T>>(
        self,
        make: impl Fn() -> W + Send + Sync + 'static,
    ) -> Stream<<W::Answer as Answer>::Value, at::Worker> {
        let make = Arc::new(make);
        self.enter(move |batching, limits, apart| {
            let post = Post::empty();
            let at = post.clone();
            let handle = move |gathered: Gathered| {
                let at = at.clone();
                async move { at.handle(BatchOf::<T>::gather(gathered)).await }
            };
            Served::new(grouping(batching, handle, limits, apart), post, make.clone())
        })
    }

    /// Adds the step that `make` makes for each worker.
    fn enter<U, L, O: Operator + 'static>(
        self,
        make: impl Fn(Batching<T>, Arc<Limits>, Apart) -> O + Send + Sync + 'static,
    ) -> Stream<U, L> {
        let Batched { stream, batching } = self;
        let limits = Limits::new(1);
        let apart = match (stream.keyed, &batching.key) {
            (Keyed::No, _) => Apart::No,
            (_, Key::Record) => Apart::ByKey,
            _ => Apart::All,
        };
        // Records without a key may be at any worker, those of a key at one: both keep what they have.
        let scales = stream.keyed != Keyed::No;
        let options: Vec<Arc<dyn crate::made::Adjust>> = vec![limits.clone(), Arc::new(batching.parameters.clone())];
        let shared = limits.clone();
        let made = Made::operator("batch", move || make(batching.clone(), shared.clone(), apart));
        stream.enter(Made { stateful: true, scales, options, ..made }, Some(limits))
    }
}

fn grouping<T: Data, U: Data, F>(
    batching: Batching<T>,
    handle: impl Fn(Gathered) -> F + Send + Sync + 'static,
    limits: Arc<Limits>,
    apart: Apart,
) -> impl Operator
where
    F: Future<Output = millstream_core::Result<crate::Outcomes<U>>> + Send + 'static,
{
    let begin = move |number: u32, gathered: Gathered, limit| {
        let work = handle(gathered);
        async move { (number, every(work, limit).await) }
    };
    Grouping::new(batching, Crew::new(begin, limits, apart))
}
