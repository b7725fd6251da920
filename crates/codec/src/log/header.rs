//! The bracket before a payload.

use std::ops::Range;

use millstream_core::Timestamp;

use super::{stream_key, time::Times, valid_stream};

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
        HeaderReader::default().parse(line)
    }

    /// Whether it holds a key and nothing else: then it may as well be the beginning of a text.
    pub fn only_key(&self) -> bool {
        self.time.is_none() && self.sequence.is_none()
    }
}

/// Reads headers. Remembers what lines that follow each other tend to share: time and stream.
#[derive(Clone, Debug, Default)]
pub(super) struct HeaderReader {
    times: Times,
    /// A header's bytes up to its sequence, and what they say.
    front: Vec<u8>,
    time: Option<Timestamp>,
    /// Where the stream lies in it.
    stream: Range<usize>,
}

impl HeaderReader {
    pub(super) fn parse<'a>(&mut self, line: &'a [u8]) -> Option<(Header<'a>, usize)> {
        if let Some(found) = self.parse_like_last(line) {
            return Some(found);
        }
        let inside = line.strip_prefix(b"[")?;
        let len = memchr::memchr(b']', &inside[..inside.len().min(HEADER_BYTES_MAX)])?;
        let mut parts = inside[..len].split(|byte| *byte == b'|').peekable();
        let mut front = 1;
        let time = parts.peek().and_then(|part| self.times.parse(part.trim_ascii()));
        if time.is_some() {
            front += parts.next().map_or(0, |part| part.len() + 1);
        }
        let (mut stream, mut stream_at) = (None, 0..0);
        if let Some(part) = parts.next() {
            let name = part.trim_ascii();
            if !valid_stream(name) {
                return None;
            }
            // All of a valid name is ASCII.
            stream = Some(std::str::from_utf8(name).ok()?);
            let start = front + part.len() - part.trim_ascii_start().len();
            stream_at = start..start + name.len();
            front += part.len() + 1;
        }
        let sequence = number(parts.next())?;
        let shard = match number(parts.next())? {
            Some(shard) => Some(u64::try_from(shard).ok()?),
            None => None,
        };
        if parts.next().is_some() {
            return None;
        }
        self.front.clear();
        if sequence.is_some() {
            self.front.extend_from_slice(&line[..front]);
            (self.time, self.stream) = (time, stream_at);
        }
        Some((Header { time, stream, sequence, shard }, payload(line, len + 1)))
    }

    /// Reads a header that differs from the last one in its numbers only. `None` says nothing of the line.
    fn parse_like_last<'a>(&self, line: &'a [u8]) -> Option<(Header<'a>, usize)> {
        if self.front.is_empty() || !line.starts_with(&self.front) {
            return None;
        }
        let (sequence, rest) = digits(&line[self.front.len()..])?;
        let (shard, rest) = match rest.strip_prefix(b"|") {
            Some(rest) => digits(rest).map(|(shard, rest)| (Some(shard), rest))?,
            None => (None, rest),
        };
        let close = line.len() - rest.len();
        if rest.first() != Some(&b']') || close > HEADER_BYTES_MAX {
            return None;
        }
        let stream = std::str::from_utf8(&line[self.stream.clone()]).ok();
        let header = Header { time: self.time, stream, sequence: Some(sequence.into()), shard };
        Some((header, payload(line, close)))
    }
}

/// Where the payload begins behind the bracket that closes at `close`: one blank goes.
fn payload(line: &[u8], close: usize) -> usize {
    close + 1 + usize::from(line.get(close + 1) == Some(&b' '))
}

/// Any number of so many digits fits 64 bits.
const U64_DIGITS: usize = 19;

/// A number between blanks at the front of `text`, and what follows.
fn digits(text: &[u8]) -> Option<(u64, &[u8])> {
    let text = skip_blanks(text);
    let len = text.iter().take(U64_DIGITS + 1).take_while(|byte| byte.is_ascii_digit()).count();
    if len == 0 || len > U64_DIGITS {
        return None;
    }
    let number = text[..len].iter().fold(0, |number, byte| number * 10 + u64::from(byte - b'0'));
    Some((number, skip_blanks(&text[len..])))
}

