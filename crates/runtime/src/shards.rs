//! Shards that come, leave and are lost while a source reads them.
//!
//! A shard that is to leave is drained to an epoch, which is cut at once; when that counts, and what is parked of the shard has
//! been worked off or has had its time, it is released. A shard that is lost takes everything that is not decided with it.

use std::time::Duration;

use millstream_core::{Epoch, Error, ErrorKind, Event, Position, ShardKey};
use tokio::time::Instant;

use crate::{
    lease::lock,
    source_task::{Progress, SourceTask},
    task::{AfterFailure, Halt, bug},
};

/// How long parked records may keep a shard that is to leave. Groups give their members longer (Kafka five minutes), but all
/// of them wait for the slowest.
const LEAVING_WAIT: Duration = Duration::from_secs(10);

/// Shards that are to be given away.
#[derive(Debug)]
pub(crate) struct Leaving {
    /// The epoch of their last records.
    epoch: Epoch,
    shards: Vec<ShardKey>,
    /// What is parked of them by then stays with us.
    until: Instant,
}

impl Progress {
    /// When the next shards go, whatever is parked of them.
    pub(crate) fn release_at(&self) -> Option<Instant> {
        self.leaving.iter().filter(|leaving| leaving.epoch <= self.decided).map(|leaving| leaving.until).min()
    }

    /// A position without the shards whose last epoch is before `epoch`: it is not ours to keep any more.
    pub(crate) fn without_left(&self, mut position: Position, epoch: Epoch) -> Position {
        for leaving in self.leaving.iter().filter(|leaving| leaving.epoch < epoch) {
            position.0.retain(|shard, _| !leaving.shards.contains(shard));
        }
        position
    }
}

impl SourceTask {
    /// Takes note of what has become of the shards.
    pub(crate) fn told(&mut self, news: Event, at: &mut Progress) -> Result<(), Halt> {
        let source = &self.context.name;
        match news {
            Event::Added(shards) => {
                tracing::info!(%source, shards = names(&shards), "new shards");
                lock(&self.kept.lost).retain(|shard| !shards.contains(shard));
                Ok(())
            }
            Event::Leaving(shards) => {
                tracing::info!(%source, shards = names(&shards), "shards are to be given away");
                at.leaving.push(Leaving { epoch: at.epoch, shards, until: Instant::now() + LEAVING_WAIT });
                self.context.pace.urge();
                Ok(())
            }
            // Nothing is to be taken back, and the next try may end as this one did.
            Event::Lost(shards) if shards.is_empty() => {
                let error = Error::new(ErrorKind::Unavailable, "there is no place in the group");
                let hint = "another member may have the same name: it is let in when that one has gone";
                Err(self.context.fail(error.hint(hint), AfterFailure::Retry))
            }
            Event::Lost(shards) => {
                let named = names(&shards);
                lock(&self.kept.lost).extend(shards);
                if self.keyed {
                    return Err(self.without_keys(&named));
                }
                let error = Error::new(ErrorKind::Unavailable, format!("the shards {named} were taken away"));
                Err(self.context.fail(error, AfterFailure::Replay))
            }
            Event::Batch(_) | Event::End => Err(self.context.fatal(bug("the source gave records as news"))),
        }
    }

    /// Gives away the shards whose last epoch counts, and of which nothing is parked or has time left.
    pub(crate) async fn release(&mut self, at: &mut Progress) -> Result<(), Halt> {
        let (gates, now, decided) = (self.context.gates.clone(), Instant::now(), at.decided);
        let ready =
            |leaving: &mut Leaving| leaving.epoch <= decided && (now >= leaving.until || !gates.parks(&leaving.shards));
        let released: Vec<Leaving> = at.leaving.extract_if(.., ready).collect();
        for Leaving { shards, .. } in released {
            let done = self.lease.call()?.release(&shards).await;
            self.lease.done();
            done.map_err(|error| self.context.fatal(error))?;
            if self.keyed {
                return Err(self.without_keys(&names(&shards)));
            }
        }
        Ok(())
    }

    /// Keyed state needs all shards of a group, until tasks can share it.
    fn without_keys(&self, shards: &str) -> Halt {
        let message = format!("cannot keep keyed state: the group gave the shards {shards} to another member");
        let error = Error::new(ErrorKind::StateMismatch, message)
            .hint("let this pipeline be the only member of its group, or read without a group");
        self.context.fail(error, AfterFailure::Stop)
    }
}

fn names(shards: &[ShardKey]) -> String {
    shards.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
