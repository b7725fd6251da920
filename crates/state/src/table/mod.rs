//! Keyed state of an operator, in memory in its own type.

mod fold;
mod key;
#[cfg(test)]
mod tests;

use std::{fmt, ops::Range};

use bytes::Bytes;
use hashbrown::HashTable;
use millstream_core::{Change, Error, ErrorKind, Result, group};
use serde::{Serialize, de::DeserializeOwned};

pub use fold::Folds;
use key::{INLINE_BYTES_MAX, Seeds, Words};

/// Values by key, that know which of them have changed.
///
/// Finding a key allocates nothing and serialises nothing; a value is serialised only by [`KeyedTable::changes`], once an
/// epoch, if it was touched. Iteration is in the order of insertion. Removed keys leave holes, which are closed when they
/// are more than half.
///
/// ```
/// # fn main() -> millstream_core::Result<()> {
/// let mut counts = millstream_state::KeyedTable::<u64>::new();
/// *counts.entry(b"whale") += 1;
/// let changes = counts.changes()?;
/// let mut again = millstream_state::KeyedTable::<u64>::new();
/// again.restore(changes)?;
/// assert_eq!(again.get(b"whale"), Some(&1));
/// # Ok(())
/// # }
/// ```
pub struct KeyedTable<V> {
    /// Numbers of slots, by the hash of their keys.
    index: HashTable<u32>,
    slots: Vec<Slot<V>>,
    /// Bytes of long keys.
    arena: Vec<u8>,
    /// Bytes in the arena that no slot refers to.
    arena_holes: usize,
    /// Slots with their flag `changed`, each once; holes may be among them.
    changed: Vec<u32>,
    /// Keys that the store has and that were removed since the last call of `changes`.
    removed: Vec<Bytes>,
    seeds: Seeds,
}

/// The words of the key lie beside the state, so that a slot of a counter has 32 bytes: two to a cache line.
struct Slot<V> {
    a: u64,
    b: u64,
    length: u32,
    state: State,
    value: V,
}

impl<V> Slot<V> {
    #[inline(always)]
    fn key(&self) -> Words {
        Words { a: self.a, b: self.b, length: self.length }
    }
}

#[derive(Clone, Copy, Default)]
struct State {
    /// There is no key here any more.
    hole: bool,
    /// Touched since the last call of `changes`.
    changed: bool,
    /// The store has this key.
    stored: bool,
    /// What it was before is among what a [`Folds`] has kept.
    kept: bool,
}

impl<V> Default for KeyedTable<V> {
    fn default() -> Self {
        KeyedTable {
            index: HashTable::new(),
            slots: Vec::new(),
            arena: Vec::new(),
            arena_holes: 0,
            changed: Vec::new(),
            removed: Vec::new(),
            seeds: Seeds::random(),
        }
    }
}

impl<V> fmt::Debug for KeyedTable<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedTable").field("keys", &self.index.len()).field("changed", &self.changed.len()).finish()
    }
}

impl<V: Default> KeyedTable<V> {
    /// An empty one. Allocates nothing.
    pub fn new() -> Self {
        KeyedTable::default()
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Roughly how many bytes of memory it holds, without what values hold outside of themselves.
    pub fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot<V>>()
            + self.arena.capacity()
            + self.index.allocation_size()
            + self.changed.capacity() * size_of::<u32>()
    }

