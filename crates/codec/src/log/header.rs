//! The bracket before a payload.

use millstream_core::Timestamp;

use super::{
    stream_key,
    time::{parse_time, write_time},
    valid_stream,
};

/// A longer bracket cannot be a header: time, key, sequence and shard at their longest, and as much white space again.
const HEADER_BYTES_MAX: usize = 1024;

/// Largest sequence and shard that are read: beyond any real one, and records behind it can still be counted.
const SEQUENCE_MAX: u128 = u128::MAX >> 1;

/// What a header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header<'a> {
    /// Event time.
    pub time: Option<Timestamp>,
    /// Name of the stream.
    pub stream: Option<&'a str>,
    /// Sequence; only with a stream.
    pub sequence: Option<u128>,
    /// Shard; only with a sequence.
    pub shard: Option<u64>,
}

impl<'a> Header<'a> {
    /// Reads the header at the front of a line: what it says, and where the payload begins. `None`: the line has none.
    pub fn parse(line: &'a [u8]) -> Option<(Self, usize)> {
        let inside = line.strip_prefix(b"[")?;
        let len = memchr::memchr(b']', &inside[..inside.len().min(HEADER_BYTES_MAX)])?;
        let mut parts = inside[..len].split(|byte| *byte == b'|').map(<[u8]>::trim_ascii).peekable();
        let time = parts.peek().and_then(|part| parse_time(part));
        if time.is_some() {
            parts.next();
        }
        let stream = match parts.next() {
            // All of a valid name is ASCII.
            Some(name) if valid_stream(name) => Some(std::str::from_utf8(name).ok()?),
            Some(_) => return None,
            None => None,
        };
        let sequence = number(parts.next())?;
        let shard = match number(parts.next())? {
            Some(shard) => Some(u64::try_from(shard).ok()?),
            None => None,
        };
        if parts.next().is_some() {
            return None;
        }
        let payload = len + 2 + usize::from(inside.get(len + 1) == Some(&b' '));
        Some((Header { time, stream, sequence, shard }, payload))
    }

    /// Whether it holds a key and nothing else: then it may as well be the beginning of a text.
    pub fn only_key(&self) -> bool {
        self.time.is_none() && self.sequence.is_none()
    }
}

/// `Some(None)` where there is nothing, `None` where there is something else.
fn number(part: Option<&[u8]>) -> Option<Option<u128>> {
    let Some(digits) = part else { return Some(None) };
    if digits.is_empty() {
        return None;
    }
    let number = digits.iter().try_fold(0u128, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u128::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    });
    number.filter(|number| *number <= SEQUENCE_MAX).map(Some)
}

/// Appends `[time | stream | sequence | shard] `. A name that is no key is made one ([`stream_key`]).
pub fn write_header(time: Option<Timestamp>, stream: &str, sequence: u128, shard: u64, out: &mut Vec<u8>) {
    out.push(b'[');
    if let Some(time) = time {
        write_time(time, out);
        out.extend_from_slice(b" | ");
    }
    out.extend_from_slice(stream_key(stream).as_bytes());
    out.extend_from_slice(b" | ");
    write_decimal(sequence, out);
    out.extend_from_slice(b" | ");
    write_decimal(shard.into(), out);
    out.extend_from_slice(b"] ");
}

/// Appends a number's digits.
pub(crate) fn write_decimal(number: u128, out: &mut Vec<u8>) {
    const DIGITS_MAX: usize = 39;
    let mut digits = [0; DIGITS_MAX];
    let mut at = DIGITS_MAX;
    let mut rest = number;
    // Dividing 128 bits is slow, and the upper half is rarely needed.
    let mut low = loop {
        if let Ok(low) = u64::try_from(rest) {
            break low;
        }
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    };
    loop {
        at -= 1;
        digits[at] = b'0' + (low % 10) as u8;
        low /= 10;
        if low == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_ever() {
        for number in [0, 9, 10, u128::from(u64::MAX), u128::from(u64::MAX) + 1, u128::MAX] {
            let mut out = Vec::new();
            write_decimal(number, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
