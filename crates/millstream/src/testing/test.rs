//! A pipeline that runs in a test.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use millstream_core::{DeadLetter, Error, ErrorKind, Record, Result, ShardKey, suggest};
use millstream_runtime::{Handle, Phase, Running, Status, Summary};
use tokio::{sync::Notify, time::Instant};

use super::{
    books::{Books, Table, still_waiting},
    clock::VirtualTime,
    given::Given,
    outcome::{Failed, Outcome},
    records::Records,
    sink::FakeSink,
    source::FakeSource,
};

/// Failures of records, with whose they are.
pub(super) type Failures = Arc<Mutex<Vec<(ShardKey, u128, Failed)>>>;

/// A pipeline that runs in a test: the engine, its steps and rules are those of production, what is around it is the test's.
///
/// Made by [`Test::of`]. If it is dropped without [`Test::finish`], the pipeline is aborted.
pub struct Test {
    handle: Handle,
    /// Until its end has been waited for.
    running: Mutex<Option<Running>>,
    /// How it has ended.
    ended: Mutex<Option<Result<Summary>>>,
    parts: Parts,
}

/// What stands around the pipeline.
pub(super) struct Parts {
    pub(super) sources: BTreeMap<String, FakeSource>,
    pub(super) sinks: BTreeMap<String, FakeSink>,
    pub(super) letters: FakeSink,
    pub(super) failures: Failures,
    /// Told when a record arrives at a sink or becomes a dead letter.
    pub(super) arrived: Arc<Notify>,
    pub(super) within: Duration,
    pub(super) limit: Duration,
    /// A source that is kept does not end by itself.
    pub(super) endless: bool,
    /// `at_most_once`: records go on only when their position counts.
    pub(super) late: bool,
    pub(super) clock: Option<VirtualTime>,
}

impl fmt::Debug for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Test\n{}", self.table())
    }
}

impl Test {
    pub(super) fn new(running: Running, parts: Parts) -> Self {
        Test { handle: running.handle(), running: Mutex::new(Some(running)), ended: Mutex::default(), parts }
    }

    /// Gives a record to a source, and tells what has become of it when an epoch that covers it counts. What a step or sink does
    /// with it, it has done by then; where that takes time (a slow sink, a connection that comes back later), time passes. Time
    /// does not pass for a record that is kept for later: it is [waiting](Outcome::is_waiting), until
    /// [`advance`](Test::advance); see also [`Setup::within`](super::Setup::within).
    ///
    /// Fails where there is no such source, the record does not fit it, or it has ended; and where the pipeline stops, with its
    /// cause, or does not come to an end.
    pub async fn record(&self, source: &str, record: impl Into<Given>) -> Result<Outcome> {
        let outcomes = self.batch(source, [record]).await?;
        let none = || Error::new(ErrorKind::Bug, "a record has no outcome");
        outcomes.into_iter().next().ok_or_else(none)
    }

    /// The same for records that the source gives as one batch (of at most
    /// [`BATCH_RECORDS_MAX`](millstream_core::BATCH_RECORDS_MAX); more are several): the outcome of each.
    pub async fn batch<G: Into<Given>>(
        &self,
        source: &str,
        records: impl IntoIterator<Item = G>,
    ) -> Result<Vec<Outcome>> {
        let given = self.put(source, records)?;
        let began = Instant::now();
        self.settle().await?;
        loop {
            let outcomes = self.look(source, given.clone());
            let left = self.parts.within.saturating_sub(began.elapsed());
            if left.is_zero() || !outcomes.iter().any(Outcome::is_waiting) {
                return Ok(outcomes);
            }
            // An error means that nothing arrived in the time that is left.
            let _ = tokio::time::timeout(left, self.parts.arrived.notified()).await;
            self.settle().await?;
        }
    }

    /// Gives records to a source as one batch, and waits for nothing.
    pub fn push<G: Into<Given>>(&self, source: &str, records: impl IntoIterator<Item = G>) -> Result<()> {
        self.put(source, records).map(drop)
    }

    fn put<G: Into<Given>>(&self, source: &str, records: impl IntoIterator<Item = G>) -> Result<std::ops::Range<u64>> {
        let fake = self.source(source)?;
        if fake.is_closed() {
            return Err(Error::new(ErrorKind::Closed, format!("the source `{source}` has been told to end")));
        }
        fake.push(&records.into_iter().map(Into::into).collect::<Vec<_>>())
    }

    /// What has become of this record by now.
    pub async fn latest(&self, outcome: &Outcome) -> Result<Outcome> {
        self.settle().await?;
        let found = self.look(&outcome.source, outcome.sequence..outcome.sequence + 1);
        found.into_iter().next().ok_or_else(|| Error::new(ErrorKind::Bug, "a record has no outcome"))
    }

