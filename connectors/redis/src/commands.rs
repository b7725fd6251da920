//! Commands that programs send themselves.

use std::sync::Arc;

use bytes::Bytes;
use millstream_core::{Error, ErrorKind, Result};

use crate::{
    client::{Request, Router},
    error::refused,
    resp::{Cursor, Item, Reply},
    server::Server,
};

/// How deep answers may be nested; Redis' own are at most five levels deep.
const LEVELS_MAX: usize = 32;

/// A connection for any commands, with the address, TLS, user and database of the streams; in a cluster one to each node that is
/// asked, with redirects followed.
///
/// ```no_run
/// # async fn example() -> millstream_core::Result<()> {
/// use millstream_redis::{Answer, RedisStreams};
///
/// let mut connection = RedisStreams::at("redis://localhost")?.connection()?;
/// let length = connection.command(&[b"XLEN", b"orders"]).await?;
/// assert_eq!(length, Answer::Integer(0));
/// # Ok(())
/// # }
/// ```
///
/// It needs a tokio runtime. A command is sent once: when the connection breaks, nobody knows whether it was carried out, and the
/// next command connects anew. An answer must come within the option `timeout`, so commands that block (`BLOCK`) must block for
/// less. No state of a connection is kept: `MULTI` and `SUBSCRIBE` do not work, scripts do.
#[derive(Debug)]
pub struct Connection {
    router: Router,
}

/// What a server answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing.
    Nil,
    /// A number.
    Integer(i64),
    /// A text, simple or bulk; a part of the answer as it was read, not a copy.
    Text(Bytes),
    /// An error within an array; one that is the whole answer is an [`Error`].
    Error(String),
    /// Several.
    Array(Vec<Answer>),
}

impl Connection {
    pub(crate) fn new(server: Arc<Server>) -> Self {
        Connection { router: Router::new(server) }
    }

    /// Sends a command whose first word behind its name is its key, or that has none, and waits for the answer.
    ///
    /// Dropped before its end, the command was carried out or not.
    ///
    /// # Errors
    /// The server refuses it, cannot be reached, or does not answer in time.
    pub async fn command(&mut self, words: &[&[u8]]) -> Result<Answer> {
        let key = words.get(1).copied().unwrap_or_default();
        self.command_on(key, words).await
    }

    /// The same for a command whose key stands elsewhere, such as `XGROUP CREATE key ...` or `EVAL`: a cluster asks the node
    /// that has `key`.
    ///
    /// # Errors
    /// As [`Connection::command`].
    pub async fn command_on(&mut self, key: &[u8], words: &[&[u8]]) -> Result<Answer> {
        let Some(name) = words.first() else {
            return Err(Error::new(ErrorKind::Option, "a command of no words says nothing").hint("begin with its name"));
        };
        let replies = self.router.once(&[Request::new(key, words)]).await;
        let reply = replies.inspect_err(|_| self.router.forget())?.pop();
        let reply = reply.ok_or_else(|| Error::new(ErrorKind::Bug, "a command without an answer"))?;
        match reply.error() {
            Some(text) => Err(refused(&format!("carry out {}", name.escape_ascii()), self.router.server(), text)),
            None => Ok(answer(&reply, &mut reply.cursor(), 0)),
        }
    }
}

/// The next value of a reply, with all that is in it.
fn answer(reply: &Reply, cursor: &mut Cursor<'_>, level: usize) -> Answer {
    match cursor.next() {
        None | Some(Item::Nil) => Answer::Nil,
        Some(Item::Integer(number)) => Answer::Integer(number),
        // A slice of the very buffer that the cursor goes through.
        Some(Item::Text(text)) => Answer::Text(reply.data().slice_ref(text)),
        Some(Item::Error(text)) => Answer::Error(String::from_utf8_lossy(text).into_owned()),
        Some(Item::Array(_)) if level >= LEVELS_MAX => Answer::Nil,
        Some(Item::Array(len)) => Answer::Array((0..len).map(|_| answer(reply, cursor, level + 1)).collect()),
    }
}
