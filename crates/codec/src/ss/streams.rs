//! The streams a reader has met: a small number for each, so that a record carries no key.

use std::collections::HashMap;

use super::message::{CONTROL_KEY, key_and_shard};

/// A stream and shard of one [`SsReader`](super::SsReader): its streams are numbered from 0 as they are met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

/// Streams found by the hash below, before the map is asked. Power of two; a file rarely has more streams at a time.
const RECENT: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct Streams {
    met: Vec<Met>,
    by_name: HashMap<Box<[u8]>, StreamId>,
    recent: [StreamId; RECENT],
}

#[derive(Clone, Debug)]
struct Met {
    name: Box<[u8]>,
    key: Box<str>,
    shard: u64,
}

impl Streams {
    pub(super) fn new() -> Self {
        Streams { met: Vec::new(), by_name: HashMap::new(), recent: [StreamId(0); RECENT] }
    }

    /// The number of the stream called `name`, if it has been met.
    #[inline(always)]
    pub(super) fn find(&mut self, name: &[u8]) -> Option<StreamId> {
        let slot = slot(name);
        let id = self.recent[slot];
        match self.met.get(id.0 as usize) {
            Some(met) if *met.name == *name => Some(id),
            _ => self.find_in_map(name, slot),
        }
    }

    #[inline(never)]
    fn find_in_map(&mut self, name: &[u8], slot: usize) -> Option<StreamId> {
        let id = *self.by_name.get(name)?;
        self.recent[slot] = id;
        Some(id)
    }

    /// The number of the stream called `name`; `None` if its key is not UTF-8.
    pub(super) fn meet(&mut self, name: &[u8]) -> Option<StreamId> {
        if let Some(id) = self.find(name) {
            return Some(id);
        }
        let (key, shard) = key_and_shard(name)?;
        // A file with 2^32 streams would take more memory than there is.
        let id = StreamId(u32::try_from(self.met.len()).ok()?);
        self.by_name.insert(name.into(), id);
        self.met.push(Met { name: name.into(), key: key.into(), shard });
        Some(id)
    }

    pub(super) fn get(&self, id: StreamId) -> Option<(&str, u64)> {
        self.met.get(id.0 as usize).map(|met| (&*met.key, met.shard))
    }

    pub(super) fn len(&self) -> usize {
        self.met.len()
    }
}

/// Whether a name is that of control messages.
#[inline(always)]
pub(super) fn names_control(name: &[u8]) -> bool {
    // The length tells it from nearly all others.
    name.len() == 1 + CONTROL_KEY.len() + 8 && name.get(1..=CONTROL_KEY.len()) == Some(CONTROL_KEY.as_bytes())
}

/// Names differ most at the end of the key and of the shard. Below [`RECENT`] by the last step.
#[inline(always)]
fn slot(name: &[u8]) -> usize {
    let byte = |from_end: usize| usize::from(name.len().checked_sub(from_end).map_or(0, |at| name[at]));
    (byte(1) ^ byte(9).wrapping_mul(5) ^ byte(10).wrapping_mul(11) ^ name.len()) % RECENT
}
