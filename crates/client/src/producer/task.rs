//! The task around a sink: gathers records to batches, and does what producers ask, in order.

use std::{sync::Arc, time::Duration};

use millstream_core::{BatchBuilder, Error, ErrorKind, Last, Record, Result};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    queue::Queue,
    writer::{Pending, Writer},
};
use crate::{ProducerOptions, engine::stopped};

/// What producers ask of the task, in order.
#[derive(Debug)]
pub(crate) enum Job {
    /// Write this.
    Record(Box<Record>, Pending),
    /// Tell when everything before is durable.
    Flush(oneshot::Sender<Result<()>>),
    /// Write the end.
    End(oneshot::Sender<Result<()>>),
}

pub(crate) struct Task {
    pub(crate) writer: Writer,
    pub(crate) jobs: mpsc::UnboundedReceiver<Job>,
    /// What came behind the records of a batch.
    pub(crate) next: Option<Job>,
    pub(crate) options: ProducerOptions,
}

impl Task {
    /// Runs until the producer has ended, has failed, or has no handle and nothing left to do.
    pub(crate) async fn run(mut self, gone: oneshot::Receiver<()>, drain_timeout: Duration) {
        let queue = self.writer.queue.clone();
        // However the task ends, nobody waits for it.
        let _closing = Closing(queue.clone());
        let what = self.writer.what().to_owned();
        let overdue = async {
            let _ = gone.await; // Resolves when the handles are dropped.
            tokio::time::sleep(drain_timeout).await;
            let error = format!("{what} did not take what was sent within {drain_timeout:?}");
            let error = Error::new(ErrorKind::Interrupted, error);
            // Before the work is dropped, so that its receipts know why.
            queue.close(Some(error.clone()));
            Err(error)
        };
        let result = tokio::select! {
            result = self.work() => result,
            result = overdue => result,
        };
        if let Err(error) = &result {
            tracing::error!(sink = %what, error = %error.chain(), "the producer has failed");
        }
        queue.close(result.err());
    }

    async fn work(&mut self) -> Result<()> {
        self.writer.open().await?;
        loop {
            let job = match self.next.take() {
                Some(job) => Some(job),
                None => tokio::select! {
                    biased;
                    job = self.jobs.recv() => job,
                    () = sleep_until(self.writer.commit_at().unwrap_or_else(Instant::now)), if self.writer.commit_at().is_some() => {
                        self.writer.commit(Last::No).await?;
                        continue;
                    }
                },
            };
            match job {
                Some(Job::Record(record, pending)) => {
                    self.gather(*record, pending).await?;
                    let overdue = self.writer.commit_at().is_some_and(|when| when <= Instant::now());
                    if overdue {
                        self.writer.commit(Last::No).await?;
                    } else if (self.next.is_none() && self.jobs.is_empty()) || self.writer.is_full() {
                        self.writer.catch_up().await?;
                    }
                }
                Some(Job::Flush(reply)) => {
                    self.writer.catch_up().await?;
                    let _ = reply.send(self.writer.told()); // Whoever asked may have given up.
                }
                Some(Job::End(reply)) => {
                    let finished = self.writer.finish(Last::Finished).await;
                    self.writer.queue.close(finished.as_ref().err().cloned());
                    let _ = reply.send(finished.and_then(|()| self.writer.told()));
                    return Ok(());
                }
                None => return self.writer.finish(Last::Drained).await,
            }
            // A sink that never waits must not keep the others from their turn.
            tokio::task::yield_now().await;
        }
    }

    /// Writes a record with those that wait behind it.
    async fn gather(&mut self, record: Record, pending: Pending) -> Result<()> {
        let (records_max, bytes_max) = (self.options.batch_records_max, self.options.batch_bytes_max);
        let linger_until = (!self.options.linger.is_zero()).then(|| Instant::now() + self.options.linger);
        let (mut builder, mut all) = (BatchBuilder::new(), vec![pending]);
        builder.push(&record);
        while builder.len() < records_max && builder.size() < bytes_max {
            let job = match (self.jobs.try_recv(), linger_until) {
                (Ok(job), _) => Some(job),
                (Err(_), Some(when)) => timeout_at(when, self.jobs.recv()).await.unwrap_or_default(),
                (Err(_), None) => None,
            };
            match job {
                Some(Job::Record(record, pending)) => {
                    builder.push(&record);
                    all.push(pending);
                }
                other => {
                    self.next = other;
                    break;
                }
            }
        }
        self.writer.write(builder.finish(), all).await
    }
}

/// Closes the queue when the task is gone, so that nobody waits for it.
struct Closing(Arc<Queue>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close(Some(stopped("writes")));
    }
}
