//! What a sink asks the servers before it writes.

use std::sync::atomic::Ordering;

use millstream_core::{Error, ErrorKind, Result};

use super::{RedisSink, encode::WORD_BYTES_MAX};
use crate::{
    client::Request,
    id::number,
    resp::{Commands, Item},
};

impl RedisSink {
    /// A stream is plain or in shards, and never both.
    pub(super) async fn check(&mut self) -> Result<()> {
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

    /// The longest word that all servers take: as they say, or where one does not, as refused records have shown.
    pub(super) async fn word_bytes_max(&mut self) -> Result<u64> {
        let command = Commands::one(&[b"CONFIG", b"GET", b"proto-max-bulk-len"]);
        let (mut most, learned) = (WORD_BYTES_MAX, self.word_bytes_max.load(Ordering::Relaxed));
        for node in self.router.topology().await?.nodes() {
            let replies = self.router.ask_node(&node, &command).await?;
            // Some may not ask, and somewhere the command was renamed away.
            let said = replies.first().and_then(|reply| {
                let mut items = reply.cursor();
                items.array().filter(|count| *count == 2)?;
                items.text()?;
                number(items.text()?)
            });
            most = most.min(said.unwrap_or(learned));
        }
        Ok(most)
    }

    /// The newest time that is there: a record up to it may come again after a crash.
    pub(super) async fn newest_time(&mut self) -> Result<Option<u64>> {
        let keys = self.encoder.keys_with_times().into_iter().map(String::into_bytes).collect();
        Ok(self.newest(keys).await?.into_values().max())
    }
}
