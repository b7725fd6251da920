//! The steps of random pipelines: what becomes of a record is said by the seed, the step and the record's value.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use millstream_core::{
    Batch, BatchBuilder, Body, Change, Column, Error, ErrorKind, Extent, Form, Forms, Operator, Output, Record, Result,
    Step, StepPlan, Timestamp, Transform, group,
};

use super::ends::{Gather, Tally};

/// What becomes of a record at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Pass,
    Drop,
    Dead,
    /// Fails so many times, then passes.
    Flaky(u32),
    /// Brings its stage down once, then passes.
    Panic,
}

/// What all steps of a pipeline share, and what outlives its runs.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) failures: Mutex<HashMap<(usize, String), u32>>,
    /// Operators that were opened and not closed.
    pub(crate) open: AtomicI64,
    pub(crate) next: AtomicU64,
}

impl World {
    fn hash(&self, step: usize, value: &str, salt: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, step, value, salt).hash(&mut hasher);
        hasher.finish()
    }

    /// Some steps let all pass.
    pub(crate) fn faultless(&self, step: usize) -> bool {
        self.hash(step, "", 0).is_multiple_of(3)
    }

    pub(crate) fn fate(&self, step: usize, value: &str) -> Fate {
        if self.faultless(step) {
            return Fate::Pass;
        }
        match self.hash(step, value, 1) % 1000 {
            0..80 => Fate::Drop,
            80..110 => Fate::Dead,
            110..150 => Fate::Flaky(1 + (self.hash(step, value, 2) % 3) as u32),
            150..152 => Fate::Panic,
            _ => Fate::Pass,
        }
    }

    pub(crate) fn port(&self, step: usize, value: &str) -> usize {
        (self.hash(step, value, 3) % 2) as usize
    }

    pub(super) fn opened(&self) {
        self.open.fetch_add(1, SeqCst);
    }

    pub(super) fn closed(&self) {
        self.open.fetch_sub(1, SeqCst);
    }

    /// A number that nobody else gets.
    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, SeqCst)
    }

    /// Whether the record passes now, and if not, why.
    pub(super) fn meet(&self, step: usize, value: &str) -> std::result::Result<bool, Error> {
        let mut failures = self.failures.lock().unwrap_or_else(|held| held.into_inner());
        let failed = failures.entry((step, value.to_owned())).or_default();
        match self.fate(step, value) {
            Fate::Pass => Ok(true),
            Fate::Drop => Ok(false),
            Fate::Dead => Err(Error::new(ErrorKind::Data, "a bad one")),
            Fate::Flaky(times) if *failed < times => {
                *failed += 1;
                Err(Error::new(ErrorKind::Unavailable, "not yet"))
            }
            Fate::Panic if *failed == 0 => {
                *failed = 1;
                drop(failures);
                panic!("killed at {value}");
            }
            Fate::Flaky(_) | Fate::Panic => Ok(true),
        }
    }
}

pub(super) fn text(batch: &Batch, row: usize) -> String {
    String::from_utf8_lossy(batch.get(row).value().unwrap_or_default()).into_owned()
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Map,
    /// Two of each.
    Double,
    /// To one of two outputs.
    Route,
    /// Works on several at once, of each key one at a time.
    Async(usize),
    /// Holds records in its state until there are so many, or for a while.
    Hold(usize),
    /// Holds them until there are so many or the end comes, and then has a say.
    Gather(usize),
    /// Counts those of each key until the end.
    Tally,
}

#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) world: Arc<World>,
    pub(crate) step: usize,
    pub(crate) kind: Kind,
}

impl StepPlan for Work {
    fn form(&self) -> Form {
        Form::Text
    }

    fn outputs(&self) -> Vec<String> {
        if self.kind == Kind::Route { vec!["a".to_owned(), "b".to_owned()] } else { Vec::new() }
    }

    fn stateful(&self) -> bool {
        matches!(self.kind, Kind::Hold(_) | Kind::Gather(_) | Kind::Tally)
    }

    fn needs_end(&self) -> bool {
        self.kind == Kind::Tally
    }

    fn scales(&self) -> bool {
        true
    }

