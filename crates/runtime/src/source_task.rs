//! The task around a source: reads, gives barriers, tells the source what has been committed.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use millstream_core::{
    Batch, Delivery, Epoch, Error, ErrorKind, Event, Last, Owner, Position, Read, Result, SeekTo, ShardKey,
    SourceCapabilities, SourceCheckpoint, Stamp,
};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    channel::Barrier,
    lease::{Kept, Lease, lock},
    probe::Step,
    rules::Rules,
    shards::Leaving,
    stage_task::sleep,
    tap::Side,
    task::{Context, FailedRecord, Halt, Outputs, Report},
    wait::hear,
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
    /// Read nothing until told otherwise.
    Pause(bool),
    /// Disconnect.
    Close,
}

pub(crate) struct SourceTask {
    pub(crate) context: Arc<Context>,
    pub(crate) id: usize,
    pub(crate) lease: Lease,
    pub(crate) capabilities: SourceCapabilities,
    /// A host takes its companion into the transaction.
    pub(crate) accompanies: bool,
    /// The pipeline keeps keyed state.
    pub(crate) keyed: bool,
    /// Who commits.
    pub(crate) stamp: Stamp,
    pub(crate) outputs: Arc<Outputs>,
    pub(crate) commands: mpsc::UnboundedReceiver<SourceCommand>,
    pub(crate) kept: Kept,
    /// Bytes that may be kept of what cannot be read again, or be held until their position counts.
    pub(crate) retained_bytes_max: usize,
    /// Stop after so many records.
    pub(crate) count_max: Option<u64>,
    /// It is to read nothing for now.
    pub(crate) paused: bool,
    /// Epoch of the newest checkpoint when the task starts.
    pub(crate) decided: Epoch,
    /// Nothing is read before this epoch counts: the first one, which fixes where everybody started.
    pub(crate) read_after: Epoch,
    /// The source has ended; at the start, by the checkpoint.
    pub(crate) ended: bool,
    /// It had ended by the checkpoint, and those behind it may have said what they say then: also where nobody remembers its
    /// position and it is read again.
    pub(crate) ended_before: bool,
}