fn skip_blanks(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| **byte == b' ').count();
    &text[blanks..]
}

/// `Some(None)` where there is nothing, `None` where there is something else.
fn number(part: Option<&[u8]>) -> Option<Option<u128>> {
    let Some(digits) = part.map(<[u8]>::trim_ascii) else { return Some(None) };
    if digits.is_empty() {
        return None;
    }
    let number = digits.iter().try_fold(0u128, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u128::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    });
    number.filter(|number| *number <= SEQUENCE_MAX).map(Some)
}

/// Appends headers: `[time | stream | sequence | shard] `. Remembers the last one, because that of the next record tends to
/// differ from it in the last digit of its sequence only.
#[derive(Clone, Debug, Default)]
pub struct HeaderWriter {
    times: Times,
    time: Option<Timestamp>,
    stream: String,
    sequence: u128,
    shard: u64,
    /// The last header, and where its sequence stands in it.
    text: Vec<u8>,
    digits: Range<usize>,
}

impl HeaderWriter {
    /// Appends a header. A name that is no key is made one ([`stream_key`]).
    pub fn write(&mut self, time: Option<Timestamp>, stream: &str, sequence: u128, shard: u64, out: &mut Vec<u8>) {
        if self.text.is_empty() || self.time != time || self.shard != shard || self.stream != stream {
            (self.time, self.shard) = (time, shard);
            stream.clone_into(&mut self.stream);
            self.begin();
            self.end(sequence);
        } else if self.sequence.checked_add(1) != Some(sequence) || !count(&mut self.text[self.digits.clone()]) {
            self.end(sequence);
        }
        self.sequence = sequence;
        out.extend_from_slice(&self.text);
    }

    /// Writes what stands before the sequence.
    fn begin(&mut self) {
        self.text.clear();
        self.text.push(b'[');
        if let Some(time) = self.time {
            self.times.write(time, &mut self.text);
            self.text.extend_from_slice(b" | ");
        }
        self.text.extend_from_slice(stream_key(&self.stream).as_bytes());
        self.text.extend_from_slice(b" | ");
        self.digits.start = self.text.len();
    }

    /// Writes the sequence and what stands behind it.
    fn end(&mut self, sequence: u128) {
        self.text.truncate(self.digits.start);
        write_decimal(sequence, &mut self.text);
        self.digits.end = self.text.len();
        self.text.extend_from_slice(b" | ");
        write_decimal(self.shard.into(), &mut self.text);
        self.text.extend_from_slice(b"] ");
    }
}

/// Adds one to a number in digits; `false`: it needs one digit more.
fn count(digits: &mut [u8]) -> bool {
    for digit in digits.iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            return true;
        }
        *digit = b'0';
    }
    false
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
    fn headers_that_follow_each_other_are_written_as_if_each_were_the_first() {
        let mut writer = HeaderWriter::default();
        let times = [None, Some(Timestamp(0)), Some(Timestamp(1_000_000_000))];
        let sequences = [8, 9, 10, 11, 98, 99, 100, 100, 5, 6, u128::MAX - 1, u128::MAX, 0, 1];
        for (time, stream, shard) in [(0, "a", 0), (0, "a", 1), (1, "a", 1), (1, "b", 1), (2, "b", 12), (0, "a", 0)] {
            for sequence in sequences {
                let (mut out, mut alone) = (Vec::new(), Vec::new());
                writer.write(times[time], stream, sequence, shard, &mut out);
                HeaderWriter::default().write(times[time], stream, sequence, shard, &mut alone);
                assert_eq!(String::from_utf8(out), String::from_utf8(alone));
            }
        }
    }

    #[test]
    fn numbers_are_written_as_ever() {
        for number in [0, 9, 10, u128::from(u64::MAX), u128::from(u64::MAX) + 1, u128::MAX] {
            let mut out = Vec::new();
            write_decimal(number, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
