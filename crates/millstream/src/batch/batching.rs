//! When a batch is closed.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use millstream_core::{Error, ErrorKind, Result, Size};
use serde_json::Value;
use tokio::sync::watch;

use super::Trigger;
use crate::{
    made::Adjust,
    typed::ToBytes,
    work::{limit_count, limit_span},
};

/// Says when a batch has all of its records: whatever comes first.
///
/// ```
/// use std::time::Duration;
/// use millstream::{Batching, Size};
///
/// // Of each customer, up to 100 orders or 1 MiB of them, and no order waits longer than a second.
/// let batching = Batching::<(String, u64)>::count(100)
///     .bytes(Size(1 << 20))
///     .linger(Duration::from_secs(1))
///     .key(|order| order.0.clone());
/// # drop(batching);
/// ```
pub struct Batching<T> {
    pub(crate) parameters: Parameters,
    pub(crate) key: Key<T>,
    split: Option<Arc<dyn Fn() -> Splitter<T> + Send + Sync>>,
    pub(crate) flush: Option<Mark<T>>,
}

/// The splitter of one batch.
pub(crate) type Splitter<T> = Box<dyn FnMut(&T) -> bool + Send>;

/// Whether a record has the flush mark.
type Mark<T> = Arc<dyn Fn(&T) -> bool + Send + Sync>;

/// Writes the key of a value; `false` if it has none.
type KeyOf<T> = Arc<dyn Fn(&T, &mut Vec<u8>) -> bool + Send + Sync>;

/// By what records are kept apart.
pub(crate) enum Key<T> {
    /// Any records together.
    None,
    /// By the record's own key.
    Record,
    /// By what a function makes of the value.
    By(KeyOf<T>),
}

impl<T> Clone for Batching<T> {
    fn clone(&self) -> Self {
        let key = match &self.key {
            Key::None => Key::None,
            Key::Record => Key::Record,
            Key::By(key) => Key::By(key.clone()),
        };
        Batching { parameters: self.parameters.clone(), key, split: self.split.clone(), flush: self.flush.clone() }
    }
}

impl<T> fmt::Debug for Batching<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parameters.fmt(f)
    }
}

impl<T> Batching<T> {
    /// Batches of so many records.
    pub fn count(records: usize) -> Self {
        let batching = Batching::open();
        batching.parameters.count.store(records.max(1), Relaxed);
        batching
    }

    /// Batches whose values have so many bytes together, as MessagePack: the record that comes to it is the last one, so that
    /// a batch is larger by at most one record.
    pub fn of_bytes(size: Size) -> Self {
        Batching::open().bytes(size)
    }

    /// Batches of what comes in this time, counted from the first record of each.
    pub fn every(time: Duration) -> Self {
        Batching::open().linger(time)
    }

    /// Batches that only a splitter, a flush mark or the end closes.
    pub fn open() -> Self {
        Batching { parameters: Parameters::default(), key: Key::None, split: None, flush: None }
    }

    /// At most so many bytes as well; see [`Batching::of_bytes`].
    #[must_use]
    pub fn bytes(self, size: Size) -> Self {
        self.parameters.bytes.store(size.0.max(1), Relaxed);
        self
    }

    /// At most so long as well, from the first record of a batch: each batch has a timer of its own.
    #[must_use]
    pub fn linger(self, time: Duration) -> Self {
        self.parameters.set_linger(Some(time));
        self
    }

    /// A batch never mixes keys: one is open for each key. A value whose key is `None` goes with others like it.
    #[must_use]
    pub fn key<K: ToBytes>(mut self, key: impl Fn(&T) -> K + Send + Sync + 'static) -> Self {
        self.key = Key::By(Arc::new(move |value, bytes| key(value).append(bytes)));
        self
    }

    /// The same by the key that the record has, as [`partition_by`](crate::Stream::partition_by) gave it. Then batches of
    /// different keys may be handled beside each other, as many as [`in_flight`](crate::Stream::in_flight) says, and those of one
    /// key in order.
    #[must_use]
    pub fn by_key(mut self) -> Self {
        self.key = Key::Record;
        self
    }

