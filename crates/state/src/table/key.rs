//! Keys as the table holds them.
//!
//! A key of up to 16 bytes is two words and its length, and no memory elsewhere; comparing and hashing it takes a few
//! instructions without a call. A longer one lies in the table's arena, and the words are its hash and its place.
//!
//! ```text
//! length 0         a = 0                                  b = 0
//! 1 to 3 bytes     a = first, middle, last byte           b = 0
//! 4 to 7 bytes     a = first 4, last 4 bytes (overlap)    b = 0
//! 8 to 16 bytes    a = first 8 bytes                      b = last 8 bytes (overlap)
//! more             a = its hash                           b = offset in the arena
//! ```

use std::hash::{BuildHasher, Hasher};

use hashbrown::DefaultHashBuilder;

/// Longest key that needs no arena.
pub(super) const INLINE_BYTES_MAX: usize = 16;

/// A key of a slot, or one that is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) a: u64,
    pub(super) b: u64,
    pub(super) length: u32,
}

/// Secret numbers of one table, so that nobody can choose keys that collide.
#[derive(Clone, Debug)]
pub(super) struct Seeds {
    a: u64,
    b: u64,
    long: DefaultHashBuilder,
}

impl Seeds {
    pub(super) fn random() -> Self {
        let state = std::collections::hash_map::RandomState::new();
        Seeds { a: state.hash_one(0u8), b: state.hash_one(1u8), long: DefaultHashBuilder::default() }
    }

    /// The hash by which the table finds the key. Of a longer key that is `a`.
    #[inline(always)]
    pub(super) fn hash(&self, words: Words) -> u64 {
        if words.is_long() {
            return words.a;
        }
        let length = u64::from(words.length).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let product = u128::from(words.a ^ self.a) * u128::from(words.b ^ self.b ^ length);
        (product >> 64) as u64 ^ product as u64
    }
}

impl Words {
    /// The words of a key; `b` of a longer one is not set.
    #[inline(always)]
    pub(super) fn of(key: &[u8], seeds: &Seeds) -> Words {
        let length = key.len();
        let (a, b) = match length {
            8..=INLINE_BYTES_MAX => (first8(key), last8(key)),
            4..=7 => (first4(key) | last4(key) << 32, 0),
            1..=3 => (u64::from(key[0]) | u64::from(key[length / 2]) << 8 | u64::from(key[length - 1]) << 16, 0),
            0 => (0, 0),
            _ => {
                let mut hasher = seeds.long.build_hasher();
                hasher.write(key);
                (hasher.finish(), 0)
            }
        };
        // A key has less than 4 GiB: the segment that stores it refuses longer ones, and the arena copies what it is given.
        Words { a, b, length: length as u32 }
    }

    /// Whether the key lies in the arena.
    #[inline(always)]
    pub(super) fn is_long(self) -> bool {
        self.length as usize > INLINE_BYTES_MAX
    }

    /// The bytes of a key that is not long, in `buffer`.
    pub(super) fn write(self, buffer: &mut [u8; INLINE_BYTES_MAX]) -> &[u8] {
        let length = self.length as usize;
        let (a, b) = (self.a.to_le_bytes(), self.b.to_le_bytes());
        match length {
            8..=INLINE_BYTES_MAX => {
                buffer[..8].copy_from_slice(&a);
                buffer[length - 8..length].copy_from_slice(&b);
            }
            4..=7 => {
                buffer[..4].copy_from_slice(&a[..4]);
                buffer[length - 4..length].copy_from_slice(&a[4..]);
            }
            1..=3 => {
                buffer[0] = a[0];
                buffer[length / 2] = a[1];
                buffer[length - 1] = a[2];
            }
            _ => return &[],
        }
        &buffer[..length]
    }
}

#[inline(always)]
fn first8(key: &[u8]) -> u64 {
    key.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[inline(always)]
fn last8(key: &[u8]) -> u64 {
    key.last_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[inline(always)]
fn first4(key: &[u8]) -> u64 {
    key.first_chunk().map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)))
}

#[inline(always)]
fn last4(key: &[u8]) -> u64 {
    key.last_chunk().map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_keys_come_back_and_differ() {
        let seeds = Seeds::random();
        let mut seen = std::collections::HashMap::new();
        for length in 0..=INLINE_BYTES_MAX {
            for salt in 0..200u8 {
                let key: Vec<u8> = (0..length).map(|i| (i as u8).wrapping_mul(31) ^ salt).collect();
                let words = Words::of(&key, &seeds);
                assert_eq!(words.write(&mut [0; 16]), key);
                let before = seen.insert((words.a, words.b, words.length), key.clone());
                assert!(before.is_none_or(|before| before == key));
            }
        }
    }
}
