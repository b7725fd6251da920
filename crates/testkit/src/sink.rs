//! A sink into memory, which can be told to fail, stall and reject.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use millstream_core::{
    Batch, Epoch, Error, ErrorKind, Last, Outcomes, Record, Result, Sink, SinkCapabilities, SinkPlan, Token, Way,
    WriteId,
};
use tokio::sync::watch;

/// A sink that keeps what it was given: like a file that is cut to its mark at recovery, or in two phases.
#[derive(Clone, Debug)]
pub struct FakeSink {
    shared: Arc<Mutex<State>>,
    stalled: Arc<watch::Sender<bool>>,
    way: Way,
    /// It says what became of a write before it is flushed, unless this is held back.
    telling: Option<Arc<watch::Sender<bool>>>,
}

#[derive(Debug, Default)]
struct State {
    records: Vec<Record>,
    committed: usize,
    finished: bool,
    write_failures: Vec<Error>,
    flush_failures: Vec<Error>,
    commit_failures: Vec<Error>,
    /// In two phases: what is prepared, and the newest epoch that was committed.
    prepared: BTreeMap<Epoch, Vec<Record>>,
    newest: Epoch,
    /// By value: how often it is still rejected, and with what.
    rejections: BTreeMap<String, (usize, Error)>,
    largest_write: usize,
    writes: usize,
    flushes: usize,
}

impl FakeSink {
    /// A sink that is cut to its mark at recovery, and so keeps `exactly_once`.
    pub fn truncating() -> Self {
        let stalled = Arc::new(watch::Sender::new(false));
        FakeSink { shared: Arc::default(), stalled, way: Way::Truncating, telling: None }
    }

    /// A sink that cannot take anything back.
    pub fn plain() -> Self {
        FakeSink { way: Way::None, ..FakeSink::truncating() }
    }

    /// A sink that shows what it was given when that is committed.
    pub fn two_phase() -> Self {
        FakeSink { way: Way::TwoPhase, ..FakeSink::truncating() }
    }

    /// It says what became of each write as soon as it is asked, one at a time.
    pub fn telling(self) -> Self {
        FakeSink { telling: Some(Arc::new(watch::Sender::new(false))), ..self }
    }

    /// Says what became of no write, but by `flush`, until it is called again with `false`.
    pub fn hold_outcomes(&self, held: bool) {
        self.telling.iter().for_each(|telling| _ = telling.send_replace(held));
    }

    /// The next writes fail with these errors.
    pub fn fail_writes(&self, failures: impl IntoIterator<Item = Error>) {
        self.lock().write_failures.extend(failures);
    }

    /// The next flushes fail with these errors.
    pub fn fail_flushes(&self, failures: impl IntoIterator<Item = Error>) {
        self.lock().flush_failures.extend(failures);
    }

    /// The next commits fail with these errors.
    pub fn fail_commits(&self, failures: impl IntoIterator<Item = Error>) {
        self.lock().commit_failures.extend(failures);
    }

    /// Rejects records with this value so many times.
    pub fn reject(&self, value: &str, times: usize, error: Error) {
        self.lock().rejections.insert(value.to_owned(), (times, error));
    }

    /// Lets no write through until it is called again with `false`.
    pub fn stall(&self, stalled: bool) {
        self.stalled.send_replace(stalled);
    }

    /// The values that it holds, in order.
    pub fn values(&self) -> Vec<String> {
        let text = |record: &Record| record.value.as_ref().map(|value| String::from_utf8_lossy(value).into_owned());
        self.lock().records.iter().map(|record| text(record).unwrap_or_default()).collect()
    }

    /// The records that it holds, in order.
    pub fn records(&self) -> Vec<Record> {
        self.lock().records.clone()
    }

    /// How many of them count.
    pub fn committed(&self) -> usize {
        self.lock().committed
    }

    /// How often it was flushed.
    pub fn flushes(&self) -> usize {
        self.lock().flushes
    }

    /// How many writes it has taken.
    pub fn writes(&self) -> usize {
        self.lock().writes
    }

    /// Whether the epoch with the last record counts.
    pub fn finished(&self) -> bool {
        self.lock().finished
    }

    /// The most records that one write has brought.
    pub fn largest_write(&self) -> usize {
        self.lock().largest_write
    }

