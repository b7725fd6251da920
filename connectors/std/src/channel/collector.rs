//! Values of a Rust type pushed into a pipeline, by web handlers and tests.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use millstream_core::{
    Batch, Body, ColumnBuilder, Envelope, Epoch, Error, Form, Result, Sequences, ShardKey, Shards, SourcePlan, Times,
    Timestamp, Told,
};

use super::{
    Ends, RECORD_BYTES,
    queue::{Queue, Weighed, room_of},
    receipt::{Answer, Receipt},
    source::{Assemble, ChannelPlan},
};

/// The room of a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorOptions {
    /// Name of the stream that the records belong to. Default: `collector`.
    pub stream: String,
    /// Records that may wait to be read. Default: 65536.
    pub records_max: usize,
    /// Bytes that may wait to be read; one record alone may be larger, and so may one `push_all`. Default:
    /// 64 MiB.
    pub bytes_max: usize,
}

impl Default for CollectorOptions {
    fn default() -> Self {
        CollectorOptions { stream: "collector".to_owned(), records_max: 65_536, bytes_max: 64 << 20 }
    }
}

/// A value to be pushed, and what is known of it besides. A bare value is one without key and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed<T> {
    /// The value.
    pub value: T,
    /// Key of the record.
    pub key: Option<Bytes>,
    /// Event time.
    pub time: Option<Timestamp>,
}

impl<T> Pushed<T> {
    /// A value without key and time.
    pub fn new(value: T) -> Self {
        Pushed { value, key: None, time: None }
    }

    /// With this key.
    #[must_use]
    pub fn key(self, key: impl Into<Bytes>) -> Self {
        Pushed { key: Some(key.into()), ..self }
    }

    /// With this event time.
    #[must_use]
    pub fn time(self, time: Timestamp) -> Self {
        Pushed { time: Some(time), ..self }
    }
}

impl<T> From<T> for Pushed<T> {
    fn from(value: T) -> Self {
        Pushed::new(value)
    }
}

/// Pushes values into a pipeline. Cheap to clone; works on any async executor.
///
/// Records are given to the pipeline in the order in which they are accepted: those of one caller, who pushes one after the
/// other, stay in order.
///
/// # What is promised
///
/// - **Accepted** ([`push`](Self::push), [`try_push`](Self::try_push)): the record waits in memory, or has been read. It is
///   kept while this run of the pipeline lasts, through restarts inside the process; it is lost with the process.
/// - **Committed** ([`push_and_wait`](Self::push_and_wait), a [`Receipt`]): the epoch that holds it counts, and no failure can
///   undo it. While somebody waits, epochs are cut at once, and not only when they are due.
/// - **When the pipeline is over**, however it ended: pushes give [`ErrorKind::Closed`](millstream_core::ErrorKind::Closed),
///   and so do all who wait. What was accepted, not read, and not waited for stays for the next run of the same pipeline,
///   which takes pushes again once its sources are opened.
///
/// A pipeline that is drained reads no more of what waits. To end one with nothing left over, [`close`](Self::close) its
/// collectors, or drop them all: the source gives what has been accepted, and ends.
pub struct Collector<T> {
    ends: Arc<Ends<Pushed<T>>>,
    size: fn(&T) -> usize,
}

impl<T> Clone for Collector<T> {
    fn clone(&self) -> Self {
        Collector { ends: self.ends.clone(), size: self.size }
    }
}

impl<T> fmt::Debug for Collector<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").finish_non_exhaustive()
    }
}

/// A collector, and the source that gives its values.
///
/// `size` tells how many bytes of memory a value holds, and `body` makes the body of a batch with one row for each value.
pub fn collector<T: Send + 'static>(
    options: CollectorOptions,
    size: fn(&T) -> usize,
    body: fn(Vec<T>) -> Body,
) -> (Collector<T>, impl SourcePlan + use<T>) {
    let queue = Queue::new(options.records_max, options.bytes_max);
    let plan = ChannelPlan::new(queue.clone(), Values(body), options.stream, Form::Json);
    (Collector { ends: Arc::new(Ends(queue)), size }, plan)
}

impl<T> Collector<T> {
    /// Pushes a value; waits for room, in turn with others who wait. Returns when it is accepted.
    ///
    /// Cancel-safe: dropped before its end it has pushed nothing. [`Closed`](millstream_core::ErrorKind::Closed): the
    /// collector was closed, or the pipeline is over.
    pub async fn push(&self, value: impl Into<Pushed<T>>) -> Result<()> {
        self.put([self.weighed(value.into())], None).await
    }

