//! The task around a source: reads, gives barriers, tells the source what has been committed.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use millstream_core::{
    Batch, Delivery, Epoch, Error, ErrorKind, Event, Last, Owner, Position, Read, SeekTo, ShardKey, Source,
    SourceCapabilities, SourceCheckpoint, Stamp,
};
use tokio::sync::mpsc;

use crate::{
    channel::Barrier,
    probe::Step,
    retain::Retained,
    rules::Rules,
    task::{AfterFailure, Context, FailedRecord, Halt, Outputs, Report},
};

/// What the coordinator tells a source task.
#[derive(Debug)]
pub(crate) enum SourceCommand {
    /// Give this barrier.
    Barrier(Barrier),
    /// The epoch counts.
    Decided(Epoch),
    /// Read no more.
    Stop,
    /// Disconnect.
    Close,
}

/// A source that outlives its task: where nobody remembers its position, the next task goes on with the same one.
pub(crate) type Slot = Arc<Mutex<Option<Box<dyn Source>>>>;

/// Takes the source out of its slot, and puts it back when the task ends, however it ends.
pub(crate) struct Lease {
    source: Option<Box<dyn Source>>,
    slot: Slot,
}

impl Lease {
    pub(crate) fn take(slot: &Slot) -> Option<Self> {
        let source = lock(slot).take()?;
        Some(Lease { source: Some(source), slot: slot.clone() })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *lock(&self.slot) = self.source.take();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct SourceTask {
    pub(crate) context: Context,
    pub(crate) id: usize,
    pub(crate) lease: Lease,
    pub(crate) capabilities: SourceCapabilities,
    /// Who commits.
    pub(crate) stamp: Stamp,
    pub(crate) outputs: Outputs,
    pub(crate) commands: mpsc::UnboundedReceiver<SourceCommand>,
    pub(crate) retained: Arc<Mutex<Retained>>,
    /// Bytes that may be kept of what cannot be read again, or be held until their position counts.
    pub(crate) retained_bytes_max: usize,
    /// Stop after so many records.
    pub(crate) count_max: Option<u64>,
    /// Epoch of the newest checkpoint when the task starts.
    pub(crate) decided: Epoch,
    /// Nothing is read before this epoch counts: the first one, which fixes where everybody started.
    pub(crate) read_after: Epoch,
    /// The source has ended; at the start, by the checkpoint.
    pub(crate) ended: bool,
}

/// What changes while the task runs.
struct Progress {
    /// The epoch that records read now belong to.
    epoch: Epoch,
    decided: Epoch,
    reading: bool,
    positions: VecDeque<(Epoch, Position)>,
    leaving: Vec<(Epoch, Vec<ShardKey>)>,
    /// `at_most_once`: batches whose position does not count yet.
    held: VecDeque<(Epoch, Batch)>,
    held_bytes: usize,
    end_given: bool,
    failures: u32,
    retry_at: Option<tokio::time::Instant>,
}

impl SourceTask {
    pub(crate) async fn run(mut self) -> Result<(), Halt> {
        let mut at = Progress {
            epoch: self.decided + 1,
            decided: self.decided,
            reading: true,
            positions: VecDeque::new(),
            leaving: Vec::new(),
            held: VecDeque::new(),
            held_bytes: 0,
            end_given: false,
            failures: 0,
            retry_at: None,
        };
        let again = lock(&self.retained).again(at.epoch);
        for batch in again {
            self.count(&batch);
            self.give(batch, &mut at).await?;
        }
        if self.ended || self.counted() {
            self.end(&mut at).await?;
        }
        loop {
            let reads = at.reading && !self.ended && at.decided >= self.read_after;
            let full = self.is_full(&at);
            let retry_at = at.retry_at;
            let gate = self.context.gate.clone();
            let source = self.lease.source.as_mut().ok_or(Halt::Gone)?;
            let next = async {
                match retry_at {
                    Some(when) => tokio::time::sleep_until(when).await,
                    None => gate.opened().await,
                }
                source.next().await
            };
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => if !self.obey(command, &mut at).await? { return Ok(()) },
                    None => return Err(Halt::Gone),
                },
                event = next, if reads && !full => match event {
                    Ok(event) => {
                        if at.failures > 0 {
                            (at.failures, at.retry_at) = (0, None);
                            self.context.board.clear(&self.context.name);
                        }
                        self.handle(event, &mut at).await?;
                    }
                    Err(error) => {
                        at.failures += 1;
                        let wait = self.context.connection(error, at.failures)?;
                        at.retry_at = Some(tokio::time::Instant::now() + wait.max(Duration::from_millis(1)));
                    }
                },
            }
        }
    }

