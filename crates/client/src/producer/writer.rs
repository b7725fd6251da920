//! A sink and what it has not made count yet: writes, learns outcomes, commits, and begins again after an error.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use millstream_core::{
    Batch, Class, Epoch, Error, ErrorKind, Last, Outcomes, Result, Sink, SinkCapabilities, Token, Way, WriteId,
};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use super::{queue::Queue, receipt::Delivered};
use crate::{Durability, ProducerOptions, Retrying};

/// How long a sink may take to disconnect.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// How much a sink may hold that is not committed before it is told to, where we must be able to write it again.
const UNCOMMITTED_BYTES_MAX: usize = 16 << 20;

/// Somebody who waits for the outcome of a record, and the record's share of the budget.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) reply: oneshot::Sender<Result<Delivered>>,
    pub(crate) cost: u32,
}

/// A batch that the sink has accepted.
struct Write {
    id: WriteId,
    batch: Batch,
    /// By record; empty when the outcomes are known.
    pending: Vec<Pending>,
    /// The sink had it before an error, and has not taken it back.
    repeated: bool,
}

impl Write {
    fn settled(&self) -> bool {
        self.pending.is_empty()
    }
}

pub(crate) struct Writer {
    sink: Box<dyn Sink>,
    what: String,
    capabilities: SinkCapabilities,
    options: ProducerOptions,
    pub(crate) queue: Arc<Queue>,
    /// Who waits for the batch that is being written: here, so that a panic of the sink closes the queue before they hear of it.
    writing: Vec<Pending>,
    /// What would have to be written again after an error.
    writes: Vec<Write>,
    bytes: usize,
    /// Outcomes that are known and wait for the commit.
    held: Vec<(Pending, Result<Delivered>)>,
    epoch: Epoch,
    tokens: Vec<(Epoch, Token)>,
    /// When the oldest write that is not committed was made.
    written_at: Option<Instant>,
    /// Records rejected since somebody was told: how many, and the first cause.
    rejected: Option<(u64, Error)>,
    failures: u32,
}

impl Writer {
    pub(crate) fn new(
        sink: Box<dyn Sink>,
        what: String,
        capabilities: SinkCapabilities,
        options: ProducerOptions,
        queue: Arc<Queue>,
    ) -> Self {
        Writer {
            sink,
            what,
            capabilities,
            options,
            queue,
            writing: Vec::new(),
            writes: Vec::new(),
            bytes: 0,
            held: Vec::new(),
            epoch: 0,
            tokens: Vec::new(),
            written_at: None,
            rejected: None,
            failures: 0,
        }
    }

    /// After an error this sink forgets or cuts what is not committed, so we must keep it until then.
    fn cuts(&self) -> bool {
        matches!(self.capabilities.way, Way::Truncating | Way::TwoPhase)
    }

    /// Opens the sink, waiting out errors that can pass.
    pub(crate) async fn open(&mut self) -> Result<()> {
        loop {
            let opened = self.sink.open(&self.tokens).await;
            let opened = match opened {
                // What is there already counts, so that it is not cut after an error.
                Ok(()) if self.cuts() => self.prepare(Last::No).await,
                result => result,
            };
            match opened {
                Ok(()) => {
                    self.well();
                    return Ok(());
                }
                Err(error) => self.wait_out(error).await?,
            }
        }
    }

    fn well(&mut self) {
        self.failures = 0;
        self.queue.writing();
    }

    /// Waits before the next try, or gives the error back if it is final.
    async fn wait_out(&mut self, error: Error) -> Result<()> {
        self.failures += 1;
        let Some(wait) = self.options.retry.wait(&error, self.failures) else { return Err(error) };
        tracing::warn!(sink = %self.what, error = %error.chain(), ?wait, "cannot write; trying again");
        self.queue.retrying(Retrying { error, attempts: self.failures });
        sleep(wait).await;
        Ok(())
    }

    /// Opens the sink again, at what is committed, and writes the rest again.
    async fn recover(&mut self, error: Error) -> Result<()> {
        self.wait_out(error).await?;
        loop {
            match self.rewrite().await {
                Ok(()) => return Ok(()),
                Err(error) => self.wait_out(error).await?,
            }
        }
    }

    async fn rewrite(&mut self) -> Result<()> {
        self.sink.open(&self.tokens).await?;
        let repeated = !self.cuts();
        for write in &mut self.writes {
            write.repeated |= repeated;
            write.id = self.sink.write(write.batch.clone()).await?;
        }
        Ok(())
    }

    /// Writes a batch, again and again where that can help.
    pub(crate) async fn write(&mut self, batch: Batch, pending: Vec<Pending>) -> Result<()> {
        self.written_at.get_or_insert_with(Instant::now);
        self.writing = pending;
        loop {
            match self.sink.write(batch.clone()).await {
                Ok(id) => {
                    if self.failures > 0 {
                        self.well();
                    }
                    self.bytes += batch.size();
                    self.writes.push(Write { id, batch, pending: std::mem::take(&mut self.writing), repeated: false });
                    return Ok(());
                }
                Err(error) if error.facts().retry => {
                    // What passes by itself needs no more than another try; some sinks must be opened again.
                    let again = if self.failures == 0 { self.wait_out(error).await } else { self.recover(error).await };
                    if let Err(error) = again {
                        self.condemn(&error);
                        return Err(error);
                    }
                }
                Err(error) => {
                    self.condemn(&error);
                    // The records are at fault, not the sink.
                    let theirs = matches!(error.facts().class, Class::Data | Class::Rejected);
                    return if theirs { Ok(()) } else { Err(error) };
                }
            }
        }
    }

