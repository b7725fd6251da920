//! Entries as they are: every field, by its own name.

use bytes::Bytes;
use millstream_core::{Error, ErrorKind, Result, Timestamp};

use super::{RedisAdmin, StreamKey};
use crate::{
    error::unexpected,
    id::{EntryId, number},
    options::SourceIds,
    resp::{Cursor, Reply},
};

/// Entries of the first page; later ones follow their sizes.
const PAGE: u64 = 100;

/// Most entries of a page.
const PAGE_MAX: u64 = 10_000;

/// What a page should come to, in bytes: memory stays flat however many entries there are.
const PAGE_BYTES: usize = 1 << 20;

/// The greatest id there can be.
const LAST: EntryId = EntryId { ms: u64::MAX, seq: u64::MAX };

/// An entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `ms-seq`.
    pub id: String,
    /// Its sequence, as the source would give it.
    pub sequence: u128,
    /// What its id says of the time.
    pub time: Option<Timestamp>,
    /// Names and values, in order.
    pub fields: Vec<(Bytes, Bytes)>,
}

/// Which entries, both ends included, and how far they have been read.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// None: all has been read.
    next: Option<EntryId>,
    to: EntryId,
    page: u64,
}

impl RedisAdmin {
    /// A range out of what people write: an id (`ms-seq`, or `ms` for all of a millisecond), or a time in RFC 3339; absent:
    /// from the first, to the last.
    pub fn range(&self, from: Option<&str>, to: Option<&str>) -> Result<Range> {
        let next = from.map(|text| bound(text, 0, self.ids)).transpose()?.unwrap_or(EntryId::ZERO);
        let to = to.map(|text| bound(text, u64::MAX, self.ids)).transpose()?.unwrap_or(LAST);
        Ok(Range { next: Some(next), to, page: PAGE })
    }

    /// The next entries of a key, at most `limit`; none when there are no more in the range.
    pub async fn read(&mut self, key: &StreamKey, range: &mut Range, limit: u64) -> Result<Vec<Entry>> {
        let Some(from) = range.next.filter(|from| *from <= range.to && limit > 0) else { return Ok(Vec::new()) };
        let count = range.page.min(limit);
        let (from, to) = (from.to_string(), range.to.to_string());
        let words: [&[u8]; 6] =
            [b"XRANGE", key.name.as_bytes(), from.as_bytes(), to.as_bytes(), b"COUNT", &count.to_string().into_bytes()];
        let reply = self.command("read", key, &words).await?;
        let entries = read_entries(&reply, self.ids).ok_or_else(|| unexpected("read entries", self.router.server()))?;
        let last = entries.last().and_then(|entry| EntryId::parse(entry.id.as_bytes()));
        range.next = last.and_then(after);
        range.page = fitting(reply.data().len(), entries.len() as u64);
        Ok(entries)
    }
}

/// How many entries like these come to a page.
pub(super) fn fitting(bytes: usize, entries: u64) -> u64 {
    let each = bytes as u64 / entries.max(1);
    (PAGE_BYTES as u64 / each.max(1)).clamp(1, PAGE_MAX)
}

/// The id after this one, unless it is the last.
pub(super) fn after(id: EntryId) -> Option<EntryId> {
    match (id.ms, id.seq) {
        (ms, u64::MAX) => Some(EntryId { ms: ms.checked_add(1)?, seq: 0 }),
        (ms, seq) => Some(EntryId { ms, seq: seq + 1 }),
    }
}

