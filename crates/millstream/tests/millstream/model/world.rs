//! What becomes of a record at a step: it is said by the seed, the step and the record's value.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use millstream::{BatchOf, BatchWorker, Error, ErrorKind, Outcomes, Result, Trigger, Worker};

/// What becomes of a record at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Pass,
    Drop,
    Dead,
    Panic,
    /// Fails so many times, then passes.
    Flaky(u32),
}

/// What an object of the user's has lived through.
#[derive(Clone, Copy, Debug, Default)]
struct Hooks {
    life: u32,
    drains: u32,
    ends: u32,
    step: usize,
}

/// What all steps of a pipeline share, and what outlives its runs.
#[derive(Debug, Default)]
pub(super) struct World {
    seed: u64,
    failures: Mutex<HashMap<(usize, String, u64), u32>>,
    next: AtomicU64,
    objects: Mutex<Vec<Hooks>>,
    life: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        Arc::new(World { seed, ..World::default() })
    }

    pub(super) fn hash(&self, step: usize, value: &str, salt: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.seed, step, value, salt).hash(&mut hasher);
        hasher.finish()
    }

    pub(super) fn port(&self, step: usize, value: &str) -> usize {
        (self.hash(step, value, 3) % 2) as usize
    }

    /// Whether it fails once more, of so many times.
    fn fails(&self, step: usize, value: &str, salt: u64, times: u32) -> bool {
        let mut failures = held(&self.failures);
        let failed = failures.entry((step, value.to_owned(), salt)).or_default();
        *failed += u32::from(*failed < times + 1);
        *failed <= times
    }

    /// What went wrong where nobody could say so.
    pub(super) fn wrong(&self) -> Vec<String> {
        held(&self.wrong).clone()
    }

    fn is_wrong(&self, what: String) {
        held(&self.wrong).push(what);
    }

    /// Some time, more or less.
    async fn dawdle(&self) {
        let time = self.next.fetch_add(7919, SeqCst) % 5;
        tokio::time::sleep(Duration::from_millis(time)).await;
    }

    /// A life of the pipeline is over; it ended `well`, at its first attempt, or not; or the whole `process` did.
    pub(super) fn over(&self, well: bool, process: bool) {
        let life = self.life.fetch_add(1, SeqCst) as u32;
        let (objects, mut last) = (held(&self.objects), BTreeMap::new());
        for hooks in objects.iter().filter(|hooks| hooks.life == life) {
            if hooks.drains > 1 || (hooks.ends != 1 && !process) {
                self.is_wrong(format!("well {well}: {hooks:?}"));
            }
            last.insert(hooks.step, hooks);
        }
        // Those before them may have been replaced.
        for hooks in last.into_values().filter(|hooks| well && hooks.drains == 0) {
            self.is_wrong(format!("was not told of the end: {hooks:?}"));
        }
    }
}

/// A step: what it may do to its records.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) world: Arc<World>,
    pub(super) step: usize,
    pub(super) drops: bool,
    pub(super) fails: bool,
    /// Not only sets of records fail as a whole, but also records by themselves.
    pub(super) alone: bool,
    pub(super) panics: bool,
    /// What fails for a while may panic.
    pub(super) panics_pass: bool,
    /// What fails for a while may take for ever.
    pub(super) hangs: bool,
}

impl Work {
    /// Some steps let all pass.
    pub(super) fn faultless(&self) -> bool {
        self.world.hash(self.step, "", 0).is_multiple_of(3) || !(self.drops || self.fails || self.panics)
    }

    pub(super) fn fate(&self, value: &str) -> Fate {
        if self.faultless() {
            return Fate::Pass;
        }
        match self.world.hash(self.step, value, 1) % 1000 {
            0..80 if self.drops => Fate::Drop,
            80..110 if self.fails && self.alone => Fate::Dead,
            110..160 if self.fails && self.alone => Fate::Flaky(1 + (self.world.hash(self.step, value, 2) % 3) as u32),
            160..165 if self.panics && self.alone && !self.panics_pass => Fate::Panic,
            _ => Fate::Pass,
        }
    }

    /// How it fails now.
    fn failing(&self, value: &str) -> Option<Error> {
        match self.world.hash(self.step, value, 4) % 4 {
            0 if self.panics_pass => panic!("killed at {value}"),
            1 if self.hangs => None,
            _ => Some(Error::new(ErrorKind::Unavailable, "not yet")),
        }
    }

    /// Whether the record passes now, and if not, why; nothing if it takes for ever.
    fn meets(&self, value: &str) -> Option<Result<bool>> {
        match self.fate(value) {
            Fate::Pass => Some(Ok(true)),
            Fate::Drop => Some(Ok(false)),
            Fate::Dead => Some(Err(Error::new(ErrorKind::Data, "a bad one"))),
            Fate::Panic => panic!("killed at {value}"),
            Fate::Flaky(times) if self.world.fails(self.step, value, 0, times) => self.failing(value).map(Err),
            Fate::Flaky(_) => Some(Ok(true)),
        }
    }

    pub(super) fn meet(&self, value: &str) -> Result<bool> {
        self.meets(value).unwrap_or_else(|| Err(Error::new(ErrorKind::Unavailable, "not yet")))
    }

    pub(super) fn pass(&self, value: &str) -> Result<String> {
        self.meet(value).map(|_| value.to_owned())
    }

