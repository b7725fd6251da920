//! Rate limits: a step before a stage, or behind a source, that lets records through at an even pace.
//!
//! The pace is that of a virtual scheduling algorithm (GCRA, ITU-T I.371): each record moves the earliest time of the next one
//! on by `per / records`; at most [`BURST`] of unused time is made up for. What waits is saved with the epoch, so that barriers
//! need not wait for it.

mod queue;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use millstream_core::{Batch, Change, Error, ErrorKind, Form, Operator, Output, Result, Step, StepPlan, parse_options};
use tokio::{sync::Notify, time::Instant};

use self::queue::Queue;
use crate::{lease::lock, spec::RateLimit};

/// Unused time that may be made up for: as smooth as timers are, without a timer for each record.
const BURST: Duration = Duration::from_millis(10);

/// Bytes that may wait before no more input is read; one batch may go beyond.
const WAITING_BYTES_MAX: usize = 4 << 20;

/// The step as planned. Its limit can be changed while it runs.
#[derive(Debug)]
pub(crate) struct RatePlan {
    shared: Arc<Shared>,
    form: Form,
}

#[derive(Debug)]
struct Shared {
    limit: Mutex<RateLimit>,
    changed: Notify,
}

impl RatePlan {
    pub(crate) fn new(limit: RateLimit, form: Form) -> Self {
        RatePlan { shared: Arc::new(Shared { limit: Mutex::new(limit), changed: Notify::new() }), form }
    }
}

impl RateLimit {
    /// Whether a record could ever pass.
    pub(crate) fn check(&self) -> Result<()> {
        if self.records > 0 && !self.per.0.is_zero() {
            return Ok(());
        }
        let error = Error::new(ErrorKind::Option, "this rate limit would never let a record pass");
        Err(error.hint("`records` and `per` must be above 0"))
    }

    /// Time from one record to the next. Below a nanosecond there is no limit that could be kept.
    fn interval(&self) -> Duration {
        let nanos = self.per.0.as_nanos() / u128::from(self.records.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl StepPlan for RatePlan {
    fn form(&self) -> Form {
        self.form
    }

    fn scales(&self) -> bool {
        false
    }

    fn waits(&self) -> bool {
        true
    }

    fn change(&self, option: &str, value: &serde_json::Value) -> Result<()> {
        if option != "rate_limit" {
            return Err(Error::new(ErrorKind::Unsupported, format!("a rate limit has no option `{option}`")));
        }
        let limit: RateLimit = parse_options(value)?;
        limit.check()?;
        *lock(&self.shared.limit) = limit;
        self.shared.changed.notify_one();
        Ok(())
    }

    fn create(&self) -> Result<Step> {
        Ok(Step::Operator(Box::new(Pacing { shared: self.shared.clone(), queue: Queue::default() })))
    }
}

struct Pacing {
    shared: Arc<Shared>,
    queue: Queue,
}

impl Pacing {
    fn pace(&mut self, out: &mut Output) {
        let limit = lock(&self.shared.limit).clone();
        self.queue.let_go(Instant::now(), limit.interval(), out);
    }
}

#[async_trait]
impl Operator for Pacing {
    async fn restore(&mut self, state: Vec<Change>) -> Result<()> {
        self.queue.restore(state, lock(&self.shared.limit).by_key)
    }

    async fn process(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<()> {
        self.queue.push(batch, lock(&self.shared.limit).by_key);
        self.pace(out);
        Ok(())
    }

    fn is_full(&self) -> bool {
        // Without keys nobody gains from reading on; with keys, others may pass.
        self.queue.bytes() > if lock(&self.shared.limit).by_key { WAITING_BYTES_MAX } else { 0 }
    }

    fn held(&self) -> usize {
        self.queue.len()
    }

    async fn ready(&mut self) {
        let due = match self.queue.due() {
            Some(due) => tokio::time::sleep_until(due),
            None => return std::future::pending().await,
        };
        tokio::select! {
            () = due => {}
            () = self.shared.changed.notified() => {
                let interval = lock(&self.shared.limit).interval();
                self.queue.hurry(Instant::now() + interval);
            }
        }
    }

    async fn advance(&mut self, out: &mut Output) -> Result<()> {
        self.pace(out);
        Ok(())
    }

    fn changes(&mut self) -> Result<Vec<Change>> {
        self.queue.changes()
    }
}