    /// A splitter of your own: `make` gives one for each batch, which sees its records in order and says `true` at the last
    /// one. What it keeps in mind is its own; after a crash it sees the records again.
    ///
    /// ```
    /// # use millstream::Batching;
    /// // Batches whose numbers add up to 1,000 or more.
    /// let batching = Batching::<u64>::open().split(|| {
    ///     let mut sum = 0;
    ///     move |number| {
    ///         sum += number;
    ///         sum >= 1000
    ///     }
    /// });
    /// # drop(batching);
    /// ```
    #[must_use]
    pub fn split<S>(mut self, make: impl Fn() -> S + Send + Sync + 'static) -> Self
    where
        S: FnMut(&T) -> bool + Send + 'static,
    {
        self.split = Some(Arc::new(move || Box::new(make())));
        self
    }

    /// A record for which `mark` says `true` closes its batch, and is the last in it.
    #[must_use]
    pub fn flush_on(mut self, mark: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        self.flush = Some(Arc::new(mark));
        self
    }

    /// All open batches of a worker together hold at most so much (64 MiB if not said): then the oldest is closed, with
    /// [`Trigger::Memory`](crate::Trigger::Memory).
    #[must_use]
    pub fn memory(self, size: Size) -> Self {
        self.parameters.memory.store(size.0.max(1), Relaxed);
        self
    }

    /// The splitter of a new batch.
    pub(crate) fn splitter(&self) -> Option<Splitter<T>> {
        self.split.as_ref().map(|make| make())
    }

    /// Whether any record can only be judged one by one.
    pub(crate) fn judges(&self) -> bool {
        !matches!(self.key, Key::None)
            || self.split.is_some()
            || self.flush.is_some()
            || self.parameters.bytes() != u64::MAX
    }
}

/// The numbers of a [`Batching`], which can change while it runs; shared by all workers.
#[derive(Clone)]
pub(crate) struct Parameters {
    count: Arc<AtomicUsize>,
    bytes: Arc<AtomicU64>,
    /// Nanoseconds; the largest for none.
    linger_ns: Arc<AtomicU64>,
    memory: Arc<AtomicU64>,
    /// Tells of each change: a timer may be due earlier.
    changed: Arc<watch::Sender<()>>,
}

impl Default for Parameters {
    fn default() -> Self {
        let bytes = |bytes| Arc::new(AtomicU64::new(bytes));
        let count = Arc::new(AtomicUsize::new(usize::MAX));
        Parameters {
            count,
            bytes: bytes(u64::MAX),
            linger_ns: bytes(u64::MAX),
            memory: bytes(64 << 20),
            changed: Default::default(),
        }
    }
}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, bytes) = (self.count(), self.bytes());
        f.debug_struct("Batching")
            .field("count", &count)
            .field("bytes", &bytes)
            .field("linger", &self.linger())
            .finish()
    }
}

impl Parameters {
    pub(crate) fn count(&self) -> usize {
        self.count.load(Relaxed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Why a batch of so many records and bytes is closed behind the last of them, if it is.
    pub(crate) fn reached(&self, split: bool, count: usize, bytes: u64) -> Option<Trigger> {
        match () {
            () if split => Some(Trigger::Split),
            () if count >= self.count() => Some(Trigger::Count),
            () if bytes >= self.bytes() => Some(Trigger::Bytes),
            () => None,
        }
    }

    pub(crate) fn linger(&self) -> Option<Duration> {
        Some(self.linger_ns.load(Relaxed)).filter(|ns| *ns != u64::MAX).map(Duration::from_nanos)
    }

    pub(crate) fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(crate) fn memory(&self) -> u64 {
        self.memory.load(Relaxed)
    }

    fn set_linger(&self, linger: Option<Duration>) {
        let ns = linger.map_or(u64::MAX, |linger| u64::try_from(linger.as_nanos()).unwrap_or(u64::MAX));
        self.linger_ns.store(ns, Relaxed);
    }
}

impl Adjust for Parameters {
    fn adjust(&self, option: &str, value: &Value) -> Result<bool> {
        match option.strip_prefix("batch.").unwrap_or(option) {
            "count" => self.count.store(limit_count(option, value)?, Relaxed),
            "linger" => self.set_linger(limit_span(option, value)?),
            "bytes" => {
                let size: Size = serde_json::from_value(value.clone()).map_err(|cause| {
                    Error::new(ErrorKind::Option, format!("`{option}` must be a size, such as \"1MiB\""))
                        .caused_by(cause)
                        .within(option)
                })?;
                self.bytes.store(size.0.max(1), Relaxed);
            }
            _ => return Ok(false),
        }
        self.changed.send_replace(());
        Ok(true)
    }
}
