//! The contracts of steps: transforms and operators.

use async_trait::async_trait;

use crate::{Batch, Change, Error, Result, Timestamp};

/// A stateless step: a batch in, batches out. Never blocks, does no I/O.
pub trait Transform: Send {
    /// Handles a batch. A record that fails goes to [`Output::fail`]; the others go on.
    fn apply(&mut self, batch: Batch, out: &mut Output);
}

/// A step with state, time or I/O.
///
/// Its state belongs to the epoch: `changes` is asked when the barrier passes, and what it gave is in the same checkpoint
/// as the positions of the sources. After a crash `restore` gets all of it back.
#[async_trait]
pub trait Operator: Send {
    /// Called once before `restore`, with the group under which this worker saves what has no key. It comes back to whoever
    /// has to tell the step of the end of that group's keys, however many workers there are then.
    fn keyless_group(&mut self, group: u16) {
        let _ = group;
    }

    /// Called once before all that follows, with the state as of the checkpoint: every key with its value.
    async fn restore(&mut self, state: Vec<Change>) -> Result<()>;

    /// Handles a batch of one of its inputs, or begins to: what is not yet done comes with `advance` or `settle`.
    async fn process(&mut self, input: usize, batch: Batch, out: &mut Output) -> Result<()>;

    /// Whether it has begun enough: its stage reads no more input while it says so.
    fn is_full(&self) -> bool {
        false
    }

    /// Records that it keeps for later in the state that `changes` saves, and lets go by itself. They count as parked: a drain
    /// waits for them until its deadline, and the end of input is not passed on before them.
    fn held(&self) -> usize {
        0
    }

    /// Waits until something that was begun is done; for ever while nothing is under way. Cancel-safe.
    async fn ready(&mut self) {
        std::future::pending().await
    }

    /// Emits what is done. Called when `ready` has returned.
    async fn advance(&mut self, out: &mut Output) -> Result<()> {
        let _ = out;
        Ok(())
    }

    /// Does and emits all that was begun, except what `changes` saves. Called before a barrier passes and before `end`.
    async fn settle(&mut self, out: &mut Output) -> Result<()> {
        let _ = out;
        Ok(())
    }

    /// All inputs have ended, for ever: the last chance to emit. Where what it then did failed and comes again, it is called
    /// again behind that.
    async fn end(&mut self, out: &mut Output) -> Result<()> {
        let _ = out;
        Ok(())
    }

    /// The earliest time at which `on_timer` wants to be called.
    fn timer_at(&self) -> Option<Timestamp> {
        None
    }

    /// The time `now` has come.
    async fn on_timer(&mut self, now: Timestamp, out: &mut Output) -> Result<()> {
        let _ = (now, out);
        Ok(())
    }

    /// The keys that changed since the last call.
    fn changes(&mut self) -> Result<Vec<Change>>;

    /// The pipeline drains: no more input comes in this run, though the next one goes on. Called once, behind the last
    /// record and before the last barrier, with no failure before it; after `end` where that was called, too.
    async fn drain(&mut self, out: &mut Output) -> Result<()> {
        let _ = out;
        Ok(())
    }

    /// Called once at the end, also after errors.
    async fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What a step makes of a batch. Every record that came in must be accounted for: the books are checked.
#[derive(Debug, Default)]
pub struct Output {
    batches: Vec<(usize, Batch)>,
    failed: Vec<Failed>,
    returned: Vec<(Option<usize>, Batch)>,
    came_by: Option<usize>,
    counts: StepCounts,
}

/// A record that a step could not handle.
#[derive(Debug)]
pub struct Failed {
    /// The record, alone in its batch, as the step got it.
    pub record: Batch,
    /// The input by which it had come, if the step said so: see [`Output::came_by`].
    pub input: Option<usize>,
    /// Why.
    pub error: Error,
}

/// What became of records that did not simply pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepCounts {
    /// Outputs beyond one for each input.
    pub created: u64,
    /// Inputs that the step left out on purpose.
    pub filtered: u64,
    /// Inputs that live on in the step's state.
    pub absorbed: u64,
}

impl Output {
    /// Emits a batch on output `port`; 0 is the default one.
    pub fn emit(&mut self, port: usize, batch: Batch) {
        if !batch.is_empty() {
            self.batches.push((port, batch));
        }
    }

    /// Reports the record at `row` of `batch` as failed.
    pub fn fail(&mut self, batch: &Batch, row: usize, error: Error) {
        self.failed.push(Failed { record: batch.slice(row, row + 1), input: self.came_by, error });
    }

    /// By which input what is reported as failed or given back from here on had come, and will come again. A step with several
    /// inputs says so in `advance`, `settle` and the like; else, and with `None`, it is the input whose batch is being handled,
    /// or the first.
    pub fn came_by(&mut self, input: Option<usize>) {
        self.came_by = input;
    }

    /// Reports rows as failed, and answers with the others; `None` if there are none left.
    pub fn fail_rows(&mut self, batch: &Batch, failed: Vec<(u32, Error)>) -> Option<Batch> {
        if failed.is_empty() {
            return Some(batch.clone());
        }
        let mut bad = failed.iter().map(|(row, _)| *row).peekable();
        let good: Vec<u32> = (0..batch.len() as u32).filter(|row| bad.next_if_eq(row).is_none()).collect();
        for (row, error) in failed {
            self.fail(batch, row as usize, error);
        }
        (!good.is_empty()).then(|| batch.select(good))
    }

    /// Gives back records that were taken and not begun: they come again, in this order, behind what has failed of their keys.
    pub fn give_back(&mut self, batch: Batch) {
        if !batch.is_empty() {
            self.returned.push((self.came_by, batch));
        }
    }

    /// Counts outputs beyond one for each input.
    pub fn created(&mut self, records: usize) {
        self.counts.created += records as u64;
    }

    /// Counts inputs left out on purpose.
    pub fn filtered(&mut self, records: usize) {
        self.counts.filtered += records as u64;
    }

    /// Counts inputs that live on in state.
    pub fn absorbed(&mut self, records: usize) {
        self.counts.absorbed += records as u64;
    }

    /// Takes what was emitted, in order.
    pub fn take_batches(&mut self) -> Vec<(usize, Batch)> {
        std::mem::take(&mut self.batches)
    }

    /// Whether anything failed.
    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// What failed, for who can say more of why.
    pub fn failed_mut(&mut self) -> &mut [Failed] {
        &mut self.failed
    }

    /// Takes what failed.
    pub fn take_failed(&mut self) -> Vec<Failed> {
        std::mem::take(&mut self.failed)
    }

    /// Whether anything was given back.
    pub fn has_returned(&self) -> bool {
        !self.returned.is_empty()
    }

    /// Takes what was given back, in order, with the input by which it had come, if the step said so.
    pub fn take_returned(&mut self) -> Vec<(Option<usize>, Batch)> {
        std::mem::take(&mut self.returned)
    }

    /// Takes the counts.
    pub fn take_counts(&mut self) -> StepCounts {
        std::mem::take(&mut self.counts)
    }
}