    fn waits(&self) -> bool {
        matches!(self.kind, Kind::Hold(_) | Kind::Gather(_) | Kind::Async(_))
    }

    fn create(&self) -> Result<Step> {
        Ok(match self.kind {
            Kind::Async(most) => Step::Operator(Box::new(Async { most, ..Async::new(self.clone()) })),
            Kind::Hold(most) => Step::Operator(Box::new(Hold::new(self.clone(), most))),
            Kind::Gather(most) => Step::Operator(Box::new(Gather::new(self.clone(), most))),
            Kind::Tally => Step::Operator(Box::new(Tally::new(self.clone()))),
            _ => Step::Transform(Box::new(self.clone())),
        })
    }
}

impl Transform for Work {
    fn apply(&mut self, batch: Batch, out: &mut Output) {
        let batch = batch.into_bytes();
        let mut ports = [Vec::new(), Vec::new()];
        for row in 0..batch.len() {
            let value = text(&batch, row);
            match self.world.meet(self.step, &value) {
                Ok(true) if self.kind == Kind::Route => ports[self.world.port(self.step, &value)].push((row, value)),
                Ok(true) if self.kind == Kind::Double => {
                    out.created(1);
                    ports[0].extend([(row, format!("{value}a")), (row, format!("{value}b"))]);
                }
                Ok(true) => ports[0].push((row, value)),
                Ok(false) => out.filtered(1),
                Err(error) => out.fail(&batch, row, error),
            }
        }
        for (port, rows) in ports.into_iter().enumerate() {
            // In pieces, as large outputs are.
            for rows in rows.chunks(7) {
                let (mut data, mut extents) = (Vec::new(), Vec::new());
                for (_, value) in rows {
                    let start = data.len() as u32;
                    data.extend_from_slice(value.as_bytes());
                    extents.push(Extent { start, end: data.len() as u32 });
                }
                let body = Body::Bytes(Column::new(data.into(), extents), Forms::Same(Form::Text));
                out.emit(port, batch.clone().derive(rows.iter().map(|(row, _)| *row as u32).collect(), body));
            }
        }
    }
}

struct Async {
    work: Work,
    most: usize,
    next: u64,
    taken: BTreeMap<u64, Batch>,
    keys: HashMap<Bytes, VecDeque<u64>>,
    free: VecDeque<u64>,
    running: FuturesUnordered<BoxFuture<'static, u64>>,
    done: Vec<u64>,
}

impl Async {
    fn new(work: Work) -> Self {
        let (taken, keys, free) = Default::default();
        Async { work, most: 1, next: 0, taken, keys, free, running: FuturesUnordered::new(), done: Vec::new() }
    }

    fn begin(&mut self) {
        while self.running.len() < self.most
            && let Some(id) = self.free.pop_front()
        {
            let time = Duration::from_millis(self.work.world.next.fetch_add(7919, SeqCst) % 5);
            self.running.push(Box::pin(async move {
                tokio::time::sleep(time).await;
                id
            }));
        }
    }

    fn finish(&mut self, id: u64, out: &mut Output) {
        let Some(batch) = self.taken.remove(&id) else { return };
        let key = batch.get(0).key().map(Bytes::copy_from_slice);
        let met = self.work.world.meet(self.work.step, &text(&batch, 0));
        let failed = met.is_err();
        match met {
            Ok(true) => out.emit(0, batch),
            Ok(false) => out.filtered(1),
            Err(error) => out.fail(&batch, 0, error),
        }
        let Some(key) = key else { return };
        let Some(queue) = self.keys.get_mut(&key) else { return };
        queue.pop_front();
        if failed {
            let behind = self.keys.remove(&key).unwrap_or_default();
            behind.into_iter().filter_map(|id| self.taken.remove(&id)).for_each(|batch| out.give_back(batch));
        } else if let Some(next) = queue.front() {
            self.free.push_back(*next);
        } else {
            self.keys.remove(&key);
        }
    }
}

#[async_trait]
impl Operator for Async {
    async fn restore(&mut self, _: Vec<Change>) -> Result<()> {
        self.work.world.opened();
        Ok(())
    }