    /// What has become by now of all records that this source has given, also those of its script.
    pub async fn outcomes(&self, source: &str) -> Result<Vec<Outcome>> {
        self.settle().await?;
        let given = self.source(source)?.given();
        Ok(self.look(source, 0..given))
    }

    /// Lets this time pass, with everything that happens in it: batches whose time is up, retries, rate limits, time-outs, in
    /// their order. Virtual time passes at once.
    pub async fn advance(&self, time: Duration) -> Result<()> {
        tokio::time::sleep(time).await;
        self.settle().await
    }

    /// Waits until an epoch counts that covers all that the test has given so far; what scripts give counts as far as it was
    /// read.
    pub async fn settle(&self) -> Result<()> {
        let all = async {
            // A pipeline that was told to read nothing reads nothing.
            if !matches!(self.handle.status().phase, Phase::Paused) {
                for source in self.parts.sources.values() {
                    source.taken(source.pushed()).await;
                }
            }
            for _ in 0..if self.parts.late { 2 } else { 1 } {
                self.checkpoint().await;
            }
        };
        let over = self.handle.clone();
        let settled = tokio::select! {
            biased;
            () = over.over() => Ok(()),
            settled = self.in_time(all) => settled,
        };
        settled?;
        if matches!(self.handle.status().phase, Phase::Over) { self.outcome_of_run().await.map(drop) } else { Ok(()) }
    }

