//! What flows between two steps of a pipeline in the making, and the settings of the step that it comes from.

use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use millstream_core::{Error, Record, StepPlan};
use millstream_runtime::{Dispatch, Entry, ErrorRule, OnFailed, RateLimit};

use crate::{
    Pipeline,
    draft::{Id, Port, misuse},
    made::Made,
    work::Limits,
};

/// Records as bytes, as sources read them and sinks write them: the `T` of a [`Stream`] whose values are not decoded.
#[derive(Clone, Copy, Debug)]
pub enum Raw {}

/// What the newest step of a stream does: it decides which settings there are.
pub mod at {
    /// It handles each record at once; or it is a source.
    #[derive(Clone, Copy, Debug)]
    pub enum Step {}
    /// It waits for each record.
    #[derive(Clone, Copy, Debug)]
    pub enum Async {}
    /// It waits for sets of records.
    #[derive(Clone, Copy, Debug)]
    pub enum Batches {}
    /// It has an object for each worker.
    #[derive(Clone, Copy, Debug)]
    pub enum Worker {}
    /// It is a sink.
    #[derive(Clone, Copy, Debug)]
    pub enum Sink {}

    /// What has a name and error rules.
    pub trait Entry {}
    /// What can be slowed down.
    pub trait Limited: Entry {}
    /// What can have several workers.
    pub trait Stage: Limited {}
    /// What can take too long.
    pub trait Timed: Stage {}
    /// What has several records or batches under way at once.
    pub trait Bounded: Timed {}

    macro_rules! may {
        ($trait:ident: $($kind:ident),*) => { $( impl $trait for $kind {} )* };
    }

    may!(Entry: Step, Async, Batches, Worker, Sink);
    may!(Limited: Step, Async, Batches, Worker);
    may!(Stage: Step, Async, Batches, Worker);
    may!(Timed: Async, Batches, Worker);
    may!(Bounded: Async, Batches);
}

/// Whether records of one key are handled in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keyed {
    /// Nothing is promised.
    No,
    /// The next step is dispatched by key.
    Next,
    /// It is so.
    Yes,
}

/// Records with values of type `T` ([`Raw`]: bytes), on their way to whoever reads them.
///
/// Each method adds a step that reads this stream and answers with the stream behind it. Settings, such as
/// [`name`](Stream::name), are those of the newest step; which there are depends on what it is. A clone is a second reader:
/// it gets every record, too, without a copy (broadcast).
///
/// Everywhere but right behind a step that waits the type is `Stream<T>`: of sources, of most steps, of what functions take.
/// `K` stands for the settings of a step that waits ([`timeout`](Stream::timeout), [`in_flight`](Stream::in_flight)); where no
/// more of them come, `.into()` makes a `Stream<T>` of it.
#[must_use = "a stream that nobody reads cannot be planned: end it with a sink, or `drop`"]
pub struct Stream<T, K = at::Step> {
    pub(crate) pipeline: Pipeline,
    pub(crate) from: Vec<Port>,
    pub(crate) newest: Id,
    pub(crate) keyed: Keyed,
    kind: PhantomData<fn() -> (T, K)>,
}

impl<T, K> Clone for Stream<T, K> {
    fn clone(&self) -> Self {
        Stream::with(&self.pipeline, self.from.clone(), self.newest, self.keyed)
    }
}

impl<T, K> fmt::Debug for Stream<T, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stream<{}> from {:?}", std::any::type_name::<T>(), self.from)
    }
}

macro_rules! forget_kind {
    ($($kind:ident),*) => { $(
        impl<T> From<Stream<T, at::$kind>> for Stream<T> {
            fn from(stream: Stream<T, at::$kind>) -> Self {
                stream.cast()
            }
        }
    )* };
}

forget_kind!(Async, Batches, Worker);

impl<T, K> Stream<T, K> {
    pub(crate) fn new(pipeline: &Pipeline, from: Vec<Port>, newest: Id) -> Self {
        Stream::with(pipeline, from, newest, Keyed::No)
    }

    pub(crate) fn with(pipeline: &Pipeline, from: Vec<Port>, newest: Id, keyed: Keyed) -> Self {
        Stream { pipeline: pipeline.clone(), from, newest, keyed, kind: PhantomData }
    }

    /// The same under another type: only where the builder knows better.
    pub(crate) fn cast<U, L>(self) -> Stream<U, L> {
        Stream::with(&self.pipeline, self.from, self.newest, self.keyed)
    }

    /// The pipeline that it belongs to.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// Both streams as one: records of each stay in order, and nothing is promised between the two. Two streams of one key
    /// are no longer in order by key: [`partition_by`](Stream::partition_by) again, if the steps behind need that. It is no step,
    /// so it has no settings.
    pub fn merge<L>(mut self, other: Stream<T, L>) -> Stream<T> {
        if !self.pipeline.same(&other.pipeline) {
            let error =
                misuse("two streams of different pipelines cannot be merged", "make both from the same `Pipeline`");
            self.pipeline.draft().errors.push(error);
        }
        self.from.extend(other.from);
        Stream::new(&self.pipeline, self.from, Id::Merge)
    }

