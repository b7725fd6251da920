//! Beacons: signposts at every multiple of the beacon interval, which make a file seekable and its end quick to find.

use std::cmp::Ordering;

use super::message::{Head, LINE_END, key_and_shard};

/// Line end, remaining bytes, item count, line end: a beacon without items.
pub const BEACON_BYTES_MIN: usize = 7;

/// The longest item: key length, key of 255 bytes, shard, sequence, time, running checksum.
const ITEM_BYTES_MAX: usize = 282;

/// More than this no beacon of any interval can take.
pub(super) const BEACON_BYTES_MAX: usize = BEACON_BYTES_MIN + u8::MAX as usize * ITEM_BYTES_MAX;

/// How many items a beacon may have: half of what fits at worst, so that at least half of a file is messages.
///
/// ```
/// use millstream_codec::ss::beacon_items_max;
/// assert_eq!((beacon_items_max(128), beacon_items_max(1024), beacon_items_max(1 << 20)), (0, 1, 127));
/// ```
pub fn beacon_items_max(beacon_interval: u32) -> usize {
    let fit = (beacon_interval as usize).saturating_sub(BEACON_BYTES_MIN) / ITEM_BYTES_MAX;
    fit.min(u8::MAX as usize) / 2
}

/// A beacon, as it lies in the file.
#[derive(Clone, Copy, Debug)]
pub struct Beacon<'a> {
    /// Bytes of the message cut here that follow the beacon; other beacons that cut it too are not counted.
    pub remaining: u32,
    /// Bytes of the beacon itself.
    pub bytes: usize,
    count: u8,
    items: &'a [u8],
}

/// What a beacon says of one stream and shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeaconItem<'a> {
    /// The stream key.
    pub key: &'a str,
    /// The shard.
    pub shard: u64,
    /// The newest message of the stream, up to and with the one that the beacon cuts.
    pub sequence: u64,
    /// The latest time so far, in milliseconds since the epoch. It is that of the newest message unless times went
    /// back: existing writers keep the latest, and only so a search by time can halve its way.
    pub time_ms: u64,
    /// The running checksum of the stream, up to and with the newest message.
    pub running: u16,
}

/// What [`Beacon::decode`] found.
#[derive(Clone, Copy, Debug)]
pub enum Decoded<'a> {
    /// A whole beacon.
    Beacon(Beacon<'a>),
    /// The bytes end before the beacon does; it has at least this many.
    Short(usize),
    /// No beacon can look like this.
    Damaged(&'static str),
}

impl<'a> Beacon<'a> {
    /// Reads the beacon at the start of `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Decoded<'a> {
        if bytes.first().is_some_and(|first| *first != LINE_END) {
            return Decoded::Damaged("no line end before a beacon");
        }
        let Some(([_, remaining @ .., count], items)) = bytes.split_first_chunk::<6>() else {
            return Decoded::Short(BEACON_BYTES_MIN);
        };
        let mut rest = items;
        for _ in 0..*count {
            let Some((item, after)) = split_item(rest) else {
                // Length byte and three numbers, checksum; then the line end. The key may not have been read yet.
                let item_bytes = rest.first().map_or(1, |key_bytes| 1 + usize::from(*key_bytes)) + 26;
                return Decoded::Short(bytes.len() - rest.len() + item_bytes + 1);
            };
            if item.is_none() {
                return Decoded::Damaged("a stream key in a beacon is not UTF-8");
            }
            rest = after;
        }
        let items = &items[..items.len() - rest.len()];
        match rest.first() {
            None => Decoded::Short(bytes.len() + 1),
            Some(&LINE_END) => Decoded::Beacon(Beacon {
                remaining: u32::from_be_bytes(*remaining),
                bytes: BEACON_BYTES_MIN + items.len(),
                count: *count,
                items,
            }),
            Some(_) => Decoded::Damaged("no line end after a beacon"),
        }
    }

    /// How many items it has.
    pub fn len(&self) -> usize {
        usize::from(self.count)
    }

    /// Whether it has no items.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What it says of each stream.
    pub fn items(&self) -> impl Iterator<Item = BeaconItem<'a>> + use<'a> {
        let mut rest = self.items;
        // `decode` has proven that every item is whole and its key UTF-8.
        std::iter::from_fn(move || {
            let (item, after) = split_item(rest)?;
            rest = after;
            item
        })
    }

    /// Writes a beacon; `items` holds the name of the stream as in the file, and the rest.
    pub(super) fn encode<'i>(
        remaining: u32,
        items: impl ExactSizeIterator<Item = (&'i [u8], u64, u64, u16)>,
        out: &mut Vec<u8>,
    ) {
        out.push(LINE_END);
        out.extend_from_slice(&remaining.to_be_bytes());
        // At most 127: `beacon_items_max`.
        out.push(items.len() as u8);
        for (name, sequence, time_ms, running) in items {
            out.extend_from_slice(name);
            out.extend_from_slice(&sequence.to_be_bytes());
            out.extend_from_slice(&time_ms.to_be_bytes());
            out.extend_from_slice(&running.to_be_bytes());
        }
        out.push(LINE_END);
    }
}

