//! The named steps of an epoch, where tests stop or kill a pipeline.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use millstream_core::Epoch;

/// A point in the life of an epoch. Each is a place where a crash must lose nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A source is about to give the barrier.
    BeforeBarrier,
    /// A stage has saved its changes and is about to let the barrier on.
    BetweenStages,
    /// A sink is about to ask for outcomes.
    BeforeFlush,
    /// A sink knows its outcomes, and has not prepared.
    AfterFlush,
    /// A sink has prepared.
    AfterPrepare,
    /// Everything is known; the deciding write comes next.
    BeforeRecord,
    /// The segment is durable; the host decides next.
    BeforeHost,
    /// The host has decided; our own store does not know it yet.
    AfterHost,
    /// The deciding write is done; nobody has been told.
    AfterRecord,
    /// A sink is about to make the epoch count.
    BeforeSinkCommit,
    /// A sink has made the epoch count.
    AfterSinkCommit,
    /// A source is about to tell its system.
    BeforeSourceCommit,
}

impl Step {
    /// The steps of every epoch, in the order in which it reaches them.
    pub const ALL: [Step; 10] = [
        Step::BeforeBarrier,
        Step::BetweenStages,
        Step::BeforeFlush,
        Step::AfterFlush,
        Step::AfterPrepare,
        Step::BeforeRecord,
        Step::AfterRecord,
        Step::BeforeSinkCommit,
        Step::AfterSinkCommit,
        Step::BeforeSourceCommit,
    ];

    /// The steps that an epoch reaches besides, between [`Step::BeforeRecord`] and [`Step::AfterRecord`], where a host decides.
    pub const HOSTED: [Step; 2] = [Step::BeforeHost, Step::AfterHost];
}

/// Called at every step; may abort the process. For crash tests.
#[derive(Clone, Default)]
pub struct Probe(Option<Arc<dyn Fn(Step, Epoch) + Send + Sync>>);

impl Probe {
    /// A probe that calls `reached`.
    pub fn new(reached: impl Fn(Step, Epoch) + Send + Sync + 'static) -> Self {
        Probe(Some(Arc::new(reached)))
    }

    /// A probe that calls `then` when `step` is reached for the `nth` time, from 1 on.
    pub fn at(step: Step, nth: u64, then: impl Fn() + Send + Sync + 'static) -> Self {
        let passed = AtomicU64::new(0);
        Probe::new(move |reached, _| {
            if reached == step && passed.fetch_add(1, Ordering::SeqCst) + 1 == nth {
                then();
            }
        })
    }

    pub(crate) fn reach(&self, step: Step, epoch: Epoch) {
        if let Some(reached) = &self.0 {
            reached(step, epoch);
        }
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Probe(set)" } else { "Probe(none)" })
    }
}
