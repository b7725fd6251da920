//! Whether reading by id can go on at its place: the stream is the one we knew, and what we have not read is there.

use millstream_core::{Error, ErrorKind, OnMissing, Result};

use super::{lane::LaneKey, link::Link, look::Look, place::Place};
use crate::{
    error::{refused, unexpected},
    id::EntryId,
    resp::Commands,
};

/// Makes sure that reading can go on behind the entry that was read last; where others behind it are gone, `on_missing` says
/// where it goes on.
pub(super) async fn resume(link: &mut Link, key: &mut LaneKey, on_missing: OnMissing) -> Result<()> {
    let after = key.after;
    if !after.seen || after.id == EntryId::ZERO {
        return Ok(());
    }
    let name = &key.shard.name;
    let look = look(link, name).await?;
    // A server that has lost its last writes would give ids again that lie before our place, and we would miss them.
    let Some(look) = look.filter(|look| look.newest >= after.id) else {
        return Err(older(link, name, after.id, look));
    };
    if !look.may_lack_behind(after) {
        return Ok(());
    }
    let error = trimmed(link, name, after.id, look);
    match on_missing {
        OnMissing::Fail => return Err(error),
        // What is there is all behind our place.
        OnMissing::Beginning => key.after.number = look.gone(),
        OnMissing::End => key.after = Place { number: look.added, ..Place::seen(look.newest) },
    }
    tracing::warn!(?on_missing, error = %error, "going on without records that are gone");
    Ok(())
}

fn older(link: &Link, name: &str, after: EntryId, look: Option<Look>) -> Error {
    let newest =
        look.map_or_else(|| "it is gone".to_owned(), |look| format!("its newest entry ever was {}", look.newest));
    let message = format!("the stream `{name}` of {} is older than our position {after}: {newest}", link.server());
    Error::new(ErrorKind::StateMismatch, message).hint(
        "the server lost its last writes, or the stream was deleted: `millstream state seek` goes to another place, `millstream state reset` begins anew",
    )
}

fn trimmed(link: &Link, name: &str, after: EntryId, look: Look) -> Error {
    let there = match look.first {
        Some(first) => format!("there are those from {first} up to {}", look.newest),
        None => format!("it is empty, and its newest entry ever was {}", look.newest),
    };
    let message =
        format!("records of the stream `{name}` of {} behind our position {after} are gone: {there}", link.server());
    Error::new(ErrorKind::StateMismatch, message)
        .hint("they were trimmed; go on with `on_missing: beginning` or `end`, or seek with `millstream state seek`")
}

/// What a stream says of itself; none if it is not there.
async fn look(link: &mut Link, name: &str) -> Result<Option<Look>> {
    let reply = link.call(&Commands::one(&[b"XINFO", b"STREAM", name.as_bytes()])).await?;
    match reply.error() {
        Some(text) if text.contains("no such key") => Ok(None),
        Some(text) => Err(refused(&format!("look at `{name}`"), link.server(), text)),
        None => Look::read(&reply).map(Some).ok_or_else(|| unexpected("look at a stream", link.server())),
    }
}
