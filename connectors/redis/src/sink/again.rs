//! A command that is sent again: elsewhere, on another connection, or with another id.

use bytes::Bytes;
use memchr::memchr;
use millstream_core::WriteId;

use crate::{id::number, resp::Commands};

/// A command that has to be sent again.
#[derive(Clone, Debug)]
pub(super) struct Again {
    pub(super) write: WriteId,
    pub(super) row: u32,
    pub(super) slot: u16,
    pub(super) bytes: Bytes,
    /// An earlier try may have written it.
    pub(super) repeated: bool,
    pub(super) time: Time,
}

/// The time in the id of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time {
    /// That of the record.
    Own,
    /// The same, and the stream has newer entries: to be replaced.
    Passed,
    /// That of the newest entry when it was looked up.
    Newest,
    /// The server's choice.
    Server,
}

impl Again {
    /// The server says that the time of its id has passed. Whether it gets another: if an earlier try may have written it, or was
    /// in time; the latter counts up to `before`.
    pub(super) fn passed(&mut self, before: Option<u64>) -> bool {
        match self.time {
            Time::Own if self.repeated || self.half().is_some_and(|half| Some(half) <= before) => {
                self.time = Time::Passed;
            }
            // Somebody was faster, so the server's clock is not far off.
            Time::Newest => {
                self.set_id(b"*");
                self.time = Time::Server;
            }
            Time::Own | Time::Passed | Time::Server => return false,
        }
        true
    }

    /// Takes the first half of the newest entry's id, where it is known.
    pub(super) fn follow(&mut self, newest: Option<u64>) {
        let id = newest.map_or_else(|| "*".to_owned(), |half| format!("{half}-*"));
        self.set_id(id.as_bytes());
        self.time = if newest.is_some() { Time::Newest } else { Time::Server };
    }

    /// Bytes of its longest word.
    pub(super) fn longest_word(&self) -> u64 {
        self.words().map(|word| word.len() as u64).max().unwrap_or_default()
    }

    /// Whether it has a word of more bytes.
    pub(super) fn exceeds(&self, bytes: u64) -> bool {
        self.bytes.len() as u64 > bytes && self.longest_word() > bytes
    }

    /// The key that it writes.
    pub(super) fn key(&self) -> Option<&[u8]> {
        self.words().nth(1)
    }

    /// The first half of the id that it asks for, if the server does not choose.
    pub(super) fn half(&self) -> Option<u64> {
        number(self.words().nth(self.id_at())?.strip_suffix(b"-*")?)
    }

    fn set_id(&mut self, id: &[u8]) {
        let at = self.id_at();
        let words: Vec<&[u8]> = self.words().enumerate().map(|(i, word)| if i == at { id } else { word }).collect();
        self.bytes = Commands::one(&words).into_bytes().into();
    }

    /// Which word of an `XADD` is the id: that behind the key and the trimming.
    fn id_at(&self) -> usize {
        let trims = self.words().nth(2).is_some_and(|word| [b"MAXLEN" as &[u8], b"MINID"].contains(&word));
        if trims { 5 } else { 2 }
    }

    fn words(&self) -> impl Iterator<Item = &[u8]> {
        // Behind the number of words.
        let mut rest = line(&self.bytes).map_or(&[] as &[u8], |(_, rest)| rest);
        std::iter::from_fn(move || {
            let (length, behind) = line(rest)?;
            let length = usize::try_from(number(length.strip_prefix(b"$")?)?).ok()?;
            rest = behind.get(length.checked_add(2)?..)?;
            behind.get(..length)
        })
    }
}

/// A line, and what is behind it.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr(b'\n', bytes)?;
    Some((bytes.get(..end)?.strip_suffix(b"\r")?, bytes.get(end + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(words: &[&[u8]]) -> Again {
        let bytes = Commands::one(words).into_bytes().into();
        Again { write: 1, row: 0, slot: 0, bytes, repeated: false, time: Time::Own }
    }

    #[test]
    fn an_id_is_found_and_replaced_whatever_stands_around_it() {
        for trim in [&[] as &[&[u8]], &[b"MAXLEN", b"~", b"7-*"]] {
            let with = |id: &[u8]| {
                let (begin, end): (&[&[u8]], &[&[u8]]) = (&[b"XADD", b"k\r\n"], &[id, b"msg", b"9-*\r\n"]);
                again(&[begin, trim, end].concat())
            };
            let mut command = with(b"12-*");
            assert_eq!((command.key(), command.half()), (Some(b"k\r\n" as &[u8]), Some(12)));
            assert!(!command.passed(None) && !command.passed(Some(11)) && command.passed(Some(12)));
            command.follow(Some(34));
            assert_eq!(command.bytes, with(b"34-*").bytes);
            assert!(command.passed(None));
            assert_eq!(command.bytes, with(b"*").bytes);
            assert!(command.half().is_none() && !command.passed(Some(99)));
        }
    }
}
