//! The task around a sink: writes all the time, learns the outcomes, prepares and commits epochs.
//!
//! A sink that writes in a host's transaction waits from each barrier until its epoch is decided: there is one transaction at a
//! time. A record that is refused there aborts it, so the pipeline plays the epoch again without it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use millstream_core::{Batch, Epoch, Error, ErrorKind, Outcomes, Record, Sink, SinkCapabilities, Token, WriteId};
use tokio::{sync::mpsc, time::Instant};
use tracing::Instrument as _;

use crate::{
    align::{Input, Inputs},
    chain::park_held,
    channel::Barrier,
    condemn::{CONDEMNED_MAX, Condemned},
    lease::lock,
    park::{Parked, alone},
    probe::Step,
    span,
    stage_task::{TIMER_PAUSE, parked_state, sleep},
    tap::Side,
    task::{AfterFailure, Context, FailedRecord, Fate, Halt, Report},
};

/// Bytes of batches whose outcome is not known, above which nothing is written before more is known.
const UNSETTLED_BYTES_MAX: usize = 8 << 20;

/// What the coordinator tells a sink task.
#[derive(Debug)]
pub(crate) enum SinkCommand {
    /// The epoch counts.
    Decided(Epoch),
    /// Disconnect.
    Close,
}

pub(crate) struct SinkTask {
    pub(crate) context: Context,
    pub(crate) id: usize,
    pub(crate) sink: Box<dyn Sink>,
    pub(crate) capabilities: SinkCapabilities,
    /// It writes in a host's transaction.
    pub(crate) joined: Option<Joined>,
    pub(crate) inputs: Inputs,
    pub(crate) commands: mpsc::UnboundedReceiver<SinkCommand>,
    pub(crate) parked: Parked,
    pub(crate) epoch: Epoch,
}

/// What a sink needs beside others in one transaction.
pub(crate) struct Joined {
    /// Records that were refused, which outlive the task.
    pub(crate) condemned: Arc<Mutex<Condemned>>,
    /// What comes to it comes again as it was after a restart, so that a record can be told by its origin.
    pub(crate) repeats: bool,
}

/// Writes whose outcome is not known, and tokens that do not count yet.
#[derive(Default)]
struct Open {
    writes: VecDeque<(WriteId, Batch, u32)>,
    bytes: usize,
    tokens: VecDeque<(Epoch, Token)>,
    /// The sink tells what became of them by `flush` alone.
    flushes: bool,
    /// The epoch whose transaction is to be decided before anything else is written.
    undecided: Option<Epoch>,
    /// The last barrier of this run has passed.
    halted: bool,
}

