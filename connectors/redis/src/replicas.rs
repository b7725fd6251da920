//! Waiting for replicas: what a server has answered a failover may still lose.

use std::sync::Arc;

use millstream_core::{Error, ErrorKind, Result};

use crate::{
    client::Router,
    error::{refused, unexpected},
    options::Wait,
    resp::Commands,
};

impl Wait {
    /// What keeps both.
    pub(crate) fn stricter(self, other: Wait) -> Wait {
        let timeout = if self.timeout.0 < other.timeout.0 { other.timeout } else { self.timeout };
        Wait { replicas: self.replicas.max(other.replicas), timeout }
    }

    /// Waits until replicas of every node have what was written so far, on any connection.
    pub(crate) async fn everywhere(self, router: &mut Router) -> Result<()> {
        for node in router.topology().await?.nodes() {
            self.at(router, &node).await?;
        }
        Ok(())
    }

    /// The same for one node.
    pub(crate) async fn at(self, router: &mut Router, node: &Arc<str>) -> Result<()> {
        // Zero would mean for ever.
        let ms = self.timeout.0.as_millis().max(1).to_string();
        let command = Commands::one(&[b"WAIT", self.replicas.to_string().as_bytes(), ms.as_bytes()]);
        // It waits for all that the server had done when this connection last asked for something.
        router.ask_node(node, &Commands::one(&[b"PING"])).await?;
        let replies = router.ask_slow(node, &command, self.timeout.0).await?;
        let what = "wait for replicas";
        let reply = replies.first().ok_or_else(|| unexpected(what, router.server()))?;
        if let Some(text) = reply.error() {
            return Err(refused(what, router.server(), text));
        }
        let got = reply.cursor().integer().ok_or_else(|| unexpected(what, router.server()))?;
        if got >= i64::from(self.replicas) {
            return Ok(());
        }
        let message = format!(
            "only {got} of {} replicas of `{node}` of {} have what was written",
            self.replicas,
            router.server()
        );
        Err(Error::new(ErrorKind::Unavailable, message).hint("check the replicas, or allow more with `wait.timeout`"))
    }
}
