//! Ids of entries, and the sequences that stand for them.

use std::{fmt, io::Write as _};

use serde::{Deserialize, Serialize};

/// Bits of a sequence that hold the second half of an id.
const SEQ_BITS: u32 = 16;

/// Marks the sequence of an id whose second half does not fit into [`SEQ_BITS`].
const WIDE: u128 = 1 << 127;

/// The id of an entry: `ms-seq`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct EntryId {
    pub(crate) ms: u64,
    pub(crate) seq: u64,
}

impl EntryId {
    /// Before every entry: Redis has no entry `0-0`.
    pub(crate) const ZERO: EntryId = EntryId { ms: 0, seq: 0 };

    /// Reads `ms-seq`.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let dash = text.iter().position(|byte| *byte == b'-')?;
        let (ms, seq) = (text.get(..dash)?, text.get(dash + 1..)?);
        Some(EntryId { ms: number(ms)?, seq: number(seq)? })
    }

    /// Its sequence: `ms << 16 | seq` where that fits, as nearly always. Else `ms << 64 | seq` with the highest bit set, so
    /// that no two ids below the year 292 million share one.
    ///
    /// Sequences of wide ids are larger than all others; among themselves both kinds increase as the ids do.
    pub(crate) fn sequence(self) -> u128 {
        if self.seq < 1 << SEQ_BITS {
            (u128::from(self.ms) << SEQ_BITS) | u128::from(self.seq)
        } else {
            WIDE | (u128::from(self.ms) << 64) | u128::from(self.seq)
        }
    }

    /// The id of a sequence.
    pub(crate) fn of_sequence(sequence: u128) -> Self {
        if sequence & WIDE != 0 {
            // The halves of 127 bits: both casts keep all of theirs.
            EntryId { ms: ((sequence & !WIDE) >> 64) as u64, seq: sequence as u64 }
        } else {
            let ms = u64::try_from(sequence >> SEQ_BITS).unwrap_or(u64::MAX);
            EntryId { ms, seq: (sequence & ((1 << SEQ_BITS) - 1)) as u64 }
        }
    }

    /// The id before it; of the first one itself.
    pub(crate) fn before(self) -> Self {
        match (self.ms, self.seq) {
            (0, 0) => self,
            (ms, 0) => EntryId { ms: ms - 1, seq: u64::MAX },
            (ms, seq) => EntryId { ms, seq: seq - 1 },
        }
    }

    /// As text, in a buffer that is cleared first.
    pub(crate) fn write(self, text: &mut Vec<u8>) {
        text.clear();
        // Writing to a vector cannot fail.
        let _ = write!(text, "{self}");
    }
}

/// Reads a decimal number; nothing else, and none that is too large.
pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, digit| {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 { None } else { sum.checked_mul(10)?.checked_add(digit.into()) }
    })
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

impl Serialize for EntryId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EntryId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        EntryId::parse(text.as_bytes()).ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no entry id")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_name_their_ids_and_increase() {
        let id = |ms, seq| EntryId { ms, seq };
        let rising = [id(0, 1), id(5, 0), id(5, 65_535), id(6, 0), id(1_700_000_000_000, 3), id(u64::MAX, 9)];
        let wide = [id(0, 65_536), id(5, 70_000), id(5, 70_001), id(1_700_000_000_000_000_000, u64::MAX)];
        for ids in [rising.as_slice(), &wide] {
            assert!(ids.is_sorted_by_key(|id| id.sequence()));
            ids.iter().for_each(|id| assert_eq!(EntryId::of_sequence(id.sequence()), *id));
        }
        assert_eq!(id(1_700_000_000_000, 3).sequence(), (1_700_000_000_000 << 16) | 3);
        EntryId::of_sequence(u128::MAX);
        EntryId::of_sequence(u128::MAX >> 1);
    }

    #[test]
    fn only_ids_are_ids() {
        assert_eq!(EntryId::parse(b"12-3"), Some(EntryId { ms: 12, seq: 3 }));
        for text in ["", "-", "12", "12-", "-3", "1-2-3", "1a-2", "18446744073709551616-0", "+1-2"] {
            assert_eq!(EntryId::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn the_id_before_is_one_less() {
        let id = |ms, seq| EntryId { ms, seq };
        assert_eq!([id(7, 9).before(), id(7, 0).before()], [id(7, 8), id(6, u64::MAX)]);
        assert_eq!(EntryId::ZERO.before(), EntryId::ZERO);
    }
}
