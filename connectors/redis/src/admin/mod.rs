//! Looking into streams, trimming them, and asking about their groups: what `millstream redis` shows and does.
//!
//! ```no_run
//! # async fn example() -> millstream_core::Result<()> {
//! use millstream_redis::admin::{Depth, RedisAdmin};
//!
//! let mut admin = RedisAdmin::new(&serde_json::json!({"url": "redis://localhost/orders"}))?;
//! for key in admin.keys().await? {
//!     let trimmed = admin.trim(&key, &Depth::newest(1000), false, false).await?;
//!     println!("{}: {trimmed} entries removed", key.name);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Plain keys, keys in shards, and clusters. Nothing here joins a group or makes anything. Each answer is waited for as long
//! as the option `timeout` says. Dropping a future loses its answer, but not what the server does.

mod groups;
mod range;
mod trim;

use std::{sync::Arc, time::Duration};

use millstream_core::{Error, ErrorKind, Result, parse_options};
use serde_json::Value;

pub(crate) use groups::read_members;
pub use groups::{Group, Member};
pub use range::{Entry, Range};
pub use trim::{Depth, Need};

use crate::{
    client::{Request, Router},
    error::too_slow,
    options::{RedisSourceOptions, SourceIds},
    resp::Reply,
    server::{Server, spelled_out, streams},
    source::shards::Finder,
};

/// However many nodes there are to be tried, a person waits no longer than this for the first answer.
const CONNECT_WAIT: Duration = Duration::from_secs(9);

/// Streams, as an administrator sees them.
#[derive(Debug)]
pub struct RedisAdmin {
    router: Router,
    streams: Vec<String>,
    ids: SourceIds,
}

/// A key that holds a stream, or a shard of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamKey {
    /// The key itself.
    pub name: Arc<str>,
    /// The stream.
    pub stream: Arc<str>,
    /// Which shard of it.
    pub shard: u64,
}

impl RedisAdmin {
    /// From options of the source `redis_stream`, of which only those count that say where the streams are and what their
    /// ids mean. No I/O.
    pub fn new(options: &Value) -> Result<Self> {
        let options: RedisSourceOptions = parse_options(&spelled_out(options)?)?;
        let server = Arc::new(Server::of_source(&options)?);
        let streams = streams(options.stream.as_ref())?;
        Ok(RedisAdmin { router: Router::new(server), streams, ids: options.ids })
    }

    /// The servers as a URL for people.
    pub fn shown(&self) -> String {
        self.router.server().to_string()
    }

    /// The keys of all streams that are named, by stream and shard. A stream of which there is none is
    /// [`ErrorKind::NotFound`].
    pub async fn keys(&mut self) -> Result<Vec<StreamKey>> {
        let connected = tokio::time::timeout(CONNECT_WAIT, self.router.topology()).await;
        let server = self.router.server().clone();
        let all = server.nodes.join(",");
        connected.map_err(|_| too_slow("connect to", &all, &server))??;
        let mut finder = Finder::new(self.streams.clone());
        let mut shards = finder.find(&mut self.router, true).await?;
        if let Some(missing) = finder.missing().first() {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no stream `{missing}` at {server}"))
                .hint("check its name, and the database (`?db=N`)"));
        }
        let place = |name: &str| self.streams.iter().position(|stream| stream == name);
        shards.sort_by_key(|shard| (place(&shard.key.stream), shard.key.shard));
        let key = |shard: crate::source::shards::Shard| StreamKey {
            name: shard.name,
            stream: shard.key.stream,
            shard: shard.key.shard,
        };
        Ok(shards.into_iter().map(key).collect())
    }

    /// One command on a key; what the server refuses is an error: `cannot {what}`.
    async fn command(&mut self, what: &str, key: &StreamKey, words: &[&[u8]]) -> Result<Reply> {
        self.router.one(&format!("{what} `{}`", key.name), Request::new(key.name.as_bytes(), words)).await
    }
}
