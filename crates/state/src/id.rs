//! Identity of a store or a log: random, made once, never reused.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::BuildHasher,
    time::{SystemTime, UNIX_EPOCH},
};

/// 128 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Id(pub(crate) [u8; 16]);

impl Id {
    /// A new one.
    pub(crate) fn random() -> Self {
        // The keys of each `RandomState` come from the system's randomness; time and process tell apart even machines
        // that were cloned with that randomness.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let half = || RandomState::new().hash_one((std::process::id(), since)).to_le_bytes();
        let mut id = [0; 16];
        id[..8].copy_from_slice(&half());
        id[8..].copy_from_slice(&half());
        Id(id)
    }

    /// The one that was shown as `text`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = digits.then(|| u128::from_str_radix(text, 16).ok())??;
        Some(Id(number.to_be_bytes()))
    }

    /// Half of it as a number: the seed of checksums.
    pub(crate) fn seed(self) -> u64 {
        self.0.iter().take(8).fold(0, |seed, &byte| seed << 8 | u64::from(byte))
    }
}

/// 32 hexadecimal digits.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back() {
        let id = Id::random();
        assert_eq!(Id::parse(&id.to_string()), Some(id));
        assert_eq!(["", "f", "+fffffffffffffffffffffffffffffff"].map(Id::parse), [None; 3]);
    }
}
