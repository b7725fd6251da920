//! The task around the dead-letter sink: the last one in every epoch.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use millstream_core::{DeadLetter, Epoch, Error, ErrorKind, Form, Record, Sink, Token};
use tokio::sync::mpsc;

use crate::{
    channel::Barrier,
    pace::Gates,
    park::{alone, size},
    task::{AfterFailure, Context, Halt, Report},
};

/// Letters that wait for the task; a stage that makes more waits.
pub(crate) const LETTERS_QUEUED_MAX: usize = 64;

/// Causes that are told apart in the summary.
const CAUSES_MAX: usize = 20;

/// What the coordinator tells the task.
#[derive(Debug)]
pub(crate) enum DeadLetterCommand {
    /// All letters of the epoch have been sent.
    Barrier(Barrier),
    /// The epoch counts.
    Decided(Epoch),
    /// Disconnect.
    Close,
}

/// How letters are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Whole, as MessagePack: for the state directory.
    Whole,
    /// As the original record with headers that tell what happened: for a sink of the user's.
    Record,
}

/// One cause of dead letters, with a record as an example.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DeadLetterCause {
    /// The stage that gave up.
    pub stage: String,
    /// Code of the error.
    pub code: String,
    /// Its message and causes.
    pub message: String,
    /// One of the records.
    pub example: String,
    /// How many records it has cost.
    pub count: u64,
}

/// What became dead letters so far, by cause.
pub(crate) type Causes = std::sync::Arc<std::sync::Mutex<BTreeMap<(String, String), DeadLetterCause>>>;

type Letter = (Epoch, Box<DeadLetter>);

/// Letters that must wait for an epoch. Their bytes count as parked, so that sources stop reading before they are too many.
struct Later {
    letters: Vec<Letter>,
    /// All must wait: the transaction is to be decided before anything else is written.
    all: bool,
    gates: Gates,
}

impl Later {
    fn new(gates: Gates) -> Self {
        Later { letters: Vec::new(), all: false, gates }
    }

    fn push(&mut self, letter: Letter) {
        self.gates.hold(size(&letter.1.record));
        self.letters.push(letter);
    }

    fn drain(&mut self) -> Vec<Letter> {
        let letters = std::mem::take(&mut self.letters);
        self.gates.release(letters.iter().map(|(_, letter)| size(&letter.record)).sum());
        letters
    }
}

pub(crate) struct DeadLetterTask {
    pub(crate) context: Context,
    pub(crate) sink: Box<dyn Sink>,
    pub(crate) style: Style,
    /// It writes in a host's transaction, of which there is one at a time.
    pub(crate) joined: bool,
    pub(crate) letters: mpsc::Receiver<Letter>,
    pub(crate) commands: mpsc::UnboundedReceiver<DeadLetterCommand>,
    pub(crate) stop_after: Option<u64>,
    pub(crate) causes: Causes,
    /// The epoch whose letters are written now.
    pub(crate) epoch: Epoch,
}

