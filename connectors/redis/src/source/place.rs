//! A place in a stream, as a checkpoint keeps it.

use serde::{Deserialize, Serialize};

use crate::id::EntryId;

/// What stands before the id of a place that nobody has seen.
const UNSEEN: &str = "after ";

/// Behind an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) id: EntryId,
    /// The stream has had this id. If not, somebody asked for what comes behind it, which may lie in the future.
    pub(super) seen: bool,
}

impl Place {
    /// Before everything.
    pub(super) const FRONT: Place = Place { id: EntryId::ZERO, seen: false };

    /// Behind an id that the stream has had.
    pub(super) fn seen(id: EntryId) -> Self {
        Place { id, seen: true }
    }

    /// Behind an id that somebody asked for.
    pub(super) fn asked(id: EntryId) -> Self {
        Place { id, seen: false }
    }
}

impl Serialize for Place {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let before = if self.seen { "" } else { UNSEEN };
        serializer.collect_str(&format_args!("{before}{}", self.id))
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let unseen = text.strip_prefix(UNSEEN);
        let id = EntryId::parse(unseen.unwrap_or(&text).as_bytes());
        let id = id.ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no place in a stream")))?;
        Ok(Place { id, seen: unseen.is_none() })
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
        ] {
            assert_eq!(serde_json::to_string(&place).unwrap(), text);
            assert_eq!(serde_json::from_str::<Place>(text).unwrap(), place);
        }
        assert!(serde_json::from_str::<Place>("\"after\"").is_err());
    }
}
