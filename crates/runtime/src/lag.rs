//! What there is for sources to read, for those who ask.

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use millstream_core::Lag;
use tokio::time::Instant;

use crate::{
    lease::lock,
    source_task::{Progress, SourceTask},
    task::Halt,
};

/// A source that can tell is asked this often, also while it waits: lag grows when nothing is read.
pub(crate) const EVERY: Duration = Duration::from_secs(1);

/// What each source has said last; nothing of those that cannot tell.
#[derive(Debug, Default)]
pub(crate) struct Lags(Mutex<BTreeMap<String, Lag>>);

impl Lags {
    pub(crate) fn read(&self) -> BTreeMap<String, Lag> {
        lock(&self.0).clone()
    }

    fn set(&self, source: &str, lag: Option<Lag>) {
        let mut all = lock(&self.0);
        match lag {
            Some(lag) => drop(all.insert(source.to_owned(), lag)),
            None => drop(all.remove(source)),
        }
    }
}

impl SourceTask {
    /// Asks the source how much there is to read. One that does not tell is not asked again.
    pub(crate) fn look(&mut self, at: &mut Progress) -> Result<(), Halt> {
        let lag = self.lease.source()?.lag();
        self.context.shared.lags.set(&self.context.name, lag);
        at.look_at = lag.map(|_| Instant::now() + EVERY);
        Ok(())
    }
}
