//! The sink `redis_stream`: a batch is one round trip, over all streams, shards and nodes together.
//!
//! ```text
//!   write() ──► Encoder ──► Chunk per node ──► Pipe (several chunks under way) ──► answers ──► outcomes ──► flush()
//!                                                └► redirected, or not answered when a connection breaks: sent again
//! ```

mod again;
mod encode;
mod opening;
mod outcomes;
mod pipe;
mod plan;
mod resend;
mod staged;
mod template;

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{Arc, atomic::AtomicU64},
    task::Poll,
};

use async_trait::async_trait;
use millstream_core::{Batch, Epoch, Error, ErrorKind, Last, Outcomes, Result, Share, Sink, Stamp, Token, WriteId};

pub(crate) use plan::plan;

use self::{
    again::Again,
    encode::Encoder,
    outcomes::Writes,
    pipe::{Pipe, Until, stuck},
    staged::Staged,
};
use crate::{
    client::Router,
    options::{RedisSinkOptions, Wait},
    server::Server,
};

/// Writes streams.
pub(crate) struct RedisSink {
    encoder: Encoder,
    server: Arc<Server>,
    router: Router,
    pipes: BTreeMap<Arc<str>, Pipe>,
    /// To be sent again before anything else.
    again: Vec<Again>,
    /// Records up to this time, the first half of an id, may come behind newer ones: they came before, and may have been written
    /// then, or were refused for now.
    may_be_late: Option<u64>,
    /// It goes on where an earlier run has ended.
    resumed: bool,
    writes: Writes,
    /// What all sinks of this plan have learned of the longest word that the server takes.
    word_bytes_max: Arc<AtomicU64>,
    in_flight: usize,
    wait: Option<Wait>,
    /// `exactly_once`: nothing is written before its epoch counts.
    staged: Option<Staged>,
}

impl RedisSink {
    fn new(
        options: &RedisSinkOptions,
        server: Arc<Server>,
        exactly_once: bool,
        word_bytes_max: Arc<AtomicU64>,
    ) -> Result<Self> {
        Ok(RedisSink {
            encoder: Encoder::new(options)?,
            router: Router::new(server.clone()),
            server,
            pipes: BTreeMap::new(),
            again: Vec::new(),
            may_be_late: None,
            resumed: false,
            writes: Writes::default(),
            word_bytes_max,
            in_flight: usize::try_from(options.in_flight.0).unwrap_or(usize::MAX),
            wait: options.wait,
            staged: exactly_once.then(Staged::default),
        })
    }

