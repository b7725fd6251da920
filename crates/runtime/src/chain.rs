//! How batches go through the steps of a stage, and what becomes of records that fail on the way.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use millstream_core::{Batch, Error, ErrorKind, Failed, Output, Record, Result, ShardKey, Step as CoreStep};
use tracing::Instrument as _;

use crate::{
    metrics::StageMetrics,
    park::{Parked, saved},
    rules::Rules,
    span,
    stage_task::{StageTask, Who, Work},
    tap::Side,
    task::{FailedRecord, Fate, Halt},
};

impl StageTask {
    /// Runs work through the chain, the last entry first, until nothing is left of it.
    pub(crate) async fn chain(&mut self, mut work: Vec<Work>) -> std::result::Result<(), Halt> {
        // When the step before ended, where nothing was waited for since: a clock is read once for each step.
        let mut ended: Option<Instant> = None;
        while let Some(Work { step, port, mut batch, retried }) = work.pop() {
            if step >= self.steps.len() {
                ended = None;
                self.outputs.send(port, batch, &self.context.metrics).await?;
                continue;
            }
            if !retried && !self.parked.holds_none() {
                batch = self.park_held(batch, step, port).await?;
                if batch.is_empty() {
                    continue;
                }
            }
            let run = &mut self.steps[step];
            self.context.shared.taps.see(&run.who.name, Side::In, &batch);
            let span = span::of_batch(&run.who.name, self.epoch, &batch);
            let since = ended.take().unwrap_or_else(Instant::now);
            let mut out = Output::default();
            let mut done = Ok(());
            let again = match &mut run.step {
                CoreStep::Transform(transform) => {
                    // Kept where records may have to wait behind one of their key; else the step has it for itself.
                    let kept = batch.envelope().0.keys.is_some().then(|| batch.clone());
                    span.in_scope(|| transform.apply(batch, &mut out));
                    kept.filter(|_| out.has_failed())
                }
                CoreStep::Operator(operator) => {
                    run.ended = false;
                    done = operator.process(port, batch, &mut out).instrument(span).await;
                    None
                }
            };
            let now = Instant::now();
            run.who.metrics.busy_ns.add_time(now - since);
            if let Some(batch) = again {
                Box::pin(self.hold_behind_failed(step, port, batch, &mut out)).await?;
            }
            if self.settle(step, port, done, &mut out, &mut work).await? {
                ended = Some(now);
            }
        }
        Ok(())
    }

    /// The same for what a step emitted on its own. Whether it gave something back, which has begun anew.
    pub(crate) async fn emitted(
        &mut self,
        step: usize,
        done: Result<()>,
        out: &mut Output,
    ) -> std::result::Result<bool, Halt> {
        let mut work = Vec::new();
        self.settle(step, 0, done, out, &mut work).await?;
        let again = work.iter().any(|work| work.step == step);
        self.chain(work).await?;
        Ok(again)
    }

    /// Counts what a step did, applies its rules to what failed, and adds the work behind it, the last first. Whether all went
    /// well, and so nothing was waited for.
    async fn settle(
        &mut self,
        step: usize,
        port: usize,
        done: Result<()>,
        out: &mut Output,
        work: &mut Vec<Work>,
    ) -> std::result::Result<bool, Halt> {
        let run = self.steps[step].who.clone();
        done.map_err(|error| {
            self.context.fatal_at(&run.name, error.context(format!("cannot go on at `{}`", run.name)))
        })?;
        let counts = out.take_counts();
        run.metrics.created.add(counts.created);
        run.metrics.filtered.add(counts.filtered);
        run.metrics.absorbed.add(counts.absorbed);
        self.steps[step].count_held();
        let (batches, failed, returned) = (out.take_batches(), out.take_failed(), out.take_returned());
        self.outcomes += counts.filtered + counts.absorbed + (batches.len() + failed.len()) as u64;
        let well = failed.is_empty() && returned.is_empty();
        // Boxed, as in the other tasks: failures are rare, and their records would make every idle task larger.
        let returned = if well { Vec::new() } else { Box::pin(self.judge(step, port, failed, returned)).await? };
        if counts.filtered + counts.absorbed > 0 {
            // Who it was is not told. It is no harm to try the next one early: the step keeps the order of what it has begun.
            self.settled(|_, _| true);
        }
        let last = step + 1 == self.steps.len();
        let from = work.len();
        for (out, batch) in batches {
            self.tried(&batch);
            let batch = batch.without_attempts();
            self.context.shared.taps.see(&run.name, Side::Out, &batch);
            if !last {
                let records = batch.len() as u64;
                self.steps[step].who.metrics.records_out.add(records);
                let behind = &self.steps[step + 1].who.metrics;
                behind.batches.add(1);
                behind.records_in.add(records);
                behind.bytes_in.add(batch.size() as u64);
            }
            work.push(Work { step: step + 1, port: if last { out } else { 0 }, batch, retried: false });
        }
        // What was taken and not begun: behind what has failed of its key, else at once.
        work.extend(returned.into_iter().map(|(port, batch)| Work { step, port, batch, retried: false }));
        work[from..].reverse();
        Ok(well)
    }