/// An id as people write it; `seq` is for one that has no second half.
pub(super) fn bound(text: &str, seq: u64, ids: SourceIds) -> Result<EntryId> {
    if let Some(id) = EntryId::parse(text.as_bytes()) {
        return Ok(id);
    }
    if let Some(ms) = number(text.as_bytes()) {
        return Ok(EntryId { ms, seq });
    }
    match Timestamp::parse(text) {
        // The first of this time or later; as an end the last before, or of just this millisecond.
        Ok(time) => match (first_half(time, ids), seq) {
            ((half, true), _) => Ok(EntryId { ms: half, seq }),
            ((half, false), 0) => Ok(EntryId { ms: half.saturating_add(1), seq: 0 }),
            ((half, false), _) => Ok(EntryId { ms: half, seq }),
        },
        Err(_) => Err(Error::new(ErrorKind::Option, format!("`{text}` is no id of an entry")).hint(
            "write it as `1767323045678-0`, as milliseconds `1767323045678`, or as a time `2026-01-02T03:04:05Z`",
        )),
    }
}

/// The first half of the ids of a time, rounded down, and whether that is exact.
fn first_half(time: Timestamp, ids: SourceIds) -> (u64, bool) {
    let unit = match ids {
        SourceIds::Milliseconds => 1_000_000,
        SourceIds::Nanoseconds => 1,
    };
    match u64::try_from(time.0.div_euclid(unit)) {
        Ok(half) => (half, time.0.rem_euclid(unit) == 0),
        // Before 1970: before all of them.
        Err(_) => (0, true),
    }
}

fn time_of(id: EntryId, ids: SourceIds) -> Option<Timestamp> {
    let half = i64::try_from(id.ms).ok()?;
    match ids {
        SourceIds::Milliseconds => half.checked_mul(1_000_000).map(Timestamp),
        SourceIds::Nanoseconds => Some(Timestamp(half)),
    }
}

/// Ids and fields of an answer; values stay where it was read.
fn read_entries(reply: &Reply, ids: SourceIds) -> Option<Vec<Entry>> {
    let mut cursor = reply.cursor();
    let count = cursor.array()?;
    let mut entries = Vec::with_capacity(count.min(PAGE_MAX as usize));
    for _ in 0..count {
        cursor.array()?;
        let id = EntryId::parse(cursor.text()?)?;
        let fields = read_fields(reply, &mut cursor)?;
        entries.push(Entry { id: id.to_string(), sequence: id.sequence(), time: time_of(id, ids), fields });
    }
    Some(entries)
}

fn read_fields(reply: &Reply, cursor: &mut Cursor<'_>) -> Option<Vec<(Bytes, Bytes)>> {
    let pairs = cursor.array()? / 2;
    let mut fields = Vec::new();
    for _ in 0..pairs {
        let (name, value) = (cursor.text()?, cursor.text()?);
        fields.push((reply.data().slice_ref(name), reply.data().slice_ref(value)));
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_an_id_a_millisecond_or_a_time() {
        let of = |text: &str, seq| bound(text, seq, SourceIds::Milliseconds).map(|id| id.to_string());
        assert_eq!(of("12-3", 0).unwrap(), "12-3");
        assert_eq!(of("12", 0).unwrap(), "12-0");
        assert_eq!(of("12", u64::MAX).unwrap(), format!("12-{}", u64::MAX));
        assert_eq!(of("1970-01-01T00:00:01Z", 0).unwrap(), "1000-0");
        // Between two milliseconds: the first after it, the last before it.
        assert_eq!(of("1970-01-01T00:00:01.0005Z", 0).unwrap(), "1001-0");
        assert_eq!(of("1970-01-01T00:00:01.0005Z", u64::MAX).unwrap(), format!("1000-{}", u64::MAX));
        for wrong in ["", "x", "1-", "-", "1-2-3"] {
            assert_eq!(of(wrong, 0).unwrap_err().kind(), ErrorKind::Option, "{wrong}");
        }
        let nanoseconds = bound("1970-01-01T00:00:01Z", 0, SourceIds::Nanoseconds).unwrap();
        assert_eq!(nanoseconds.to_string(), "1000000000-0");
    }

    #[test]
    fn pages_follow_the_size_of_entries() {
        assert_eq!(fitting(0, 0), PAGE_MAX);
        assert_eq!(fitting(10 << 20, 1), 1);
        assert_eq!(fitting(100 * 1024, 100), 1024);
    }
}