    /// Deals the records out by the keys that they have already, as those that a log keeps: records of a key are handled in
    /// order and never beside each other, through every later step, until [`merge`](Stream::merge) or another key. Records
    /// without a key go anywhere.
    pub fn partition_by_key(mut self) -> Self {
        self.keyed = Keyed::Next;
        self
    }

    /// Adds a step behind this stream.
    pub(crate) fn enter<U, L>(self, mut made: Made, limits: Option<Arc<Limits>>) -> Stream<U, L> {
        let (verb, outputs) = (made.verb, made.outputs.clone());
        made.classifiers = self.pipeline.draft().classifiers.clone();
        self.enter_entry(Entry::ready(Arc::new(made)), verb, outputs, limits)
    }

    pub(crate) fn enter_entry<U, L>(
        self,
        entry: Entry<dyn StepPlan>,
        label: &str,
        outputs: Vec<String>,
        limits: Option<Arc<Limits>>,
    ) -> Stream<U, L> {
        let output = (!outputs.is_empty()).then_some(0);
        let mut draft = self.pipeline.draft();
        let id = draft.step(entry, label, self.from.clone(), outputs, limits);
        if self.keyed == Keyed::Next {
            draft.dispatch(id, Dispatch::Key);
        }
        drop(draft);
        let keyed = if self.keyed == Keyed::No { Keyed::No } else { Keyed::Yes };
        Stream::with(&self.pipeline, vec![Port { entry: id, output }], id, keyed)
    }

    /// The other outputs of the newest step.
    pub(crate) fn output(&self, output: usize) -> Self {
        let from = vec![Port { entry: self.newest, output: Some(output) }];
        Stream::with(&self.pipeline, from, self.newest, self.keyed)
    }
}

/// Settings of the newest entry, for streams and for what ends them.
macro_rules! settings {
    ($handle:ident $(< $type:ident >)?) => {
        impl<$($type,)? K: at::Entry> $handle<$($type,)? K> {
            /// Names it: its figures, dead letters and state are found by that. Without a name it is called by what it does.
            pub fn name(self, name: impl Into<String>) -> Self {
                self.pipeline.draft().name(self.newest, name.into());
                self
            }

            /// An error rule of its own, before those of the pipeline; the first that matches decides.
            pub fn on_error(self, rule: ErrorRule) -> Self {
                self.pipeline.draft().on_error(self.newest, rule);
                self
            }

            /// Hears of each failed record before its rule acts: the record, why, and how often it has failed by now. Must not
            /// block; a panic in it is logged and changes nothing.
            pub fn on_failed(self, hook: impl Fn(&Record, &Error, u32) + Send + Sync + 'static) -> Self {
                let hook = OnFailed(Arc::new(move |_, record, error, attempts| hook(record, error, attempts)));
                self.pipeline.draft().on_failed(self.newest, hook);
                self
            }
        }

        impl<$($type,)? K: at::Limited> $handle<$($type,)? K> {
            /// How fast records may pass; can be changed while it runs.
            pub fn rate_limit(self, limit: RateLimit) -> Self {
                self.pipeline.draft().rate_limit(self.newest, limit);
                self
            }
        }

        impl<$($type,)? K: at::Stage> $handle<$($type,)? K> {
            /// So many workers, each with a step of its own; as many as what it reads has, if not said. Without
            /// [`partition_by`](Stream::partition_by) records of different workers overtake each other. A source has none.
            pub fn concurrency(self, workers: u32) -> Self {
                self.pipeline.draft().concurrency(self.newest, workers);
                self
            }
        }

        impl<$($type,)? K: at::Timed> $handle<$($type,)? K> {
            /// What takes longer fails with [`ErrorKind::Timeout`](crate::ErrorKind::Timeout): a record, or a batch with all its
            /// records. There is no limit if not said.
            pub fn timeout(self, limit: Duration) -> Self {
                self.with_limits(|limits| limits.set_timeout(Some(limit)))
            }

            fn with_limits(self, set: impl FnOnce(&Limits)) -> Self {
                let limits = self.pipeline.draft().limits(self.newest);
                if let Some(limits) = limits {
                    set(&limits);
                }
                self
            }
        }

        impl<$($type,)? K: at::Bounded> $handle<$($type,)? K> {
            /// At most so many records (of a batch handler: batches; of `prepare`: look-ups) under way at once, in each worker;
            /// of [`map_blocking`](Stream::map_blocking): in all workers together. Where one set of records may hold any key of a
            /// partitioned stream, as those of `prepare` do, it is one set at a time, whatever is said here.
            pub fn in_flight(self, most: usize) -> Self {
                self.with_limits(|limits| limits.set_in_flight(most))
            }
        }

        impl<$($type)?> $handle<$($type,)? at::Async> {
            /// Emits each record when it is done, and not in the order in which they came. Records of one key stay in order
            /// behind [`partition_by`](Stream::partition_by).
            pub fn unordered(self) -> Self {
                self.with_limits(Limits::set_unordered)
            }
        }
    };
}

pub(crate) use settings;

settings!(Stream<T>);