    fn condemn(&mut self, error: &Error) {
        let pending = std::mem::take(&mut self.writing);
        pending.into_iter().for_each(|pending| self.outcome(pending, Err(error.clone())));
    }

    fn outcome(&mut self, pending: Pending, outcome: Result<Delivered>) {
        self.queue.release(pending.cost);
        if let Err(error) = &outcome {
            tracing::warn!(sink = %self.what, error = %error.chain(), "a record was rejected");
            self.rejected.get_or_insert_with(|| (0, error.clone())).0 += 1;
        }
        let _ = pending.reply.send(outcome); // Nobody has to wait for it.
    }

    /// Bytes whose outcome is not known, or that would have to be written again.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes > UNCOMMITTED_BYTES_MAX
    }

    /// When to commit by itself.
    pub(crate) fn commit_at(&self) -> Option<Instant> {
        self.written_at.map(|written_at| written_at + self.options.commit_every)
    }

    /// Learns the outcome of every write.
    pub(crate) async fn settle(&mut self) -> Result<()> {
        if self.writes.iter().all(Write::settled) {
            return Ok(());
        }
        let outcomes = loop {
            match self.sink.flush().await {
                Ok(outcomes) => break outcomes,
                Err(error) => self.recover(error).await?,
            }
        };
        if self.failures > 0 {
            self.well();
        }
        self.resolve(outcomes);
        if !self.cuts() {
            self.writes.clear();
            self.bytes = 0;
        }
        Ok(())
    }

    fn resolve(&mut self, outcomes: Outcomes) {
        let mut rejected: HashMap<(WriteId, u32), Error> =
            outcomes.rejected.into_iter().map(|(id, row, error)| ((id, row), error)).collect();
        let sequences: HashMap<WriteId, Vec<u128>> = outcomes.sequences.into_iter().collect();
        let repeated: HashSet<(WriteId, u32)> = outcomes.repeated.into_iter().collect();
        for at in 0..self.writes.len() {
            let write = &mut self.writes[at];
            let (id, pending) = (write.id, std::mem::take(&mut write.pending));
            let (sequences, again) = (sequences.get(&id), write.repeated);
            for (row, pending) in pending.into_iter().enumerate() {
                let outcome = match rejected.remove(&(id, row as u32)) {
                    Some(error) => Err(error),
                    None => Ok(Delivered {
                        sequence: sequences.and_then(|all| all.get(row)).copied(),
                        repeated: again || repeated.contains(&(id, row as u32)),
                    }),
                };
                match self.options.durability {
                    Durability::Committed if outcome.is_ok() => self.held.push((pending, outcome)),
                    _ => self.outcome(pending, outcome),
                }
            }
        }
    }

    /// Settles, and commits if receipts wait for that.
    pub(crate) async fn catch_up(&mut self) -> Result<()> {
        self.settle().await?;
        match self.options.durability {
            Durability::Committed if self.written_at.is_some() => self.commit(Last::No).await,
            _ if self.is_full() => self.commit(Last::No).await,
            _ => Ok(()),
        }
    }

    /// Makes everything that was written count.
    pub(crate) async fn commit(&mut self, last: Last) -> Result<()> {
        loop {
            self.settle().await?;
            match self.prepare(last).await {
                Ok(()) => break,
                Err(error) => self.recover(error).await?,
            }
        }
        if self.failures > 0 {
            self.well();
        }
        for (pending, outcome) in std::mem::take(&mut self.held) {
            self.outcome(pending, outcome);
        }
        Ok(())
    }

    async fn prepare(&mut self, last: Last) -> Result<()> {
        self.epoch += 1;
        if let Some(token) = self.sink.prepare(self.epoch, last).await? {
            // From here on it counts: opening the sink again commits it, too.
            self.tokens = vec![(self.epoch, token)];
        }
        self.writes.clear();
        (self.bytes, self.written_at) = (0, None);
        match self.tokens.last() {
            Some((epoch, token)) if *epoch == self.epoch => self.sink.commit(token).await,
            _ => Ok(()),
        }
    }

    /// What `flush` says: how many records were rejected since it was asked last.
    pub(crate) fn told(&mut self) -> Result<()> {
        match self.rejected.take() {
            None => Ok(()),
            Some((1, error)) => Err(error.context("a record was rejected")),
            Some((count, error)) => Err(error.context(format!("{count} records were rejected; the first"))),
        }
    }

    /// Makes everything count, and disconnects.
    pub(crate) async fn finish(&mut self, last: Last) -> Result<()> {
        self.commit(last).await?;
        let closed = timeout(CLOSE_WAIT, self.sink.close()).await;
        closed.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, format!("closing {} took longer than {CLOSE_WAIT:?}", self.what)))
        })
    }

    pub(crate) fn what(&self) -> &str {
        &self.what
    }
}
