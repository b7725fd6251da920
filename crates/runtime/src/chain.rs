//! How batches go through the steps of a stage, and what becomes of records that fail on the way.

use std::{collections::HashMap, time::Instant};

use bytes::Bytes;
use millstream_core::{Batch, Error, Failed, Output, RecordRef, Result, Step as CoreStep};
use tracing::Instrument as _;

use crate::{
    metrics::StageMetrics,
    park::{Parked, saved},
    span,
    stage_task::{StageTask, Who, Work},
    tap::Side,
    task::{FailedRecord, Fate, Halt},
};

impl StageTask {
    /// Runs work through the chain, the last entry first, until nothing is left of it.
    pub(crate) async fn chain(&mut self, mut work: Vec<Work>) -> std::result::Result<(), Halt> {
        while let Some(Work { step, port, batch }) = work.pop() {
            let Some(run) = self.steps.get_mut(step) else {
                self.outputs.send(port, batch, &self.context.metrics).await?;
                continue;
            };
            self.context.shared.taps.see(&run.who.name, Side::In, &batch);
            let span = span::of_batch(&run.who.name, &batch);
            let since = Instant::now();
            let mut out = Output::default();
            let mut done = Ok(());
            let again = match &mut run.step {
                CoreStep::Transform(transform) => {
                    span.in_scope(|| transform.apply(batch.clone(), &mut out));
                    out.has_failed().then_some(batch)
                }
                CoreStep::Operator(operator) => {
                    done = operator.process(port, batch, &mut out).instrument(span).await;
                    None
                }
            };
            run.who.metrics.busy_ns.add_time(since.elapsed());
            if let Some(batch) = again {
                Box::pin(self.hold_behind_failed(step, &batch, &mut out)).await?;
            }
            let next = self.settle(step, done, &mut out).await?;
            work.extend(next.into_iter().rev());
        }
        Ok(())
    }

    /// The same for what a step emitted on its own.
    pub(crate) async fn emitted(&mut self, step: usize, done: Result<()>, out: &mut Output) -> std::result::Result<(), Halt> {
        let next = self.settle(step, done, out).await?;
        self.chain(next.into_iter().rev().collect()).await
    }

    /// Counts what a step did, applies its rules to what failed, and answers with the work behind it, in order.
    async fn settle(
        &mut self,
        step: usize,
        done: Result<()>,
        out: &mut Output,
    ) -> std::result::Result<Vec<Work>, Halt> {
        let run = self.steps[step].who.clone();
        done.map_err(|error| self.context.fatal(error.context(format!("cannot go on at `{}`", run.name))))?;
        let counts = out.take_counts();
        run.metrics.created.add(counts.created);
        run.metrics.filtered.add(counts.filtered);
        run.metrics.absorbed.add(counts.absorbed);
        self.steps[step].count_held();
        let (batches, failed, returned) = (out.take_batches(), out.take_failed(), out.take_returned());
        self.outcomes += counts.filtered + counts.absorbed + (batches.len() + failed.len()) as u64;
        for Failed { record, error } in failed {
            // Boxed, as in the other tasks: failures are rare, and their records would make every idle task larger.
            Box::pin(self.failed(step, &record, &error)).await?;
        }
        let last = step + 1 == self.steps.len();
        let mut next = Vec::new();
        for (port, batch) in batches {
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
            next.push(Work { step: step + 1, port: if last { port } else { 0 }, batch });
        }
        // What was taken and not begun: behind what has failed of its key, else at once.
        for batch in returned {
            let batch = if self.parked.is_empty() { batch } else { self.park_held(batch, 0)? };
            if !batch.is_empty() {
                next.push(Work { step, port: 0, batch });
            }
        }
        Ok(next)
    }