impl SinkTask {
    pub(crate) async fn run(mut self) -> Result<(), Halt> {
        let mut open = Open::default();
        let mut ending = false;
        let mut not_before = None;
        loop {
            let retry_at = self.parked.due().map(|due| not_before.map_or(due, |after| due.max(after)));
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(SinkCommand::Decided(epoch)) => self.decided(epoch, &mut open).await?,
                    Some(SinkCommand::Close) => {
                        return self.sink.close().await.map_err(|error| self.context.fatal(error));
                    }
                    None => return Err(Halt::Gone),
                },
                () = sleep(retry_at), if open.undecided.is_none() && !open.halted => {
                    self.retry(&mut open).await?;
                    not_before = Some(Instant::now() + TIMER_PAUSE);
                }
                settled = self.sink.settled(), if !open.writes.is_empty() && !open.flushes => {
                    self.settled(settled, &mut open).await?;
                }
                // When the sources have gone, what is left are commands.
                Ok(input) = self.inputs.next(), if open.undecided.is_none() => match input {
                    Input::Batch(_, batch) => self.take(batch, &mut open).await?,
                    Input::Barrier(barrier) => self.barrier(barrier, &mut open).await?,
                    Input::End => ending = true,
                },
            }
            if open.flushes && !open.writes.is_empty() && self.inputs.is_empty() {
                self.settle(&mut open).await?;
            }
            if ending && self.parked.is_empty() {
                // Every outcome must be known before nothing can be parked any more.
                self.settle(&mut open).await?;
                if self.parked.is_empty() {
                    ending = false;
                    self.context.report(Report::Ended)?;
                }
            }
        }
    }

    async fn take(&mut self, mut batch: Batch, open: &mut Open) -> Result<(), Halt> {
        self.context.shared.taps.see(&self.context.name, Side::In, &batch);
        let metrics = self.context.metrics.clone();
        metrics.batches.add(1);
        metrics.records_in.add(batch.len() as u64);
        metrics.bytes_in.add(batch.size() as u64);
        if !self.parked.is_empty() {
            // Bytes can always be written down; and a sink reads back what it was given, not what a step would.
            (batch, _) = park_held(batch.into_bytes(), 0, 0, &mut self.parked, &metrics);
        }
        if self.joined.as_ref().is_some_and(|joined| !lock(&joined.condemned).is_empty()) {
            batch = self.leave_out(batch).await?;
        }
        if let Some(most) = self.capabilities.record_bytes_max {
            batch = self.refuse_large(batch.into_bytes(), most).await?;
        }
        self.write(batch, 0, open).await
    }

    /// Takes out the records for which a transaction was aborted before; their rules are applied now.
    async fn leave_out(&mut self, batch: Batch) -> Result<Batch, Halt> {
        let mut fits = Vec::with_capacity(batch.len());
        for row in 0..batch.len() {
            let record = batch.record(row);
            match self.sentence(&record, 0) {
                Some((error, attempts)) => Box::pin(self.failed(record, &error, attempts)).await?,
                None => fits.push(row as u32),
            }
        }
        Ok(if fits.len() == batch.len() { batch } else { batch.select(fits) })
    }

    /// Why a record that has failed `attempts` times must not be written, and how often it has failed by now.
    fn sentence(&self, record: &Record, attempts: u32) -> Option<(Error, u32)> {
        lock(&self.joined.as_ref()?.condemned).apply(record, attempts, self.epoch)
    }

    /// Takes out the records that the system would refuse for their size, so that no neighbour fails with them.
    async fn refuse_large(&mut self, batch: Batch, most: u64) -> Result<Batch, Halt> {
        let large = |row: usize| batch.get(row).value().is_some_and(|value| value.len() as u64 > most);
        if !(0..batch.len()).any(large) {
            return Ok(batch);
        }
        let (large, fits): (Vec<usize>, Vec<usize>) = (0..batch.len()).partition(|row| large(*row));
        for row in large {
            let bytes = batch.get(row).value().map_or(0, <[u8]>::len);
            let error = Error::new(
                ErrorKind::TooLarge,
                format!("the record has {bytes} bytes, and `{}` takes {most}", self.context.name),
            );
            Box::pin(self.failed(batch.get(row).to_record(), &error, 1)).await?;
        }
        Ok(batch.select(fits.into_iter().map(|row| row as u32).collect()))
    }

    /// Writes a batch, again and again where the rules say so.
    async fn write(&mut self, batch: Batch, attempts: u32, open: &mut Open) -> Result<(), Halt> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut failures = 0;
        loop {
            let since = std::time::Instant::now();
            let span = span::of_batch(&self.context.name, self.epoch, &batch);
            let written = self.sink.write(batch.clone()).instrument(span).await;
            self.context.metrics.busy_ns.add_time(since.elapsed());
            match written {
                Ok(id) => {
                    if failures > 0 {
                        self.context.shared.board.clear(&self.context.name);
                    }
                    open.bytes += batch.size();
                    open.writes.push_back((id, batch, attempts));
                    break;
                }
                Err(error) => {
                    failures += 1;
                    let wait = self.context.connection(error, failures)?;
                    tokio::time::sleep(wait).await;
                }
            }
        }
        while open.bytes > UNSETTLED_BYTES_MAX {
            if open.flushes {
                return self.settle(open).await;
            }
            let since = std::time::Instant::now();
            let settled = self.sink.settled().await;
            self.context.metrics.busy_ns.add_time(since.elapsed());
            self.settled(settled, open).await?;
        }
        Ok(())
    }

    /// Takes what the sink says of its oldest writes.
    async fn settled(
        &mut self,
        settled: millstream_core::Result<Option<(WriteId, Outcomes)>>,
        open: &mut Open,
    ) -> Result<(), Halt> {
        match settled.map_err(|error| self.context.fatal(error))? {
            Some((upto, outcomes)) => self.learn(outcomes, upto, open).await,
            None => {
                open.flushes = true;
                Ok(())
            }
        }
    }

    /// Learns the outcome of every write.
    async fn settle(&mut self, open: &mut Open) -> Result<(), Halt> {
        if open.writes.is_empty() {
            return Ok(());
        }
        let since = std::time::Instant::now();
        let flushed = self.sink.flush().await;
        self.context.metrics.busy_ns.add_time(since.elapsed());
        let outcomes = flushed.map_err(|error| self.context.fatal(error))?;
        open.flushes = false;
        self.learn(outcomes, WriteId::MAX, open).await
    }

    /// Applies the rules to what was rejected of the writes up to this one.
    async fn learn(&mut self, outcomes: Outcomes, upto: WriteId, open: &mut Open) -> Result<(), Halt> {
        if let (Some(joined), false) = (&self.joined, outcomes.rejected.is_empty()) {
            return Err(self.condemn(joined, outcomes.rejected, &open.writes));
        }
        let mut rejected = outcomes.rejected.into_iter().peekable();
        while let Some((id, batch, attempts)) = open.writes.pop_front_if(|(id, ..)| *id <= upto) {
            open.bytes -= batch.size();
            let mut delivered = batch.len() as u64;
            while let Some((_, row, error)) = rejected.next_if(|(of, ..)| *of == id) {
                delivered -= 1;
                Box::pin(self.failed(batch.record(row as usize), &error, attempts + 1)).await?;
            }
            self.context.metrics.records_out.add(delivered);
        }
        Ok(())
    }

    /// The transaction is lost with the records that were refused in it: the next try leaves them out.
    fn condemn(
        &self,
        joined: &Joined,
        rejected: Vec<(WriteId, u32, Error)>,
        writes: &VecDeque<(WriteId, Batch, u32)>,
    ) -> Halt {
        let mut condemned = lock(&joined.condemned);
        let mut halt = self.context.fatal(crate::task::bug("the sink refused a record that it was not given"));
        for (id, row, error) in rejected {
            let Some((_, batch, attempts)) = writes.iter().find(|(of, ..)| *of == id) else { return halt };
            let record = batch.record(row as usize);
            let cause = error.clone().context(format!("the transaction is aborted by the record {}", record.id()));
            if !joined.repeats || condemned.len() >= CONDEMNED_MAX {
                let why = if joined.repeats {
                    format!("cannot go on: {CONDEMNED_MAX} records were refused in one epoch")
                } else {
                    "cannot play its epoch again: what comes before the sink may give other records".to_owned()
                };
                return self.context.fail(cause.context(why), AfterFailure::Stop);
            }
            condemned.add(&record, error, attempts + 1);
            halt = self.context.fail(cause, AfterFailure::Replay);
        }
        halt
    }

    async fn failed(&mut self, record: Record, error: &Error, attempts: u32) -> Result<(), Halt> {
        let context = &self.context;
        let failed = FailedRecord {
            stage: &context.name,
            metrics: &context.metrics,
            rules: &context.rules,
            on_failed: &context.on_failed,
            record: &record,
            error,
            attempts,
        };
        if let Fate::Park(delay) = context.record(failed, self.epoch).await? {
            context.metrics.parked.add(1);
            if self.parked.is_empty() {
                let chain = error.chain();
                tracing::warn!(stage = %context.name, error = %chain, "records wait to be tried again");
                context.shared.board.set(&context.name, format!("records wait to be tried again: {chain}"));
            }
            self.parked.failed(record, 0, 0, attempts, delay);
        }
        Ok(())
    }

    /// Tries parked records again, one by one, each with its outcome before the next of its key.
    async fn retry(&mut self, open: &mut Open) -> Result<(), Halt> {
        self.context.pace.touch();
        self.settle(open).await?;
        // Each at most once: one that is rejected again may be due again by now.
        for _ in 0..self.parked.len() {
            let Some(waiting) = self.parked.take(Instant::now()) else { break };
            self.context.metrics.parked.sub(1);
            if let Some((error, attempts)) = self.sentence(&waiting.record, waiting.attempts) {
                Box::pin(self.failed(waiting.record.clone(), &error, attempts)).await?;
            } else {
                self.write(alone(&waiting.record), waiting.attempts, open).await?;
                self.settle(open).await?;
            }
            self.parked.settled(waiting.record.key.as_deref());
        }
        if self.parked.is_empty() {
            self.context.shared.board.clear(&self.context.name);
        }
        Ok(())
    }

    async fn barrier(&mut self, barrier: Barrier, open: &mut Open) -> Result<(), Halt> {
        let epoch = barrier.epoch;
        self.context.reach(Step::BeforeFlush, epoch);
        self.settle(open).await?;
        self.context.reach(Step::AfterFlush, epoch);
        let since = std::time::Instant::now();
        let prepared = self.sink.prepare(epoch, barrier.last).await;
        self.context.metrics.busy_ns.add_time(since.elapsed());
        let token = prepared.map_err(|error| self.context.fatal(error))?;
        self.context.reach(Step::AfterPrepare, epoch);
        self.context.metrics.mark(epoch);
        open.tokens.extend(token.clone().map(|token| (epoch, token)));
        let parked = self.parked.changes().map_err(|error| self.context.fatal(error))?;
        let state = parked.into_values().map(|changes| (parked_state(&self.context.name), changes)).collect();
        if !self.parked.is_empty() {
            self.context.pace.touch();
        }
        self.epoch = epoch + 1;
        open.halted = barrier.halts;
        open.undecided = self.joined.as_ref().map(|_| epoch);
        self.context.report(Report::Sink { sink: self.id, epoch, token, state })
    }

    async fn decided(&mut self, epoch: Epoch, open: &mut Open) -> Result<(), Halt> {
        open.undecided.take_if(|of| *of <= epoch);
        if let Some(joined) = &self.joined {
            lock(&joined.condemned).decided(epoch);
        }
        while let Some((of, token)) = open.tokens.pop_front_if(|(of, _)| *of <= epoch) {
            self.context.reach(Step::BeforeSinkCommit, of);
            let since = std::time::Instant::now();
            let committed = self.sink.commit(&token).await;
            self.context.metrics.busy_ns.add_time(since.elapsed());
            committed.map_err(|error| self.context.fatal(error))?;
            self.context.reach(Step::AfterSinkCommit, of);
        }
        self.context.report(Report::Committed { sink: self.id, epoch })
    }
}
