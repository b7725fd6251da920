//! The source that stands in for a real one: it gives what the test or a script says.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use millstream_core::{
    BATCH_RECORDS_MAX, Batch, Error, Event, Form, Position, Result, Resume, SeekTo, ShardKey, Source,
    SourceCapabilities, SourcePlan,
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::given::{self, Given, Typing};

/// What a source gives by itself when the pipeline runs: batches, errors, pauses and an end, one after the other.
///
/// ```
/// use std::time::Duration;
///
/// use millstream::{Error, ErrorKind, testing::Script};
///
/// let script = Script::new()
///     .batch(["first", "second"])
///     .pause(Duration::from_secs(60))
///     .error(Error::new(ErrorKind::Unavailable, "the broker is away"))
///     .batch(["third"])
///     .end();
/// # let _ = script;
/// ```
#[derive(Clone, Debug, Default)]
pub struct Script(Vec<Act>);

#[derive(Clone, Debug)]
enum Act {
    Batch(Vec<Given>),
    Pause(Duration),
    Fail(Error),
    End,
}

impl Script {
    /// Nothing.
    pub fn new() -> Self {
        Script::default()
    }

    /// Gives these records, as one batch.
    #[must_use]
    pub fn batch<G: Into<Given>>(self, records: impl IntoIterator<Item = G>) -> Self {
        self.then(Act::Batch(records.into_iter().map(Into::into).collect()))
    }

    /// Gives nothing for so long.
    #[must_use]
    pub fn pause(self, time: Duration) -> Self {
        self.then(Act::Pause(time))
    }

    /// Fails once, as a source whose system is away; what follows depends on the pipeline's error rules.
    #[must_use]
    pub fn error(self, error: Error) -> Self {
        self.then(Act::Fail(error))
    }

    /// Ends. Without it the source goes on until the test ends it.
    #[must_use]
    pub fn end(self) -> Self {
        self.then(Act::End)
    }

    fn then(mut self, act: Act) -> Self {
        self.0.push(act);
        self
    }
}

/// The stand-in, as the test holds it and as the pipeline is planned with it.
#[derive(Clone)]
pub(super) struct FakeSource(Arc<Shared>);

struct Shared {
    name: String,
    form: Form,
    capabilities: SourceCapabilities,
    typing: Option<Typing>,
    state: Mutex<State>,
    changed: Notify,
    /// Records that the pipeline has taken at some time.
    taken: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// Still to come.
    acts: VecDeque<Ready>,
    /// What was given, by the sequence of the first record: a log, so that it can be given again.
    log: Vec<(u64, Batch)>,
    /// Sequence of the next record that is put in, and of the one behind the last that the test itself put in.
    next: u64,
    pushed: u64,
    failures: VecDeque<Error>,
    slow: Duration,
    ended: bool,
    closed: bool,
}

/// An act with its records as they will be given.
enum Ready {
    Batch(u64, Batch),
    Pause(Duration),
    Fail(Error),
    End,
}

impl fmt::Debug for FakeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stand-in for `{}`", self.0.name)
    }
}

pub(super) fn shard(source: &str) -> ShardKey {
    ShardKey::new(source, 0)
}

impl FakeSource {
    /// In place of the source of this name, as far as the plan can tell.
    pub(super) fn new(name: &str, real: &dyn SourcePlan, typing: Option<Typing>) -> Self {
        let bounded = real.capabilities().bounded;
        let capabilities = SourceCapabilities { bounded, seek_time: false, ..SourceCapabilities::LOG };
        FakeSource(Arc::new(Shared {
            name: name.to_owned(),
            form: real.form(),
            capabilities,
            typing,
            state: Mutex::default(),
            changed: Notify::new(),
            taken: watch::Sender::new(0),
        }))
    }

    pub(super) fn shard(&self) -> ShardKey {
        shard(&self.0.name)
    }

    /// Adds what a script says, behind what is there.
    pub(super) fn play(&self, script: &Script) -> Result<()> {
        for act in &script.0 {
            match act {
                Act::Batch(given) => self.put(given).map(drop)?,
                Act::Pause(time) => self.add([Ready::Pause(*time)]),
                Act::Fail(error) => self.add([Ready::Fail(error.clone())]),
                Act::End => self.end(),
            }
        }
        Ok(())
    }

    /// Adds a batch of the test's; the sequences of its records.
    pub(super) fn push(&self, given: &[Given]) -> Result<std::ops::Range<u64>> {
        let sequences = self.put(given)?;
        self.lock().pushed = sequences.end;
        Ok(sequences)
    }