    fn source(&mut self) -> Result<&mut Box<dyn Source>, Halt> {
        // Only `drop` empties the lease.
        self.lease.source.as_mut().ok_or(Halt::Gone)
    }

    fn is_full(&self, at: &Progress) -> bool {
        let kept = if self.retains() { lock(&self.retained).bytes() } else { 0 };
        let full = kept + at.held_bytes > self.retained_bytes_max;
        if full {
            self.context.pace.urge();
        }
        full
    }

    fn retains(&self) -> bool {
        self.capabilities.owner == Owner::Nobody && self.context.delivery != Delivery::AtMostOnce
    }

    /// Does what the coordinator says; `false` at the end.
    async fn obey(&mut self, command: SourceCommand, at: &mut Progress) -> Result<bool, Halt> {
        match command {
            SourceCommand::Barrier(barrier) => self.barrier(barrier, at).await?,
            SourceCommand::Decided(epoch) => self.decided(epoch, at).await?,
            SourceCommand::Stop => at.reading = false,
            SourceCommand::Close => {
                let closed = self.source()?.close().await;
                if let Err(error) = closed {
                    tracing::warn!(source = %self.context.name, error = %error.chain(), "closing failed");
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn barrier(&mut self, barrier: Barrier, at: &mut Progress) -> Result<(), Halt> {
        self.context.reach(Step::BeforeBarrier, barrier.epoch);
        let position = self.source()?.position().map_err(|error| self.context.fatal(error))?;
        at.positions.push_back((barrier.epoch, position.clone()));
        at.epoch = barrier.epoch + 1;
        self.context.metrics.mark(barrier.epoch);
        let checkpoint = SourceCheckpoint { position, ended: self.ended && !self.counted() };
        self.context.report(Report::Source { source: self.id, epoch: barrier.epoch, checkpoint })?;
        if barrier.last != Last::No {
            at.reading = false;
        }
        self.outputs.barrier(barrier, &self.context.metrics).await
    }

    async fn decided(&mut self, epoch: Epoch, at: &mut Progress) -> Result<(), Halt> {
        at.decided = epoch;
        self.context.reach(Step::BeforeSourceCommit, epoch);
        let mut upto = None;
        while let Some((_, position)) = at.positions.pop_front_if(|(of, _)| *of <= epoch) {
            upto = Some(position);
        }
        if let Some(position) = upto {
            let stamp = Stamp { epoch, ..self.stamp.clone() };
            self.source()?.commit(&position, Some(&stamp)).await.map_err(|error| self.context.fatal(error))?;
        }
        if self.retains() {
            lock(&self.retained).committed(epoch);
        }
        while let Some((_, batch)) = at.held.pop_front_if(|(of, _)| *of <= epoch) {
            at.held_bytes -= batch.size();
            self.context.pace.touch();
            self.outputs.send(0, batch, &self.context.metrics).await?;
        }
        if self.ended && at.held.is_empty() {
            self.end(at).await?;
        }
        let (released, leaving) = std::mem::take(&mut at.leaving).into_iter().partition(|(of, _)| *of <= epoch);
        at.leaving = leaving;
        let released: Vec<(Epoch, Vec<ShardKey>)> = released;
        for (_, shards) in released {
            self.source()?.release(&shards).await.map_err(|error| self.context.fatal(error))?;
        }
        self.context.report(Report::Acknowledged)
    }

    async fn handle(&mut self, event: Event, at: &mut Progress) -> Result<(), Halt> {
        match event {
            Event::Batch(read) => self.read(read, at).await,
            Event::End => self.end(at).await,
            Event::Added(shards) => {
                tracing::info!(source = %self.context.name, ?shards, "new shards");
                Ok(())
            }
            Event::Leaving(shards) => {
                at.leaving.push((at.epoch, shards));
                self.context.pace.urge();
                Ok(())
            }
            Event::Lost(shards) => {
                let names: Vec<String> = shards.iter().map(ToString::to_string).collect();
                let error = Error::new(ErrorKind::Unavailable, format!("lost the shards {}", names.join(", ")));
                Err(self.context.fail(error, AfterFailure::Retry))
            }
        }
    }

    /// Nothing more will be read. What is held for its position goes first.
    async fn end(&mut self, at: &mut Progress) -> Result<(), Halt> {
        self.ended = true;
        if at.end_given {
            return Ok(());
        }
        self.context.pace.touch();
        if !at.held.is_empty() {
            self.context.pace.urge();
        } else {
            at.end_given = true;
            self.outputs.end(&self.context.metrics).await?;
        }
        Ok(())
    }

    async fn read(&mut self, read: Read, at: &mut Progress) -> Result<(), Halt> {
        let Read { mut batch, mut failed, alone } = read;
        let metrics = self.context.metrics.clone();
        if let Some(most) = self.count_max {
            let left = usize::try_from(most.saturating_sub(metrics.records_in.get())).unwrap_or(usize::MAX);
            if batch.len() > left {
                batch = self.cut(batch, left).await?;
                failed.retain(|(row, _)| (*row as usize) < left);
            }
        }
        self.count(&batch);
        if !failed.is_empty() {
            batch = Box::pin(self.condemn(batch, failed, at.epoch)).await?;
        }
        if self.retains() {
            lock(&self.retained).keep(at.epoch, batch.clone());
        }
        self.give(batch, at).await?;
        if alone {
            self.context.pace.urge();
        }
        if self.counted() { self.end(at).await } else { Ok(()) }
    }

    /// Whether the end is the one of `count`, and not the source's own.
    fn counted(&self) -> bool {
        self.count_max.is_some_and(|most| self.context.metrics.records_in.get() >= most)
    }

    fn count(&self, batch: &Batch) {
        let (records, bytes) = (batch.len() as u64, batch.size() as u64);
        self.context.metrics.batches.add(1);
        self.context.metrics.records_in.add(records);
        self.context.metrics.bytes_in.add(bytes);
        self.context.pace.read(records, bytes);
    }

    /// Hands a batch on; in `at_most_once` only when its position counts.
    async fn give(&mut self, batch: Batch, at: &mut Progress) -> Result<(), Halt> {
        if self.context.delivery == Delivery::AtMostOnce {
            at.held_bytes += batch.size();
            at.held.push_back((at.epoch, batch));
            return Ok(());
        }
        if batch.is_empty() { Ok(()) } else { self.outputs.send(0, batch, &self.context.metrics).await }
    }

    /// The first `left` records of a batch; the source goes back behind them, where it can.
    async fn cut(&mut self, batch: Batch, left: usize) -> Result<Batch, Halt> {
        if self.capabilities.seek {
            let mut next: BTreeMap<ShardKey, u128> = BTreeMap::new();
            for record in (left..batch.len()).map(|i| batch.get(i)) {
                next.entry(record.origin().clone()).or_insert(record.sequence());
            }
            for (shard, sequence) in next {
                let sought = self.source()?.seek(&SeekTo::At(sequence), Some(&[shard])).await;
                sought.map_err(|error| self.context.fatal(error))?;
            }
        }
        Ok(batch.slice(0, left))
    }

    /// Applies the rules to records that were read damaged; answers with the others.
    async fn condemn(&mut self, batch: Batch, failed: Vec<(u32, Error)>, epoch: Epoch) -> Result<Batch, Halt> {
        let batch = batch.into_bytes();
        let context = &self.context;
        for (row, error) in &failed {
            let record = batch.get(*row as usize).to_record();
            let (metrics, rules) = (&*context.metrics, &context.rules);
            // Decoding again would give the same.
            let attempts = Rules::NO_RETRY;
            context
                .record(FailedRecord { stage: &context.name, metrics, rules, record: &record, error, attempts }, epoch)
                .await?;
        }
        let mut bad = failed.iter().map(|(row, _)| *row).peekable();
        let good = (0..batch.len() as u32).filter(|row| bad.next_if_eq(row).is_none()).collect();
        Ok(batch.select(good))
    }
}
