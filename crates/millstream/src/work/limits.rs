//! How much a step may have under way, and for how long.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use millstream_core::{Error, ErrorKind, Result, Span};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::made::Adjust;

/// Limits of a step, shared by the builder, all its workers and whoever changes them while it runs.
#[derive(Debug)]
pub(crate) struct Limits {
    in_flight: AtomicUsize,
    /// Nanoseconds; 0 for none.
    timeout_ns: AtomicU64,
    unordered: AtomicBool,
    /// Bytes that all workers together may hold beyond what is under way, and how many workers there are.
    held_bytes: AtomicUsize,
    workers: AtomicUsize,
    /// A permit for each thread of a blocking step: held by the thread itself, also when nobody waits for it any more.
    threads: Arc<Semaphore>,
    /// Permits of threads that are to go when these have ended. Its lock is held while permits come or go, so that a thread
    /// that ends meanwhile does not miss that it is one too many.
    surplus: Mutex<usize>,
    /// Tells that more may be under way.
    raised: watch::Sender<()>,
}

/// The right to use a thread.
pub(crate) struct Thread {
    permit: Option<OwnedSemaphorePermit>,
    limits: Arc<Limits>,
}

impl Drop for Thread {
    fn drop(&mut self) {
        let mut surplus = self.limits.surplus();
        let Some(permit) = self.permit.take() else { return };
        match surplus.checked_sub(1) {
            Some(less) => {
                *surplus = less;
                permit.forget();
            }
            None => drop(permit),
        }
    }
}

/// What one worker may hold, out of what all of them may.
#[derive(Debug)]
pub(crate) struct Share(Arc<Limits>);

impl Share {
    pub(crate) fn bytes(&self) -> usize {
        self.0.held_bytes.load(Relaxed) / self.0.workers.load(Relaxed).max(1)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.workers.fetch_sub(1, Relaxed);
    }
}

impl Limits {
    pub(crate) fn new(in_flight: usize) -> Arc<Self> {
        let threads = Arc::new(Semaphore::new(in_flight.clamp(1, Semaphore::MAX_PERMITS)));
        let (timeout_ns, unordered) = (AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Limits {
            in_flight: AtomicUsize::new(in_flight.max(1)),
            timeout_ns,
            unordered,
            // Until the pipeline says how much it is: nothing begins before.
            held_bytes: AtomicUsize::new(0),
            workers: AtomicUsize::new(0),
            threads,
            surplus: Mutex::new(0),
            raised: watch::Sender::default(),
        })
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// At least 1: a step that begins nothing would wait for ever.
    pub(crate) fn set_in_flight(&self, most: usize) {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        let mut surplus = self.surplus();
        let before = self.in_flight.swap(most, Relaxed);
        if most > before {
            let kept = (most - before).min(*surplus);
            *surplus -= kept;
            self.threads.add_permits(most - before - kept);
            self.raised.send_replace(());
        } else {
            // Threads that are working keep their permits until they end.
            let gone = self.threads.forget_permits(before - most);
            *surplus += before - most - gone;
        }
    }

    fn surplus(&self) -> MutexGuard<'_, usize> {
        self.surplus.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hears when more may be under way.
    pub(crate) fn raised(&self) -> watch::Receiver<()> {
        self.raised.subscribe()
    }

    pub(crate) fn timeout(&self) -> Option<Duration> {
        Some(self.timeout_ns.load(Relaxed)).filter(|ns| *ns > 0).map(Duration::from_nanos)
    }

    pub(crate) fn set_timeout(&self, limit: Option<Duration>) {
        let ns = limit.map_or(0, |limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX).max(1));
        self.timeout_ns.store(ns, Relaxed);
    }

    pub(crate) fn unordered(&self) -> bool {
        self.unordered.load(Relaxed)
    }

    pub(crate) fn set_unordered(&self) {
        self.unordered.store(true, Relaxed);
    }

    pub(crate) fn set_held_bytes(&self, most: usize) {
        self.held_bytes.store(most, Relaxed);
    }

    /// The share of one more worker.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        self.workers.fetch_add(1, Relaxed);
        Share(self.clone())
    }

    /// What of them can change while a step runs; `several` things of it may be under way at once.
    pub(crate) fn options(self: &Arc<Self>, several: bool) -> Arc<dyn Adjust> {
        if several { self.clone() } else { Arc::new(OneAtATime(self.clone())) }
    }

    /// Waits until a thread may be used.
    pub(crate) async fn thread(self: &Arc<Self>) -> Thread {
        // The semaphore is never closed.
        Thread { permit: self.threads.clone().acquire_owned().await.ok(), limits: self.clone() }
    }
}

impl Adjust for Limits {
    fn adjust(&self, option: &str, value: &Value) -> Result<bool> {
        match option {
            "in_flight" => self.set_in_flight(count(option, value)?),
            "timeout" => self.set_timeout(span(option, value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Limits of a step that has one thing under way at a time: that cannot change.
struct OneAtATime(Arc<Limits>);

impl Adjust for OneAtATime {
    fn adjust(&self, option: &str, value: &Value) -> Result<bool> {
        if option == "in_flight" { Ok(false) } else { self.0.adjust(option, value) }
    }
}

/// A number of things, at least one.
pub(crate) fn count(option: &str, value: &Value) -> Result<usize> {
    let count = value.as_u64().and_then(|count| usize::try_from(count).ok()).filter(|count| *count > 0);
    count.ok_or_else(|| Error::new(ErrorKind::Option, format!("`{option}` must be a number above 0")).within(option))
}

/// A duration, or none.
pub(crate) fn span(option: &str, value: &Value) -> Result<Option<Duration>> {
    let span: Option<Span> = serde_json::from_value(value.clone()).map_err(|cause| {
        Error::new(ErrorKind::Option, format!("`{option}` must be a duration, such as \"5s\"")).caused_by(cause)
    })?;
    Ok(span.map(|span| span.0))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn what_may_be_held_is_shared_by_the_workers_that_there_are() {
        let limits = Limits::new(1);
        limits.set_held_bytes(1200);
        let mut shares: Vec<Share> = (0..3).map(|_| limits.share()).collect();
        assert!(shares.iter().all(|share| share.bytes() == 400));
        shares.truncate(1);
        assert_eq!(shares[0].bytes(), 1200);
    }

    #[test]
    fn fewer_threads_and_then_more_are_never_more_than_said() {
        let limits = Limits::new(4);
        let mut threads = Vec::new();
        let most = |threads: &mut Vec<Thread>| {
            threads.extend(std::iter::from_fn(|| limits.thread().now_or_never()));
            threads.len()
        };
        assert_eq!(most(&mut threads), 4);
        // While all of them work.
        limits.set_in_flight(1);
        limits.set_in_flight(3);
        threads.truncate(3);
        assert_eq!(most(&mut threads), 3);
        limits.set_in_flight(2);
        limits.set_in_flight(5);
        assert_eq!(most(&mut threads), 5);
        limits.set_in_flight(2);
        threads.clear();
        assert_eq!(most(&mut threads), 2);
    }
}
