//! How much a step may have under way, and for how long.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use millstream_core::{Error, ErrorKind, Result, Span};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::made::Adjust;

/// Limits of a step, shared by the builder, all its workers and whoever changes them while it runs.
#[derive(Debug)]
pub(crate) struct Limits {
    in_flight: AtomicUsize,
    /// Nanoseconds; 0 for none.
    timeout_ns: AtomicU64,
    unordered: AtomicBool,
    /// A permit for each thread of a blocking step: held by the thread itself, also when nobody waits for it any more.
    threads: Arc<Semaphore>,
}

impl Limits {
    pub(crate) fn new(in_flight: usize) -> Arc<Self> {
        let threads = Arc::new(Semaphore::new(in_flight.clamp(1, Semaphore::MAX_PERMITS)));
        let (timeout_ns, unordered) = (AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Limits { in_flight: AtomicUsize::new(in_flight.max(1)), timeout_ns, unordered, threads })
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// At least 1: a step that begins nothing would wait for ever.
    pub(crate) fn set_in_flight(&self, most: usize) {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        let before = self.in_flight.swap(most, Relaxed);
        if most > before {
            self.threads.add_permits(most - before);
        } else {
            // Those that are working keep their permits; the limit on what is begun does the rest.
            self.threads.forget_permits(before - most);
        }
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

    pub(crate) fn threads(&self) -> Arc<Semaphore> {
        self.threads.clone()
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