    fn put(&self, given: &[Given]) -> Result<std::ops::Range<u64>> {
        let first = self.lock().next;
        let mut next = first;
        let mut acts = Vec::new();
        for part in given.chunks(BATCH_RECORDS_MAX) {
            let batch = given::batch(&self.0.name, self.0.form, self.0.typing, next, part)
                .map_err(|error| error.context(format!("cannot give a record to `{}`", self.0.name)))?;
            acts.push(Ready::Batch(next, batch));
            next += part.len() as u64;
        }
        self.lock().next = next;
        self.add(acts);
        Ok(first..next)
    }

    /// Ends behind what is there.
    pub(super) fn end(&self) {
        self.lock().closed = true;
        self.add([Ready::End]);
    }

    /// Whether nothing can be added any more.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    pub(super) fn fail(&self, error: &Error, times: usize) {
        self.lock().failures.extend(std::iter::repeat_n(error.clone(), times));
        self.0.changed.notify_one();
    }

    pub(super) fn slow(&self, time: Duration) {
        self.lock().slow = time;
    }

    /// How many records are before and with the last that the test itself put in.
    pub(super) fn pushed(&self) -> u64 {
        self.lock().pushed
    }

    /// Records that were given so far.
    pub(super) fn given(&self) -> u64 {
        *self.0.taken.borrow()
    }

    /// Waits until so many records have been given.
    pub(super) async fn taken(&self, records: u64) {
        // The sender lives as long as this.
        let _ = self.0.taken.subscribe().wait_for(|taken| *taken >= records).await;
    }

    fn add(&self, acts: impl IntoIterator<Item = Ready>) {
        self.lock().acts.extend(acts);
        self.0.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SourcePlan for FakeSource {
    fn capabilities(&self) -> SourceCapabilities {
        self.0.capabilities
    }

    fn form(&self) -> Form {
        self.0.form
    }

    fn describe(&self) -> String {
        format!("{self:?}")
    }

    fn create(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(Reader { fake: self.clone(), next: 0, wait: None }))
    }
}

struct Reader {
    fake: FakeSource,
    /// Sequence of the next record.
    next: u64,
    /// A pause that is not over yet.
    wait: Option<Instant>,
}

impl Reader {
    /// The next event, if there is one now. `Err` is what the source fails with.
    fn look(&mut self) -> Result<Option<Event>> {
        let mut state = self.fake.lock();
        loop {
            if let Some(error) = state.failures.pop_front() {
                return Err(error);
            }
            let again = state.log.iter().find(|(first, batch)| first + batch.len() as u64 > self.next);
            if let Some((first, batch)) = again {
                // Cannot be more than the batch holds.
                let skip = self.next.saturating_sub(*first) as usize;
                let batch = if skip == 0 { batch.clone() } else { batch.slice(skip, batch.len()) };
                self.next = self.next.max(*first) + batch.len() as u64;
                let next = self.next;
                drop(state);
                self.fake.0.taken.send_if_modified(|taken| {
                    let more = next > *taken;
                    *taken = next.max(*taken);
                    more
                });
                return Ok(Some(Event::Batch(batch.into())));
            }
            if state.ended {
                return Ok(Some(Event::End));
            }
            match state.acts.pop_front() {
                Some(Ready::Batch(first, batch)) => {
                    if !state.slow.is_zero() {
                        self.wait = Some(Instant::now() + state.slow);
                    }
                    state.log.push((first, batch));
                }
                Some(Ready::Pause(time)) => self.wait = Some(Instant::now() + time),
                Some(Ready::Fail(error)) => return Err(error),
                Some(Ready::End) => state.ended = true,
                None => return Ok(None),
            }
            if self.wait.is_some() {
                return Ok(None);
            }
        }
    }
}

#[async_trait]
impl Source for Reader {
    async fn open(&mut self, resume: &Resume) -> Result<()> {
        let saved = resume.position.as_ref().map(|position| position.shard::<u64>(&self.fake.shard())).transpose()?;
        self.next = saved.flatten().unwrap_or(0);
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        let fake = self.fake.clone();
        loop {
            if let Some(until) = self.wait {
                tokio::time::sleep_until(until).await;
                self.wait = None;
            }
            let changed = fake.0.changed.notified();
            if let Some(event) = self.look()? {
                return Ok(event);
            }
            if self.wait.is_none() {
                changed.await;
            }
        }
    }

    fn position(&self) -> Result<Position> {
        let mut position = Position::default();
        position.set(self.fake.shard(), &self.next)?;
        Ok(position)
    }

    async fn seek(&mut self, to: &SeekTo, _: Option<&[ShardKey]>) -> Result<()> {
        self.next = match to {
            SeekTo::At(sequence) => u64::try_from(*sequence).unwrap_or(u64::MAX),
            SeekTo::End => self.fake.given(),
            _ => 0,
        };
        Ok(())
    }
}