    /// Applies the rules of a step to what failed; answers with what was given back and need not wait behind that.
    async fn judge(
        &mut self,
        step: usize,
        port: usize,
        failed: Vec<Failed>,
        returned: Vec<(Option<usize>, Batch)>,
    ) -> std::result::Result<Vec<(usize, Batch)>, Halt> {
        let mut again = Vec::new();
        for Failed { record, input, error } in &failed {
            again.extend(self.verdict(step, input.unwrap_or(port), record, error).await?);
        }
        let returned = returned.into_iter().map(|(input, batch)| (input.unwrap_or(port), batch)).collect();
        let returned = self.park_returned(step, returned, &again).await?;
        // Each goes to the front of its key, so the last one first; those without a key wait in their order.
        let (keyed, free): (Vec<_>, Vec<_>) = again.into_iter().partition(|again| again.record.key.is_some());
        keyed.into_iter().rev().chain(free).for_each(|again| self.park(step, again));
        for Failed { record, .. } in &failed {
            self.settled(|key, _| record.get(0).key() == Some(&key[..]));
        }
        Ok(returned)
    }

    /// Applies the rules of a step to a record that is alone in its batch; answers if it is to be tried again.
    async fn verdict(
        &mut self,
        step: usize,
        port: usize,
        failed: &Batch,
        error: &Error,
    ) -> std::result::Result<Option<Again>, Halt> {
        let who = self.steps[step].who.clone();
        let shown = failed.record(0);
        let Who { name, metrics, rules, on_failed } = &*who;
        let kept = saved(failed, 0);
        // What cannot be written down cannot be kept for another try.
        let attempts = if kept.is_ok() { shown.attempts + 1 } else { Rules::NO_RETRY };
        let record = FailedRecord { stage: name, metrics, rules, on_failed, record: &shown, error, attempts };
        match self.context.record(record, self.epoch).await? {
            Fate::Park(delay) => {
                let record = kept.map_err(|error| self.context.fatal(error))?;
                Ok(Some(Again { record, port, attempts, delay }))
            }
            Fate::Done => Ok(None),
        }
    }

    fn park(&mut self, step: usize, Again { record, port, attempts, delay }: Again) {
        self.steps[step].who.metrics.parked.add(1);
        self.parked.failed(record, step, port, attempts, delay);
    }

    /// What a step took and has not begun goes before all others of its key, where such wait; answers with the others.
    async fn park_returned(
        &mut self,
        step: usize,
        mut returned: Vec<(usize, Batch)>,
        again: &[Again],
    ) -> std::result::Result<Vec<(usize, Batch)>, Halt> {
        let mut unwritable = Vec::new();
        for (port, batch) in returned.iter_mut().rev() {
            let held = |key: &[u8]| {
                self.parked.holds(Some(key), step) || again.iter().any(|again| again.record.key.as_deref() == Some(key))
            };
            let (held, free): (Vec<u32>, Vec<u32>) =
                (0..batch.len() as u32).partition(|row| batch.get(*row as usize).key().is_some_and(held));
            for row in held.into_iter().rev() {
                match saved(batch, row as usize) {
                    Ok(record) => {
                        self.steps[step].who.metrics.parked.add(1);
                        self.parked.before(record, step, *port);
                    }
                    Err(error) => unwritable.push(Unwritable::new(batch, row as usize, error)),
                }
            }
            if free.len() < batch.len() {
                *batch = batch.select(free);
            }
        }
        returned.retain(|(_, batch)| !batch.is_empty());
        self.give_up(step, unwritable).await?;
        Ok(returned)
    }

    /// Records that were tried again have come out, perhaps under other keys: what is behind them follows.
    fn tried(&mut self, batch: &Batch) {
        if self.trying.is_empty() {
            return;
        }
        for record in batch.iter() {
            let same =
                |(origin, sequence): &(ShardKey, u128)| *sequence == record.sequence() && origin == record.origin();
            self.settled(|key, tried| record.key() == Some(&key[..]) || same(tried));
        }
    }

    /// What became of some of the records that are being tried again is known.
    fn settled(&mut self, which: impl Fn(&Bytes, &(ShardKey, u128)) -> bool) {
        for (key, _) in self.trying.extract_if(|key, tried| which(key, tried)) {
            self.parked.settled(Some(&key));
        }
    }

    /// Parks the records whose key waits before `step` or later already; answers with the others.
    async fn park_held(&mut self, batch: Batch, step: usize, port: usize) -> std::result::Result<Batch, Halt> {
        let metrics = &self.steps[step].who.metrics;
        let (free, unwritable) = park_held(batch, step, port, &mut self.parked, metrics);
        self.give_up(step, unwritable).await?;
        Ok(free)
    }

