//! The sink that stands in for a real one: it keeps what it was given, and fails, stalls and rejects when told to.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use millstream_core::{
    Batch, Epoch, Error, Last, Outcomes, Record, Result, Sink, SinkCapabilities, SinkPlan, Token, Way, WriteId,
};
use tokio::sync::{Notify, watch};

/// Says whether a record is refused, and with what.
pub(super) type Refusal = Arc<dyn Fn(&Record) -> Option<Error> + Send + Sync>;

/// The stand-in, as the test holds it and as the pipeline is planned with it.
#[derive(Clone)]
pub(super) struct FakeSink(Arc<Shared>);

struct Shared {
    name: String,
    capabilities: SinkCapabilities,
    state: Mutex<State>,
    stalled: watch::Sender<bool>,
    /// Told of each record that arrives at any sink of the test.
    arrived: Arc<Notify>,
}

#[derive(Default)]
struct State {
    records: Vec<Record>,
    failures: VecDeque<Error>,
    refusal: Option<Refusal>,
    slow: Duration,
}

impl fmt::Debug for FakeSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stand-in for `{}`", self.0.name)
    }
}

impl FakeSink {
    /// In place of a sink that can do this. One that can take nothing back shows what comes twice after a restart; all others
    /// are cut to their mark.
    pub(super) fn new(name: &str, real: SinkCapabilities, arrived: Arc<Notify>) -> Self {
        let way = if real.way == Way::None { Way::None } else { Way::Truncating };
        FakeSink(Arc::new(Shared {
            name: name.to_owned(),
            capabilities: SinkCapabilities { way, per_record: true, sequences: false, ..real },
            state: Mutex::default(),
            stalled: watch::Sender::new(false),
            arrived,
        }))
    }

    pub(super) fn fail(&self, error: &Error, times: usize) {
        self.lock().failures.extend(std::iter::repeat_n(error.clone(), times));
    }

    pub(super) fn slow(&self, time: Duration) {
        self.lock().slow = time;
    }

    pub(super) fn stall(&self, stalled: bool) {
        self.0.stalled.send_replace(stalled);
    }

    pub(super) fn refuse(&self, refusal: Option<Refusal>) {
        self.lock().refusal = refusal;
    }

    /// What it holds, in the order in which it came.
    pub(super) fn records(&self) -> Vec<Record> {
        self.lock().records.clone()
    }

    /// Looks at what it holds.
    pub(super) fn each(&self, look: impl FnMut(&Record)) {
        self.lock().records.iter().for_each(look);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SinkPlan for FakeSink {
    fn capabilities(&self) -> SinkCapabilities {
        self.0.capabilities
    }

    fn describe(&self) -> String {
        format!("{self:?}")
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Writer { fake: self.clone(), next: 0, rejected: Vec::new() }))
    }
}

struct Writer {
    fake: FakeSink,
    next: WriteId,
    rejected: Vec<(WriteId, u32, Error)>,
}

#[async_trait]
impl Sink for Writer {
    async fn open(&mut self, resume: &[(Epoch, Token)]) -> Result<()> {
        self.rejected.clear();
        if self.fake.0.capabilities.way == Way::Truncating {
            let length = resume.last().map(|(_, token)| token.read::<usize>()).transpose()?.unwrap_or_default();
            self.fake.lock().records.truncate(length);
        }
        Ok(())
    }

    async fn write(&mut self, batch: Batch) -> Result<WriteId> {
        // The sender lives as long as the fake.
        let _ = self.fake.0.stalled.subscribe().wait_for(|stalled| !stalled).await;
        let slow = self.fake.lock().slow;
        if !slow.is_zero() {
            tokio::time::sleep(slow).await;
        }
        let refusal = {
            let mut state = self.fake.lock();
            if let Some(error) = state.failures.pop_front() {
                return Err(error);
            }
            state.refusal.clone()
        };
        self.next += 1;
        let batch = batch.into_bytes();
        let mut taken = Vec::with_capacity(batch.len());
        for (row, record) in batch.iter().enumerate() {
            let record = record.to_record();
            // Without the lock: the test's closure may look at the sink.
            match refusal.as_ref().and_then(|refuse| refuse(&record)) {
                Some(error) => self.rejected.push((self.next, row as u32, error)),
                None => taken.push(record),
            }
        }
        self.fake.lock().records.extend(taken);
        self.fake.0.arrived.notify_one();
        Ok(self.next)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        Ok(Outcomes { rejected: std::mem::take(&mut self.rejected), ..Outcomes::default() })
    }

    async fn prepare(&mut self, _: Epoch, _: Last) -> Result<Option<Token>> {
        let length = self.fake.lock().records.len();
        Ok(Some(Token::new(&length)?))
    }
}
