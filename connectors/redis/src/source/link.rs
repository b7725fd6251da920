//! The connection of a lane: it follows its keys to where they go.

use std::{sync::Arc, time::Duration};

use millstream_core::Result;

use crate::{
    client::{Client, Redirect},
    error::refused,
    resp::{Commands, Reply},
    server::Server,
};

/// A slot on its way may send us around so often; then the cluster is not ready.
const REDIRECTS_MAX: usize = 8;

/// A connection of its own, for reads that wait.
pub(super) struct Link {
    client: Client,
    /// The node has our keys only for those who say `ASKING`.
    asking: bool,
    server: Arc<Server>,
}

impl Link {
    pub(super) async fn connect(server: &Arc<Server>, node: &Arc<str>) -> Result<Self> {
        Ok(Link { client: Client::connect(server, node).await?, asking: false, server: server.clone() })
    }

    pub(super) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Sends one command.
    pub(super) async fn send(&mut self, command: &Commands) -> Result<()> {
        if !self.asking {
            return self.client.send(command.bytes()).await;
        }
        let mut both = Commands::one(&[b"ASKING"]);
        both.append(command.bytes(), command.len());
        self.client.send(both.bytes()).await
    }

    /// The answer to the command that was sent, within `wait` and the usual time.
    pub(super) async fn reply(&mut self, wait: Duration) -> Result<Reply> {
        if self.asking {
            self.client.reply(self.server.timeout).await?;
        }
        self.client.reply(wait + self.server.timeout).await
    }

    /// Goes to where an answer says, if it says so. Then the command is to be sent again.
    pub(super) async fn follow(&mut self, reply: &Reply) -> Result<bool> {
        let redirect = reply.error().and_then(|text| Redirect::read(text, self.client.node()));
        let (to, asking) = match redirect {
            Some(Redirect::Moved(_, to)) => (to, false),
            Some(Redirect::Ask(to)) => (to, true),
            None => return Ok(false),
        };
        self.client = Client::connect(&self.server, &to).await?;
        self.asking = asking;
        Ok(true)
    }

    /// One command and its answer; what the server refuses is a reply.
    pub(super) async fn call(&mut self, command: &Commands) -> Result<Reply> {
        for _ in 0..REDIRECTS_MAX {
            self.send(command).await?;
            let reply = self.reply(Duration::ZERO).await?;
            if !self.follow(&reply).await? {
                return Ok(reply);
            }
        }
        Err(refused("find a key", &self.server, "TRYAGAIN too many redirects"))
    }

    /// The same; what the server refuses is an error: `cannot {what}`.
    pub(super) async fn demand(&mut self, what: &str, command: &Commands) -> Result<Reply> {
        let reply = self.call(command).await?;
        match reply.error() {
            Some(text) => Err(refused(what, &self.server, text)),
            None => Ok(reply),
        }
    }
}