    /// Records that would have to wait, and cannot: the rules of their step say what becomes of them, without another try.
    async fn give_up(&mut self, step: usize, unwritable: Vec<Unwritable>) -> std::result::Result<(), Halt> {
        for Unwritable { record, error } in unwritable {
            let who = self.steps[step].who.clone();
            let Who { name, metrics, rules, on_failed } = &*who;
            let (record, attempts) = (record.record(0), Rules::NO_RETRY);
            let failed =
                FailedRecord { stage: name, metrics, rules, on_failed, record: &record, error: &error, attempts };
            Box::pin(self.context.record(failed, self.epoch)).await?;
        }
        Ok(())
    }

    /// In a batch that a step without state has failed on: where a record is parked, the later ones of its key wait behind it,
    /// as if they had come later. What the step made of them is thrown away, and of the others it is made again.
    async fn hold_behind_failed(
        &mut self,
        step: usize,
        port: usize,
        mut batch: Batch,
        out: &mut Output,
    ) -> std::result::Result<(), Halt> {
        // Again where another one fails in what is made again.
        while out.has_failed() {
            let failed = out.take_failed();
            // The row of the first parked record of each key.
            let mut parked: HashMap<Bytes, usize> = HashMap::new();
            let mut gone = vec![false; batch.len()];
            let mut from = 0;
            for Failed { record, error, .. } in failed {
                let one = record.get(0);
                if one.key().is_some_and(|key| parked.contains_key(key)) {
                    continue;
                }
                // Failures come in the order of their rows.
                let found = (from..batch.len()).find(|row| same(&batch, *row, &record));
                let first = found.unwrap_or(from);
                if let Some(row) = found {
                    (gone[row], from) = (true, row + 1);
                }
                self.outcomes += 1;
                if let Some(again) = self.verdict(step, port, &record, &error).await? {
                    self.park(step, again);
                }
                if let Some(key) = one.key().filter(|key| self.parked.holds(Some(key), step)) {
                    parked.insert(Bytes::copy_from_slice(key), first);
                }
            }
            let waits =
                |row: usize| batch.get(row).key().and_then(|key| parked.get(key)).is_some_and(|first| row > *first);
            let behind: Vec<usize> = (0..batch.len()).filter(|row| waits(*row)).collect();
            if behind.is_empty() {
                return Ok(());
            }
            let mut unwritable = Vec::new();
            for row in behind {
                gone[row] = true;
                match saved(&batch, row) {
                    Ok(record) => {
                        self.steps[step].who.metrics.parked.add(1);
                        self.parked.behind(record, step, port);
                    }
                    Err(error) => unwritable.push(Unwritable::new(&batch, row, error)),
                }
            }
            self.give_up(step, unwritable).await?;
            *out = Output::default();
            batch = batch.select((0..batch.len() as u32).filter(|row| !gone[*row as usize]).collect());
            if let CoreStep::Transform(transform) = &mut self.steps[step].step {
                transform.apply(batch.clone(), out);
            }
        }
        Ok(())
    }
}

/// A record that is to be tried again.
struct Again {
    record: Record,
    port: usize,
    attempts: u32,
    delay: Duration,
}

/// Whether `row` of a batch is the record that a step has failed on. Where ways have met, the records of a batch may be told
/// apart by nothing but their rows, which a step that fails leaves as they are.
fn same(batch: &Batch, row: usize, failed: &Batch) -> bool {
    let ((envelope, rows), (of, at)) = (batch.envelope(), failed.envelope());
    let (a, b) = (batch.get(row), failed.get(0));
    let in_place = !std::ptr::eq(envelope, of) || rows.get(row) == at.get(0);
    in_place && (a.sequence(), a.index()) == (b.sequence(), b.index()) && a.origin() == b.origin()
}

/// A record, alone in its batch, that would have to wait behind another of its key and cannot be written down.
pub(crate) struct Unwritable {
    record: Batch,
    error: Error,
}

impl Unwritable {
    fn new(batch: &Batch, row: usize, cause: Error) -> Self {
        let what = "the record cannot wait behind another of its key, because it cannot be written down";
        Unwritable { record: batch.slice(row, row + 1), error: Error::new(ErrorKind::Data, what).caused_by(cause) }
    }
}

/// Parks the records whose key waits before `step` or later already; answers with the others, and with those that cannot be
/// parked. Bytes always can.
pub(crate) fn park_held(
    batch: Batch,
    step: usize,
    port: usize,
    parked: &mut Parked,
    metrics: &StageMetrics,
) -> (Batch, Vec<Unwritable>) {
    let mut unwritable = Vec::new();
    let held = |row: usize, parked: &Parked| parked.holds(batch.get(row).key(), step);
    if !(0..batch.len()).any(|row| held(row, parked)) {
        return (batch, unwritable);
    }
    let (behind, free): (Vec<u32>, Vec<u32>) = (0..batch.len() as u32).partition(|row| held(*row as usize, parked));
    for row in behind {
        match saved(&batch, row as usize) {
            Ok(record) => {
                metrics.parked.add(1);
                parked.behind(record, step, port);
            }
            Err(error) => unwritable.push(Unwritable::new(&batch, row as usize, error)),
        }
    }
    (batch.select(free), unwritable)
}
