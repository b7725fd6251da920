//! What of a source outlives its task.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millstream_core::{Owner, Result, Resume, ShardKey, Source, SourcePlan};

use crate::{retain::Retained, task::Halt};

type Slot = Arc<Mutex<Option<Box<dyn Source>>>>;

/// Kept from one task around a source to the next.
#[derive(Clone, Default)]
pub(crate) struct Kept {
    slot: Slot,
    /// What cannot be read again.
    pub(crate) retained: Arc<Mutex<Retained>>,
    /// Shards that others have now, though the checkpoint may still name them.
    pub(crate) lost: Arc<Mutex<BTreeSet<ShardKey>>>,
}

impl Kept {
    /// The source for the next task, where `resume` says. Where nobody else remembers its position it goes on as it is; where
    /// its system does it is opened again, so that a restart is no rebalance; all others are new.
    pub(crate) async fn open(&self, plan: &dyn SourcePlan, resume: &Resume) -> Result<Lease> {
        let owner = plan.capabilities().owner;
        let last = lock(&self.slot).take();
        match last {
            Some(source) if owner == Owner::Nobody => return Ok(self.lease(source, owner)),
            Some(mut source) => match source.open(resume).await {
                Ok(()) => return Ok(self.lease(source, owner)),
                Err(error) if error.facts().retry => {
                    lock(&self.slot).replace(source);
                    return Err(error);
                }
                Err(error) => tracing::warn!(source = plan.describe(), error = %error.chain(), "cannot open it again"),
            },
            None => {}
        }
        let mut source = plan.create()?;
        source.open(resume).await?;
        Ok(self.lease(source, owner))
    }

    fn lease(&self, source: Box<dyn Source>, owner: Owner) -> Lease {
        Lease { source: Some(source), slot: self.slot.clone(), owner, calling: false }
    }
}

/// A source in its task. When the task ends, however it ends, the source goes back for the next one, where that can use it.
pub(crate) struct Lease {
    source: Option<Box<dyn Source>>,
    slot: Slot,
    owner: Owner,
    /// A call is under way that is not cancel-safe: a source that is dropped there cannot be used again.
    calling: bool,
}

impl Lease {
    /// The source, for calls that are cancel-safe or do not wait.
    pub(crate) fn source(&mut self) -> Result<&mut Box<dyn Source>, Halt> {
        // Only `drop` takes it.
        self.source.as_mut().ok_or(Halt::Gone)
    }

    /// The source, for a call that must come to its end; then [`Lease::done`].
    pub(crate) fn call(&mut self) -> Result<&mut Box<dyn Source>, Halt> {
        self.calling = true;
        self.source()
    }

    /// The call has come to its end.
    pub(crate) fn done(&mut self) {
        self.calling = false;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let whole = !self.calling && !std::thread::panicking();
        let again = match self.owner {
            Owner::Checkpoint => false,
            Owner::System => whole,
            // What it has not handed over yet is nowhere else.
            Owner::Nobody => true,
        };
        if again {
            *lock(&self.slot) = self.source.take();
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use millstream_core::{Event, Form, Position, SourceCapabilities};

    use super::*;

    /// Counts how many were made.
    #[derive(Debug)]
    struct Plan(Owner, Mutex<usize>);

    impl SourcePlan for Plan {
        fn capabilities(&self) -> SourceCapabilities {
            SourceCapabilities { owner: self.0, ..SourceCapabilities::LOG }
        }

        fn form(&self) -> Form {
            Form::Bytes
        }

        fn describe(&self) -> String {
            "silent".to_owned()
        }

        fn create(&self) -> Result<Box<dyn Source>> {
            *lock(&self.1) += 1;
            Ok(Box::new(Silent))
        }
    }

    struct Silent;

    #[async_trait]
    impl Source for Silent {
        async fn open(&mut self, _: &Resume) -> Result<()> {
            Ok(())
        }

        async fn next(&mut self) -> Result<Event> {
            std::future::pending().await
        }

        fn position(&self) -> Result<Position> {
            Ok(Position::default())
        }
    }

    /// How many sources it takes for two tasks, the first of which ends in the middle of a call, or not.
    async fn made(owner: Owner, calling: bool) -> usize {
        let (plan, kept) = (Plan(owner, Mutex::new(0)), Kept::default());
        let mut lease = kept.open(&plan, &Resume::default()).await.unwrap();
        assert!(lease.call().is_ok());
        if !calling {
            lease.done();
        }
        drop(lease);
        kept.open(&plan, &Resume::default()).await.unwrap();
        *lock(&plan.1)
    }

    #[tokio::test]
    async fn a_source_goes_on_in_the_next_task_unless_a_call_was_cut_short() {
        assert_eq!([made(Owner::System, false).await, made(Owner::System, true).await], [1, 2]);
        assert_eq!([made(Owner::Nobody, false).await, made(Owner::Nobody, true).await], [1, 1]);
        assert_eq!([made(Owner::Checkpoint, false).await, made(Owner::Checkpoint, true).await], [2, 2]);
    }
}