    /// Pushes a value if there is room now; else gives it back with what it was pushed with, which can be pushed again as it
    /// is. [`Full`](millstream_core::ErrorKind::Full): there is no room; a web handler answers 429 or 503.
    pub fn try_push(&self, value: impl Into<Pushed<T>>) -> Result<(), (Error, Pushed<T>)> {
        self.queue().try_push(self.weighed(value.into()), None)
    }

    /// Pushes a value, and waits until the epoch that holds it has committed: the answer is that epoch. See [`Receipt`] for
    /// what that means, and for the error.
    ///
    /// Dropped before its end it has pushed the value once, or not at all while it waited for room.
    pub async fn push_and_wait(&self, value: impl Into<Pushed<T>>) -> Result<Epoch> {
        self.push_with_receipt(value).await?.await
    }

    /// As [`push`](Self::push), with a receipt to wait for the epoch.
    pub async fn push_with_receipt(&self, value: impl Into<Pushed<T>>) -> Result<Receipt> {
        let (answer, receipt) = Receipt::new();
        self.put([self.weighed(value.into())], Some(answer)).await?;
        Ok(receipt)
    }

    /// As [`try_push`](Self::try_push), with a receipt to wait for the epoch: for a handler that refuses when there is no room,
    /// and else answers after the commit.
    pub fn try_push_with_receipt(&self, value: impl Into<Pushed<T>>) -> Result<Receipt, (Error, Pushed<T>)> {
        let (answer, receipt) = Receipt::new();
        self.queue().try_push(self.weighed(value.into()), Some(answer)).map(|()| receipt)
    }

    /// Pushes values, one right behind the other, when there is room for all of them; if they are more than all the room, when
    /// nothing else waits. Returns when they are accepted.
    ///
    /// Cancel-safe: dropped before its end it has pushed none of them. The iterator is collected first.
    pub async fn push_all<V: Into<Pushed<T>>>(&self, values: impl IntoIterator<Item = V>) -> Result<()> {
        let all: Vec<_> = values.into_iter().map(|value| self.weighed(value.into())).collect();
        if all.is_empty() { Ok(()) } else { self.put(all, None).await }
    }

    /// As [`push_all`](Self::push_all), and waits until the epoch that holds the last of them has committed. `None`: there
    /// were no values. Dropped before its end it has pushed all of them once, or none while it waited for room.
    pub async fn push_all_and_wait<V: Into<Pushed<T>>>(
        &self,
        values: impl IntoIterator<Item = V>,
    ) -> Result<Option<Epoch>> {
        let all: Vec<_> = values.into_iter().map(|value| self.weighed(value.into())).collect();
        if all.is_empty() {
            return Ok(None);
        }
        let (answer, receipt) = Receipt::new();
        self.put(all, Some(answer)).await?;
        receipt.await.map(Some)
    }

    /// Takes no more pushes, of no clone of this collector. The source gives what has been accepted, and ends; so does a
    /// pipeline without other sources. Pushes that wait for room have pushed nothing.
    pub fn close(&self) {
        self.queue().close();
    }

    async fn put<W>(&self, items: W, answer: Option<Answer>) -> Result<()>
    where
        W: AsRef<[Weighed<Pushed<T>>]> + IntoIterator<Item = Weighed<Pushed<T>>>,
    {
        self.queue().push(room_of(items.as_ref()), items, answer).await
    }

    fn queue(&self) -> &Arc<Queue<Pushed<T>>> {
        &self.ends.0
    }

    fn weighed(&self, item: Pushed<T>) -> Weighed<Pushed<T>> {
        let bytes = RECORD_BYTES + item.key.as_ref().map_or(0, Bytes::len) + (self.size)(&item.value);
        Weighed { item, bytes }
    }
}

/// Values to batches with a body of their own.
struct Values<T>(fn(Vec<T>) -> Body);

impl<T: 'static> Assemble<Pushed<T>> for Values<T> {
    fn batch(&self, shard: &ShardKey, sequence: u64, items: Vec<Pushed<T>>) -> Batch {
        let any_key = items.iter().any(|item| item.key.is_some());
        let any_time = items.iter().any(|item| item.time.is_some());
        let keys = any_key.then(|| {
            let mut keys = ColumnBuilder::default();
            items.iter().for_each(|item| keys.push(item.key.as_deref()));
            keys.finish()
        });
        let times =
            if any_time { Times::Each(Arc::new(items.iter().map(|item| item.time).collect())) } else { Times::Absent };
        let envelope = Envelope {
            shards: Shards::Same(shard.clone()),
            sequences: Sequences::Run(sequence.into()),
            times,
            keys,
            headers: None,
            told: Told::default(),
        };
        Batch::new(envelope, (self.0)(items.into_iter().map(|item| item.value).collect()))
    }
}
