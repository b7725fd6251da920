//! What comes out of a stream, as a vector.

use std::{
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
};

use millstream_core::{Batch, Error, Form, Result, Size};
use millstream_runtime::Entry;

use crate::{
    Value,
    kept::{Full, Keeping, Kept},
    sink::End,
    stream::Stream,
    typed::{Data, pack, unpack},
};

/// The end of a stream whose values come to a vector, in order; made by [`Stream::collect`].
///
/// Awaited, it runs the pipeline to its end and gives all values. Where a pipeline has several ends, or is started and drained,
/// [`take`](Collected::take) gives those that have come.
#[must_use = "await it, or run the pipeline and `take` what has come"]
pub struct Collected<T> {
    end: End,
    kept: Kept<T>,
}

impl<T> fmt::Debug for Collected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Collected<{}>", std::any::type_name::<T>())
    }
}

/// As much as a program has room for without thinking of it.
const BYTES_MAX: Size = Size(64 << 20);

impl<T: Data, K> Stream<T, K> {
    /// Ends in a vector: for programs that want the values themselves, and for tests.
    ///
    /// ```
    /// use millstream::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> millstream::Result<()> {
    /// let squares = Pipeline::new("squares").in_memory().values(1..=3u64).map(|n| n * n).collect().await?;
    /// assert_eq!(squares, [1, 4, 9]);
    ///
    /// let pipeline = Pipeline::new("parts").in_memory();
    /// let (even, odd) = pipeline.values(0..6u64).branch(|n| n % 2 == 0);
    /// let (even, odd) = (even.collect(), odd.collect());
    /// pipeline.run().await?;
    /// assert_eq!((even.take(), odd.take()), (vec![0, 2, 4], vec![1, 3, 5]));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The values may hold about 64 MiB together, if [`at_most`](Collected::at_most) does not say otherwise; with one more the
    /// pipeline stops with [`ErrorKind::TooLarge`](crate::ErrorKind::TooLarge). Each value comes once, also where the pipeline
    /// restarts from its checkpoint; but what was collected goes with the process. Values are written down on their way here, so
    /// [`Data`] says what comes back; one that cannot be written down becomes a dead letter.
    ///
    /// A test of the whole pipeline (`millstream::testing`) swaps this end like a sink, unless it keeps it by its name.
    pub fn collect(self) -> Collected<T> {
        let kept = Kept::at_most(BYTES_MAX);
        let sink = Keeping { what: "values", kept: kept.clone(), read: values::<T>, full: Full::Stop };
        // As bytes they can wait for another try.
        let packed = self.encode_as("pack", Form::Bytes, |value: &T, bytes: &mut Value<'_>| {
            bytes.extend_from_slice(&pack(value)?);
            Ok::<(), Error>(())
        });
        Collected { end: packed.end(Some(Entry::ready(Arc::new(sink))), "collect"), kept }
    }
}

/// The values of a batch, as [`pack`] has written them.
fn values<T: Data>(batch: Batch) -> Result<Vec<(T, usize)>> {
    let batch = batch.into_bytes();
    let bytes = batch.iter().map(|record| record.value().unwrap_or_default());
    bytes.map(|bytes| Ok((unpack(bytes)?, size_of::<T>() + bytes.len()))).collect()
}

impl<T: Data> Collected<T> {
    /// The values may hold about so many bytes together.
    pub fn at_most(self, bytes: Size) -> Self {
        self.kept.set_most(bytes);
        self
    }

    /// Names this end: its figures are found by that.
    pub fn name(self, name: impl Into<String>) -> Self {
        Collected { end: self.end.name(name), ..self }
    }

    /// The values that count (their epoch is decided, as all are when the pipeline has ended) and were not taken before.
    pub fn take(&self) -> Vec<T> {
        self.kept.take()
    }
}

impl<T: Data> IntoFuture for Collected<T> {
    type Output = Result<Vec<T>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Result<Vec<T>>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            self.end.run().await?;
            Ok(self.take())
        })
    }
}
