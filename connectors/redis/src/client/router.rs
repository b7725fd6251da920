//! Commands to whoever has their keys.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use millstream_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::{Client, Redirect, Topology, slot};
use crate::{
    error::{refused, unexpected},
    resp::{Commands, Reply},
    server::Server,
};

/// A slot on its way may send us around so often; then the cluster is not ready.
const REDIRECTS_MAX: usize = 8;

/// Between two tries of keys whose slot is on its way.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// A node has so long to answer before the next one is asked too: longer than it takes where all is well.
const HEAD_START: Duration = Duration::from_millis(250);

/// A command, and a key that says where it goes.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) slot: u16,
    pub(crate) command: Commands,
}

impl Request {
    /// A command on a key.
    pub(crate) fn new(key: &[u8], words: &[&[u8]]) -> Self {
        Request { slot: slot(key), command: Commands::one(words) }
    }
}

/// Connections for commands that are answered at once, one to each node.
#[derive(Debug)]
pub(crate) struct Router {
    server: Arc<Server>,
    topology: Option<Topology>,
    clients: HashMap<Arc<str>, Client>,
}

impl Router {
    /// Connected when it is first used.
    pub(crate) fn new(server: Arc<Server>) -> Self {
        Router { server, topology: None, clients: HashMap::new() }
    }

    /// The servers.
    pub(crate) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Forgets connections and what it knows of the cluster.
    pub(crate) fn forget(&mut self) {
        self.clients.clear();
        self.topology = None;
    }

    /// Whether it has connections, which may have died in silence.
    pub(crate) fn connected(&self) -> bool {
        !self.clients.is_empty()
    }

    /// Where keys are; asked for once, and again after `forget`.
    pub(crate) async fn topology(&mut self) -> Result<Topology> {
        if let Some(topology) = &self.topology {
            return Ok(topology.clone());
        }
        let (topology, client) = first(&self.server).await?;
        self.clients.insert(client.node().clone(), client);
        self.topology = Some(topology.clone());
        Ok(topology)
    }

    /// Commands for one node. Cancel-safe: a connection that waits for answers is dropped with the future.
    pub(crate) async fn ask_node(&mut self, node: &Arc<str>, commands: &Commands) -> Result<Vec<Reply>> {
        self.ask_slow(node, commands, Duration::ZERO).await
    }

    /// The same, for commands that the server takes so long to answer.
    pub(crate) async fn ask_slow(
        &mut self,
        node: &Arc<str>,
        commands: &Commands,
        takes: Duration,
    ) -> Result<Vec<Reply>> {
        let mut client = match self.clients.remove(node) {
            Some(client) => client,
            None => Client::connect(&self.server, node).await?,
        };
        let replies = client.ask(commands, takes).await?;
        if !replies.last().is_some_and(Reply::closes) {
            self.clients.insert(node.clone(), client);
        }
        Ok(replies)
    }

    /// One command; what the server refuses is an error: `cannot {what}`.
    pub(crate) async fn one(&mut self, what: &str, request: Request) -> Result<Reply> {
        let reply = self.all(vec![request]).await?.pop();
        let reply = reply.ok_or_else(|| Error::new(ErrorKind::Bug, "a command without an answer"))?;
        match reply.error() {
            Some(text) => Err(refused(what, &self.server, text)),
            None => Ok(reply),
        }
    }

    /// Many commands, in one round trip for each node; their replies in the same order. Follows redirects. What the server
    /// refuses is a reply. A connection that had died in silence is made again once.
    pub(crate) async fn all(&mut self, requests: Vec<Request>) -> Result<Vec<Reply>> {
        let known = self.connected();
        match self.once(&requests).await {
            Err(error) if known && error.kind() == ErrorKind::Unavailable => {
                self.forget();
                self.once(&requests).await
            }
            done => done,
        }
        .inspect_err(|_| self.forget())
    }

    /// The same, and what breaks is an error at once: a command that must not be carried out twice.
    pub(crate) async fn once(&mut self, requests: &[Request]) -> Result<Vec<Reply>> {
        let mut replies: Vec<Option<Reply>> = vec![None; requests.len()];
        let mut left: Vec<(usize, Option<Arc<str>>)> = (0..requests.len()).map(|i| (i, None)).collect();
        let (mut redirects, until) = (0, Instant::now() + self.server.timeout);
        while redirects < REDIRECTS_MAX {
            let (mut again, mut waits) = (Vec::new(), false);
            for (node, asking, batch) in self.by_node(requests, &left).await? {
                let answers = self.answers(requests, &node, asking, &batch).await?;
                for (i, reply) in batch.into_iter().zip(answers) {
                    if let Some(to) = self.redirect(&reply, &node) {
                        again.push((i, to));
                    } else if reply.error().is_some_and(|text| text.starts_with("TRYAGAIN")) && Instant::now() < until {
                        again.push((i, None));
                        waits = true;
                    } else if let Some(place) = replies.get_mut(i) {
                        *place = Some(reply);
                    }
                }
            }
            if again.is_empty() {
                return replies.into_iter().map(|reply| reply.ok_or_else(crate::error::not_open)).collect();
            }
            left = again;
            redirects += 1;
            if waits {
                // The keys of its slot are on their way, some here and some there: nothing was carried out.
                tokio::time::sleep(TRY_AGAIN).await;
                redirects = 0;
            }
        }
        Err(refused("find a key", &self.server, "TRYAGAIN too many redirects"))
    }

