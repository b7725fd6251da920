//! The end of a channel that batches come out of: a sink.

use async_trait::async_trait;
use millstream_core::{
    Batch, Epoch, Error, ErrorKind, Outcomes, Result, Sink, SinkCapabilities, SinkPlan, Token, WriteId,
};
use tokio::sync::{Semaphore, mpsc};

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
        self.queue
            .send(batch.into_bytes())
            .await
            .map_err(|_| Error::new(ErrorKind::Closed, "nobody reads from the channel any more"))?;
        self.next_id += 1;
        Ok(self.next_id - 1)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        Ok(Outcomes::default())
    }
}
