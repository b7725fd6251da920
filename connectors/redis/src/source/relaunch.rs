//! What comes before the keys of lanes that have failed are read again: who has them now, and what is due.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use millstream_core::{Error, ErrorKind, Result, ShardKey};

use super::{group, opened::Open};
use crate::{
    client::{Router, Topology},
    server::Server,
};

/// Goes on while it is polled, as a lane does. It outlives the call of `next` that began it: a runtime drops that call again and
/// again, and a server that is slow to answer would never be reached if each began anew.
pub(super) type Relaunch = Pin<Box<dyn Future<Output = Result<Ready>> + Send>>;

/// The servers are there again.
pub(super) struct Ready {
    router: Router,
    topology: Topology,
    /// What was due when it began, and is acknowledged.
    settled: BTreeMap<ShardKey, u64>,
}

impl Open {
    /// Begins to look for the servers, with connections of its own.
    pub(super) fn look_for(&self, server: &Arc<Server>) -> Relaunch {
        let (reading, names, settled) = (self.reading.clone(), self.names.clone(), self.due.clone());
        let (due, mut router) = (self.due_ids(), Router::new(server.clone()));
        Box::pin(async move {
            let topology = router.topology().await?;
            if let Some(member) = &reading.member {
                group::acknowledge(&mut router, member, &names, &due).await?;
            }
            Ok(Ready { router, topology, settled })
        })
    }

    /// Reads all keys again that lanes have left.
    pub(super) fn relaunch(&mut self, router: &mut Router, ready: Ready) -> Result<()> {
        *router = ready.router;
        self.settled(&ready.settled);
        let keys = std::mem::take(&mut self.stopped);
        self.launch(keys, &ready.topology)?;
        if self.stopped.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unavailable, format!("nobody in {} has some of the keys", router.server())))
    }
}

/// The end of a relaunch, which is then over. Cancel-safe; there must be one.
pub(super) async fn end(relaunch: &mut Option<Relaunch>) -> Result<Ready> {
    let Some(running) = relaunch else { return std::future::pending().await };
    let ended = running.await;
    *relaunch = None;
    ended
}
