//! A source that is being read, as its consumers hold it.

use std::{future::poll_fn, sync::Arc, task::Poll};

use millstream_core::{Error, Result, SeekTo, SourcePlan};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Lane,
    shelf::{Phase, Shelf},
    task::{Command, Keeping, Task},
};
use crate::{
    ConsumerOptions,
    engine::{Engine, stopped},
};

/// Questions that may wait for the task. Each is small and has somebody who waits for its answer.
const COMMANDS_MAX: usize = 16;

/// A source that is being read. When the last consumer drops it, the source is closed.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) keeping: Keeping,
    pub(crate) closed: watch::Receiver<Option<Result<()>>>,
    commands: mpsc::Sender<Command>,
    /// Dropped with the feed, which ends the task.
    _alive: oneshot::Sender<()>,
}

/// What a feed is made of.
pub(crate) struct FeedPlan {
    pub(crate) source: Box<dyn SourcePlan>,
    pub(crate) start: SeekTo,
    pub(crate) keeping: Keeping,
    /// Its name in the group of the system, where nobody else is to have it.
    pub(crate) member: Option<String>,
    /// Read only for a consumer that waits.
    pub(crate) on_demand: bool,
    /// Open only for a consumer that asks for something.
    pub(crate) lazy: bool,
    pub(crate) turnstile: Arc<tokio::sync::Mutex<()>>,
}

impl Feed {
    /// Starts to read, for a first consumer. It is there before the first record is, which would be nobody's.
    pub(crate) fn start(plan: FeedPlan, options: &ConsumerOptions, engine: &Engine) -> Result<Lane> {
        let (shelf, member) = Shelf::new(options, plan.on_demand);
        let shelf = Arc::new(shelf);
        let (commands, asked) = mpsc::channel(COMMANDS_MAX);
        let (alive, gone) = oneshot::channel();
        let (finished, closed) = watch::channel(None);
        let task = Task {
            source: plan.source.create()?,
            what: plan.source.describe(),
            capabilities: plan.source.capabilities(),
            shelf: shelf.clone(),
            commands: asked,
            gone,
            closed: finished,
            start: plan.start,
            lazy: plan.lazy,
            keeping: plan.keeping.clone(),
            member: plan.member,
            options: options.clone(),
            turnstile: plan.turnstile,
        };
        let hold = engine.clone();
        engine.spawn(async move {
            // A plan may hold what the source needs, such as its place among others.
            let _plan = plan.source;
            task.run().await;
            drop(hold);
        });
        let feed = Arc::new(Feed { shelf, keeping: plan.keeping, closed, commands, _alive: alive });
        Ok(Lane { feed, member, turn: 0 })
    }

    /// Adds another consumer; `None` if the last one has just gone.
    pub(crate) fn join(feed: Arc<Self>) -> Option<Lane> {
        let member = feed.shelf.lock().add_member()?;
        Some(Lane { feed, member, turn: 0 })
    }

    /// Asks the task. Cancel-safe: asked or not.
    pub(crate) async fn ask(&self, command: impl FnOnce(oneshot::Sender<Result<()>>) -> Command) -> Result<()> {
        self.shelf.want();
        let (reply, answer) = oneshot::channel();
        if self.commands.send(command(reply)).await.is_err() {
            return Err(self.why_gone());
        }
        answer.await.unwrap_or_else(|_| Err(self.why_gone()))
    }

    fn why_gone(&self) -> Error {
        match &self.shelf.lock().phase {
            Phase::Failed(error) => error.clone(),
            // Its consumers are still there, so it was not told to end.
            _ => stopped("reads"),
        }
    }

    /// Whether the source is open, or was.
    pub(crate) fn is_open(&self) -> bool {
        self.shelf.lock().open
    }

    /// Waits until the source is open.
    pub(crate) async fn opened(&self, member: u32) -> Result<()> {
        self.shelf.want();
        poll_fn(|cx| self.shelf.poll_opened(member, cx.waker()).map_or(Poll::Pending, Poll::Ready)).await
    }
}

/// Waits until the source is closed.
pub(crate) async fn finished(mut closed: watch::Receiver<Option<Result<()>>>) -> Result<()> {
    match closed.wait_for(Option::is_some).await {
        Ok(result) => result.clone().unwrap_or(Ok(())),
        // The task was never started or has failed, which `state` has shown.
        Err(_) => Ok(()),
    }
}
