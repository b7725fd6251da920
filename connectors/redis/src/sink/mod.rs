//! The sink `redis_stream`: a batch is one round trip, over all streams, shards and nodes together.
//!
//! ```text
//!   write() ──► Encoder ──► Chunk per node ──► Pipe (several chunks under way) ──► answers ──► outcomes ──► flush()
//!                                                └► redirected, or not answered when a connection breaks: sent again
//! ```

mod encode;
mod outcomes;
mod pipe;
mod plan;
mod staged;
mod template;

use std::{collections::BTreeMap, future::poll_fn, sync::Arc, task::Poll};

use async_trait::async_trait;
use millstream_core::{Batch, Epoch, Error, ErrorKind, Last, Outcomes, Result, Share, Sink, Stamp, Token, WriteId};

pub(crate) use plan::plan;

use self::{
    encode::{Encoder, WORD_BYTES_MAX},
    outcomes::Writes,
    pipe::{Again, Pipe, Refusals, Said, Until, stuck},
    staged::Staged,
};
use crate::{
    client::{Request, Router},
    error::{is_of_server, refused, unexpected},
    id::{EntryId, number},
    options::{RedisSinkOptions, Wait},
    resp::{Commands, Item},
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
    writes: Writes,
    in_flight: usize,
    wait: Option<Wait>,
    /// `exactly_once`: nothing is written before its epoch counts.
    staged: Option<Staged>,
}

impl RedisSink {
    fn new(options: &RedisSinkOptions, server: Arc<Server>, exactly_once: bool) -> Result<Self> {
        Ok(RedisSink {
            encoder: Encoder::new(options)?,
            router: Router::new(server.clone()),
            server,
            pipes: BTreeMap::new(),
            again: Vec::new(),
            writes: Writes::default(),
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
                        None => {
                            for command in pipe.unanswered() {
                                self.writes.repeated(command.write, command.row);
                                self.again.push(command);
                            }
                        }
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

    /// Notes what a server said to one command. An error is about the server and not about the record.
    fn answered(&mut self, write: WriteId, row: u32, said: Said) -> Result<()> {
        match said {
            Said::Id(id) => self.writes.delivered(write, row, id),
            Said::Staged(slot) => self.staged.iter_mut().for_each(|staged| staged.landed(slot)),
            Said::Rejected(text) => self.writes.rejected(write, row, refused("write", &self.server, &text)),
            Said::Refused(text, command) => {
                self.again.push(command);
                if is_of_server(&text) {
                    return Err(refused("write", &self.server, &text));
                }
            }
            Said::Behind(command) => match &mut self.staged {
                None => {
                    self.writes.repeated(write, row);
                    self.again.push(command);
                }
                // Sent again it would be there twice.
                Some(staged) => {
                    let message = format!("{} has refused a record and taken one behind it", self.server);
                    staged.spoil(&Error::new(ErrorKind::Unavailable, message));
                }
            },
        }
        Ok(())
    }

    /// Sends again what was refused or not answered, and what came behind it. Comes before new commands, so that each key keeps
    /// its order; a record that had been written comes twice.
    async fn resend(&mut self) -> Result<()> {
        while !self.again.is_empty() {
            // What is still under way may have to be sent again too.
            self.drive(Until::Answered).await;
            self.again.sort_by_key(|again| (again.write, again.row));
            let request = |again: &Again| {
                let mut command = Commands::default();
                command.append(&again.bytes, 1);
                Request { slot: again.slot, command }
            };
            let requests: Vec<Request> = self.again.iter().map(request).collect();
            let replies = match &mut self.staged {
                None => self.router.all(requests).await?,
                Some(staged) => self.router.once(&requests).await.inspect_err(|error| staged.spoil(error))?,
            };
            let sent = std::mem::take(&mut self.again);
            let (mut failed, mut refusals) = (Ok(()), Refusals::default());
            for (command, reply) in sent.into_iter().zip(replies) {
                let answer = match reply.first() {
                    Item::Text(id) => Ok(Some(EntryId::parse(id).ok_or_else(|| unexpected("write", &self.server))?)),
                    Item::Integer(_) => Ok(None),
                    Item::Error(text) => Err(String::from_utf8_lossy(text).into_owned()),
                    _ => return Err(unexpected("write", &self.server)),
                };
                let (write, row) = (command.write, command.row);
                let said = refusals.said(answer, command.slot, || command);
                let answered = self.answered(write, row, said);
                failed = failed.and(answered);
            }
            failed?;
        }
        Ok(())
    }

    /// A stream is plain or in shards, and never both.
    async fn check(&mut self) -> Result<()> {
        let Some(stream) = self.encoder.constant().map(str::to_owned) else { return Ok(()) };
        let shard = format!("{stream}:0");
        let (ours, other) = if self.encoder.sharded() { (&shard, &stream) } else { (&stream, &shard) };
        let request = |name: &String| Request::new(name.as_bytes(), &[b"TYPE", name.as_bytes()]);
        let replies = self.router.all(vec![request(ours), request(other)]).await?;
        let mut kinds = replies.iter().map(|reply| match reply.first() {
            Item::Text(kind) => String::from_utf8_lossy(kind).into_owned(),
            // Who may not ask may still be allowed to write.
            _ => "none".to_owned(),
        });
        let (own, foreign) = (kinds.next().unwrap_or_default(), kinds.next().unwrap_or_default());
        if !["none", "stream"].contains(&own.as_str()) {
            return Err(Error::new(ErrorKind::Option, format!("`{ours}` of {} is a {own}, not a stream", self.server))
                .hint("name another stream")
                .within("stream"));
        }
        if foreign == "stream" {
            return Err(Error::new(
                ErrorKind::Option,
                format!("the stream `{stream}` would be there twice: `{other}` exists, and `{ours}` would be written"),
            )
            .hint("a stream is one plain key, or has `shards`; delete or rename the other")
            .within("shards"));
        }
        Ok(())
    }

    /// The largest word that all servers take, of those that say it.
    async fn word_bytes_max(&mut self) -> Result<u64> {
        let command = Commands::one(&[b"CONFIG", b"GET", b"proto-max-bulk-len"]);
        let mut most = WORD_BYTES_MAX;
        for node in self.router.topology().await?.nodes() {
            let replies = self.router.ask_node(&node, &command).await?;
            // Who may not ask, or where the command was renamed away, hears it of the record itself.
            let said = replies.first().and_then(|reply| {
                let mut items = reply.cursor();
                items.array().filter(|count| *count == 2)?;
                items.text()?;
                number(items.text()?)
            });
            most = most.min(said.unwrap_or(most));
        }
        Ok(most)
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
        let Some(staged) = &mut self.staged else { return Ok(()) };
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
        let encoded = self.encoder.encode(&batch, id, (&topology, &self.server), staging)?;
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
