//! What a sink has prepared, and how it is made to count.

use std::collections::BTreeSet;

use millstream_core::{Epoch, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::{names::SinkKeys, script};
use crate::{
    client::{Request, Router, slot},
    error::{refused, unexpected},
    resp::Commands,
};

/// Keys that one step of a scan looks at.
const SCAN_COUNT: &[u8] = b"1000";

/// What was prepared in one epoch; the token in the checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Prepared {
    #[serde(flatten)]
    pub(crate) of: SinkKeys,
    pub(crate) parts: Vec<Part>,
}

/// What was prepared in one slot: the list, and the keys of the streams that it goes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) list: String,
    pub(crate) streams: Vec<Vec<u8>>,
}

impl Part {
    fn request(&self, words: &[&[u8]]) -> Request {
        Request { slot: slot(self.list.as_bytes()), command: Commands::one(words) }
    }
}

/// Makes what was prepared count: once for each epoch, however often it is called.
pub(crate) async fn commit(router: &mut Router, prepared: &Prepared, epoch: Epoch) -> Result<()> {
    let (script, epoch) = (script::commit(), epoch.to_string());
    let mut requests = Vec::with_capacity(prepared.parts.len());
    for part in &prepared.parts {
        let marker = prepared.of.marker(part.list.as_bytes());
        let keys = (2 + part.streams.len()).to_string();
        let mut words: Vec<&[u8]> = vec![b"EVAL", script.as_bytes(), keys.as_bytes(), part.list.as_bytes(), &marker];
        words.extend(part.streams.iter().map(Vec::as_slice));
        words.push(epoch.as_bytes());
        requests.push(part.request(&words));
    }
    for reply in router.all(requests).await? {
        match reply.error() {
            None => {}
            Some(text) if text.contains("STATEMISMATCH") => {
                let message = format!("epoch {epoch} was prepared in {}, which does not know of it", router.server());
                return Err(Error::new(ErrorKind::StateMismatch, message)
                    .hint("the server lost its last writes: `millstream state reset` begins anew"));
            }
            Some(text) => return Err(refused(&format!("commit epoch {epoch}"), router.server(), text)),
        }
    }
    Ok(())
}

/// Forgets what was prepared.
pub(crate) async fn abort(router: &mut Router, prepared: &Prepared) -> Result<()> {
    let requests = prepared.parts.iter().map(|part| part.request(&[b"UNLINK", part.list.as_bytes()]));
    for reply in router.all(requests.collect()).await? {
        if let Some(text) = reply.error() {
            return Err(refused("abort an epoch", router.server(), text));
        }
    }
    Ok(())
}

/// Deletes all that was ever staged for a sink and has not been moved: no checkpoint names it.
pub(crate) async fn sweep(router: &mut Router, of: &SinkKeys) -> Result<()> {
    let pattern = of.pattern();
    let mut lists: BTreeSet<Vec<u8>> = BTreeSet::new();
    for node in router.topology().await?.nodes() {
        let mut at = b"0".to_vec();
        loop {
            let command = Commands::one(&[b"SCAN", &at, b"MATCH", pattern.as_bytes(), b"COUNT", SCAN_COUNT]);
            let replies = router.ask_node(&node, &command).await?;
            let reply = replies.first().ok_or_else(|| unexpected("list keys", router.server()))?;
            if let Some(text) = reply.error() {
                return Err(refused("look for what was staged", router.server(), text));
            }
            let mut items = reply.cursor();
            let next = items.array().and_then(|_| items.text());
            at = next.ok_or_else(|| unexpected("list keys", router.server()))?.to_vec();
            lists.extend((0..items.array().unwrap_or_default()).filter_map(|_| items.text().map(<[u8]>::to_vec)));
            if at == b"0" {
                break;
            }
        }
    }
    let requests = lists.iter().map(|list| Request::new(list, &[b"UNLINK", list]));
    for reply in router.all(requests.collect()).await? {
        if let Some(text) = reply.error() {
            return Err(refused("delete what was staged", router.server(), text));
        }
    }
    Ok(())
}
