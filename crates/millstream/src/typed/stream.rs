//! Steps on values, as the builder offers them.

use std::{fmt::Display, future::Future, num::NonZero, sync::Arc};

use millstream_core::{Batch, Error, ErrorKind, Form, Timestamp};
use millstream_runtime::{Dispatch, batch_span};

use super::{Data, RecordOf, ToBytes, convert::encode, envelope, fold, steps, view};
use crate::{
    Batching, Value,
    batch::Batched,
    failure::{Failure, outcome},
    made::Made,
    sink::End,
    stream::{Keyed, Raw, Stream, at},
    work::{Answer, Limits, Prepared, Worker, each, every, prepare, working},
};

/// Records under way of an asynchronous step that does not say how many.
const IN_FLIGHT: usize = 100;

/// One at a time, closures that borrow: a record that fails still has its value, for another try or the dead letters, and one
/// that is broadcast shares it. An error or panic costs only its record.
impl<T: Data, K> Stream<T, K> {
    /// Replaces each value.
    pub fn map<U: Data>(self, map: impl Fn(&T) -> U + Send + Sync + 'static) -> Stream<U> {
        self.enter(steps::map(map), None)
    }

    /// Replaces each value, or fails.
    pub fn try_map<U: Data, E: Failure>(self, map: impl Fn(&T) -> Result<U, E> + Send + Sync + 'static) -> Stream<U> {
        self.enter(steps::try_map(map), None)
    }

