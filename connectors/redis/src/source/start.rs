//! Where reading begins.

use millstream_core::{Error, ErrorKind, Position, Result, SeekTo};

use super::{
    lane::{COUNT_FIRST, LaneKey},
    look::Look,
    place::Place,
    shards::Shard,
};
use crate::{
    client::{Request, Router},
    error::{refused, unexpected},
    id::EntryId,
    options::SourceIds,
};

/// Behind the newest entry, for a group that is made.
pub(super) const END: &str = "$";

/// Where shards begin that no position names, and where they end.
#[derive(Clone, Debug)]
pub(super) struct Begin<'a> {
    pub(super) position: Option<&'a Position>,
    pub(super) start: &'a SeekTo,
    pub(super) until_end: bool,
    pub(super) group: bool,
    pub(super) ids: SourceIds,
}

/// A shard that has come while we were there is read from its beginning.
pub(super) fn from_the_beginning(shard: Shard) -> LaneKey {
    LaneKey { shard, after: Place::FRONT, end: None, group_start: EntryId::ZERO.to_string(), count: COUNT_FIRST }
}

impl Begin<'_> {
    /// Where these shards begin.
    pub(super) async fn keys(&self, router: &mut Router, shards: Vec<Shard>) -> Result<Vec<LaneKey>> {
        if self.group {
            return self.group_keys(router, shards).await;
        }
        let mut keys = Vec::with_capacity(shards.len());
        for shard in shards {
            let saved = self.position.map(|position| position.shard::<Place>(&shard.key)).transpose()?.flatten();
            let known = |position: &Position| position.0.keys().any(|other| other.stream == shard.key.stream);
            let after = match saved {
                Some(place) => Some(place),
                // Its siblings are known, so it has come since.
                None if self.position.is_some_and(known) => Some(Place::FRONT),
                None => self.start_id()?.map(Place::asked),
            };
            let newest =
                if after.is_none() || self.until_end { newest(router, &shard.name).await? } else { EntryId::ZERO };
            let end = self.until_end.then_some(newest);
            keys.push(LaneKey { after: after.unwrap_or(Place::seen(newest)), end, ..from_the_beginning(shard) });
        }
        if self.until_end {
            keys.retain(|key| key.end.is_none_or(|end| key.after.id < end));
        }
        Ok(keys)
    }

    /// Where a group begins Redis knows, once it is there.
    async fn group_keys(&self, router: &mut Router, shards: Vec<Shard>) -> Result<Vec<LaneKey>> {
        let group_start = self.group_start();
        let mut keys = Vec::with_capacity(shards.len());
        for shard in shards {
            let end = if self.until_end { Some(newest(router, &shard.name).await?) } else { None };
            let was_there = self.position.is_some_and(|position| position.0.contains_key(&shard.key));
            let mut key = LaneKey { end, group_start: group_start.clone(), ..from_the_beginning(shard) };
            if was_there {
                key.group_was_there();
            }
            keys.push(key);
        }
        Ok(keys)
    }

    /// The entry behind which `start` begins; none: the newest.
    fn start_id(&self) -> Result<Option<EntryId>> {
        match self.start {
            SeekTo::Beginning => Ok(Some(EntryId::ZERO)),
            SeekTo::End => Ok(None),
            SeekTo::At(sequence) => Ok(Some(EntryId::of_sequence(*sequence).before())),
            SeekTo::Time(time) => {
                let half = match self.ids {
                    // The first id of a millisecond that begins at this time or later.
                    SourceIds::Milliseconds => {
                        time.0.div_euclid(1_000_000) + i64::from(time.0.rem_euclid(1_000_000) > 0)
                    }
                    SourceIds::Nanoseconds => time.0,
                };
                Ok(Some(EntryId { ms: u64::try_from(half).unwrap_or(0), seq: 0 }.before()))
            }
            SeekTo::Committed => {
                Err(Error::new(ErrorKind::Unsupported, "without a group Redis knows nothing of what was committed")
                    .hint("seek to `beginning`, `end`, a sequence number or a time"))
            }
        }
    }

    fn group_start(&self) -> String {
        match self.start_id() {
            Ok(Some(id)) => id.to_string(),
            Ok(None) => END.to_owned(),
            // A group that has committed nothing begins where streams begin.
            Err(_) => EntryId::ZERO.to_string(),
        }
    }
}

/// The newest id that a stream has ever given.
async fn newest(router: &mut Router, name: &str) -> Result<EntryId> {
    let request = Request::new(name.as_bytes(), &[b"XINFO", b"STREAM", name.as_bytes()]);
    let reply = router.all(vec![request]).await?.pop();
    let reply = reply.ok_or_else(|| unexpected("look at a stream", router.server()))?;
    match reply.error() {
        // Deleted since it was found.
        Some(text) if text.contains("no such key") => Ok(EntryId::ZERO),
        Some(text) => Err(refused(&format!("look at `{name}`"), router.server(), text)),
        None => {
            let look = Look::read(&reply).ok_or_else(|| unexpected("look at a stream", router.server()))?;
            Ok(look.newest)
        }
    }
}
