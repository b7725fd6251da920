//! In-process channels: records and values pushed by a program into a pipeline, and batches taken out of one.

mod collector;
mod queue;
mod receipt;
mod receiver;
mod room;
mod source;

use std::{fmt, sync::Arc};

use millstream_core::{Batch, BatchBuilder, Epoch, Error, Form, Record, Result, ShardKey, SourcePlan};

pub use collector::{Collector, CollectorOptions, Pushed, collector};
pub use receipt::Receipt;
pub use receiver::{Receiver, receiver};

use queue::{Queue, Weighed, room_of};
use source::{Assemble, ChannelPlan};

/// What a record counts beside its bytes.
const RECORD_BYTES: usize = 64;

/// The room of a channel, and what its records are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelOptions {
    /// Name of the stream that the records belong to. Default: `channel`.
    pub stream: String,
    /// Records that may wait. Default: 65536.
    pub records_max: usize,
    /// Bytes that may wait; one record alone may be larger. Default: 64 MiB.
    pub bytes_max: usize,
    /// What values are. Default: bytes.
    pub form: Form,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        ChannelOptions { stream: "channel".to_owned(), records_max: 65_536, bytes_max: 64 << 20, form: Form::Bytes }
    }
}

/// A channel into a pipeline: push records at one end, plan the other end as a source. For values of a Rust type there is
/// [`collector()`].
///
/// The source ends when the last [`Sender`] is dropped. Records are given the channel's stream, and ascending sequences; from 1
/// in a pipeline that begins anew. After a restart inside the process the source goes on with what waits.
pub fn channel(options: ChannelOptions) -> (Sender, Box<dyn SourcePlan>) {
    let queue = Queue::new(options.records_max, options.bytes_max);
    let plan = ChannelPlan::new(queue.clone(), Records(options.form), options.stream, options.form);
    (Sender(Arc::new(Ends(queue))), Box::new(plan))
}

/// Closes the queue when the last one who could push has gone.
struct Ends<I>(Arc<Queue<I>>);

impl<I> Drop for Ends<I> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The end of a channel that records are pushed into. Cheap to clone; works on any async executor.
///
/// It promises what a [`Collector`] does, which says it at length.
#[derive(Clone)]
pub struct Sender(Arc<Ends<Record>>);

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl Sender {
    /// Pushes a record; waits for room. [`ErrorKind::Closed`](millstream_core::ErrorKind::Closed): nobody reads any more.
    /// Dropped before its end, it has pushed nothing.
    pub async fn push(&self, record: Record) -> Result<()> {
        let record = [weighed(record)];
        self.0.0.push(room_of(&record), record, None).await
    }

    /// Pushes a record, and waits until the epoch that holds it has committed; see [`Receipt`]. Dropped before its end it has
    /// pushed the record once, or not at all while it waited for room.
    pub async fn push_and_wait(&self, record: Record) -> Result<Epoch> {
        let (answer, receipt) = Receipt::new();
        let record = [weighed(record)];
        self.0.0.push(room_of(&record), record, Some(answer)).await?;
        receipt.await
    }

    /// Pushes a record if there is room; gives it back if not. [`ErrorKind::Full`](millstream_core::ErrorKind::Full): there is
    /// none now.
    pub fn try_push(&self, record: Record) -> Result<(), (Error, Box<Record>)> {
        self.0.0.try_push(weighed(record), None).map_err(|(error, record)| (error, Box::new(record)))
    }

    /// Takes no more pushes, of no clone of this sender. The source gives what has been accepted, and ends.
    pub fn close(&self) {
        self.0.0.close();
    }
}

fn weighed(record: Record) -> Weighed<Record> {
    let headers = record.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, |value| value.len()));
    let parts = [&record.key, &record.value, &record.original].map(|part| part.as_ref().map_or(0, |part| part.len()));
    let bytes = RECORD_BYTES + headers.sum::<usize>() + parts.iter().sum::<usize>();
    Weighed { item: record, bytes }
}

/// Records to batches of bytes.
struct Records(Form);

impl Assemble<Record> for Records {
    fn batch(&self, shard: &ShardKey, sequence: u64, records: Vec<Record>) -> Batch {
        let mut batch = BatchBuilder::new();
        for (mut record, sequence) in records.into_iter().zip(sequence..) {
            record.origin = shard.clone();
            record.sequence = sequence.into();
            if record.form == Form::Bytes {
                record.form = self.0;
            }
            batch.push(&record);
        }
        batch.finish()
    }
}