    async fn process(&mut self, _: usize, batch: Batch, _: &mut Output) -> Result<()> {
        let batch = batch.into_bytes();
        for row in 0..batch.len() {
            self.next += 1;
            let alone = batch.slice(row, row + 1);
            let first = alone.get(0).key().is_none_or(|key| {
                let queue = self.keys.entry(Bytes::copy_from_slice(key)).or_default();
                queue.push_back(self.next);
                queue.len() == 1
            });
            self.taken.insert(self.next, alone);
            if first {
                self.free.push_back(self.next);
            }
        }
        self.begin();
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.taken.len() >= self.most
    }

    async fn ready(&mut self) {
        if self.done.is_empty() {
            match self.running.next().await {
                Some(id) => self.done.push(id),
                None => std::future::pending().await,
            }
        }
    }

    async fn advance(&mut self, out: &mut Output) -> Result<()> {
        for id in std::mem::take(&mut self.done) {
            self.finish(id, out);
        }
        self.begin();
        Ok(())
    }

    async fn settle(&mut self, out: &mut Output) -> Result<()> {
        self.advance(out).await?;
        while let Some(id) = self.running.next().await {
            self.finish(id, out);
            self.begin();
        }
        Ok(())
    }

    fn changes(&mut self) -> Result<Vec<Change>> {
        assert!(self.taken.is_empty(), "a barrier passes while records are under way");
        Ok(Vec::new())
    }

    async fn close(&mut self) -> Result<()> {
        self.work.world.closed();
        Ok(())
    }
}

struct Hold {
    work: Work,
    most: usize,
    /// In the order in which they came: by a number that no other worker gives.
    held: BTreeMap<u64, Record>,
    changed: Vec<u64>,
    since: Option<Timestamp>,
}

impl Hold {
    fn new(work: Work, most: usize) -> Self {
        Hold { work, most, held: BTreeMap::new(), changed: Vec::new(), since: None }
    }

    fn let_go(&mut self, out: &mut Output) {
        self.since = None;
        let mut builder = BatchBuilder::new();
        for (id, record) in std::mem::take(&mut self.held) {
            self.changed.push(id);
            builder.push(&record);
        }
        out.emit(0, builder.finish());
    }
}

#[async_trait]
impl Operator for Hold {
    async fn restore(&mut self, state: Vec<Change>) -> Result<()> {
        self.work.world.opened();
        for change in state {
            let id = u64::from_be_bytes(change.key[..].try_into().unwrap());
            self.held.insert(id, rmp_serde::from_slice(&change.value.unwrap()).unwrap());
            self.since = Some(Timestamp::now());
        }
        Ok(())
    }

    async fn process(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<()> {
        for record in batch.into_bytes().iter() {
            let id = self.work.world.number();
            self.changed.push(id);
            self.held.insert(id, record.to_record());
        }
        self.since.get_or_insert_with(Timestamp::now);
        if self.held.len() >= self.most {
            self.let_go(out);
        }
        Ok(())
    }

    fn held(&self) -> usize {
        self.held.len()
    }

    fn timer_at(&self) -> Option<Timestamp> {
        self.since.map(|since| Timestamp(since.0 + 500_000))
    }

    async fn on_timer(&mut self, _: Timestamp, out: &mut Output) -> Result<()> {
        self.let_go(out);
        Ok(())
    }

    async fn end(&mut self, out: &mut Output) -> Result<()> {
        self.let_go(out);
        Ok(())
    }

    async fn drain(&mut self, out: &mut Output) -> Result<()> {
        self.let_go(out);
        Ok(())
    }

    fn changes(&mut self) -> Result<Vec<Change>> {
        let changed = std::mem::take(&mut self.changed).into_iter();
        let change = |id: u64| {
            let record = self.held.get(&id);
            let of = record.and_then(|record| record.key.clone()).unwrap_or_default();
            let value = record.map(|record| rmp_serde::to_vec_named(record).unwrap().into());
            Change { group: group(&of), key: Bytes::copy_from_slice(&id.to_be_bytes()), value }
        };
        Ok(changed.map(change).collect())
    }

    async fn close(&mut self) -> Result<()> {
        self.work.world.closed();
        Ok(())
    }
}
