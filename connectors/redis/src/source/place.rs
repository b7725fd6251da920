//! A place in a stream, as a checkpoint keeps it.

use serde::{Deserialize, Serialize};

use crate::id::{EntryId, number};

/// What stands before the id of a place that nobody has seen.
const UNSEEN: &str = "after ";

/// What stands before the number of the entry.
const NUMBER: &str = " #";

/// Behind an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) id: EntryId,
    /// The stream has had this id. If not, somebody asked for what comes behind it, which may lie in the future.
    pub(super) seen: bool,
    /// How many of the entries that were ever added do not lie behind it, as far as that is known. Entries behind it that are
    /// deleted unread do not count: it is never too high.
    pub(super) number: Option<u64>,
}

impl Place {
    /// Before everything.
    pub(super) const FRONT: Place = Place { id: EntryId::ZERO, seen: false, number: Some(0) };

    /// Behind an id that the stream has had.
    pub(super) fn seen(id: EntryId) -> Self {
        Place { id, seen: true, number: None }
    }

    /// So many entries farther, behind this one.
    pub(super) fn on_to(self, id: EntryId, entries: u64) -> Self {
        Place { number: self.number.map(|number| number.saturating_add(entries)), ..Place::seen(id) }
    }

    /// Behind an id that somebody asked for.
    pub(super) fn asked(id: EntryId) -> Self {
        Place { id, seen: false, number: None }
    }
}

impl Serialize for Place {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let before = if self.seen { "" } else { UNSEEN };
        match self.number.filter(|_| self.seen) {
            Some(number) => serializer.collect_str(&format_args!("{before}{}{NUMBER}{number}", self.id)),
            None => serializer.collect_str(&format_args!("{before}{}", self.id)),
        }
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let read = || {
            let unseen = text.strip_prefix(UNSEEN);
            let rest = unseen.unwrap_or(&text);
            // Without a number: nobody knew it, or nobody asked yet.
            let (id, number) = match rest.split_once(NUMBER) {
                Some((id, digits)) => (id, Some(number(digits.as_bytes())?)),
                None => (rest, None),
            };
            let place = Place { id: EntryId::parse(id.as_bytes())?, seen: unseen.is_none(), number };
            Some(if place == Place::asked(EntryId::ZERO) { Place::FRONT } else { place })
        };
        read().ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no place in a stream")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_were_written() {
        for (place, text) in [
            (Place::seen(EntryId { ms: 5, seq: 1 }), "\"5-1\""),
            (Place::asked(EntryId { ms: 5, seq: 1 }), "\"after 5-1\""),
            (Place::FRONT, "\"after 0-0\""),
            (Place { number: Some(123), ..Place::seen(EntryId { ms: 5, seq: 1 }) }, "\"5-1 #123\""),
        ] {
            assert_eq!(serde_json::to_string(&place).unwrap(), text);
            assert_eq!(serde_json::from_str::<Place>(text).unwrap(), place);
        }
        for wrong in ["\"after\"", "\"5-1 #\"", "\"5-1 #x\""] {
            assert!(serde_json::from_str::<Place>(wrong).is_err(), "{wrong}");
        }
    }
}