    /// Drives all pipes until they have come so far. A pipe that breaks is dropped, and what was not answered on it is to be
    /// sent again; the first such error.
    async fn drive(&mut self, until: Until) -> Option<Error> {
        let mut failed = None;
        loop {
            let before: u64 = self.pipes.values().map(Pipe::moved).sum();
            let mut answers = Vec::new();
            let mut broken = Vec::new();
            let pipes = &mut self.pipes;
            let driving = poll_fn(|cx| {
                let mut pending = false;
                for pipe in pipes.values_mut() {
                    if broken.iter().any(|(node, _)| node == pipe.node()) {
                        continue;
                    }
                    match pipe.poll(cx, until, &mut answers) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => broken.push((pipe.node().clone(), error)),
                        Poll::Pending => pending = true,
                    }
                }
                if pending { Poll::Pending } else { Poll::Ready(()) }
            });
            let done = tokio::time::timeout(self.server.timeout, driving).await.is_ok();
            let mut server_says = None;
            for answer in answers {
                let said = self.answered(answer.write, answer.row, answer.said);
                server_says = server_says.or(said.err());
            }
            let still = !done && self.pipes.values().map(Pipe::moved).sum::<u64>() == before;
            if still {
                broken.extend(self.pipes.values().map(|pipe| (pipe.node().clone(), stuck(pipe))));
            }
            for (node, error) in broken {
                if let Some(pipe) = self.pipes.remove(&node) {
                    match &mut self.staged {
                        None => pipe.unanswered().for_each(|command| self.repeat(command)),
                        // Sent again it might be there twice.
                        Some(staged) => staged.spoil(&error),
                    }
                }
                failed.get_or_insert(error);
            }
            failed = failed.or(server_says);
            if done || still {
                if failed.is_some() {
                    self.router.forget();
                }
                return failed;
            }
        }
    }

    /// Waits until replicas have what was written.
    async fn replicated(&mut self) -> Result<()> {
        match self.wait {
            Some(wait) => wait.everywhere(&mut self.router).await,
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Sink for RedisSink {
    fn introduce(&mut self, name: &str, stamp: &Stamp) {
        self.resumed = stamp.epoch > 0;
        if let Some(staged) = &mut self.staged {
            staged.introduce(name, stamp);
        }
    }

    fn join(&mut self, share: &Share) -> Result<()> {
        match &mut self.staged {
            Some(staged) => staged.join(share, self.wait),
            None => {
                Err(Error::new(ErrorKind::Bug, "a sink that is not planned for `exactly_once` joins a transaction"))
            }
        }
    }

    async fn open(&mut self, resume: &[(Epoch, Token)]) -> Result<()> {
        self.pipes.clear();
        self.again.clear();
        self.writes.clear();
        self.router.forget();
        let topology = self.router.topology().await?;
        self.check().await?;
        let most = self.word_bytes_max().await?;
        self.encoder.limit_words(most);
        let Some(staged) = &mut self.staged else {
            self.may_be_late = if self.resumed { self.newest_time().await? } else { None };
            return Ok(());
        };
        staged.open(&mut self.router, resume, topology.is_cluster()).await?;
        // What was committed before may have been answered and not waited for.
        if resume.is_empty() { Ok(()) } else { self.replicated().await }
    }

    async fn write(&mut self, batch: Batch) -> Result<WriteId> {
        if self.staged.as_ref().is_some_and(Staged::spoiled) {
            // The next flush says so, and the epoch is played again.
            self.writes.accept(batch.len(), Vec::new());
            return Ok(self.writes.next_id() - 1);
        }
        self.resend().await?;
        let batch = batch.into_bytes();
        let topology = self.router.topology().await?;
        let id = self.writes.next_id();
        let staging = match &mut self.staged {
            Some(staged) => Some(staged.staging()?),
            None => None,
        };
        let encoded = self.encoder.encode(&batch, id, (&topology, &self.server), staging);
        // Nobody had a slot, which may have changed.
        let encoded = encoded.inspect_err(|_| self.router.forget())?;
        for (node, _) in &encoded.chunks {
            if !self.pipes.contains_key(node) {
                let pipe = Pipe::connect(&self.server, node).await.inspect_err(|_| self.router.forget())?;
                self.pipes.insert(node.clone(), pipe);
            }
        }
        // From here on it is accepted: what goes wrong is sent again.
        self.writes.accept(batch.len(), encoded.rejected);
        if let Some(staged) = &mut self.staged {
            staged.note(encoded.keys)?;
        }
        for (node, chunk) in encoded.chunks {
            // Connected above.
            if let Some(pipe) = self.pipes.get_mut(&node) {
                pipe.push(chunk);
            }
        }
        if let Some(error) = self.drive(Until::Written(self.in_flight)).await {
            tracing::debug!(server = %self.server, error = %error.chain(), "commands are sent again");
        }
        Ok(id)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        if let Some(error) = self.drive(Until::Answered).await {
            tracing::debug!(server = %self.server, error = %error.chain(), "commands are sent again");
        }
        self.resend().await?;
        if let Some(staged) = &self.staged {
            staged.check()?;
        }
        self.replicated().await?;
        let mut outcomes = self.writes.settle();
        if self.staged.is_some() {
            outcomes.sequences.clear();
        }
        Ok(outcomes)
    }

    async fn prepare(&mut self, epoch: Epoch, _: Last) -> Result<Option<Token>> {
        self.staged.as_mut().map_or(Ok(None), |staged| staged.prepare(epoch))
    }

    async fn commit(&mut self, token: &Token) -> Result<()> {
        let Some(staged) = &self.staged else { return Ok(()) };
        staged.commit(&mut self.router, token).await?;
        self.replicated().await
    }

    async fn abort(&mut self, token: &Token) -> Result<()> {
        match &self.staged {
            Some(staged) => staged.abort(&mut self.router, token).await,
            None => Ok(()),
        }
    }

    async fn close(&mut self) -> Result<()> {
        self.pipes.clear();
        self.router.forget();
        Ok(())
    }
}
