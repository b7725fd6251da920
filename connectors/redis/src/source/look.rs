//! What a stream says of itself.

use super::place::Place;
use crate::{
    id::EntryId,
    resp::{Cursor, Item, Reply},
};

/// What a stream says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Look {
    /// Entries that were ever added; servers before 7.0 do not say.
    pub(super) added: Option<u64>,
    /// Those that are there.
    pub(super) entries: u64,
    pub(super) first: Option<EntryId>,
    /// The newest id that it has ever given.
    pub(super) newest: EntryId,
    /// The highest id that was deleted by itself, and not trimmed.
    pub(super) deleted: EntryId,
}

impl Look {
    /// The answer to `XINFO STREAM`.
    pub(super) fn read(reply: &Reply) -> Option<Look> {
        let (mut look, mut cursor) = (Look::default(), reply.cursor());
        for _ in 0..cursor.array()? / 2 {
            match cursor.text()? {
                b"entries-added" => look.added = count(&mut cursor),
                b"length" => look.entries = count(&mut cursor)?,
                b"last-generated-id" => look.newest = EntryId::parse(cursor.text()?)?,
                b"max-deleted-entry-id" => look.deleted = EntryId::parse(cursor.text()?)?,
                b"first-entry" => {
                    let mut inside = cursor;
                    cursor.skip();
                    look.first = if inside.array()? > 0 { EntryId::parse(inside.text()?) } else { None };
                }
                _ => cursor.skip(),
            }
        }
        Some(look)
    }

    /// Whether entries behind a place, up to which all was read, may be gone. What is trimmed goes from the front: as long as its
    /// own or one before it is there, nothing behind it was. Where all of them are gone, nothing else is if so many went as its
    /// number says; without a number only if it is all that ever went.
    pub(super) fn may_lack_behind(&self, place: Place) -> bool {
        let front_is_there = self.first.is_some_and(|first| first <= place.id);
        let only_that = |gone| place.number == Some(gone) || (gone == 1 && self.deleted == place.id);
        let only_read = self.gone().is_some_and(only_that);
        self.newest > place.id && !front_is_there && !only_read
    }

    /// Entries that were added and are not there any more.
    pub(super) fn gone(&self) -> Option<u64> {
        self.added.map(|added| added.saturating_sub(self.entries))
    }
}

/// A number; nil where nobody knows it.
pub(super) fn count(cursor: &mut Cursor<'_>) -> Option<u64> {
    match cursor.next()? {
        Item::Integer(number) => u64::try_from(number).ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_trimmed_goes_from_the_front() {
        let id = |ms| EntryId { ms, seq: 0 };
        // Ten were added, ids 1 to 10.
        let look = |first: u64, entries, deleted| {
            let first = (entries > 0).then_some(id(first));
            Look { added: Some(10), entries, first, newest: id(10), deleted: id(deleted) }
        };
        for (look, read, may_lack) in [
            (look(1, 10, 0), 1, false),
            (look(4, 7, 0), 4, false),
            // The reader's own is gone, and perhaps the next too.
            (look(5, 6, 0), 4, true),
            (look(8, 3, 0), 4, true),
            (look(0, 0, 0), 4, true),
            // All was read before it went.
            (look(0, 0, 10), 10, false),
            // Somebody deleted single entries: in the middle, or the first, which was read.
            (look(1, 8, 7), 4, false),
            (look(2, 9, 1), 1, false),
            (look(3, 8, 2), 2, true),
        ] {
            assert_eq!(look.may_lack_behind(Place::seen(id(read))), may_lack, "{look:?} {read}");
        }
        // The number of the entry that was read tells more.
        for (look, read, may_lack) in
            [(look(5, 6, 0), 4, false), (look(8, 3, 0), 4, true), (look(0, 0, 0), 4, true), (look(3, 8, 2), 2, false)]
        {
            let place = Place { number: Some(read), ..Place::seen(id(read)) };
            assert_eq!(look.may_lack_behind(place), may_lack, "{look:?} {read}");
        }
    }
}
