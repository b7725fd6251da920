//! The checkpoint inside the transaction of its epoch.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use millstream_core::{Checkpoint, Companion, Error, ErrorKind, Host, Hosted, Result, Share, Stamp};

use super::{Packed, script};
use crate::{
    client::{Request, Router},
    error::refused,
    id::EntryId,
    resp::Item,
    server::Server,
};

/// What the sinks of a transaction have staged.
#[derive(Debug, Default)]
pub(crate) struct Shared(Mutex<Staged>);

/// Lists, and the streams that they go to.
#[derive(Debug, Default)]
struct Staged {
    lists: BTreeSet<Vec<u8>>,
    streams: BTreeSet<Vec<u8>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Staged> {
        // Nothing in here can panic halfway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A list is part of the transaction.
    pub(crate) fn add(&self, list: Vec<u8>, streams: impl IntoIterator<Item = Vec<u8>>) {
        let mut staged = self.lock();
        staged.lists.insert(list);
        staged.streams.extend(streams);
    }
}

/// What a source has handed over and not acknowledged: key, group and ids of each shard.
#[derive(Debug)]
pub(crate) struct Acks(pub(crate) Vec<(Arc<str>, String, Vec<EntryId>)>);

/// Carries the checkpoint.
pub(crate) struct RedisHost {
    router: Router,
    pipeline: String,
    owner: String,
    shared: Arc<Shared>,
}

impl RedisHost {
    pub(crate) fn new(server: Arc<Server>) -> Self {
        RedisHost { router: Router::new(server), pipeline: String::new(), owner: String::new(), shared: Arc::default() }
    }

    fn keys(&self) -> (String, String) {
        let key = |what: &str| format!("{{{}}}:millstream:{what}", self.pipeline);
        (key("owner"), key("checkpoint"))
    }

    fn script(&self, script: &str, more: &[&[u8]]) -> Request {
        let (owner, checkpoint) = self.keys();
        let mut words: Vec<&[u8]> = vec![b"EVAL", script.as_bytes(), b"2", owner.as_bytes(), checkpoint.as_bytes()];
        words.push(self.owner.as_bytes());
        words.extend(more);
        Request::new(owner.as_bytes(), &words)
    }

    fn plan(&self, companions: &[(String, Companion)]) -> Packed {
        let staged = self.shared.lock();
        let acks: Vec<&Acks> = companions.iter().filter_map(|(_, acks)| acks.downcast_ref()).collect();
        let acks: Vec<_> = acks.iter().flat_map(|acks| &acks.0).collect();
        let mut plan = Packed::default();
        plan.array(3);
        plan.texts(staged.lists.iter());
        plan.texts(staged.streams.iter());
        plan.array(acks.len());
        let mut id = Vec::new();
        for (key, group, ids) in acks {
            plan.array(2 + ids.len());
            plan.text(key.as_bytes());
            plan.text(group.as_bytes());
            for entry in ids {
                entry.write(&mut id);
                plan.text(&id);
            }
        }
        plan
    }
}

fn unreadable(cause: serde_json::Error) -> Error {
    Error::new(ErrorKind::StateMismatch, "cannot read the checkpoint in Redis")
        .caused_by(cause)
        .hint("it was written by another version; `millstream state reset` begins anew")
}

#[async_trait]
impl Host for RedisHost {
    fn introduce(&mut self, stamp: &Stamp) {
        self.pipeline.clone_from(&stamp.pipeline);
    }

    async fn fence(&mut self) -> Result<Option<Checkpoint>> {
        self.router.forget();
        if self.router.topology().await?.is_cluster() {
            let server = self.router.server();
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{server} is a cluster, where no transaction spans the slots"),
            )
            .hint("name several of its nodes in the URL: then epochs are committed in two phases"));
        }
        self.owner = crate::unique();
        self.shared = Arc::default();
        let request = self.script(script::FENCE, &[]);
        let reply = self.router.one("take over the pipeline", request).await?;
        match reply.first() {
            Item::Text(checkpoint) => serde_json::from_slice(checkpoint).map(Some).map_err(unreadable),
            _ => Ok(None),
        }
    }

    fn share(&self) -> Share {
        self.shared.clone()
    }

    async fn commit(&mut self, checkpoint: &Checkpoint, companions: &[(String, Companion)]) -> Hosted {
        let text = match serde_json::to_vec(checkpoint) {
            Ok(text) => text,
            Err(cause) => return Hosted::Aborted(unreadable(cause).with_kind(ErrorKind::Bug)),
        };
        let plan = self.plan(companions);
        let script = script::host();
        let request = self.script(&script, &[&text, plan.bytes()]);
        let reply = match self.router.once(&[request]).await.map(|mut replies| replies.pop()) {
            Ok(Some(reply)) => reply,
            Ok(None) => return Hosted::Unknown(crate::error::not_open()),
            Err(error) => {
                self.router.forget();
                return Hosted::Unknown(error);
            }
        };
        match reply.error() {
            None => {
                *self.shared.lock() = Staged::default();
                Hosted::Committed
            }
            Some(text) if text.contains("FENCED") => Hosted::Fenced(
                Error::new(ErrorKind::Fenced, "a newer runner has taken over this pipeline")
                    .hint("two runners of one pipeline cannot work at the same time"),
            ),
            Some(text) => Hosted::Aborted(refused("commit an epoch", self.router.server(), text)),
        }
    }

    async fn reset(&mut self) -> Result<()> {
        let request = self.script(script::FORGET, &[]);
        self.router.one("forget the checkpoint", request).await.map(drop)
    }

    async fn close(&mut self) -> Result<()> {
        self.router.forget();
        Ok(())
    }
}
