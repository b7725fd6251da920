//! One connection to one server.

mod cluster;
mod router;
mod tls;
mod wire;

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use millstream_core::{ErrorKind, Result};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout_at},
};

pub(crate) use cluster::{Redirect, SLOTS, Topology, slot, tagged_slot};
pub(crate) use router::{Request, Router};
pub(crate) use wire::Wire;

use crate::{
    error::{broken, malformed, refused, too_slow},
    resp::{Commands, Reply, Scanner},
    server::Server,
};

/// Bytes that one read asks for at least: some small answers at once, little enough to keep for each connection.
const READ_BYTES: usize = 64 << 10;

/// A read asks for no more than this, however large the last answer was.
const READ_BYTES_MAX: usize = 4 << 20;

/// Largest answer: Redis' own limit for one value. Reads ask for so few entries that answers stay far below.
const REPLY_BYTES_MAX: usize = 1 << 30;

/// A connection. After an error it is to be dropped.
#[derive(Debug)]
pub(crate) struct Client {
    wire: Wire,
    node: Arc<str>,
    server: Arc<Server>,
    /// Read and not yet handed over.
    unread: BytesMut,
    scanner: Scanner,
    /// Size of the newest large answer: the next one may need as much.
    expected: usize,
}

impl Client {
    /// Connects, and says who we are.
    pub(crate) async fn connect(server: &Arc<Server>, node: &Arc<str>) -> Result<Self> {
        let until = Instant::now() + server.timeout;
        let connecting = timeout_at(until, Self::reach(server, node)).await;
        let wire = connecting.map_err(|_| too_slow("connect to", node, server))??;
        let mut client = Client {
            wire,
            node: node.clone(),
            server: server.clone(),
            unread: BytesMut::new(),
            scanner: Scanner::new(REPLY_BYTES_MAX),
            expected: READ_BYTES,
        };
        let greeted = timeout_at(until, client.greet()).await;
        greeted.map_err(|_| too_slow("log in to", node, server))??;
        Ok(client)
    }

    async fn reach(server: &Server, node: &str) -> Result<Wire> {
        let failed = |cause| broken("connect to", node, server, cause);
        let stream = TcpStream::connect(node).await.map_err(failed)?;
        // Commands are small and somebody waits for each answer.
        stream.set_nodelay(true).map_err(failed)?;
        match &server.tls {
            None => Ok(Wire::Plain(stream)),
            Some(options) => Ok(Wire::Tls(Box::new(tls::connect(options, node, server, stream).await?))),
        }
    }

    /// Logs in, and chooses the database.
    async fn greet(&mut self) -> Result<()> {
        let server = self.server.clone();
        let mut commands = Commands::default();
        if let Some(auth) = &server.auth {
            let password = auth.password.expose().as_bytes();
            match &auth.user {
                Some(user) => commands.push(&[b"AUTH", user.as_bytes(), password]),
                None => commands.push(&[b"AUTH", password]),
            }
        }
        if server.db != 0 {
            commands.push(&[b"SELECT", server.db.to_string().as_bytes()]);
        }
        // Also where there is nothing to say: what listens there should show that it is a Redis, and lets us in.
        commands.push(&[b"PING"]);
        self.send(commands.bytes()).await?;
        for _ in 0..commands.len() {
            let reply = self.reply(server.timeout).await?;
            // Whoever may not PING may still be allowed to work with streams.
            if let Some(text) = reply.error().filter(|text| !text.starts_with("NOPERM")) {
                return Err(refused("log in", &server, text));
            }
        }
        Ok(())
    }

    /// The node at the other end.
    pub(crate) fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// Sends bytes; all of them, or the connection is broken.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let writing = async {
            self.wire.write_all(bytes).await?;
            self.wire.flush().await
        };
        match tokio::time::timeout(self.server.timeout, writing).await {
            Ok(done) => done.map_err(|cause| broken("write to", &self.node, &self.server, cause)),
            Err(_) => Err(too_slow("write to", &self.node, &self.server)),
        }
    }

    /// The next answer; nothing coming for `wait` is an error. Cancel-safe: what was read is kept.
    pub(crate) async fn reply(&mut self, wait: Duration) -> Result<Reply> {
        loop {
            if let Some(reply) = self.whole()? {
                return Ok(reply);
            }
            // For each piece anew: whoever is not asked for a while finds its pieces there, and is not too slow.
            match tokio::time::timeout(wait, self.read()).await {
                Ok(read) => read?,
                Err(_) => return Err(too_slow("get an answer from", &self.node, &self.server)),
            }
        }
    }

    /// The answer at the front of what was read, if it is whole.
    fn whole(&mut self) -> Result<Option<Reply>> {
        let found = self.scanner.scan(&self.unread);
        let Some(end) = found.map_err(|why| malformed(&self.node, &self.server, why))? else { return Ok(None) };
        self.expected = end.clamp(READ_BYTES, READ_BYTES_MAX);
        Ok(Some(Reply::new(self.unread.split_to(end).freeze(), self.scanner.take())))
    }

    async fn read(&mut self) -> Result<()> {
        self.unread.reserve(self.expected);
        let read = self.wire.read_buf(&mut self.unread).await;
        let cause = match read {
            Ok(0) => std::io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => return Ok(()),
            Err(cause) => cause,
        };
        Err(broken("read from", &self.node, &self.server, cause))
    }

    /// Sends commands, and waits for all answers, of which the server takes so long for each. There are fewer where the last is
    /// an error behind which the server closes the connection; it is then to be dropped.
    pub(crate) async fn ask(&mut self, commands: &Commands, takes: Duration) -> Result<Vec<Reply>> {
        let sent = match self.send(commands.bytes()).await {
            Err(error) if error.kind() == ErrorKind::Timeout => return Err(error),
            sent => sent,
        };
        let mut replies = Vec::with_capacity(commands.len());
        while replies.len() < commands.len() {
            // What it said before it closed tells what it does not take.
            let reply = self.reply(self.server.timeout + takes).await;
            replies.push(reply.map_err(|error| sent.clone().err().unwrap_or(error))?);
            if replies.last().is_some_and(Reply::closes) {
                break;
            }
        }
        Ok(replies)
    }

    /// The parts of it, for those who read and write at the same time.
    pub(crate) fn into_wire(self) -> (Wire, BytesMut) {
        (self.wire, self.unread)
    }
}
