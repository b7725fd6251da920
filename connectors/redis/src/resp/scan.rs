//! Finding the end of a reply in what has been read so far, and the places of all values in it.

use memchr::memchr;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Error,
    Integer,
    Nil,
    /// `len` values follow.
    Array,
}

/// One value of a reply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    /// First byte in the reply.
    pub(crate) start: u32,
    /// Bytes, or values of an array.
    pub(crate) len: u32,
}

/// Why bytes are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// A byte that begins no value.
    Kind(u8),
    /// A length that is no number.
    Length,
    /// The reply is larger than the bound.
    TooLarge,
}

/// A number or an error text; a longer line is no reply.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Looks through bytes as they come in; each is looked at once.
#[derive(Debug)]
pub(crate) struct Scanner {
    tokens: Vec<Token>,
    /// Everything before has been looked at.
    at: usize,
    /// Values that are missing.
    missing: u64,
    bytes_max: usize,
}

impl Scanner {
    /// A scanner that refuses replies of more than `bytes_max` bytes; at most 4 GiB.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Scanner { tokens: Vec::new(), at: 0, missing: 1, bytes_max: bytes_max.min(u32::MAX as usize) }
    }

    /// The length of the reply at the front of `data`, if all of it is there. `data` begins with the same bytes in each call.
    pub(crate) fn scan(&mut self, data: &[u8]) -> Result<Option<usize>, Malformed> {
        while self.missing > 0 {
            let Some(rest) = data.get(self.at..) else { return Ok(None) };
            if let Some(other) = rest.first().filter(|kind| !b"+-:$*".contains(kind)) {
                return Err(Malformed::Kind(*other));
            }
            let Some(end) = memchr(b'\n', rest) else {
                // Only the header of a value is searched here, and those are short.
                return if rest.len() > LINE_BYTES_MAX { Err(Malformed::Length) } else { self.bounded(data.len()) };
            };
            let Some((kind, line)) =
                rest.get(..end).and_then(|line| line.strip_suffix(b"\r")).and_then(<[u8]>::split_first)
            else {
                return Err(Malformed::Length);
            };
            let (start, next) = (self.at + 1, self.at + end + 1);
            match kind {
                b'+' => self.value(Kind::Text, start, line.len(), next),
                b'-' => self.value(Kind::Error, start, line.len(), next),
                b':' => self.value(Kind::Integer, start, line.len(), next),
                b'$' | b'*' if line == b"-1" => self.value(Kind::Nil, start, 0, next),
                b'$' => {
                    let len = length(line)?;
                    if len > self.bytes_max {
                        return Err(Malformed::TooLarge);
                    }
                    if data.len() < next + len + 2 {
                        return self.bounded(next + len + 2);
                    }
                    self.value(Kind::Text, next, len, next + len + 2);
                }
                b'*' => {
                    let len = length(line)?;
                    self.missing += len as u64;
                    self.value(Kind::Array, start, len, next);
                }
                other => return Err(Malformed::Kind(*other)),
            }
            if self.at > self.bytes_max {
                return Err(Malformed::TooLarge);
            }
        }
        Ok(Some(self.at))
    }

    fn bounded(&self, bytes: usize) -> Result<Option<usize>, Malformed> {
        if bytes > self.bytes_max { Err(Malformed::TooLarge) } else { Ok(None) }
    }

    fn value(&mut self, kind: Kind, start: usize, len: usize, next: usize) {
        // Replies are bounded by `bytes_max`, which fits.
        self.tokens.push(Token { kind, start: start as u32, len: len as u32 });
        self.at = next;
        self.missing -= 1;
    }

    /// The values of the reply that has been found; the next one is searched from its own front.
    pub(crate) fn take(&mut self) -> Vec<Token> {
        let tokens = std::mem::take(&mut self.tokens);
        // The next reply is often as long as this one.
        self.tokens.reserve(tokens.len().min(16 << 10));
        (self.at, self.missing) = (0, 1);
        tokens
    }
}

fn length(digits: &[u8]) -> Result<usize, Malformed> {
    let number = crate::id::number(digits).and_then(|number| u32::try_from(number).ok());
    number.map(|number| number as usize).ok_or(Malformed::Length)
}