    /// Applies the rules of a step to a record that is alone in its batch.
    async fn failed(&mut self, step: usize, failed: &Batch, error: &Error) -> std::result::Result<(), Halt> {
        let who = self.steps[step].who.clone();
        let shown = failed.clone().into_bytes().get(0).to_record();
        let Who { name, metrics, rules, on_failed } = &*who;
        let attempts = shown.attempts + 1;
        let record = FailedRecord { stage: name, metrics, rules, on_failed, record: &shown, error, attempts };
        if let Fate::Park(delay) = self.context.record(record, self.epoch).await? {
            let record = saved(failed, 0).map_err(|error| self.context.fatal(error))?;
            metrics.parked.add(1);
            self.parked.failed(record, step, attempts, delay);
        }
        if let Some(key) = shown.key.filter(|key| self.trying.remove(key)) {
            self.parked.settled(Some(&key));
        }
        Ok(())
    }

    /// Records that were tried again have come out: what is behind them follows.
    fn tried(&mut self, batch: &Batch) {
        if self.trying.is_empty() {
            return;
        }
        for key in batch.iter().filter_map(|record| record.key()) {
            if self.trying.remove(key) {
                self.parked.settled(Some(key));
            }
        }
    }

    /// Parks the records whose key is parked already; answers with the others.
    pub(crate) fn park_held(&mut self, batch: Batch, port: usize) -> std::result::Result<Batch, Halt> {
        let Some(first) = self.steps.first() else { return Ok(batch) };
        park_held(batch, port, &mut self.parked, &first.who.metrics).map_err(|error| self.context.fatal(error))
    }

    /// In a batch that a step without state has failed on: where a record is parked, the later ones of its key wait behind it,
    /// as if they had come later. What the step made of them is thrown away, and of the others it is made again.
    async fn hold_behind_failed(
        &mut self,
        step: usize,
        batch: &Batch,
        out: &mut Output,
    ) -> std::result::Result<(), Halt> {
        let failed = out.take_failed();
        // The row of the first parked record of each key.
        let mut parked: HashMap<Bytes, usize> = HashMap::new();
        let mut behind = vec![false; batch.len()];
        let mut bad = vec![false; batch.len()];
        let mut from = 0;
        for Failed { record, error } in failed {
            let one = record.get(0);
            // Failures come in the order of their rows.
            let row = (from..batch.len()).find(|row| same(batch.get(*row), one)).unwrap_or(from);
            from = row;
            if one.key().is_some_and(|key| parked.contains_key(key)) {
                continue;
            }
            bad[row] = true;
            self.outcomes += 1;
            self.failed(step, &record, &error).await?;
            if let Some(key) = one.key().filter(|key| self.parked.holds(Some(key))) {
                parked.insert(Bytes::copy_from_slice(key), row);
            }
        }
        if parked.is_empty() {
            return Ok(());
        }
        for row in 0..batch.len() {
            let key = batch.get(row).key();
            behind[row] = key.and_then(|key| parked.get(key)).is_some_and(|first| row > *first);
            if behind[row] {
                let record = saved(batch, row).map_err(|error| self.context.fatal(error))?;
                self.steps[step].who.metrics.parked.add(1);
                self.parked.behind(record, step, 0);
            }
        }
        if behind.contains(&true) {
            *out = Output::default();
            let rest = (0..batch.len() as u32).filter(|row| !behind[*row as usize] && !bad[*row as usize]).collect();
            if let CoreStep::Transform(transform) = &mut self.steps[step].step {
                transform.apply(batch.select(rest), out);
            }
        }
        Ok(())
    }
}

/// Whether two are the same record.
fn same(a: RecordRef<'_>, b: RecordRef<'_>) -> bool {
    (a.sequence(), a.index()) == (b.sequence(), b.index()) && a.origin() == b.origin()
}

/// Parks the records whose key is parked already; answers with the others.
pub(crate) fn park_held(batch: Batch, port: usize, parked: &mut Parked, metrics: &StageMetrics) -> Result<Batch> {
    let held = |row: usize, parked: &Parked| parked.holds(batch.get(row).key());
    if !(0..batch.len()).any(|row| held(row, parked)) {
        return Ok(batch);
    }
    let (behind, free): (Vec<u32>, Vec<u32>) = (0..batch.len() as u32).partition(|row| held(*row as usize, parked));
    metrics.parked.add(behind.len() as u64);
    for row in behind {
        parked.behind(saved(&batch, row as usize)?, 0, port);
    }
    Ok(batch.select(free))
}