/// The item at the start of `bytes` (`Some(None)` within: its key is not UTF-8), and what follows.
fn split_item(bytes: &[u8]) -> Option<(Option<BeaconItem<'_>>, &[u8])> {
    let (head, rest) = Head::split(bytes)?;
    let (running, rest) = rest.split_first_chunk::<2>()?;
    let item = key_and_shard(head.name).map(|(key, shard)| BeaconItem {
        key,
        shard,
        sequence: head.sequence,
        time_ms: head.time_ms,
        running: u16::from_be_bytes(*running),
    });
    Some((item, rest))
}

/// Who is shown in the next beacon: streams in order of key and shard, each beacon going on where the last one ended.
///
/// This is how existing writers take turns, so that our beacons are theirs byte for byte.
#[derive(Clone, Debug, Default)]
pub(super) struct Turns {
    order: Vec<u32>,
    unsorted: bool,
    /// Items shown since the turns began.
    shown: u64,
}

impl Turns {
    /// Turns that begin with the stream at place `turn` in order.
    pub(super) fn from(turn: usize) -> Self {
        Turns { shown: turn as u64, ..Turns::default() }
    }

    /// From now on the stream at index `stream` takes turns too.
    pub(super) fn join(&mut self, stream: u32) {
        self.order.push(stream);
        self.unsorted = true;
    }

    /// The streams of the next beacon, at most `items_max`. Sorting waits until here, so that a thousand new streams
    /// cost one sort and not a thousand moves.
    pub(super) fn take(
        &mut self,
        items_max: usize,
        compare: impl Fn(&u32, &u32) -> Ordering,
    ) -> impl ExactSizeIterator<Item = u32> + '_ {
        if std::mem::take(&mut self.unsorted) {
            self.order.sort_by(compare);
        }
        let streams = self.order.len();
        let (count, first) = match streams {
            0 => (0, 0),
            // The rest of a division by a usize fits one.
            _ => (streams.min(items_max), (self.shown % streams as u64) as usize),
        };
        self.shown += count as u64;
        // `first` and `n` are below `streams`, which is not zero if `n` takes any value.
        (0..count).map(move |n| self.order[(first + n) % streams])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_beacon_is_seven_bytes() {
        let mut out = Vec::new();
        Beacon::encode(258, std::iter::empty::<(&[u8], u64, u64, u16)>().collect::<Vec<_>>().into_iter(), &mut out);
        assert_eq!(out, [0x0D, 0, 0, 1, 2, 0, 0x0D]);
    }

    #[test]
    fn comes_back_and_asks_for_what_is_missing() {
        let mut out = Vec::new();
        let names = [*b"\x01a\0\0\0\0\0\0\0\x07", *b"\x01b\0\0\0\0\0\0\0\x08"];
        let items: Vec<_> = names.iter().map(|name| (&name[..], 3, 4, 5)).collect();
        Beacon::encode(9, items.into_iter(), &mut out);
        out.push(b'x');
        let Decoded::Beacon(beacon) = Beacon::decode(&out) else { panic!("not a beacon") };
        assert_eq!((beacon.remaining, beacon.bytes, beacon.len()), (9, out.len() - 1, 2));
        let item = BeaconItem { key: "b", shard: 8, sequence: 3, time_ms: 4, running: 5 };
        assert_eq!(beacon.items().last(), Some(item));
        for end in 0..out.len() - 1 {
            let Decoded::Short(bytes) = Beacon::decode(&out[..end]) else { panic!("whole or damaged at {end}") };
            assert!(bytes > end && bytes < out.len(), "{bytes} of {} at {end}", out.len() - 1);
        }
    }

    #[test]
    fn streams_take_turns() {
        let mut turns = Turns::default();
        let shown = |turns: &mut Turns| turns.take(2, u32::cmp).collect::<Vec<_>>();
        assert_eq!(shown(&mut turns), [0u32; 0]);
        for stream in [2, 0, 1] {
            turns.join(stream);
        }
        assert_eq!(shown(&mut turns), [0, 1]);
        assert_eq!(shown(&mut turns), [2, 0]);
        assert_eq!(shown(&mut turns), [1, 2]);
    }
}
