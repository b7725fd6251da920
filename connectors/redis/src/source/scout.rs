//! Looks for new shards while others are read, and at how much there is to read.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use millstream_core::ShardKey;
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

use super::{lag::Backlog, lane::News, shards::Finder};
use crate::client::Router;

/// A stream that is not there yet is looked for this often: its first record should not wait long.
const MISSING: Duration = Duration::from_millis(100);

/// How old a lag may be: as often as people look at it.
const LOOK: Duration = Duration::from_secs(2);

/// A task that runs. Ends when this is dropped.
pub(super) struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Shards that are not there any more, for the scout to look for: at most those that it has found.
#[derive(Clone, Debug, Default)]
pub(super) struct Gone(Arc<Mutex<BTreeSet<ShardKey>>>);

impl Gone {
    /// This one.
    pub(super) fn add(&self, shard: ShardKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(shard);
    }

    fn take(&self) -> BTreeSet<ShardKey> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A task with a connection of its own.
pub(super) struct Scout {
    pub(super) finder: Finder,
    pub(super) router: Router,
    pub(super) every: Duration,
    pub(super) news: mpsc::Sender<News>,
    pub(super) backlog: Backlog,
    pub(super) group: Option<String>,
    pub(super) gone: Gone,
}

impl Scout {
    /// Begins to look.
    pub(super) fn start(mut self) -> Running {
        Running(tokio::spawn(async move {
            let (mut find_at, mut look_at) = (Instant::now() + self.pause(), Instant::now() + LOOK);
            loop {
                tokio::time::sleep_until(find_at.min(look_at)).await;
                if find_at <= look_at {
                    if let Some(news) = self.find().await
                        && self.news.send(news).await.is_err()
                    {
                        return;
                    }
                    find_at = Instant::now() + self.pause();
                } else {
                    let shards = self.finder.known();
                    // Those who read say what is wrong, and louder.
                    let _ = self.backlog.look(&mut self.router, &shards, self.group.as_deref()).await;
                    look_at = Instant::now() + LOOK;
                }
            }
        }))
    }

    fn pause(&self) -> Duration {
        if self.finder.missing().is_empty() { self.every } else { self.every.min(MISSING) }
    }

    async fn find(&mut self) -> Option<News> {
        self.gone.take().iter().for_each(|shard| self.finder.lose(shard));
        match self.finder.find(&mut self.router, false).await {
            Ok(found) if found.is_empty() => None,
            Ok(found) => Some(News::Found(found)),
            Err(error) if error.facts().retry => None,
            Err(error) => Some(News::Blind(error)),
        }
    }
}