    /// Idempotent, as a transaction that its system commits by name.
    fn commit_prepared(&self, token: &Token) -> Result<()> {
        let (epoch, mut state) = (token.read::<Epoch>()?, self.lock());
        match state.prepared.remove(&epoch) {
            Some(records) => {
                state.committed += records.len();
                state.records.extend(records);
            }
            None if epoch <= state.newest => {}
            None => {
                let what = format!("nothing is prepared for epoch {epoch}");
                return Err(Error::new(ErrorKind::StateMismatch, what));
            }
        }
        state.newest = state.newest.max(epoch);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SinkPlan for FakeSink {
    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities { way: self.way, ..SinkCapabilities::WHOLE }
    }

    fn describe(&self) -> String {
        "fake".to_owned()
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Writer { fake: self.clone(), next: 0, told: 0, staged: Vec::new(), rejected: Vec::new() }))
    }
}

struct Writer {
    fake: FakeSink,
    next: WriteId,
    /// Up to here it has said what became of writes.
    told: WriteId,
    /// In two phases: what is not prepared yet.
    staged: Vec<Record>,
    rejected: Vec<(WriteId, u32, Error)>,
}

#[async_trait]
impl Sink for Writer {
    async fn open(&mut self, resume: &[(Epoch, Token)]) -> Result<()> {
        if self.fake.way == Way::Truncating {
            let (length, _): (usize, bool) =
                resume.last().map(|(_, token)| token.read()).transpose()?.unwrap_or_default();
            self.fake.lock().records.truncate(length);
        }
        if self.fake.way == Way::TwoPhase {
            self.staged.clear();
            resume.iter().try_for_each(|(_, token)| self.fake.commit_prepared(token))?;
            // What nobody decided is aborted.
            self.fake.lock().prepared.clear();
        }
        Ok(())
    }

    async fn write(&mut self, batch: Batch) -> Result<WriteId> {
        // The sender lives as long as the fake.
        let _ = self.fake.stalled.subscribe().wait_for(|stalled| !stalled).await;
        let mut state = self.fake.lock();
        if !state.write_failures.is_empty() {
            return Err(state.write_failures.remove(0));
        }
        let batch = batch.into_bytes();
        state.writes += 1;
        state.largest_write = state.largest_write.max(batch.len());
        self.next += 1;
        for (row, record) in batch.iter().enumerate() {
            let value = record.value().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
            match state.rejections.get_mut(&value) {
                Some((times, error)) if *times > 0 => {
                    *times -= 1;
                    self.rejected.push((self.next, row as u32, error.clone()));
                }
                _ if self.fake.way == Way::TwoPhase => self.staged.push(record.to_record()),
                _ => state.records.push(record.to_record()),
            }
        }
        Ok(self.next)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        let mut state = self.fake.lock();
        if !state.flush_failures.is_empty() {
            return Err(state.flush_failures.remove(0));
        }
        state.flushes += 1;
        self.told = self.next;
        Ok(Outcomes { rejected: std::mem::take(&mut self.rejected), ..Outcomes::default() })
    }

    async fn settled(&mut self) -> Result<Option<(WriteId, Outcomes)>> {
        let Some(telling) = self.fake.telling.clone() else { return Ok(None) };
        // The sender lives as long as the fake.
        let _ = telling.subscribe().wait_for(|held| !held).await;
        // Somewhere to be dropped.
        tokio::task::yield_now().await;
        self.told += 1;
        let told = self.told;
        let rejected = self.rejected.extract_if(.., |(id, ..)| *id <= told).collect();
        Ok(Some((told, Outcomes { rejected, ..Outcomes::default() })))
    }

    async fn prepare(&mut self, epoch: Epoch, last: Last) -> Result<Option<Token>> {
        if self.fake.way == Way::TwoPhase {
            self.fake.lock().prepared.insert(epoch, std::mem::take(&mut self.staged));
            return Ok(Some(Token::new(&epoch)?));
        }
        let length = self.fake.lock().records.len();
        Ok(Some(Token::new(&(length, last == Last::Finished))?))
    }

    async fn commit(&mut self, token: &Token) -> Result<()> {
        let failure = self.fake.lock().commit_failures.pop();
        if let Some(error) = failure {
            return Err(error);
        }
        if self.fake.way == Way::TwoPhase {
            return self.fake.commit_prepared(token);
        }
        let (length, finished): (usize, bool) = token.read()?;
        let mut state = self.fake.lock();
        state.committed = state.committed.max(length);
        state.finished |= finished;
        Ok(())
    }
}