impl DeadLetterTask {
    pub(crate) async fn run(mut self) -> Result<(), Halt> {
        let mut later = Later::new(self.context.gates.clone());
        let mut tokens: VecDeque<(Epoch, Token)> = VecDeque::new();
        loop {
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(DeadLetterCommand::Barrier(barrier)) => {
                        while let Ok(letter) = self.letters.try_recv() {
                            self.take(letter, &mut later).await?;
                        }
                        let token = self.prepare(barrier).await?;
                        tokens.extend(token.clone().map(|token| (barrier.epoch, token)));
                        self.context.report(Report::DeadLetters { epoch: barrier.epoch, token })?;
                        later.all = self.joined;
                        if !later.all {
                            self.take_later(&mut later).await?;
                        }
                    }
                    Some(DeadLetterCommand::Decided(epoch)) => {
                        while let Some((_, token)) = tokens.pop_front_if(|(of, _)| *of <= epoch) {
                            self.sink.commit(&token).await.map_err(|error| self.context.fatal(error))?;
                        }
                        self.context.report(Report::Acknowledged)?;
                        if std::mem::take(&mut later.all) {
                            self.take_later(&mut later).await?;
                        }
                    }
                    Some(DeadLetterCommand::Close) => {
                        return self.sink.close().await.map_err(|error| self.context.fatal(error));
                    }
                    None => return Err(Halt::Gone),
                },
                // Always taken: behind one of a later epoch there may be one that the next barrier waits for.
                letter = self.letters.recv() => match letter {
                    Some(letter) => self.take(letter, &mut later).await?,
                    None => return Err(Halt::Gone),
                },
            }
        }
    }

    /// Takes what had to wait, as far as its time has come.
    async fn take_later(&mut self, later: &mut Later) -> Result<(), Halt> {
        for letter in later.drain() {
            self.take(letter, later).await?;
        }
        Ok(())
    }

    async fn take(&mut self, (epoch, letter): Letter, later: &mut Later) -> Result<(), Halt> {
        if later.all || epoch > self.epoch {
            later.push((epoch, letter));
            return Ok(());
        }
        let metrics = self.context.metrics.clone();
        metrics.records_in.add(1);
        let error = Error::new(ErrorKind::Data, letter.causes.join(": "));
        self.remember(&letter);
        let stop = self.stop_after.is_some_and(|most| metrics.records_in.get() > most);
        self.write(letter).await?;
        metrics.records_out.add(1);
        if stop {
            let error = error.context("cannot go on: there are more dead letters than `stop_after` allows");
            return Err(self.context.fail(error, AfterFailure::Stop));
        }
        Ok(())
    }

    /// A failure of this sink is tried again by its rules; then the pipeline stops.
    async fn write(&mut self, letter: Box<DeadLetter>) -> Result<(), Halt> {
        let record = match self.style {
            Style::Record => letter.into_record(),
            Style::Whole => {
                let bytes = rmp_serde::to_vec_named(&letter).map_err(|cause| {
                    self.context.fatal(Error::new(ErrorKind::Bug, "cannot save a dead letter").caused_by(cause))
                })?;
                let origin = letter.record.origin.clone();
                Record {
                    origin,
                    sequence: letter.record.sequence,
                    form: Form::Bytes,
                    ..Record::new("", Bytes::from(bytes))
                }
            }
        };
        let mut attempts = 0;
        loop {
            let error = match self.sink.write(alone(&record)).await {
                Ok(_) => match self.sink.flush().await {
                    Ok(outcomes) => match outcomes.rejected.into_iter().next() {
                        None => return Ok(()),
                        Some((_, _, error)) => {
                            return Err(self
                                .context
                                .fail(error.context("the dead-letter sink refuses a record"), AfterFailure::Stop));
                        }
                    },
                    Err(error) => return Err(self.context.fatal(error)),
                },
                Err(error) => error,
            };
            attempts += 1;
            let wait = self.context.connection(error, attempts)?;
            tokio::time::sleep(wait).await;
        }
    }

    async fn prepare(&mut self, barrier: Barrier) -> Result<Option<Token>, Halt> {
        self.context.metrics.mark(barrier.epoch);
        self.epoch = barrier.epoch + 1;
        self.sink.prepare(barrier.epoch, barrier.last).await.map_err(|error| self.context.fatal(error))
    }

    fn remember(&self, letter: &DeadLetter) {
        let mut causes = self.causes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let message = letter.causes.join(": ");
        let key = (letter.stage.clone(), message.clone());
        if let Some(cause) = causes.get_mut(&key) {
            cause.count += 1;
        } else if causes.len() < CAUSES_MAX {
            let (stage, code, example) = (letter.stage.clone(), letter.code.clone(), letter.record.id());
            causes.insert(key, DeadLetterCause { stage, code, message, example, count: 1 });
        }
    }
}
