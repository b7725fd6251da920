//! Looks for new shards while others are read.

use std::time::Duration;

use tokio::{sync::mpsc, task::JoinHandle};

use super::{lane::News, shards::Finder};
use crate::client::Router;

/// A stream that is not there yet is looked for this often: its first record should not wait long.
const MISSING: Duration = Duration::from_millis(100);

/// A task that runs. Ends when this is dropped.
pub(super) struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A task with a connection of its own.
pub(super) struct Scout {
    pub(super) finder: Finder,
    pub(super) router: Router,
    pub(super) every: Duration,
    pub(super) news: mpsc::Sender<News>,
}

impl Scout {
    /// Begins to look.
    pub(super) fn start(mut self) -> Running {
        Running(tokio::spawn(async move {
            loop {
                let every = if self.finder.missing().is_empty() { self.every } else { self.every.min(MISSING) };
                tokio::time::sleep(every).await;
                let news = match self.finder.find(&mut self.router, false).await {
                    Ok(found) if found.is_empty() => continue,
                    Ok(found) => News::Found(found),
                    // Those who read say it, and louder.
                    Err(error) if error.facts().retry => continue,
                    Err(error) => News::Blind(error),
                };
                if self.news.send(news).await.is_err() {
                    return;
                }
            }
        }))
    }
}