    pub(super) async fn pass_later(self, value: String) -> Result<String> {
        self.world.dawdle().await;
        match self.meets(&value) {
            Some(met) => met.map(|_| value),
            None => std::future::pending().await,
        }
    }

    /// What many records come to together: some of them fail as a whole for a while.
    pub(super) async fn together(&self, first: &str) -> Result<()> {
        self.world.dawdle().await;
        let hash = self.world.hash(self.step, first, 5);
        if !self.faultless()
            && self.fails
            && hash.is_multiple_of(8)
            && self.world.fails(self.step, first, 1, (hash >> 8) as u32 % 3)
        {
            match self.failing(first) {
                Some(error) => return Err(error),
                None => std::future::pending::<()>().await,
            }
        }
        Ok(())
    }
}

/// A handler of batches, and what it may be given.
#[derive(Clone, Debug)]
pub(super) struct Handler {
    pub(super) work: Work,
    pub(super) count_max: usize,
    /// Whether it has records of one key only.
    pub(super) one_key: bool,
    /// What all records of a batch fail with where one of them is a bad one.
    pub(super) spoils: Option<ErrorKind>,
}

impl Handler {
    pub(super) async fn handle(self, batch: BatchOf<String>) -> Result<Outcomes<String>> {
        let world = &self.work.world;
        if batch.len() > self.count_max || batch.is_empty() {
            let what = format!("step {} has a batch of {}: {:?}", self.work.step, batch.len(), batch.trigger());
            world.is_wrong(what);
        }
        let key = |nth| batch.record(nth).and_then(|record| record.key());
        if self.one_key && (1..batch.len()).any(|nth| key(nth) != key(0)) {
            world.is_wrong(format!("step {} has a batch of several keys", self.work.step));
        }
        let again = batch.records().any(|record| record.attempts() > 0);
        if (again || batch.trigger() == Trigger::Retry) && (batch.len() > 1 || batch.trigger() != Trigger::Retry) {
            world.is_wrong(format!("step {} has some again in a batch of {}", self.work.step, batch.len()));
        }
        self.work.together(&batch[0]).await?;
        if let Some(kind) = self.spoils.filter(|_| batch.len() > 1)
            && batch.iter().any(|value| self.work.fate(value) == Fate::Dead)
        {
            return Err(Error::new(kind, "one of them is a bad one"));
        }
        let mut outcomes = Outcomes::new();
        for (nth, value) in batch.iter().enumerate() {
            match self.work.meet(value) {
                Ok(_) => outcomes.ok(nth, value.clone()),
                // One without an answer has failed.
                Err(error) if error.kind() == ErrorKind::Data && world.port(self.work.step, value) == 0 => {}
                Err(error) => outcomes.fail(nth, error),
            }
        }
        Ok(outcomes)
    }
}

/// An object of the user's, for records or batches.
#[derive(Debug)]
pub(super) struct Object {
    handler: Handler,
    /// `init` and `drain` may fail.
    weak: bool,
    number: usize,
}

impl Object {
    pub(super) fn new(handler: Handler, weak: bool) -> Self {
        Object { handler, weak, number: usize::MAX }
    }

    fn begin(&mut self) -> Result<()> {
        let (world, step) = (&self.handler.work.world, self.handler.work.step);
        let mut objects = held(&world.objects);
        self.number = objects.len();
        objects.push(Hooks { step, life: world.life.load(SeqCst) as u32, ..Hooks::default() });
        if self.weak && world.fails(step, "", 2, 1) {
            return Err(Error::new(ErrorKind::Unavailable, "cannot begin"));
        }
        Ok(())
    }

    fn at(&self, look: impl FnMut(&mut Hooks)) {
        held(&self.handler.work.world.objects).get_mut(self.number).into_iter().for_each(look);
    }

    fn ends(&self) -> Result<()> {
        self.at(|hooks| hooks.drains += 1);
        if self.weak && self.handler.work.world.fails(self.handler.work.step, "", 3, 1) {
            return Err(Error::new(ErrorKind::Unavailable, "cannot end"));
        }
        Ok(())
    }

    fn works(&self) {
        let mut hooks = Hooks::default();
        self.at(|now| hooks = *now);
        if hooks.drains + hooks.ends > 0 {
            self.handler.work.world.is_wrong(format!("worker {} is called after {hooks:?}", self.number));
        }
    }
}

impl Worker<String> for Object {
    type Output = String;
    type Error = Error;

    async fn init(&mut self) -> Result<()> {
        self.begin()
    }

    async fn handle(&mut self, value: String) -> Result<String> {
        self.works();
        self.handler.work.clone().pass_later(value).await
    }

    async fn drain(&mut self) -> Result<()> {
        self.ends()
    }

    async fn terminate(&mut self) {
        self.at(|hooks| hooks.ends += 1);
    }
}

impl BatchWorker<String> for Object {
    type Answer = Result<Outcomes<String>>;
    type Error = Error;

    async fn init(&mut self) -> Result<()> {
        self.begin()
    }

    async fn handle(&mut self, batch: BatchOf<String>) -> Result<Outcomes<String>> {
        self.works();
        self.handler.clone().handle(batch).await
    }

    async fn drain(&mut self) -> Result<()> {
        self.ends()
    }

    async fn terminate(&mut self) {
        self.at(|hooks| hooks.ends += 1);
    }
}
