//! A consumer as a source.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
};

use async_trait::async_trait;
use millstream_core::{
    Batch, Error, ErrorKind, Event, Form, Position, Result, Resume, ShardKey, Source, SourceCapabilities, SourcePlan,
};
use tokio::sync::Notify;

use super::Stdio;

/// A consumer's place in the hub, and its queue. It outlives its sources: when a pipeline is restarted inside the
/// process, the next one goes on where the last one stopped.
#[derive(Debug)]
pub(super) struct Subscription {
    stdio: Stdio,
    id: u64,
    group: Option<String>,
    news: Arc<Notify>,
    /// Records handed over so far.
    read: AtomicU64,
}

impl Subscription {
    pub(super) fn new(stdio: Stdio, streams: Vec<String>, group: Option<String>) -> Self {
        let (id, news) = stdio.hub().subscribe(streams, group.clone());
        Subscription { stdio, id, group, news, read: AtomicU64::new(0) }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        match &self.group {
            Some(group) => self.stdio.hub().hand_on(self.id, group, Vec::new()),
            None => self.stdio.hub().unsubscribe(self.id),
        }
    }
}

pub(super) fn source_plan(subscription: Subscription) -> Box<dyn SourcePlan> {
    Box::new(StdioSourcePlan(Arc::new(subscription)))
}

#[derive(Debug)]
struct StdioSourcePlan(Arc<Subscription>);

impl SourcePlan for StdioSourcePlan {
    fn capabilities(&self) -> SourceCapabilities {
        let shared = self.0.group.is_some();
        SourceCapabilities { groups: shared, give_back: shared, ..SourceCapabilities::ONCE }
    }

    fn form(&self) -> Form {
        self.0.stdio.form()
    }

    fn describe(&self) -> String {
        "standard input".to_owned()
    }

    fn create(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(StdioSource { subscription: self.0.clone(), read: 0 }))
    }
}

struct StdioSource {
    subscription: Arc<Subscription>,
    read: u64,
}

#[async_trait]
impl Source for StdioSource {
    async fn open(&mut self, _: &Resume) -> Result<()> {
        self.read = self.subscription.read.load(Relaxed);
        self.subscription.stdio.start_reading()
    }

    async fn next(&mut self) -> Result<Event> {
        let Subscription { stdio, id, news, read, .. } = &*self.subscription;
        loop {
            match stdio.hub().take(*id) {
                Poll::Ready(Some(item)) => {
                    let item = item?;
                    let records = item.batch.len() as u64;
                    self.read = read.fetch_add(records, Relaxed) + records;
                    return Ok(Event::Batch(item));
                }
                Poll::Ready(None) => return Ok(Event::End),
                // What comes before it waits is not missed.
                Poll::Pending => news.notified().await,
            }
        }
    }

    /// How many records were handed over. Nobody can go back to it: what was read is gone.
    fn position(&self) -> Result<Position> {
        let mut position = Position::default();
        position.set(self.subscription.stdio.shard(), &self.read)?;
        Ok(position)
    }

    fn shards(&self) -> Vec<ShardKey> {
        vec![self.subscription.stdio.shard()]
    }

    /// The other members of the group get them.
    async fn give_back(&mut self, records: &Batch) -> Result<()> {
        let Subscription { stdio, id, group, .. } = &*self.subscription;
        match group {
            Some(group) => stdio.hub().hand_on(*id, group, vec![Ok(records.clone().into())]),
            None => return Err(Error::new(ErrorKind::Unsupported, "only members of a group can give records back")),
        }
        Ok(())
    }
}
