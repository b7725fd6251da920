//! The task around a sink: writes all the time, learns the outcomes, prepares and commits epochs.

use std::collections::VecDeque;

use millstream_core::{Batch, Epoch, Error, ErrorKind, Sink, SinkCapabilities, Token, WriteId};
use tokio::sync::mpsc;

use crate::{
    align::{Input, Inputs},
    channel::Barrier,
    park::{Parked, alone},
    probe::Step,
    stage_task::{park_held, parked_state, sleep},
    task::{Context, FailedRecord, Fate, Halt, Report},
};

/// Bytes of batches whose outcome is not known, above which the sink is asked.
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
    pub(crate) inputs: Inputs,
    pub(crate) commands: mpsc::UnboundedReceiver<SinkCommand>,
    pub(crate) parked: Parked,
    pub(crate) epoch: Epoch,
}

/// Writes whose outcome is not known, and tokens that do not count yet.
#[derive(Default)]
struct Open {
    writes: VecDeque<(WriteId, Batch, u32)>,
    bytes: usize,
    tokens: VecDeque<(Epoch, Token)>,
}

impl SinkTask {
    pub(crate) async fn run(mut self) -> Result<(), Halt> {
        let mut open = Open::default();
        let mut ending = false;
        loop {
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(SinkCommand::Decided(epoch)) => self.decided(epoch, &mut open).await?,
                    Some(SinkCommand::Close) => {
                        return self.sink.close().await.map_err(|error| self.context.fatal(error));
                    }
                    None => return Err(Halt::Gone),
                },
                () = sleep(self.parked.due()) => self.retry(&mut open).await?,
                // When the sources have gone, what is left are commands.
                Ok(input) = self.inputs.next() => match input {
                    Input::Batch(_, batch) => self.take(batch, &mut open).await?,
                    Input::Barrier(barrier) => self.barrier(barrier, &mut open).await?,
                    Input::End => ending = true,
                },
            }
            if !open.writes.is_empty() && self.inputs.is_empty() {
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

    async fn take(&mut self, batch: Batch, open: &mut Open) -> Result<(), Halt> {
        let metrics = self.context.metrics.clone();
        metrics.batches.add(1);
        metrics.records_in.add(batch.len() as u64);
        metrics.bytes_in.add(batch.size() as u64);
        let mut batch = batch.into_bytes();
        if !self.parked.is_empty() {
            batch = park_held(batch, &mut self.parked, &metrics);
        }
        if let Some(most) = self.capabilities.record_bytes_max {
            batch = self.refuse_large(batch, most).await?;
        }
        self.write(batch, 0, open).await
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
            let written = self.sink.write(batch.clone()).await;
            self.context.metrics.busy_ns.add_time(since.elapsed());
            match written {
                Ok(id) => {
                    if failures > 0 {
                        self.context.board.clear(&self.context.name);
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
        if open.bytes > UNSETTLED_BYTES_MAX { self.settle(open).await } else { Ok(()) }
    }

    /// Learns the outcome of every write, and applies the rules to what was rejected.
    async fn settle(&mut self, open: &mut Open) -> Result<(), Halt> {
        if open.writes.is_empty() {
            return Ok(());
        }
        let outcomes = self.sink.flush().await.map_err(|error| self.context.fatal(error))?;
        let mut rejected = outcomes.rejected.into_iter().peekable();
        open.bytes = 0;
        for (id, batch, attempts) in std::mem::take(&mut open.writes) {
            let mut delivered = batch.len() as u64;
            while let Some((_, row, error)) = rejected.next_if(|(of, ..)| *of == id) {
                delivered -= 1;
                Box::pin(self.failed(batch.get(row as usize).to_record(), &error, attempts + 1)).await?;
            }
            self.context.metrics.records_out.add(delivered);
        }
        Ok(())
    }

    async fn failed(&mut self, record: millstream_core::Record, error: &Error, attempts: u32) -> Result<(), Halt> {
        let context = &self.context;
        let failed = FailedRecord {
            stage: &context.name,
            metrics: &context.metrics,
            rules: &context.rules,
            record: &record,
            error,
            attempts,
        };
        if let Fate::Park(delay) = context.record(failed, self.epoch).await? {
            context.metrics.parked.add(1);
            self.parked.failed(record, 0, attempts, delay);
        }
        Ok(())
    }

    /// Tries parked records again, one by one, each with its outcome before the next of its key.
    async fn retry(&mut self, open: &mut Open) -> Result<(), Halt> {
        self.context.pace.touch();
        self.settle(open).await?;
        while let Some(waiting) = self.parked.take(tokio::time::Instant::now()) {
            self.context.metrics.parked.sub(1);
            self.write(alone(&waiting.record), waiting.attempts, open).await?;
            self.settle(open).await?;
            self.parked.settled(waiting.record.key.as_deref());
        }
        Ok(())
    }

    async fn barrier(&mut self, barrier: Barrier, open: &mut Open) -> Result<(), Halt> {
        let epoch = barrier.epoch;
        self.context.reach(Step::BeforeFlush, epoch);
        self.settle(open).await?;
        self.context.reach(Step::AfterFlush, epoch);
        let token = self.sink.prepare(epoch, barrier.last).await.map_err(|error| self.context.fatal(error))?;
        self.context.reach(Step::AfterPrepare, epoch);
        self.context.metrics.mark(epoch);
        open.tokens.extend(token.clone().map(|token| (epoch, token)));
        let parked = self.parked.changes().map_err(|error| self.context.fatal(error))?;
        let state = if parked.is_empty() { Vec::new() } else { vec![(parked_state(&self.context.name), parked)] };
        if !self.parked.is_empty() {
            self.context.pace.touch();
        }
        self.epoch = epoch + 1;
        self.context.report(Report::Sink { sink: self.id, epoch, token, state })
    }

    async fn decided(&mut self, epoch: Epoch, open: &mut Open) -> Result<(), Halt> {
        while let Some((of, token)) = open.tokens.pop_front_if(|(of, _)| *of <= epoch) {
            self.context.reach(Step::BeforeSinkCommit, of);
            self.sink.commit(&token).await.map_err(|error| self.context.fatal(error))?;
            self.context.reach(Step::AfterSinkCommit, of);
        }
        self.context.report(Report::Committed { sink: self.id, epoch })
    }
}