    /// Replaces each value by what is made of the whole record: its key, headers, time and origin, too.
    pub fn map_record<U: Data>(self, map: impl Fn(&RecordOf<'_, T>) -> U + Send + Sync + 'static) -> Stream<U> {
        self.enter(steps::map_record(map), None)
    }

    /// Keeps the records for which `keep` is true.
    pub fn filter(self, keep: impl Fn(&T) -> bool + Send + Sync + 'static) -> Stream<T> {
        self.enter(steps::filter(keep), None)
    }

    /// Replaces each record by any number of records.
    pub fn flat_map<I>(self, map: impl Fn(&T) -> I + Send + Sync + 'static) -> Stream<I::Item>
    where
        I: IntoIterator<Item: Data>,
    {
        self.enter(steps::flat_map(map), None)
    }

    /// Looks at each value.
    pub fn inspect(self, look: impl Fn(&T) + Send + Sync + 'static) -> Stream<T> {
        self.enter(steps::inspect(look), None)
    }

    /// Two streams: the records for which `choose` is true, and the others.
    pub fn branch(self, choose: impl Fn(&T) -> bool + Send + Sync + 'static) -> (Stream<T>, Stream<T>) {
        let yes: Stream<T> = self.enter(steps::branch(choose), None);
        let no = yes.output(1);
        (yes, no)
    }

    /// A stream for each of these names, in their order; `choose` says which one gets a record. A record that is sent to none
    /// of them fails, and the error says where it was to go.
    pub fn route<const N: usize, R: AsRef<str>>(
        self,
        outputs: [&str; N],
        choose: impl Fn(&T) -> R + Send + Sync + 'static,
    ) -> [Stream<T>; N] {
        let names = outputs.iter().map(|&output| output.to_owned()).collect();
        let routed: Stream<T> = self.enter(steps::route(names, choose), None);
        std::array::from_fn(|output| routed.output(output))
    }

    /// Gives each record a key.
    pub fn key_by<B: ToBytes>(self, key: impl Fn(&T) -> B + Send + Sync + 'static) -> Stream<T> {
        let mut keyed: Stream<T> = self.enter(envelope::key_by(key), None);
        keyed.keyed = Keyed::No;
        keyed
    }

    /// Gives each record a key and deals the records out by it: those of a key are handled in order and never beside each
    /// other, through every later step, whatever its `concurrency`; until [`merge`](Stream::merge) or another key. Records whose
    /// key is `None` go anywhere.
    pub fn partition_by<B: ToBytes>(self, key: impl Fn(&T) -> B + Send + Sync + 'static) -> Stream<T> {
        self.key_by(key).partition_by_key()
    }

    /// Gives each record an event time.
    pub fn time_by<I>(self, time: impl Fn(&T) -> I + Send + Sync + 'static) -> Stream<T>
    where
        I: Into<Option<Timestamp>>,
    {
        self.enter(envelope::time_by(time), None)
    }

    /// Gives each record a header, in place of others of its name.
    pub fn header<B: ToBytes>(
        self,
        name: impl Into<String>,
        value: impl Fn(&T) -> B + Send + Sync + 'static,
    ) -> Stream<T> {
        self.enter(envelope::header(name.into(), value), None)
    }

    /// Keeps a state of type `V` for each key that the records have ([`key_by`](Stream::key_by)), changed by `fold` with each
    /// record; at the end of the input each key's state becomes a record. The state is in the checkpoint: a record counts once,
    /// also after a crash. Records without a key are left out.
    ///
    /// What a record has changed by the time it panics is taken back. For that, a value without anything on the heap of up to
    /// 64 bytes is copied before each record; any other is cloned once for each batch that touches its key.
    ///
    /// `name` is needed because the state is found by it.
    pub fn fold<V: Data + Default, U: Data>(
        self,
        name: &str,
        fold: impl Fn(&mut V, &T) + Send + Sync + 'static,
        emit: impl Fn(&[u8], &V) -> U + Send + Sync + 'static,
    ) -> Stream<U> {
        let folded: Stream<U> = self.enter(fold::fold(fold, emit), None);
        // The state of a key is at one worker.
        folded.pipeline.draft().dispatch(folded.newest, Dispatch::Key);
        folded.name(name)
    }

    /// Writes each value as JSON.
    pub fn to_json(self) -> Stream<Raw> {
        self.encode_as("to_json", Form::Json, |value: &T, bytes: &mut Value<'_>| {
            serde_json::to_writer(bytes, value)
                .map_err(|cause| Error::new(ErrorKind::Data, "cannot write the value as JSON").caused_by(cause))
        })
    }

    /// Writes each value as it displays itself.
    pub fn to_text(self) -> Stream<Raw>
    where
        T: Display,
    {
        self.encode_as("to_text", Form::Text, |value: &T, bytes: &mut Value<'_>| {
            use std::io::Write as _;
            write!(bytes, "{value}")
        })
    }

    /// Writes each value by a function of yours.
    pub fn encode<E: Failure>(
        self,
        encode: impl Fn(&T, &mut Value<'_>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Stream<Raw> {
        self.encode_as("encode", Form::Bytes, encode)
    }

    pub(crate) fn encode_as<E: Failure>(
        self,
        verb: &'static str,
        form: Form,
        write: impl Fn(&T, &mut Value<'_>) -> Result<(), E> + Send + Sync + 'static,
    ) -> Stream<Raw> {
        self.enter(encode(verb, form, write), None)
    }
}

/// Many at a time: steps that wait take a copy of the value, because the record keeps its own for another try. What is under
/// way is bounded, and a barrier waits for it. On a partitioned stream one record of each key is under way at a time.
impl<T: Data, K> Stream<T, K> {
    /// Replaces each value by what a future comes to. Up to [`in_flight`](Stream::in_flight) of them (100 if not said) are under
    /// way in each worker; results go on in the order of their records, unless [`unordered`](Stream::unordered). A panic or a
    /// [`timeout`](Stream::timeout) costs only its record.
    ///
    /// An `async` closure will do where it captures nothing. What one captures it lends to each call, and calls are under way beside
    /// each other, so that each needs its own: `move |n| { let client = client.clone(); async move { client.get(n).await } }`.
    pub fn map_async<U, E, F, M>(self, map: M) -> Stream<U, at::Async>
    where
        U: Data,
        E: Failure,
        F: Future<Output = Result<U, E>> + Send + 'static,
        M: Fn(T) -> F + Send + Sync + 'static,
    {
        self.enter_async("map_async", move |value| {
            let work = map(value);
            async move { outcome(work.await) }
        })
    }

    /// Hands each value to a future, and that is the end of it: `()` or a `Result` says whether it is done.
    pub fn for_each<A, F, M>(self, each: M) -> End<at::Async>
    where
        A: Answer<Value = ()>,
        F: Future<Output = A> + Send + 'static,
        M: Fn(T) -> F + Send + Sync + 'static,
    {
        let done: Stream<(), at::Async> = self.enter_async("for_each", move |value| {
            let work = each(value);
            async move { work.await.outcomes(1)?.complete(1).next().unwrap_or(Ok(())) }
        });
        done.drop_behind()
    }

    fn enter_async<U: Data, F>(
        self,
        verb: &'static str,
        start: impl Fn(T) -> F + Send + Sync + 'static,
    ) -> Stream<U, at::Async>
    where
        F: Future<Output = millstream_core::Result<U>> + Send + 'static,
    {
        let (limits, keyed, start) = (Limits::new(IN_FLIGHT), self.keyed != Keyed::No, Arc::new(start));
        let shared = limits.clone();
        let made = Made::operator(verb, move || {
            let start = start.clone();
            let begin = move |batch: &Batch, row: usize, limit| {
                // All of the user's code runs in the future, where a panic is contained.
                let (batch, start) = (batch.clone(), start.clone());
                every(async move { start(value_of::<T>(&batch, row)?).await }, limit)
            };
            each::<T, U, _>(begin, shared.clone(), keyed)
        });
        self.enter(Made { options: vec![limits.clone()], ..made }, Some(limits))
    }

    /// Replaces each value by what a function comes to that blocks or computes for long: it runs on a thread for such work, and
    /// up to [`in_flight`](Stream::in_flight) of them (one for each processor if not said) in all workers together. What takes longer
    /// than the [`timeout`](Stream::timeout), from when it has a thread, fails; the thread is free when the function returns.
    pub fn map_blocking<U: Data, E: Failure>(
        self,
        map: impl Fn(&T) -> Result<U, E> + Send + Sync + 'static,
    ) -> Stream<U, at::Async> {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let (limits, keyed, map) = (Limits::new(processors), self.keyed != Keyed::No, Arc::new(map));
        let shared = limits.clone();
        let made = Made::operator("map_blocking", move || {
            let (map, limits) = (map.clone(), shared.clone());
            let begin = move |batch: &Batch, row: usize, limit| {
                let (batch, map, limits) = (batch.clone(), map.clone(), limits.clone());
                async move {
                    // The time of a record begins when it has a thread.
                    let thread = limits.thread().await;
                    let work = move || {
                        let _thread = thread;
                        let value = view::<T>(&batch).get(row).ok_or_else(no_value)?;
                        outcome(map(value))
                    };
                    every(on_a_thread(work), limit).await
                }
            };
            each::<T, U, _>(begin, shared.clone(), keyed)
        });
        self.enter(Made { options: vec![limits.clone()], ..made }, Some(limits))
    }

    /// One look-up for all records that come together, before each of them is [mapped](Prepared::map) with what was found:
    /// one query for many records. If it fails, all of its records fail.
    pub fn prepare<P>(self, lookup: P) -> Prepared<T, K, P> {
        prepare(self, lookup)
    }

    /// Gathers records to batches for a [handler](Batched::handle).
    pub fn batch(self, batching: Batching<T>) -> Batched<T, K> {
        Batched::new(self, batching)
    }

    /// A step that is an object: `make` makes one for each worker, so that it can own a connection. See [`Worker`].
    pub fn step<W: Worker<T>>(self, make: impl Fn() -> W + Send + Sync + 'static) -> Stream<W::Output, at::Worker> {
        let (limits, keyed, make) = (Limits::new(1), self.keyed != Keyed::No, Arc::new(make));
        let shared = limits.clone();
        let made = Made::operator("step", move || working::<T, W>(make.clone(), shared.clone(), keyed));
        self.enter(Made { options: vec![limits.options(false)], ..made }, Some(limits))
    }
}

impl<T: Data + AsRef<[u8]>, K> Stream<T, K> {
    /// Reads each value, a text or bytes, as JSON. One that does not fit `U` fails, and only it.
    pub fn json<U: Data>(self) -> Stream<U> {
        self.enter(steps::parse_json::<T, U>(), None)
    }
}

/// Runs work on a thread for such, in the span that it is in here; a panic is an error.
async fn on_a_thread<U: Send + 'static>(
    work: impl FnOnce() -> millstream_core::Result<U> + Send + 'static,
) -> millstream_core::Result<U> {
    let span = batch_span();
    let ended = tokio::task::spawn_blocking(move || match span {
        Some(span) => span.in_scope(work),
        None => work(),
    });
    let ended = ended.await;
    ended.unwrap_or_else(|error| {
        Err(error.try_into_panic().map_or_else(
            |_| Error::new(ErrorKind::Interrupted, "the process ends before the work is done"),
            |panic| millstream_core::panicked(&*panic),
        ))
    })
}

fn value_of<T: Data>(batch: &Batch, row: usize) -> millstream_core::Result<T> {
    view::<T>(batch).get(row).cloned().ok_or_else(no_value)
}

fn no_value() -> Error {
    Error::new(ErrorKind::Bug, "a record has no value")
}
