//! How much there is to read: what streams say of themselves now and then, less what was read since.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millstream_core::{Result, ShardKey};

use super::{
    look::{Look, count},
    place::Place,
    shards::Shard,
};
use crate::{
    client::{Request, Router},
    id::EntryId,
    resp::Reply,
};

/// What is not yet read, by shard. Shared between the source and who looks at its streams.
#[derive(Clone, Debug, Default)]
pub(super) struct Backlog(Arc<Mutex<BTreeMap<ShardKey, Depth>>>);

/// One shard's.
#[derive(Clone, Copy, Debug)]
enum Depth {
    /// Redis counts for a group; as it said last.
    Group(Option<u64>),
    /// We count: a stream numbers its entries as they are added.
    ById {
        after: Place,
        /// The number of the newest entry, when we looked last.
        added: Option<u64>,
        /// The number of the entry that we stand at, where that is known.
        read: Option<u64>,
        /// The newest entry, when we looked last.
        newest: EntryId,
        /// The highest id that was ever deleted.
        deleted: EntryId,
    },
}

impl Backlog {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ShardKey, Depth>> {
        // Nothing in here can panic halfway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A shard is read from here.
    pub(super) fn begin(&self, shard: &ShardKey, after: Place, group: bool) {
        let (newest, deleted) = (EntryId::ZERO, EntryId::ZERO);
        let by_id = Depth::ById { after, added: None, read: after.number, newest, deleted };
        self.lock().insert(shard.clone(), if group { Depth::Group(None) } else { by_id });
    }

    /// A shard is not read any more.
    pub(super) fn end(&self, shard: &ShardKey) {
        self.lock().remove(shard);
    }

    /// So many more were read, up to here. Once a batch.
    pub(super) fn read(&self, shard: &ShardKey, to: Place, records: u64) {
        if let Some(Depth::ById { after, read, .. }) = self.lock().get_mut(shard) {
            *after = to;
            *read = read.map(|read| read.saturating_add(records));
        }
    }

    /// A place with its number, where the last look tells: it was the end, or reading begins there. Not where reading goes on,
    /// because what is gone there may be what was to be read.
    pub(super) fn numbered(&self, shard: &ShardKey, place: Place) -> Place {
        let told = match self.lock().get(shard) {
            Some(Depth::ById { added, newest, .. }) if *newest == place.id => *added,
            Some(Depth::ById { after, read, .. }) if !place.seen && *after == place => *read,
            _ => None,
        };
        Place { number: told.or(place.number), ..place }
    }

    /// Records that are there and not yet read; `None` where a stream does not tell.
    pub(super) fn records(&self) -> Option<u64> {
        let of_shard = |depth: &Depth| match depth {
            Depth::Group(lag) => *lag,
            Depth::ById { added, read, .. } => Some((*added)?.saturating_sub((*read)?)),
        };
        self.lock().values().map(of_shard).sum()
    }

    /// Asks the streams: one round trip for each node. What is not answered stays as it was.
    pub(super) async fn look(&self, router: &mut Router, shards: &[Shard], group: Option<&str>) -> Result<()> {
        let about: &[u8] = if group.is_some() { b"GROUPS" } else { b"STREAM" };
        let ask = |shard: &Shard| Request::new(shard.name.as_bytes(), &[b"XINFO", about, shard.name.as_bytes()]);
        let replies = router.all(shards.iter().map(ask).collect()).await?;
        let mut all = self.lock();
        for (shard, reply) in shards.iter().zip(replies) {
            match (all.get_mut(&shard.key), group) {
                (Some(Depth::Group(lag)), Some(group)) => *lag = group_lag(&reply, group),
                (Some(depth), None) => depth.compare(Look::read(&reply).unwrap_or_default()),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Depth {
    /// Finds out anew where we stand, if the ends of the stream tell.
    fn compare(&mut self, look: Look) {
        let Depth::ById { after, added, read, newest, deleted } = self else { return };
        let stands = after.id;
        *read = if stands == look.newest || (!after.seen && stands > look.newest) {
            look.added
        } else if look.first.is_none_or(|first| first > stands) && stands < look.newest {
            // Nothing of what is there was read.
            look.gone()
        } else if look.deleted != *deleted && look.deleted > stands {
            // Some of what we were to read is gone, and nobody says how many.
            None
        } else {
            *read
        };
        (*added, *newest, *deleted) = (look.added, look.newest, look.deleted);
    }
}

/// The lag of a group, in the answer to `XINFO GROUPS`. Nil where Redis cannot tell; absent before 7.0.
fn group_lag(reply: &Reply, group: &str) -> Option<u64> {
    let mut cursor = reply.cursor();
    for _ in 0..cursor.array()? {
        let (mut ours, mut lag) = (false, None);
        for _ in 0..cursor.array()? / 2 {
            match cursor.text()? {
                b"name" => ours = cursor.text()? == group.as_bytes(),
                b"lag" => lag = count(&mut cursor),
                _ => cursor.skip(),
            }
        }
        if ours {
            return lag;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64) -> EntryId {
        EntryId { ms, seq: 0 }
    }

    fn by_id(after: Place) -> Depth {
        Depth::ById { after, added: None, read: None, newest: EntryId::ZERO, deleted: EntryId::ZERO }
    }

    fn left(depth: Depth) -> Option<u64> {
        match depth {
            Depth::ById { added, read, .. } => Some(added?.saturating_sub(read?)),
            Depth::Group(lag) => lag,
        }
    }

    fn look(added: u64, entries: u64, first: u64, newest: u64, deleted: u64) -> Look {
        Look { added: Some(added), entries, first: Some(id(first)), newest: id(newest), deleted: id(deleted) }
    }

    #[test]
    fn the_ends_of_a_stream_tell_where_a_reader_stands() {
        // Ten were added, ids 1 to 10; the first three were trimmed.
        let ten = look(10, 7, 4, 10, 0);
        for (after, expected) in [
            (Place::FRONT, Some(7)),
            (Place::asked(id(3)), Some(7)),
            (Place::seen(id(10)), Some(0)),
            (Place::asked(id(99)), Some(0)),
            // In the middle nobody knows how many lie before.
            (Place::seen(id(6)), None),
        ] {
            let mut depth = by_id(after);
            depth.compare(ten);
            assert_eq!(left(depth), expected, "{after:?}");
        }
    }

    #[test]
    fn what_was_read_since_counts_until_something_unread_is_deleted() {
        let (backlog, shard) = (Backlog::default(), ShardKey::new("k", 0));
        backlog.begin(&shard, Place::FRONT, false);
        assert_eq!(backlog.records(), None);
        let compare = |look| backlog.lock().get_mut(&shard).unwrap().compare(look);
        compare(look(10, 10, 1, 10, 0));
        backlog.read(&shard, Place::seen(id(4)), 4);
        assert_eq!(backlog.records(), Some(6));
        compare(look(12, 12, 1, 12, 0));
        assert_eq!(backlog.records(), Some(8));
        // Deleted before where we stand, then behind it.
        compare(look(12, 11, 1, 12, 2));
        assert_eq!(backlog.records(), Some(8));
        compare(look(12, 10, 1, 12, 9));
        assert_eq!(backlog.records(), None);
        backlog.read(&shard, Place::seen(id(12)), 7);
        compare(look(12, 10, 1, 12, 9));
        assert_eq!(backlog.records(), Some(0));
    }
}