    /// The value of a key.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Option<&V> {
        let slot = self.find(key, Words::of(key, &self.seeds))?;
        self.slots.get(slot as usize).map(|slot| &slot.value)
    }

    /// The value of a key, to be changed: it counts as changed from here on.
    #[inline]
    pub fn get_mut(&mut self, key: &[u8]) -> Option<&mut V> {
        let slot = self.find(key, Words::of(key, &self.seeds))?;
        Some(self.touch(slot))
    }

    /// The value of a key, made by `Default` where there is none. It counts as changed from here on.
    #[inline]
    pub fn entry(&mut self, key: &[u8]) -> &mut V {
        let words = Words::of(key, &self.seeds);
        let slot = match self.find(key, words) {
            Some(slot) => slot,
            None => self.insert(key, words, State::default(), V::default()),
        };
        self.touch(slot)
    }

    /// Removes a key, and gives its value.
    pub fn remove(&mut self, key: &[u8]) -> Option<V> {
        let number = self.find(key, Words::of(key, &self.seeds))?;
        let value = self.leave_hole(number);
        self.close_holes();
        Some(value)
    }

    /// Takes the key of a slot out. The slots of others stay where they are.
    fn leave_hole(&mut self, number: u32) -> V {
        // Whoever calls has found the slot.
        let slot = &mut self.slots[number as usize];
        let words = slot.key();
        if let Ok(found) = self.index.find_entry(self.seeds.hash(words), |slot| *slot == number) {
            found.remove();
        }
        let value = std::mem::take(&mut slot.value);
        let State { changed, stored, .. } = slot.state;
        slot.state = State { hole: true, changed, ..State::default() };
        if stored {
            let key = Bytes::copy_from_slice(&self.key(words));
            self.removed.push(key);
        }
        if words.is_long() {
            self.arena_holes += words.length as usize;
        }
        value
    }

    /// All keys with their values, in the order of insertion.
    pub fn iter(&self) -> impl Iterator<Item = (Key<'_>, &V)> {
        self.slots.iter().filter(|slot| !slot.state.hole).map(|slot| (self.key(slot.key()), &slot.value))
    }

    /// Removes the keys for which `keep` says `false`, in the order of insertion. `keep` must not change values: it sees
    /// them as they are.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &V) -> bool) {
        let gone: Vec<Bytes> =
            self.iter().filter(|(key, value)| !keep(key, value)).map(|(key, _)| Bytes::copy_from_slice(&key)).collect();
        gone.iter().for_each(|key| drop(self.remove(key)));
    }

    /// The bytes of a slot's key.
    fn key(&self, words: Words) -> Key<'_> {
        if words.is_long() {
            return Key(Held::Arena(self.arena.get(extent(words)).unwrap_or_default()));
        }
        let mut bytes = [0; INLINE_BYTES_MAX];
        let length = words.write(&mut bytes).len();
        Key(Held::Inline(bytes, length))
    }

    #[inline(always)]
    fn find(&self, key: &[u8], words: Words) -> Option<u32> {
        let hash = self.seeds.hash(words);
        let found = if words.is_long() {
            self.index.find(hash, |slot| self.arena.get(extent(self.slots[*slot as usize].key())) == Some(key))
        } else {
            self.index.find(hash, |slot| self.slots[*slot as usize].key() == words)
        };
        found.copied()
    }

    #[inline(always)]
    fn touch(&mut self, number: u32) -> &mut V {
        let slot = &mut self.slots[number as usize];
        if !slot.state.changed {
            slot.state.changed = true;
            self.changed.push(number);
        }
        &mut slot.value
    }

    /// A new slot for a key that is not there.
    #[cold]
    fn insert(&mut self, key: &[u8], mut words: Words, state: State, value: V) -> u32 {
        // 2^32 slots take more than 100 GiB; the machine ends first.
        assert!(self.slots.len() < u32::MAX as usize, "a table holds less than 2^32 keys");
        let number = self.slots.len() as u32;
        if words.is_long() {
            words.b = self.arena.len() as u64;
            self.arena.extend_from_slice(key);
        }
        self.slots.push(Slot { a: words.a, b: words.b, length: words.length, state, value });
        let (slots, seeds) = (&self.slots, &self.seeds);
        self.index.insert_unique(seeds.hash(words), number, |slot| seeds.hash(slots[*slot as usize].key()));
        number
    }

    /// Closes holes, where there are many.
    fn close_holes(&mut self) {
        // Fewer are not worth the walk.
        if self.slots.len() <= 64 || self.index.len() >= self.slots.len() / 2 {
            return;
        }
        self.slots.retain(|slot| !slot.state.hole);
        if self.arena_holes > self.arena.len() / 2 {
            let mut arena = Vec::with_capacity(self.arena.len() - self.arena_holes);
            for slot in self.slots.iter_mut().filter(|slot| slot.key().is_long()) {
                let at = arena.len() as u64;
                arena.extend_from_slice(self.arena.get(extent(slot.key())).unwrap_or_default());
                slot.b = at;
            }
            self.arena = arena;
            self.arena_holes = 0;
        }
        self.index.clear();
        self.changed.clear();
        let (slots, seeds) = (&self.slots, &self.seeds);
        for (number, slot) in slots.iter().enumerate() {
            let number = number as u32;
            self.index.insert_unique(seeds.hash(slot.key()), number, |slot| seeds.hash(slots[*slot as usize].key()));
            if slot.state.changed {
                self.changed.push(number);
            }
        }
    }
}

