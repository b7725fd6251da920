//! In-process channels: records pushed by a program into a pipeline, and batches taken out of one.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use millstream_core::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Batch, BatchBuilder, Epoch, Error, ErrorKind, Event, Form, Outcomes, Position,
    Record, Result, Resume, ShardKey, Sink, SinkCapabilities, SinkPlan, Source, SourceCapabilities, SourcePlan, Token,
    WriteId,
};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};

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

/// A channel into a pipeline: push records at one end, plan the other end as a source.
///
/// The source ends when the last [`Sender`] is dropped. Records are given the channel's stream, and sequences from 1. After a
/// restart inside the process the source goes on with what waits.
pub fn channel(options: ChannelOptions) -> (Sender, Box<dyn SourcePlan>) {
    // A semaphore's permits and a request for some of them are bounded by its types.
    let bytes_max = options.bytes_max.clamp(1, (u32::MAX as usize).min(Semaphore::MAX_PERMITS));
    let (queue, items) = mpsc::channel(options.records_max.clamp(1, Semaphore::MAX_PERMITS));
    let sender = Sender { queue, room: Arc::new(Semaphore::new(bytes_max)), bytes_max };
    let plan = ChannelPlan {
        queue: Arc::new(Mutex::new(Queue { items, next: 1 })),
        shard: ShardKey::new(options.stream, 0),
        form: options.form,
    };
    (sender, Box::new(plan))
}

struct Item {
    record: Record,
    room: OwnedSemaphorePermit,
}

/// The end of a channel that records are pushed into. Cheap to clone; works on any async executor.
#[derive(Clone)]
pub struct Sender {
    queue: mpsc::Sender<Item>,
    room: Arc<Semaphore>,
    bytes_max: usize,
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("room", &self.room.available_permits()).finish_non_exhaustive()
    }
}

impl Sender {
    /// Pushes a record; waits for room. [`ErrorKind::Closed`]: nobody reads any more. Dropped before its end, it has pushed nothing.
    pub async fn push(&self, record: Record) -> Result<()> {
        let room = self.room.clone().acquire_many_owned(self.size(&record)).await.map_err(|_| closed())?;
        self.queue.send(Item { record, room }).await.map_err(|_| closed())
    }

    /// Pushes a record if there is room; gives it back if not. [`ErrorKind::Full`]: there is none now.
    pub fn try_push(&self, record: Record) -> Result<(), (Error, Box<Record>)> {
        let Ok(room) = self.room.clone().try_acquire_many_owned(self.size(&record)) else {
            return Err((full(), Box::new(record)));
        };
        self.queue.try_send(Item { record, room }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(item) => (full(), Box::new(item.record)),
            mpsc::error::TrySendError::Closed(item) => (closed(), Box::new(item.record)),
        })
    }

    fn size(&self, record: &Record) -> u32 {
        let headers =
            record.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, |value| value.len()));
        let parts =
            [&record.key, &record.value, &record.original].map(|part| part.as_ref().map_or(0, |part| part.len()));
        let size = RECORD_BYTES + headers.sum::<usize>() + parts.iter().sum::<usize>();
        // Below 2^32, as `bytes_max` is.
        size.min(self.bytes_max) as u32
    }
}

fn full() -> Error {
    Error::new(ErrorKind::Full, "the channel is full").hint("wait with `push`, or try again later")
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed, "nobody reads from the channel any more")
}

#[derive(Debug)]
struct ChannelPlan {
    queue: Arc<Mutex<Queue>>,
    shard: ShardKey,
    form: Form,
}

struct Queue {
    items: mpsc::Receiver<Item>,
    next: u64,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("next", &self.next).finish_non_exhaustive()
    }
}

impl SourcePlan for ChannelPlan {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities::ONCE
    }

    fn form(&self) -> Form {
        self.form
    }

    fn describe(&self) -> String {
        format!("the channel `{}`", self.shard.stream)
    }

    fn create(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(ChannelSource { queue: self.queue.clone(), shard: self.shard.clone(), form: self.form, next: 1 }))
    }
}

struct ChannelSource {
    queue: Arc<Mutex<Queue>>,
    shard: ShardKey,
    form: Form,
    next: u64,
}

#[async_trait]
impl Source for ChannelSource {
    async fn open(&mut self, _: &Resume) -> Result<()> {
        self.next = self.queue.lock().await.next;
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        let mut queue = self.queue.lock().await;
        // Nothing is awaited behind `recv`, which is cancel-safe itself.
        let Some(mut item) = queue.items.recv().await else { return Ok(Event::End) };
        let mut batch = BatchBuilder::new();
        loop {
            let Item { mut record, room } = item;
            record.origin = self.shard.clone();
            record.sequence = queue.next.into();
            if record.form == Form::Bytes {
                record.form = self.form;
            }
            batch.push(&record);
            drop(room);
            queue.next += 1;
            if batch.len() >= BATCH_RECORDS_MAX || batch.size() >= BATCH_BYTES_MAX {
                break;
            }
            match queue.items.try_recv() {
                Ok(next) => item = next,
                Err(_) => break,
            }
        }
        self.next = queue.next;
        Ok(Event::Batch(batch.finish().into()))
    }

    /// How many records were handed over, and one. Nobody can go back to it.
    fn position(&self) -> Result<Position> {
        let mut position = Position::default();
        position.set(self.shard.clone(), &self.next)?;
        Ok(position)
    }

    fn shards(&self) -> Vec<ShardKey> {
        vec![self.shard.clone()]
    }
}

/// A channel out of a pipeline: plan one end as a sink, take batches from the other. At most `batches_max` wait.
///
/// A batch counts as delivered when it is in the channel. The receiver ends when the pipeline has ended and its plan is dropped.
pub fn receiver(batches_max: usize) -> (Box<dyn SinkPlan>, Receiver) {
    let (queue, batches) = mpsc::channel(batches_max.clamp(1, Semaphore::MAX_PERMITS));
    (Box::new(ReceiverPlan(queue)), Receiver(batches))
}

/// The end of a channel that batches come out of.
#[derive(Debug)]
pub struct Receiver(mpsc::Receiver<Batch>);

impl Receiver {
    /// The next batch, its body as bytes; `None` at the end. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Batch> {
        self.0.recv().await
    }

    /// The next batch if one waits.
    pub fn try_recv(&mut self) -> Option<Batch> {
        self.0.try_recv().ok()
    }
}

#[derive(Debug)]
struct ReceiverPlan(mpsc::Sender<Batch>);

impl SinkPlan for ReceiverPlan {
    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities::WHOLE
    }

    fn describe(&self) -> String {
        "a channel of the program".to_owned()
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(ReceiverSink { queue: self.0.clone(), next_id: 0 }))
    }
}

struct ReceiverSink {
    queue: mpsc::Sender<Batch>,
    next_id: WriteId,
}

#[async_trait]
impl Sink for ReceiverSink {
    async fn open(&mut self, _: &[(Epoch, Token)]) -> Result<()> {
        Ok(())
    }

    async fn write(&mut self, batch: Batch) -> Result<WriteId> {
        self.queue.send(batch.into_bytes()).await.map_err(|_| closed())?;
        self.next_id += 1;
        Ok(self.next_id - 1)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        Ok(Outcomes::default())
    }
}
