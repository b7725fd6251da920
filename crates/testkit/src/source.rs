//! A source over records in memory, which can be told to wait, to fail and to be forgetful.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use millstream_core::{
    BATCH_RECORDS_MAX, BatchBuilder, Error, Event, Form, Lag, Owner, Position, Record, Result, Resume, SeekTo,
    ShardKey, Source, SourceCapabilities, SourcePlan, Stamp,
};
use tokio::sync::Notify;

/// A source that reads records which the test has given it; more may be given while it runs.
#[derive(Clone, Debug)]
pub struct FakeSource {
    shared: Arc<Shared>,
    owner: Owner,
    bounded: bool,
    batch: usize,
    tells_lag: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    records: Vec<Record>,
    ended: bool,
    failures: Vec<Error>,
    /// Where a source that nobody remembers stands.
    next: usize,
    opened: usize,
    committed: Option<Position>,
}

impl FakeSource {
    /// A log of these values, which ends behind them.
    pub fn of<V: Into<String>>(values: impl IntoIterator<Item = V>) -> Self {
        let source = FakeSource::live();
        values.into_iter().for_each(|value| source.push(None, value));
        source.end();
        FakeSource { bounded: true, ..source }
    }

    /// An empty log that goes on until it is told to end.
    pub fn live() -> Self {
        FakeSource {
            shared: Arc::default(),
            owner: Owner::Checkpoint,
            bounded: false,
            batch: BATCH_RECORDS_MAX,
            tells_lag: false,
        }
    }

    /// Nobody remembers where it stands: what it has handed over cannot be read again.
    #[must_use]
    pub fn forgetful(self) -> Self {
        FakeSource { owner: Owner::Nobody, ..self }
    }

    /// Says beforehand that it will end.
    #[must_use]
    pub fn bounded(self) -> Self {
        FakeSource { bounded: true, ..self }
    }

    /// Hands over at most so many records at once.
    #[must_use]
    pub fn in_batches_of(self, batch: usize) -> Self {
        FakeSource { batch, ..self }
    }

    /// Says how much there is to read.
    #[must_use]
    pub fn telling_lag(self) -> Self {
        FakeSource { tells_lag: true, ..self }
    }

    /// Adds a record.
    pub fn push(&self, key: Option<&str>, value: impl Into<String>) {
        let mut state = self.lock();
        let sequence = state.records.len() as u128;
        let key = key.map(|key| key.to_owned().into());
        let record = Record { sequence, key, form: Form::Text, ..Record::new("fake", value.into()) };
        state.records.push(record);
        drop(state);
        self.shared.changed.notify_one();
    }

    /// No more records will come.
    pub fn end(&self) {
        self.lock().ended = true;
        self.shared.changed.notify_one();
    }

    /// The next reads fail with these errors.
    pub fn fail(&self, failures: impl IntoIterator<Item = Error>) {
        self.lock().failures.extend(failures);
        self.shared.changed.notify_one();
    }

    /// How often it was opened.
    pub fn opened(&self) -> usize {
        self.lock().opened
    }

    /// What it was told is durable.
    pub fn committed(&self) -> Option<Position> {
        self.lock().committed.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SourcePlan for FakeSource {
    fn capabilities(&self) -> SourceCapabilities {
        let base = if self.owner == Owner::Nobody { SourceCapabilities::ONCE } else { SourceCapabilities::LOG };
        SourceCapabilities { bounded: self.bounded, seek_time: false, ..base }
    }

    fn form(&self) -> Form {
        Form::Text
    }

    fn describe(&self) -> String {
        "fake".to_owned()
    }

    fn create(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(Reader { fake: self.clone(), next: 0 }))
    }
}

struct Reader {
    fake: FakeSource,
    next: usize,
}

fn shard() -> ShardKey {
    ShardKey::new("fake", 0)
}

#[async_trait]
impl Source for Reader {
    async fn open(&mut self, resume: &Resume) -> Result<()> {
        let mut state = self.fake.lock();
        state.opened += 1;
        let saved = resume.position.as_ref().map(|position| position.shard::<usize>(&shard())).transpose()?.flatten();
        self.next = match (self.fake.owner, saved, &resume.start) {
            (Owner::Nobody, ..) => state.next,
            (_, Some(saved), _) => saved,
            (_, None, SeekTo::End) => state.records.len(),
            (_, None, SeekTo::At(sequence)) => *sequence as usize,
            _ => 0,
        };
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        loop {
            let changed = self.fake.shared.changed.notified();
            {
                let mut state = self.fake.lock();
                if !state.failures.is_empty() {
                    return Err(state.failures.remove(0));
                }
                let end = state.records.len().min(self.next + self.fake.batch);
                if self.next < end {
                    let mut builder = BatchBuilder::new();
                    state.records[self.next..end].iter().for_each(|record| builder.push(record));
                    self.next = end;
                    state.next = end;
                    return Ok(Event::Batch(builder.finish().into()));
                }
                if state.ended {
                    return Ok(Event::End);
                }
            }
            changed.await;
        }
    }

    fn position(&self) -> Result<Position> {
        let mut position = Position::default();
        if self.fake.owner != Owner::Nobody {
            position.set(shard(), &self.next)?;
        }
        Ok(position)
    }

    async fn commit(&mut self, upto: &Position, _: Option<&Stamp>) -> Result<()> {
        self.fake.lock().committed = Some(upto.clone());
        Ok(())
    }

    fn lag(&self) -> Option<Lag> {
        let left = self.fake.lock().records.len().saturating_sub(self.next);
        self.fake.tells_lag.then_some(Lag { records: Some(left as u64), bytes: None })
    }

    async fn seek(&mut self, to: &SeekTo, _: Option<&[ShardKey]>) -> Result<()> {
        if let SeekTo::At(sequence) = to {
            self.next = *sequence as usize;
        }
        Ok(())
    }
}
