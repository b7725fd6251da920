//! What producers and their task share: the budget of what is accepted, and how things stand.

use std::sync::{Mutex, MutexGuard, PoisonError};

use millstream_core::{Error, ErrorKind, Record, Result};
use tokio::sync::Semaphore;

use super::ProducerState;
use crate::{ProducerOptions, Retrying, engine::stopped};

/// What a record costs beside its bytes: its place in queues and batches.
const RECORD_BYTES: usize = 128;

/// The budget of records that are accepted and whose outcome is not known.
#[derive(Debug)]
pub(crate) struct Queue {
    records: Semaphore,
    bytes: Semaphore,
    bytes_max: usize,
    phase: Mutex<Phase>,
}

#[derive(Debug)]
enum Phase {
    Opening,
    Writing,
    Retrying(Retrying),
    Ended,
    Failed(Error),
}

impl Queue {
    pub(crate) fn new(options: &ProducerOptions) -> Self {
        // Bounded by what one request to a semaphore can be.
        let bytes_max = options.pending_bytes_max.clamp(1, (u32::MAX as usize).min(Semaphore::MAX_PERMITS));
        Queue {
            records: Semaphore::new(options.pending_records_max.clamp(1, Semaphore::MAX_PERMITS)),
            bytes: Semaphore::new(bytes_max),
            bytes_max,
            phase: Mutex::new(Phase::Opening),
        }
    }

    /// What a record takes of the budget.
    pub(crate) fn cost(&self, record: &Record) -> u32 {
        let headers =
            record.headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, |value| value.len()));
        let parts = [&record.key, &record.value].map(|part| part.as_ref().map_or(0, |part| part.len()));
        let size = RECORD_BYTES + headers.sum::<usize>() + parts.iter().sum::<usize>();
        size.min(self.bytes_max) as u32
    }

    /// Takes a record's share; waits until there is room. Dropped before its end it takes nothing.
    pub(crate) async fn acquire(&self, cost: u32) -> Result<()> {
        let record = self.records.acquire().await.map_err(|_| self.why_closed())?;
        let bytes = self.bytes.acquire_many(cost).await.map_err(|_| self.why_closed())?;
        record.forget();
        bytes.forget();
        Ok(())
    }

    /// Takes a record's share if there is room.
    pub(crate) fn try_acquire(&self, cost: u32) -> Result<()> {
        let full = |error| match error {
            tokio::sync::TryAcquireError::Closed => self.why_closed(),
            tokio::sync::TryAcquireError::NoPermits => {
                Error::new(ErrorKind::Full, "the producer has no room").hint("wait with `send`, or try again later")
            }
        };
        let record = self.records.try_acquire().map_err(full)?;
        self.bytes.try_acquire_many(cost).map_err(full)?.forget();
        record.forget();
        Ok(())
    }

    /// The outcome of a record is known.
    pub(crate) fn release(&self, cost: u32) {
        self.records.add_permits(1);
        self.bytes.add_permits(cost as usize);
    }

    fn lock(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn writing(&self) {
        *self.lock() = Phase::Writing;
    }

    pub(crate) fn retrying(&self, retrying: Retrying) {
        *self.lock() = Phase::Retrying(retrying);
    }

    /// No more is accepted: because of an error, or because the producer has ended.
    pub(crate) fn close(&self, why: Option<Error>) {
        let mut phase = self.lock();
        if !matches!(*phase, Phase::Ended | Phase::Failed(_)) {
            *phase = why.map_or(Phase::Ended, Phase::Failed);
        }
        drop(phase);
        self.records.close();
        self.bytes.close();
    }

    pub(crate) fn why_closed(&self) -> Error {
        match &*self.lock() {
            Phase::Failed(error) => error.clone(),
            Phase::Ended => Error::new(ErrorKind::Closed, "the producer has ended").hint("create another one"),
            // The task is being unwound, and has not come to say so.
            Phase::Opening | Phase::Writing | Phase::Retrying(_) => stopped("writes"),
        }
    }

    pub(crate) fn state(&self) -> ProducerState {
        match &*self.lock() {
            Phase::Opening => ProducerState::Opening,
            Phase::Writing => ProducerState::Writing,
            Phase::Retrying(retrying) => ProducerState::Retrying(retrying.clone()),
            Phase::Ended => ProducerState::Ended,
            Phase::Failed(error) => ProducerState::Failed(error.clone()),
        }
    }
}
