//! The transactional producer, as sinks and host share it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use millstream_core::{Error, ErrorKind, Result};
use rdkafka::{error::KafkaError, producer::Producer as _};

use crate::{
    context::{Context, lock},
    error::{failed, not_open},
    sink::{
        Planned,
        ledger::Ledger,
        producer::{self, Producer},
    },
};

/// What takes part in one transaction after the other.
pub(crate) struct Shared {
    plan: Arc<Planned>,
    state: Mutex<State>,
    /// The largest batch that all topics take which were seen so far, in bytes.
    cap: AtomicU64,
}

#[derive(Default)]
struct State {
    producer: Option<Producer>,
    /// A transaction is open.
    open: bool,
    /// The host's own books.
    ledger: Option<Ledger>,
    /// The largest batch that the producer makes, in bytes.
    cap: u64,
}

impl Shared {
    pub(super) fn new(plan: Arc<Planned>) -> Self {
        let cap = AtomicU64::new(plan.options.batch.bytes.0);
        Shared { plan, state: Mutex::default(), cap }
    }

    /// A new producer, which shuts out all older ones of the pipeline. Blocks.
    pub(super) fn fence(&self, pipeline: &str) -> Result<()> {
        self.close();
        let plan = &self.plan;
        let cap = self.cap.load(Ordering::Acquire);
        let mut config = plan.config_of(cap);
        config.set("transactional.id", name_of(pipeline));
        let timeout = plan.options.transaction_timeout.0;
        config.set("transaction.timeout.ms", timeout.as_millis().to_string());
        // A record must not outlive its transaction.
        config.set("message.timeout.ms", plan.options.delivery_timeout.0.min(timeout).as_millis().to_string());
        config.set("socket.timeout.ms", timeout.min(Duration::from_secs(60)).as_millis().to_string());
        let context = Context::new(&plan.access);
        let ledger = context.ledgers.open()?;
        let producer = producer::start(&plan.access, &config, context, plan.gathers())?;
        let what = || format!("cannot begin transactions of `{pipeline}` at {}", plan.access.shown);
        let deadline = Instant::now() + plan.access.timeout + timeout;
        loop {
            let Err(error) = producer.init_transactions(plan.access.timeout) else { break };
            let trouble = producer.context().trouble(plan.access.timeout).filter(|trouble| !trouble.facts().retry);
            if let Some(trouble) = trouble {
                return Err(trouble.context(what()));
            }
            let again = matches!(&error, KafkaError::Transaction(cause) if cause.is_retriable());
            if !again || Instant::now() >= deadline {
                return Err(failed(what(), error));
            }
        }
        *lock(&self.state) = State { producer: Some(producer), open: false, ledger: Some(ledger), cap };
        Ok(())
    }

    /// Remembers that a topic takes no larger batches. An error, which recovery makes good, if the producer would make some.
    pub(crate) fn narrow(&self, cap: u64) -> Result<()> {
        self.cap.fetch_min(cap, Ordering::AcqRel);
        if lock(&self.state).cap <= cap {
            return Ok(());
        }
        let what =
            format!("a topic at {} takes batches of {cap} bytes: beginning again with such", self.plan.access.shown);
        Err(Error::new(ErrorKind::Unavailable, what))
    }

    /// Lets a sink write through it, whose topics take batches of so many bytes.
    pub(crate) fn enter(&self, cap: u64) -> Result<(Producer, Ledger)> {
        self.narrow(cap)?;
        let state = lock(&self.state);
        let producer = state.producer.clone().ok_or_else(not_open)?;
        let ledger = producer.context().ledgers.open()?;
        Ok((producer, ledger))
    }

    /// Opens a transaction if none is open. Asks no broker.
    pub(crate) fn begin(&self) -> Result<()> {
        let mut state = lock(&self.state);
        if state.open {
            return Ok(());
        }
        let producer = state.producer.as_ref().ok_or_else(not_open)?;
        producer
            .begin_transaction()
            .map_err(|error| failed(format!("cannot begin a transaction at {}", self.plan.access.shown), error))?;
        state.open = true;
        Ok(())
    }

    /// The transaction has ended, one way or the other.
    pub(super) fn ended(&self) {
        lock(&self.state).open = false;
    }

    pub(super) fn producer(&self) -> Option<Producer> {
        lock(&self.state).producer.clone()
    }

    /// The producer with the host's own books.
    pub(super) fn own(&self) -> Result<(Producer, Ledger)> {
        let state = lock(&self.state);
        state.producer.clone().zip(state.ledger.clone()).ok_or_else(not_open)
    }

    /// Lets the producer go.
    pub(super) fn close(&self) {
        *lock(&self.state) = State::default();
    }
}

/// The transactional id of a pipeline: one runner of it can write at a time.
fn name_of(pipeline: &str) -> String {
    format!("millstream-{pipeline}")
}
