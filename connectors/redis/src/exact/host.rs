//! The checkpoint inside the transaction of its epoch.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use millstream_core::{Checkpoint, Companion, Error, ErrorKind, Host, Hosted, Result, Share, Stamp};

use super::{Packed, names::HostKeys, script};
use crate::{
    client::{Request, Router, slot},
    error::refused,
    id::EntryId,
    options::Wait,
    resp::Item,
    server::Server,
};

/// Ids that one `XACK` of a script gets: Lua hands over about 8,000 words at most.
const PIECE_IDS: usize = 1000;

/// What the sinks of a transaction have staged, and how many replicas they want to have it.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    staged: Mutex<Staged>,
    wait: Mutex<Option<Wait>>,
}

/// Lists, and the streams that they go to.
#[derive(Debug, Default)]
struct Staged {
    lists: BTreeSet<Vec<u8>>,
    streams: BTreeSet<Vec<u8>>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Staged> {
        // Nothing in here can panic halfway.
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sink counts its records only when so many replicas have them.
    pub(crate) fn wait_for(&self, wait: Option<Wait>) {
        let mut all = self.wait.lock().unwrap_or_else(PoisonError::into_inner);
        *all = all.into_iter().chain(wait).reduce(Wait::stricter);
    }

    fn wait(&self) -> Option<Wait> {
        *self.wait.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A list is part of the transaction.
    pub(crate) fn add(&self, list: Vec<u8>, streams: impl IntoIterator<Item = Vec<u8>>) {
        let mut staged = self.lock();
        staged.lists.insert(list);
        staged.streams.extend(streams);
    }
}

/// What a source has handed over and not acknowledged.
#[derive(Debug)]
pub(crate) struct Acks(pub(crate) Vec<Ack>);

/// What is to be acknowledged of one shard, if it is still pending under the name of the member.
#[derive(Clone, Debug)]
pub(crate) struct Ack {
    member: String,
    key: Arc<str>,
    group: String,
    /// Ascending.
    ids: Vec<EntryId>,
}

impl Ack {
    /// Ids of a shard, in any order.
    pub(crate) fn new(member: &str, key: Arc<str>, group: &str, mut ids: Vec<EntryId>) -> Self {
        ids.sort_unstable();
        Ack { member: member.to_owned(), key, group: group.to_owned(), ids }
    }

    /// Without those that are done.
    fn without(&self, done: &[(String, Companion)]) -> Ack {
        let same = |done: &&Ack| done.key == self.key && done.group == self.group;
        let done: Vec<&Ack> = acks(done).filter(same).collect();
        let mut rest = self.clone();
        rest.ids.retain(|id| done.iter().all(|done| done.ids.binary_search(id).is_err()));
        rest
    }

    /// Packed pieces, each of them for one command: member, key, group and some ids.
    fn pieces(&self) -> impl Iterator<Item = Vec<u8>> {
        self.ids.chunks(PIECE_IDS).map(|ids| {
            let (mut packed, mut id) = (Packed::default(), Vec::new());
            packed.array(3 + ids.len());
            [self.member.as_str(), &self.key, &self.group].iter().for_each(|word| packed.text(word.as_bytes()));
            for entry in ids {
                entry.write(&mut id);
                packed.text(&id);
            }
            packed.bytes().to_vec()
        })
    }
}

/// Those that are ours, of what all sources give.
fn acks(companions: &[(String, Companion)]) -> impl Iterator<Item = &Ack> {
    companions.iter().filter_map(|(_, companion)| companion.downcast_ref::<Acks>()).flat_map(|acks| &acks.0)
}

/// Carries the checkpoint.
pub(crate) struct RedisHost {
    router: Router,
    slot: Option<u16>,
    /// Bytes of what one epoch says in one command.
    bytes_max: usize,
    wait: Option<Wait>,
    keys: HostKeys,
    owner: String,
    /// Of the newest epoch. Where the source has yet to hear of it, it gives the same again with the next.
    acknowledged: Vec<(String, Companion)>,
    shared: Arc<Shared>,
}

impl RedisHost {
    /// A host on one node, or in one slot of a cluster.
    pub(crate) fn new(server: Arc<Server>, slot: Option<u16>, bytes_max: usize, wait: Option<Wait>) -> Self {
        RedisHost {
            router: Router::new(server),
            slot,
            bytes_max,
            wait,
            keys: HostKeys::default(),
            owner: String::new(),
            acknowledged: Vec::new(),
            shared: Arc::default(),
        }
    }

    /// A script on owner, checkpoint and these keys.
    fn script(&self, script: &str, keys: &[Vec<u8>], more: &[&[u8]]) -> Request {
        let (owner, checkpoint) = (self.keys.owner(), self.keys.checkpoint());
        let count = (2 + keys.len()).to_string();
        let mut words: Vec<&[u8]> = vec![b"EVAL", script.as_bytes(), count.as_bytes()];
        words.extend([owner.as_bytes(), checkpoint.as_bytes()]);
        words.extend(keys.iter().map(Vec::as_slice));
        words.push(self.owner.as_bytes());
        words.extend(more);
        Request::new(owner.as_bytes(), &words)
    }

    /// The script that commits an epoch. What would make it too large is staged before.
    async fn transaction(&mut self, checkpoint: &[u8], companions: &[(String, Companion)]) -> Result<Request> {
        let acks: Vec<Ack> = acks(companions).map(|ack| ack.without(&self.acknowledged)).collect();
        let mut pieces: Vec<Vec<u8>> = acks.iter().flat_map(Ack::pieces).collect();
        let size: usize = checkpoint.len() + pieces.iter().map(Vec::len).sum::<usize>();
        let staged = if size > self.bytes_max { Some(self.stage(&std::mem::take(&mut pieces)).await?) } else { None };
        let (keys, lists) = {
            let shared = self.shared.lock();
            let mut streams = shared.streams.clone();
            streams.extend(acks.iter().map(|ack| ack.key.as_bytes().to_vec()));
            let keys = shared.lists.iter().cloned().chain(staged.clone()).chain(streams);
            (keys.collect::<Vec<_>>(), shared.lists.len())
        };
        let (lists, ack_lists) = (lists.to_string(), usize::from(staged.is_some()).to_string());
        let mut more: Vec<&[u8]> = vec![checkpoint, lists.as_bytes(), ack_lists.as_bytes()];
        more.extend(pieces.iter().map(Vec::as_slice));
        Ok(self.script(&script::host(), &keys, &more))
    }

    /// Puts acknowledgements into a list. If the epoch does not count, the next owner deletes it.
    async fn stage(&mut self, pieces: &[Vec<u8>]) -> Result<Vec<u8>> {
        let list = self.keys.acks().into_bytes();
        let mut rest = pieces;
        while !rest.is_empty() {
            let mut size = 0;
            // At least one, however large.
            let fit = rest.iter().take_while(|piece| {
                size += piece.len();
                size <= self.bytes_max
            });
            let (now, later) = rest.split_at(fit.count().max(1));
            rest = later;
            let now: Vec<&[u8]> = now.iter().map(Vec::as_slice).collect();
            let request = self.script(&script::stage(), std::slice::from_ref(&list), &now);
            // Once: sent again they might be there twice, which would change nothing, but take room.
            for reply in self.router.once(&[request]).await? {
                if let Some(text) = reply.error() {
                    return Err(self.refused("stage acknowledgements", text));
                }
            }
        }
        Ok(list)
    }

    /// Waits until replicas have what was decided.
    async fn replicated(&mut self) -> Result<()> {
        let Some(wait) = self.shared.wait() else { return Ok(()) };
        let topology = self.router.topology().await?;
        match topology.node(slot(self.keys.owner().as_bytes())) {
            Some(node) => wait.at(&mut self.router, node).await,
            None => Err(refused("wait for replicas", self.router.server(), "CLUSTERDOWN nobody has the slot")),
        }
    }

    fn refused(&self, what: &str, text: &str) -> Error {
        if text.contains("FENCED") {
            return Error::new(ErrorKind::Fenced, "a newer runner has taken over this pipeline")
                .hint("two runners of one pipeline cannot work at the same time");
        }
        let lost = |key: &str, what| {
            let message = format!("{} has lost `{key}`, which {what}", self.router.server());
            // Recovery sees what else is lost.
            Error::new(ErrorKind::Unavailable, message)
                .hint("it was emptied, or drops keys by itself: it needs `maxmemory-policy noeviction`")
        };
        if let Some((_, key)) = text.split_once("NOOWNER ") {
            return lost(key, "says who runs this pipeline");
        }
        if let Some((_, key)) = text.split_once("LOST ") {
            return lost(key, "holds what was staged in this epoch");
        }
        if let Some((_, key)) = text.split_once("NOTOURS ") {
            let message = format!("another member has taken over records of `{key}` that are in this epoch");
            return Error::new(ErrorKind::Unavailable, message)
                .hint("the epoch is played again without them; a longer `claim_idle` makes this rarer");
        }
        refused(what, self.router.server(), text)
    }
}

/// An epoch that does not count, and why.
fn not_committed(error: Error) -> Hosted {
    match error.kind() {
        ErrorKind::Fenced => Hosted::Fenced(error),
        _ => Hosted::Aborted(error),
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
        self.keys = HostKeys::new(&stamp.pipeline, self.slot);
    }

    async fn fence(&mut self) -> Result<Option<Checkpoint>> {
        self.router.forget();
        if self.router.topology().await?.is_cluster() && self.slot.is_none() {
            let server = self.router.server();
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{server} is a cluster, where no transaction spans the slots"),
            )
            .hint("name several of its nodes in the URL: then epochs are committed in two phases"));
        }
        self.owner = crate::unique();
        self.acknowledged.clear();
        self.shared = Arc::default();
        self.shared.wait_for(self.wait);
        let request = self.script(script::FENCE, &[self.keys.acks().into_bytes()], &[]);
        let reply = self.router.one("take over the pipeline", request).await?;
        // What was decided before may have been answered and not waited for.
        self.replicated().await?;
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
        let request = match self.transaction(&text, companions).await {
            Ok(request) => request,
            Err(error) => return not_committed(error),
        };
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
                self.acknowledged = companions.to_vec();
                match self.replicated().await {
                    Ok(()) => Hosted::Committed,
                    // A failover may take it back.
                    Err(error) => Hosted::Unknown(error),
                }
            }
            Some(text) => not_committed(self.refused("commit an epoch", text)),
        }
    }

    async fn reset(&mut self) -> Result<()> {
        let request = self.script(&script::forget(), &[], &[]);
        for reply in self.router.all(vec![request]).await? {
            if let Some(text) = reply.error() {
                return Err(self.refused("forget the checkpoint", text));
            }
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        self.router.forget();
        Ok(())
    }
}