/// What changes while the task runs.
pub(crate) struct Progress {
    /// The epoch that records read now belong to.
    pub(crate) epoch: Epoch,
    pub(crate) decided: Epoch,
    reading: bool,
    positions: VecDeque<(Epoch, Position)>,
    pub(crate) leaving: Vec<Leaving>,
    /// `at_most_once`: batches whose position does not count yet.
    held: VecDeque<(Epoch, Batch)>,
    held_bytes: usize,
    end_given: bool,
    failures: u32,
    retry_at: Option<Instant>,
    /// When the claim on what was read is renewed next.
    pub(crate) keep_alive_at: Option<Instant>,
    /// When the source is asked next how much there is to read.
    pub(crate) look_at: Option<Instant>,
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
            keep_alive_at: self.capabilities.keep_alive.map(|every| Instant::now() + every),
            // What was said before a restart is not true any more.
            look_at: Some(Instant::now()),
        };
        let again = {
            let mut retained = lock(&self.kept.retained);
            // Decided just before a failure, and not heard of.
            retained.committed(self.decided);
            retained.again(at.epoch)
        };
        if !again.is_empty() {
            // Somebody may wait for it, and has waited long enough.
            self.context.pace.urge();
        }
        for batch in again {
            self.count(&batch);
            self.give(batch, &mut at).await?;
        }
        if self.ended || self.counted() {
            self.end(&mut at).await?;
        }
        loop {
            let reads = at.reading && !self.paused && !self.ended && at.decided >= self.read_after;
            let wanted = reads && !self.is_full(&at);
            let (keep_alive_at, release_at, look_at) = (at.keep_alive_at, at.release_at(), at.look_at);
            let heard = hear(&mut **self.lease.source()?, wanted, at.retry_at, &self.context.gates);
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => if !self.obey(command, &mut at).await? { return Ok(()) },
                    None => return Err(Halt::Gone),
                },
                () = sleep(keep_alive_at) => self.keep_alive(&mut at).await?,
                () = sleep(release_at) => self.release(&mut at).await?,
                () = sleep(look_at) => self.look(&mut at)?,
                event = heard => match event {
                    Ok(event) => {
                        if at.failures > 0 {
                            (at.failures, at.retry_at) = (0, None);
                            self.context.shared.board.clear(&self.context.name);
                        }
                        self.handle(event, &mut at).await?;
                    }
                    Err(error) => {
                        at.failures += 1;
                        let wait = self.context.connection(error, at.failures)?;
                        at.retry_at = Some(Instant::now() + wait.max(Duration::from_millis(1)));
                    }
                },
            }
        }
    }

    fn is_full(&self, at: &Progress) -> bool {
        let kept = if self.retains() { lock(&self.kept.retained).bytes() } else { 0 };
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
            SourceCommand::Pause(paused) => self.paused = paused,
            SourceCommand::Close => {
                let closed = self.lease.call()?.close().await;
                if let Err(error) = closed {
                    tracing::warn!(source = %self.context.name, error = %error.chain(), "closing failed");
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn barrier(&mut self, barrier: Barrier, at: &mut Progress) -> Result<(), Halt> {
        let epoch = barrier.epoch;
        self.context.reach(Step::BeforeBarrier, epoch);
        let source = self.lease.source()?;
        let position = source.position().map_err(|error| self.context.fatal(error))?;
        let companion = if self.accompanies { source.companion() } else { None };
        let position = at.without_left(position, epoch);
        at.positions.push_back((epoch, position.clone()));
        at.epoch = epoch + 1;
        self.context.metrics.mark(epoch);
        let checkpoint =
            SourceCheckpoint { position, ended: (self.ended || self.ended_before) && !self.counted(), seek: None };
        self.context.report(Report::Source { source: self.id, epoch, checkpoint, companion })?;
        if barrier.last != Last::No {
            at.reading = false;
        }
        let (outputs, metrics) = (self.outputs.clone(), self.context.metrics.clone());
        self.meanwhile(at, async move { outputs.barrier(barrier, &metrics).await }).await
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
            let committed = self.lease.call()?.commit(&position, Some(&stamp)).await;
            self.lease.done();
            committed.map_err(|error| self.context.fatal(error))?;
        }
        if self.retains() {
            lock(&self.kept.retained).committed(epoch);
        }
        while let Some((_, batch)) = at.held.pop_front_if(|(of, _)| *of <= epoch) {
            at.held_bytes -= batch.size();
            self.context.pace.touch();
            self.send(batch, at).await?;
        }
        if self.ended && at.held.is_empty() {
            self.end(at).await?;
        }
        self.release(at).await?;
        self.context.report(Report::Acknowledged)
    }

    async fn handle(&mut self, event: Event, at: &mut Progress) -> Result<(), Halt> {
        match event {
            Event::Batch(read) => self.read(read, at).await,
            Event::End => self.end(at).await,
            news => self.told(news, at),
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
            let (outputs, metrics) = (self.outputs.clone(), self.context.metrics.clone());
            self.meanwhile(at, async move { outputs.end(&metrics).await }).await?;
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
            batch = Box::pin(self.condemn(batch, failed, at)).await?;
        }
        if self.retains() {
            lock(&self.kept.retained).keep(at.epoch, batch.clone());
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
        if batch.is_empty() { Ok(()) } else { self.send(batch, at).await }
    }

    async fn send(&mut self, batch: Batch, at: &mut Progress) -> Result<(), Halt> {
        self.context.shared.taps.see(&self.context.name, Side::Out, &batch);
        let (outputs, metrics) = (self.outputs.clone(), self.context.metrics.clone());
        self.meanwhile(at, async move { outputs.send(0, batch, &metrics).await }).await
    }

    /// The first `left` records of a batch. The rest stays for whoever reads on: the source goes back behind them, or gives the
    /// rest back; what nobody can read again is gone, as what is left in a pipe.
    async fn cut(&mut self, batch: Batch, left: usize) -> Result<Batch, Halt> {
        let rest = batch.slice(left, batch.len());
        if self.capabilities.seek {
            self.go_back_to(&rest).await?;
        } else if self.capabilities.give_back {
            let given = self.lease.call()?.give_back(&rest).await;
            self.lease.done();
            given.map_err(|error| self.context.fatal(error))?;
        } else if self.capabilities.owner == Owner::System {
            // Its next commit would cover all of the batch.
            let error =
                Error::new(ErrorKind::Unsupported, "cannot stop in the middle of what this source has handed over")
                    .hint("leave the count out: it can neither go back nor take records back");
            return Err(self.context.fatal(error));
        }
        Ok(batch.slice(0, left))
    }

    /// Lets the source read these records next.
    async fn go_back_to(&mut self, rest: &Batch) -> Result<(), Halt> {
        let mut next: BTreeMap<ShardKey, u128> = BTreeMap::new();
        for record in rest.iter() {
            next.entry(record.origin().clone()).or_insert(record.sequence());
        }
        for (shard, sequence) in next {
            let sought = self.lease.call()?.seek(&SeekTo::At(sequence), Some(&[shard])).await;
            self.lease.done();
            sought.map_err(|error| self.context.fatal(error))?;
        }
        Ok(())
    }

    /// Applies the rules to records that were read damaged; answers with the others.
    async fn condemn(&mut self, batch: Batch, failed: Vec<(u32, Error)>, at: &mut Progress) -> Result<Batch, Halt> {
        let (batch, epoch) = (batch.into_bytes(), at.epoch);
        for (row, error) in &failed {
            let (context, record) = (self.context.clone(), batch.get(*row as usize).to_record());
            self.meanwhile(at, async move {
                let (stage, metrics, rules) = (&*context.name, &*context.metrics, &context.rules);
                // Decoding again would give the same.
                let (on_failed, attempts) = (&context.on_failed, Rules::NO_RETRY);
                let failed = FailedRecord { stage, metrics, rules, on_failed, record: &record, error, attempts };
                context.record(failed, epoch).await.map(drop)
            })
            .await?;
        }
        let mut bad = failed.iter().map(|(row, _)| *row).peekable();
        let good = (0..batch.len() as u32).filter(|row| bad.next_if_eq(row).is_none()).collect();
        Ok(batch.select(good))
    }
}
