//! The task around a source: opens it, reads as far as there is room, waits out errors, seeks and commits.

use std::{pin::pin, sync::Arc, time::Duration};

use millstream_core::{
    Error, ErrorKind, Event, Owner, Position, Result, Resume, SeekTo, ShardKey, Source, SourceCapabilities,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{
    log::Log,
    shelf::{Phase, Shelf},
};
use crate::{ConsumerOptions, Positions, Retrying, Saved, engine::stopped};

/// How long shards that are to leave wait for the records in the hands of consumers. Not long, because the whole group waits.
const LEAVING_WAIT: Duration = Duration::from_secs(2);

/// How long a source may take to disconnect.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// What a consumer asks of the task. A dropped answer means that the task has ended.
#[derive(Debug)]
pub(crate) enum Command {
    Seek(SeekTo, oneshot::Sender<Result<()>>),
    Assign(Vec<ShardKey>, oneshot::Sender<Result<()>>),
    Unassign(Vec<ShardKey>, oneshot::Sender<Result<()>>),
    Commit(oneshot::Sender<Result<()>>),
}

/// How far the source is remembered.
#[derive(Clone, Debug)]
pub(crate) enum Keeping {
    /// Not at all: nothing is acknowledged.
    Nothing,
    /// By the system, or in memory; `commit` tells the source.
    Source,
    /// Only as long as the group has members.
    Members,
    /// Under this name.
    Saved(Arc<dyn Positions>, String),
}

pub(crate) struct Task {
    pub(crate) source: Box<dyn Source>,
    pub(crate) what: String,
    pub(crate) capabilities: SourceCapabilities,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// Ends when the last consumer has gone.
    pub(crate) gone: oneshot::Receiver<()>,
    pub(crate) closed: watch::Sender<Option<Result<()>>>,
    pub(crate) start: SeekTo,
    /// Open only when somebody asks for something.
    pub(crate) lazy: bool,
    pub(crate) keeping: Keeping,
    /// Its name in the group of the system.
    pub(crate) member: Option<String>,
    pub(crate) options: ConsumerOptions,
    /// One reader of a name after the other.
    pub(crate) turnstile: Arc<tokio::sync::Mutex<()>>,
}

/// What changes while the source is open.
struct Progress {
    reading: bool,
    failures: u32,
    retry_at: Option<Instant>,
    committed_at: Instant,
    /// A commit has failed: not again before this.
    commit_again_at: Instant,
    kept_alive_at: Instant,
}

/// However the task ends, nobody waits for it.
struct Ended(Arc<Shelf>);

impl Drop for Ended {
    fn drop(&mut self) {
        let running = !matches!(self.0.lock().phase, Phase::Ended | Phase::Failed(_));
        if running {
            self.0.set(Phase::Failed(stopped("reads")));
        }
    }
}

impl Task {
    pub(crate) async fn run(mut self) {
        let ended = Ended(self.shelf.clone());
        let (turnstile, shelf) = (self.turnstile.clone(), self.shelf.clone());
        let begin = async {
            if self.lazy {
                shelf.wanted().await;
            }
            turnstile.lock().await
        };
        let _turn = tokio::select! {
            turn = begin => turn,
            _ = &mut self.gone => return,
        };
        match self.open().await {
            Ok(true) => {
                self.work().await;
                let result = self.finish().await;
                let _ = self.closed.send(Some(result)); // Nobody may be waiting.
            }
            Ok(false) => _ = self.closed.send(Some(Ok(()))),
            Err(error) => {
                self.shelf.set(Phase::Failed(error.clone()));
                self.refuse(&error).await;
            }
        }
        drop(ended);
    }

    /// Opens the source at the saved position, waiting out errors that can pass. `false`: nobody wants it any more.
    async fn open(&mut self) -> Result<bool> {
        let mut failures = 0;
        loop {
            let Task { source, keeping, start, member, options, gone, .. } = self;
            let (until_end, member) = (options.until_end, member.clone());
            let open = async {
                let saved = match &*keeping {
                    Keeping::Saved(positions, name) => positions.load(name).await?,
                    _ => None,
                };
                let position = saved.as_ref().map(|saved| saved.position.clone());
                source.open(&Resume { position, start: start.clone(), until_end, member, ..Resume::default() }).await?;
                Ok::<_, Error>(saved)
            };
            let opened = tokio::select! {
                opened = open => opened,
                _ = &mut *gone => return Ok(false),
            };
            match opened.and_then(|saved| self.begin(saved)) {
                Ok(()) => return Ok(true),
                Err(error) => {
                    failures += 1;
                    let Some(wait) = self.options.retry.wait(&error, failures) else { return Err(error) };
                    tracing::warn!(source = %self.what, error = %error.chain(), ?wait, "cannot open; trying again");
                    self.shelf.set(Phase::Retrying(Retrying { error, attempts: failures }));
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        _ = &mut self.gone => return Ok(false),
                    }
                }
            }
        }
    }

    /// The source is open.
    fn begin(&mut self, saved: Option<Saved>) -> Result<()> {
        let base = self.source.position()?;
        let mut inner = self.shelf.lock();
        if !matches!(self.keeping, Keeping::Nothing) {
            let exact = self.capabilities.seek && self.capabilities.owner == Owner::Checkpoint;
            let skip = saved.map(|saved| saved.done).unwrap_or_default();
            let mut log = Log::new(base, skip, exact);
            log.touch(); // Where it began counts too: the next run goes on from there.
            inner.log = Some(log);
        }
        inner.shards = self.source.shards();
        inner.open = true;
        drop(inner);
        self.shelf.set(Phase::Reading);
        Ok(())
    }

    async fn work(&mut self) {
        let now = Instant::now();
        let mut at = Progress {
            reading: true,
            failures: 0,
            retry_at: None,
            committed_at: now,
            commit_again_at: now,
            kept_alive_at: now,
        };
        loop {
            let room = self.shelf.room();
            let commit_at = self.commit_at(&at);
            let keep_alive_at = self.capabilities.keep_alive.map(|every| at.kept_alive_at + every);
            let (source, retry_at) = (&mut self.source, at.retry_at);
            let next = async move {
                if let Some(when) = retry_at {
                    sleep_until(when).await;
                }
                // Shards come and go also while no records are wanted.
                if room { source.next().await } else { Ok(source.news().await) }
            };
            tokio::select! {
                biased;
                _ = &mut self.gone => return,
                Some(command) = self.commands.recv() => self.obey(command, &mut at).await,
                () = until(commit_at) => {
                    if let Err(error) = self.commit().await {
                        tracing::warn!(source = %self.what, error = %error.chain(), "cannot commit; trying again");
                        at.commit_again_at = Instant::now() + self.options.retry.delay;
                    }
                    at.committed_at = Instant::now();
                }
                () = until(keep_alive_at) => {
                    if let Err(error) = self.source.keep_alive().await {
                        tracing::warn!(source = %self.what, error = %error.chain(), "cannot renew the claim");
                    }
                    at.kept_alive_at = Instant::now();
                }
                () = self.shelf.changed.notified() => {}
                event = next, if at.reading => {
                    self.event(event, &mut at).await;
                    // A source that always has more must not keep the others from their turn.
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// When to commit by itself, if there is something to commit: what the source waits for at once.
    fn commit_at(&self, at: &Progress) -> Option<Instant> {
        if !matches!(self.keeping, Keeping::Source | Keeping::Saved(..)) {
            return None;
        }
        let inner = self.shelf.lock();
        let log = inner.log.as_ref()?;
        if log.is_awaited() {
            return Some(at.commit_again_at);
        }
        let every = self.options.commit_every?;
        log.dirty().then(|| at.committed_at + every)
    }

    async fn event(&mut self, event: Result<Event>, at: &mut Progress) {
        match event {
            Ok(event) => {
                if at.failures > 0 {
                    (at.failures, at.retry_at) = (0, None);
                    self.shelf.set(Phase::Reading);
                }
                if let Err(error) = self.take(event, at).await {
                    self.fail(error, at);
                }
            }
            Err(error) => {
                at.failures += 1;
                match self.options.retry.wait(&error, at.failures) {
                    Some(wait) => {
                        tracing::warn!(source = %self.what, error = %error.chain(), ?wait, "cannot read; trying again");
                        at.retry_at = Some(Instant::now() + wait);
                        self.shelf.set(Phase::Retrying(Retrying { error, attempts: at.failures }));
                    }
                    None => self.fail(error, at),
                }
            }
        }
    }

    fn fail(&self, error: Error, at: &mut Progress) {
        at.reading = false;
        self.shelf.set(Phase::Failed(error));
    }

    async fn take(&mut self, event: Event, at: &mut Progress) -> Result<()> {
        match event {
            Event::Batch(read) => {
                let after = self.position_behind()?;
                self.shelf.lock().push(read, after);
            }
            Event::End => {
                at.reading = false;
                self.shelf.set(Phase::Ended);
            }
            Event::Added(_) => self.shelf.lock().shards = self.source.shards(),
            Event::Leaving(shards) => {
                // What is not handed out is the next owner's; what is done is committed before it takes over.
                self.shelf.leave(&shards);
                // A consumer that takes longer may see its record come to another one.
                let _ = timeout(LEAVING_WAIT, self.shelf.hands_are_free()).await;
                if let Err(error) = self.commit().await {
                    tracing::warn!(source = %self.what, error = %error.chain(), "cannot commit what is given away");
                }
                self.source.release(&shards).await?;
                self.shelf.lock().lose(&shards);
            }
            Event::Lost(shards) => {
                self.shelf.leave(&shards);
                self.shelf.lock().lose(&shards);
            }
        }
        Ok(())
    }

    /// The source's position, where it matters.
    fn position_behind(&self) -> Result<Option<Position>> {
        if matches!(self.keeping, Keeping::Nothing) { Ok(None) } else { self.source.position().map(Some) }
    }

    async fn obey(&mut self, command: Command, at: &mut Progress) {
        // Whoever asked may have given up; the work is whole either way.
        match command {
            Command::Seek(to, reply) => _ = reply.send(self.seek(&to, at).await),
            Command::Assign(shards, reply) => _ = reply.send(self.assign(&shards, at).await),
            Command::Unassign(shards, reply) => {
                let mut inner = self.shelf.lock();
                inner.assigned.remove(&shards);
                inner.keep_assigned();
                drop(inner);
                let _ = reply.send(Ok(()));
            }
            Command::Commit(reply) => {
                at.committed_at = Instant::now();
                let _ = reply.send(self.commit().await);
            }
        }
    }

    fn failed(&self) -> Result<()> {
        match &self.shelf.lock().phase {
            Phase::Failed(error) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    async fn seek(&mut self, to: &SeekTo, at: &mut Progress) -> Result<()> {
        self.failed()?;
        let can = match to {
            SeekTo::Time(_) => self.capabilities.seek_time,
            _ => self.capabilities.seek,
        };
        if !can {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("cannot go to {to}: {} cannot seek to it", self.what),
            )
            .hint("the capabilities of the source say what it can do"));
        }
        let only = self.shelf.lock().assigned.list(self.source.shards());
        let sought = self.source.seek(to, only.as_deref()).await;
        sought.map_err(|error| error.context(format!("cannot go to {to} in {}", self.what)))?;
        let base = self.position_behind()?;
        self.shelf.lock().clear(base);
        (at.reading, at.failures, at.retry_at) = (true, 0, None);
        Ok(())
    }

    async fn assign(&mut self, shards: &[ShardKey], at: &mut Progress) -> Result<()> {
        self.failed()?;
        for shard in shards {
            let resume_at = self.shelf.lock().assigned.resume_at(shard).filter(|_| self.capabilities.seek);
            if let Some(sequence) = resume_at {
                let sought = self.source.seek(&SeekTo::At(sequence), Some(std::slice::from_ref(shard))).await;
                sought.map_err(|error| error.context(format!("cannot go back to where {shard} was put aside")))?;
                at.reading = true;
            }
            let mut inner = self.shelf.lock();
            inner.assigned.add(std::slice::from_ref(shard));
            if let Some(aside) = inner.assigned.take_up(shard)
                && let Some(log) = &mut inner.log
                && resume_at.is_some()
            {
                log.resume(shard, aside.position, aside.done);
            }
            inner.keep_assigned();
            if at.reading && matches!(inner.phase, Phase::Ended) {
                inner.phase = Phase::Reading;
            }
        }
        Ok(())
    }

    /// Makes what is done durable.
    async fn commit(&mut self) -> Result<()> {
        let (saved, done, awaited) = {
            let mut inner = self.shelf.lock();
            let Some(log) = inner.log.as_mut().filter(|log| log.dirty()) else { return Ok(()) };
            let mut saved = log.saved();
            let done = if self.capabilities.acknowledge { log.newly_done() } else { Vec::new() };
            let awaited = log.is_awaited();
            inner.assigned.correct(&mut saved);
            (saved, done, awaited)
        };
        let committed = async {
            for records in done {
                self.source.acknowledge(&records).await?;
            }
            if let Keeping::Saved(positions, name) = &self.keeping {
                positions.save(name, &saved).await?;
            }
            self.source.commit(&saved.position, None).await
        };
        let result = committed.await.map_err(|error| error.context(format!("cannot commit {}", self.what)));
        if let Some(log) = &mut self.shelf.lock().log {
            match &result {
                Ok(()) if awaited => log.heard(),
                Ok(()) => {}
                Err(_) => log.touch(),
            }
        }
        result
    }

    /// Nobody reads any more: what is done is committed, what nobody has worked on is given back.
    async fn finish(&mut self) -> Result<()> {
        let work = async {
            let committed = match self.keeping {
                Keeping::Source | Keeping::Saved(..) => self.commit().await,
                _ => Ok(()),
            };
            if self.capabilities.give_back {
                let rest = self.shelf.lock().leftovers(self.capabilities.owner);
                for batch in rest {
                    self.source.give_back(&batch).await?;
                }
            }
            let closed = self.source.close().await;
            committed.and(closed)
        };
        let finished = timeout(CLOSE_WAIT, pin!(work)).await;
        let result = finished.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, format!("closing {} took longer than {CLOSE_WAIT:?}", self.what)))
        });
        if let Err(error) = &result {
            tracing::warn!(source = %self.what, error = %error.chain(), "closing failed");
        }
        result
    }

    /// The source could not be opened: every question has the same answer.
    async fn refuse(&mut self, error: &Error) {
        loop {
            tokio::select! {
                _ = &mut self.gone => break,
                Some(command) = self.commands.recv() => match command {
                    Command::Seek(_, reply)
                    | Command::Assign(_, reply)
                    | Command::Unassign(_, reply)
                    | Command::Commit(reply) => _ = reply.send(Err(error.clone())),
                },
            }
        }
        let _ = self.closed.send(Some(Ok(())));
    }
}

async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}