impl<V: Default + Serialize> KeyedTable<V> {
    /// The keys that changed since the last call, with their values as MessagePack with names. If a value cannot be
    /// written, all of them still count as changed.
    pub fn changes(&mut self) -> Result<Vec<Change>> {
        let mut buffer = Vec::new();
        let mut extents: Vec<(u16, Range<usize>, Option<Range<usize>>)> =
            Vec::with_capacity(self.changed.len() + self.removed.len());
        for key in &self.removed {
            // A key that is there again is among the changed ones, and one that was removed twice is told once.
            if self.find(key, Words::of(key, &self.seeds)).is_none() {
                let start = buffer.len();
                buffer.extend_from_slice(key);
                extents.push((group(key), start..buffer.len(), None));
            }
        }
        for &number in &self.changed {
            let slot = &self.slots[number as usize];
            if slot.state.hole {
                continue;
            }
            let start = buffer.len();
            buffer.extend_from_slice(&self.key(slot.key()));
            let middle = buffer.len();
            rmp_serde::encode::write_named(&mut buffer, &slot.value)
                .map_err(|error| Error::new(ErrorKind::Bug, "cannot write a value of keyed state").caused_by(error))?;
            extents.push((group(&buffer[start..middle]), start..middle, Some(middle..buffer.len())));
        }
        for &number in &self.changed {
            let state = &mut self.slots[number as usize].state;
            (state.changed, state.stored) = (false, !state.hole);
        }
        self.changed.clear();
        self.removed.clear();
        let buffer = Bytes::from(buffer);
        let change = |(group, key, value): (u16, Range<usize>, Option<Range<usize>>)| Change {
            group,
            key: buffer.slice(key),
            value: value.map(|value| buffer.slice(value)),
        };
        Ok(extents.into_iter().map(change).collect())
    }
}

impl<V: Default + DeserializeOwned> KeyedTable<V> {
    /// Takes saved keys in, over those that are there. They do not count as changed.
    pub fn restore(&mut self, saved: Vec<Change>) -> Result<()> {
        self.slots.reserve(saved.len());
        for change in saved {
            let Some(bytes) = change.value else {
                self.remove(&change.key);
                continue;
            };
            let value = rmp_serde::from_slice(&bytes).map_err(|error| {
                let key = String::from_utf8_lossy(&change.key);
                Error::new(ErrorKind::StateMismatch, format!("cannot read the saved state of key `{key}`"))
                    .caused_by(error)
                    .hint(
                        "the stage kept state of another type; rename it, or begin anew with `millstream state reset`",
                    )
            })?;
            let words = Words::of(&change.key, &self.seeds);
            let state = State { stored: true, ..State::default() };
            match self.find(&change.key, words) {
                Some(slot) => {
                    let slot = &mut self.slots[slot as usize];
                    slot.state.stored = true;
                    slot.value = value;
                }
                None => drop(self.insert(&change.key, words, state, value)),
            }
        }
        Ok(())
    }
}

/// The bytes of a key.
#[derive(Clone, Copy)]
pub struct Key<'a>(Held<'a>);

#[derive(Clone, Copy)]
enum Held<'a> {
    Inline([u8; INLINE_BYTES_MAX], usize),
    Arena(&'a [u8]),
}

impl std::ops::Deref for Key<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Inline(bytes, length) => &bytes[..*length],
            Held::Arena(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self))
    }
}

/// Where a long key lies in the arena.
fn extent(words: Words) -> Range<usize> {
    let start = words.b as usize;
    start..start + words.length as usize
}