    /// Cuts an epoch and waits until it counts; again where the pipeline is being started again.
    async fn checkpoint(&self) {
        const AGAIN: Duration = Duration::from_millis(10);
        while self.handle.checkpoint().await.is_err() {
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// The next so many reads of this source, or writes of this sink, fail with this kind of error, as if its system were in
    /// trouble: the pipeline's error rules decide what follows.
    pub fn fails_next(&self, name: &str, kind: ErrorKind, times: usize) -> Result<()> {
        let error = Error::new(kind, format!("`{name}` was told to fail by the test"));
        self.either(name, |source| source.fail(&error, times), |sink| sink.fail(&error, times))
    }

    /// Each batch takes so long, to be read from this source or written to this sink, from now on.
    pub fn slow(&self, name: &str, time: Duration) -> Result<()> {
        self.either(name, |source| source.slow(time), |sink| sink.slow(time))
    }

    /// This sink takes nothing, for ever or until it is told `false`.
    pub fn stalls(&self, sink: &str, stalled: bool) -> Result<()> {
        self.sink(sink).map(|sink| sink.stall(stalled))
    }

    /// This sink refuses the records for which `refuse` is true, with [`ErrorKind::Rejected`]; those that are tried again, too.
    pub fn rejects(&self, sink: &str, refuse: impl Fn(&Record) -> bool + Send + Sync + 'static) -> Result<()> {
        let error = Error::new(ErrorKind::Rejected, format!("`{sink}` was told to refuse the record by the test"));
        self.rejects_with(sink, move |record| refuse(record).then(|| error.clone()))
    }

    /// The same with an error of the test's.
    pub fn rejects_with(
        &self,
        sink: &str,
        refuse: impl Fn(&Record) -> Option<Error> + Send + Sync + 'static,
    ) -> Result<()> {
        self.sink(sink).map(|sink| sink.refuse(Some(Arc::new(refuse))))
    }

    /// What this sink was given so far.
    pub fn delivered(&self, sink: &str) -> Result<Records> {
        self.sink(sink).map(|fake| Records::new(sink, fake.records()))
    }

    /// The dead letters so far, in the order in which records were given up.
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter>> {
        self.parts.letters.records().iter().map(letter).collect()
    }

    /// The pipeline's handle: to pause it, to change workers, limits and options, to see its figures.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Figures at this moment.
    pub fn status(&self) -> Status {
        self.handle.status()
    }

    /// The books of each stage at this moment, as an aligned table.
    pub fn table(&self) -> Table {
        Table::new(&self.handle.graph(), &self.handle.status().stages)
    }

    /// Ends this source behind what it was given.
    pub fn end(&self, source: &str) -> Result<()> {
        self.source(source).map(FakeSource::end)
    }

    /// Ends all sources, lets the pipeline come to its end, and checks the books: every record that came to a stage has left it
    /// or come to an end there, and none waits. A pipeline with a source that was kept and does not end is drained.
    ///
    /// Fails where the pipeline fails, where it does not come to an end, and where the books do not balance; with the books.
    pub async fn finish(mut self) -> Result<Books> {
        self.parts.sources.values().filter(|source| !source.is_closed()).for_each(FakeSource::end);
        if self.parts.endless {
            self.handle.drain(self.parts.limit);
        }
        let over = self.handle.clone();
        self.in_time(over.over()).await?;
        let summary = self.outcome_of_run().await?;
        // The clock goes on when the pipeline has gone.
        drop(self.parts.clock.take());
        let delivered = self.parts.sinks.iter().map(|(name, sink)| (name.clone(), Records::new(name, sink.records())));
        let sinks = delivered.collect();
        let (letters, table) = (self.dead_letters()?, Table::new(&self.handle.graph(), &summary.stages));
        let books = Books { summary, sinks, letters, table };
        books.check()?;
        Ok(books)
    }

    /// Waits for something, but no longer than is allowed.
    async fn in_time(&self, what: impl Future<Output = ()>) -> Result<()> {
        let limit = self.parts.limit;
        let Err(_) = tokio::time::timeout(limit, what).await else { return Ok(()) };
        let time = if self.parts.clock.is_some() { "virtual time" } else { "time" };
        let mut message = format!("the pipeline does not come to an end within {limit:?} of {time}");
        let (status, table) = (self.handle.status(), self.table());
        let waiting = table.parked();
        if !waiting.is_empty() {
            message.push_str(&format!("\n{}", still_waiting(&waiting)));
        }
        for (stage, why) in &status.waiting {
            message.push_str(&format!("\n`{stage}`: {why}"));
        }
        Err(Error::new(ErrorKind::Timeout, format!("{message}\n{table}")))
    }

    /// How the pipeline, which is over, has ended.
    async fn outcome_of_run(&self) -> Result<Summary> {
        let running = lock(&self.running).take();
        if let Some(mut running) = running {
            let summary = running.wait().await;
            *lock(&self.ended) = Some(summary);
        }
        let ended = lock(&self.ended).clone();
        let unknown = || Err(Error::new(ErrorKind::Closed, "somebody else waits for the end of the pipeline"));
        ended.unwrap_or_else(unknown).map_err(|error| {
            let message = format!("the pipeline stopped: {}\n{}", error.message(), self.table());
            error.context(message)
        })
    }

    /// What has become of the records with these sequences, as far as the sinks know.
    fn look(&self, source: &str, sequences: std::ops::Range<u64>) -> Vec<Outcome> {
        let table = Arc::new(self.table());
        let waiting = table.kept();
        let new = |sequence| Outcome {
            source: source.to_owned(),
            sequence,
            delivered: Vec::new(),
            dead: Vec::new(),
            failures: Vec::new(),
            waiting: waiting.clone(),
            table: table.clone(),
        };
        let mut outcomes: Vec<Outcome> = sequences.clone().map(new).collect();
        let shard = super::source::shard(source);
        let place = |origin: &ShardKey, sequence: u128| {
            let sequence = u64::try_from(sequence).ok().filter(|sequence| sequences.contains(sequence))?;
            (*origin == shard).then_some((sequence - sequences.start) as usize)
        };
        for (name, sink) in &self.parts.sinks {
            sink.each(|record| {
                let of = place(&record.origin, record.sequence).and_then(|at| outcomes.get_mut(at));
                of.into_iter().for_each(|outcome| outcome.delivered.push((name.clone(), record.clone())));
            });
        }
        self.parts.letters.each(|record| {
            let of = place(&record.origin, record.sequence).and_then(|at| outcomes.get_mut(at));
            of.zip(letter(record).ok()).into_iter().for_each(|(outcome, letter)| outcome.dead.push(letter));
        });
        for (origin, sequence, failed) in lock(&self.parts.failures).iter() {
            let of = place(origin, *sequence).and_then(|at| outcomes.get_mut(at));
            of.into_iter().for_each(|outcome| outcome.failures.push(failed.clone()));
        }
        outcomes
    }

    fn either(&self, name: &str, source: impl FnOnce(&FakeSource), sink: impl FnOnce(&FakeSink)) -> Result<()> {
        match (self.parts.sources.get(name), self.parts.sinks.get(name)) {
            (Some(fake), _) => source(fake),
            (_, Some(fake)) => sink(fake),
            _ => return Err(unknown("source or sink", name, self.parts.sources.keys().chain(self.parts.sinks.keys()))),
        }
        Ok(())
    }

    fn source(&self, name: &str) -> Result<&FakeSource> {
        self.parts.sources.get(name).ok_or_else(|| unknown("source", name, self.parts.sources.keys()))
    }

    fn sink(&self, name: &str) -> Result<&FakeSink> {
        self.parts.sinks.get(name).ok_or_else(|| unknown("sink", name, self.parts.sinks.keys()))
    }
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a String>) -> Error {
    let known: Vec<&String> = known.collect();
    let error = Error::new(ErrorKind::Option, format!("the test has no {what} `{name}` of its own"));
    suggest(name, &known).into_iter().fold(error, |error, hint| error.hint(hint))
}

fn letter(record: &Record) -> Result<DeadLetter> {
    rmp_serde::from_slice(record.value.as_deref().unwrap_or_default())
        .map_err(|cause| Error::new(ErrorKind::Bug, "cannot read a dead letter").caused_by(cause))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