    /// What a node answers to some requests.
    async fn answers(
        &mut self,
        requests: &[Request],
        node: &Arc<str>,
        asking: bool,
        batch: &[usize],
    ) -> Result<impl Iterator<Item = Reply> + use<>> {
        let mut commands = Commands::default();
        for request in batch.iter().filter_map(|i| requests.get(*i)) {
            if asking {
                commands.push(&[b"ASKING"]);
            }
            commands.append(request.command.bytes(), 1);
        }
        let answers = self.ask_node(node, &commands).await?;
        if let Some(last) = answers.last().filter(|_| answers.len() < commands.len()) {
            // Which of them it does not take is seen only where it is alone.
            let said = refused("get all answers", &self.server, last.error().unwrap_or_default());
            return Err(said.with_kind(ErrorKind::Unavailable));
        }
        Ok(answers.into_iter().skip(usize::from(asking)).step_by(if asking { 2 } else { 1 }))
    }

    /// Which nodes get which requests.
    async fn by_node(
        &mut self,
        requests: &[Request],
        left: &[(usize, Option<Arc<str>>)],
    ) -> Result<Vec<(Arc<str>, bool, Vec<usize>)>> {
        let topology = self.topology().await?;
        let mut nodes: Vec<(Arc<str>, bool, Vec<usize>)> = Vec::new();
        for (i, to) in left {
            let slot = requests.get(*i).map_or(0, |request| request.slot);
            let node = to.as_ref().or_else(|| topology.node(slot));
            let Some(node) = node else {
                self.topology = None;
                return Err(refused("find a key", &self.server, "CLUSTERDOWN nobody has its slot"));
            };
            match nodes.iter_mut().find(|(other, asking, _)| other == node && *asking == to.is_some()) {
                Some((.., batch)) => batch.push(*i),
                None => nodes.push((node.clone(), to.is_some(), vec![*i])),
            }
        }
        if left.iter().any(|(_, to)| to.is_some()) {
            tokio::time::sleep(TRY_AGAIN / 10).await;
        }
        Ok(nodes)
    }

    /// Whom to ask instead: nobody, the slot's new node, or one node this time.
    fn redirect(&mut self, reply: &Reply, node: &Arc<str>) -> Option<Option<Arc<str>>> {
        let text = reply.error()?;
        match Redirect::read(text, node)? {
            Redirect::Moved(slot, to) => {
                self.topology.as_mut()?.moved(slot, &to);
                Some(None)
            }
            Redirect::Ask(to) => Some(Some(to)),
        }
    }
}

/// What the first node says that answers, and the connection to it. Each is asked a little after the one before, or as soon as
/// that has failed: however many do not answer, all are heard within twice the time that one may take.
async fn first(server: &Arc<Server>) -> Result<(Topology, Client)> {
    let head_start = HEAD_START.min(server.timeout / u32::try_from(server.nodes.len().max(1)).unwrap_or(u32::MAX));
    let (mut nodes, mut asked) = (server.nodes.iter(), FuturesUnordered::new());
    let mut last = None;
    loop {
        let next = nodes.next();
        asked.extend(next.map(|node| look(server, node)));
        let more = nodes.len() > 0;
        tokio::select! {
            biased;
            Some(answer) = asked.next() => match answer {
                Ok(found) => return Ok(found),
                // Somebody has to act, and would have to for the other nodes too.
                Err(error) if !error.facts().retry => return Err(error),
                Err(error) => last = Some(error),
            },
            () = tokio::time::sleep(head_start), if more => {}
            else => return Err(last.unwrap_or_else(|| Error::new(ErrorKind::Bug, "a server without nodes"))),
        }
    }
}

/// What a node says of the cluster, if it is one.
async fn look(server: &Arc<Server>, node: &Arc<str>) -> Result<(Topology, Client)> {
    let mut client = Client::connect(server, node).await?;
    let reply = client.ask(&Commands::one(&[b"CLUSTER", b"SLOTS"]), Duration::ZERO).await?.pop();
    let reply = reply.ok_or_else(|| unexpected("find the nodes", server))?;
    let cluster = server.is_cluster();
    let topology = match reply.error() {
        None => match Topology::read(&reply, node) {
            Some(Topology::Cluster(ranges)) if ranges.is_empty() => {
                Err(refused("find the nodes", server, "CLUSTERDOWN no slots are assigned"))
            }
            Some(topology) => Ok(topology),
            None => Err(unexpected("find the nodes", server)),
        },
        Some(text) if cluster && text.contains("cluster support disabled") => {
            Err(Error::new(ErrorKind::Option, format!("`{node}` of {server} is in no cluster"))
                .hint("name one node only; replicas are not read")
                .within("url"))
        }
        Some(text) if text.starts_with("LOADING") || cluster => Err(refused("find the nodes", server, text)),
        // Not a cluster, or somebody who may not ask.
        Some(_) => Ok(Topology::One(node.clone())),
    };
    Ok((topology?, client))
}
