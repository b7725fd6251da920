//! Times as the protocol has them: `YYYY-MM-DDTHH:MM:SS[.subsec]`, always UTC, without a zone.

use chrono::{DateTime, Datelike, NaiveDate, Timelike};
use millstream_core::Timestamp;

/// Length without a fraction.
const SECONDS_LEN: usize = 19;
/// Nanoseconds have nine digits.
const FRACTION_DIGITS_MAX: usize = 9;
const NANOS: i64 = 1_000_000_000;

/// Reads and writes times; remembers the last whole second, because lines that follow each other tend to share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Times {
    second: i64,
    text: Option<[u8; SECONDS_LEN]>,
}

impl Times {
    /// Reads a time; `None` if it is anything else, also one that no [`Timestamp`] can hold.
    pub(super) fn parse(&mut self, text: &[u8]) -> Option<Timestamp> {
        let (second, fraction) = text.split_first_chunk::<SECONDS_LEN>()?;
        let nanos = match fraction.split_first() {
            None => 0,
            Some((b'.', digits)) if (1..=FRACTION_DIGITS_MAX).contains(&digits.len()) => {
                number(digits)? * 10u32.pow((FRACTION_DIGITS_MAX - digits.len()) as u32)
            }
            Some(_) => return None,
        };
        if self.text.as_ref() != Some(second) {
            self.second = parse_second(second)?;
            self.text = Some(*second);
        }
        // Before 1970 the whole second may be out of range where the instant is not; nobody writes such times.
        self.second.checked_mul(NANOS)?.checked_add(nanos.into()).map(Timestamp)
    }

    /// Appends a time: whole seconds without a fraction, else milliseconds, or finer where the instant needs it.
    pub(super) fn write(&mut self, time: Timestamp, out: &mut Vec<u8>) {
        let second = time.0.div_euclid(NANOS);
        let text = match self.text.filter(|_| self.second == second) {
            Some(text) => text,
            None => {
                let text = write_second(second);
                (self.second, self.text) = (second, Some(text));
                text
            }
        };
        out.extend_from_slice(&text);
        let nanos = time.0.rem_euclid(NANOS) as u32;
        let (number, digits) = match nanos {
            0 => return,
            _ if nanos.is_multiple_of(1_000_000) => (nanos / 1_000_000, 3),
            _ if nanos.is_multiple_of(1_000) => (nanos / 1_000, 6),
            _ => (nanos, FRACTION_DIGITS_MAX),
        };
        out.push(b'.');
        let start = out.len();
        out.resize(start + digits, b'0');
        write_digits(number, &mut out[start..]);
    }
}

fn parse_second(text: &[u8; SECONDS_LEN]) -> Option<i64> {
    let shape = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if shape.iter().any(|(at, byte)| text[*at] != *byte) {
        return None;
    }
    let part = |start, end| number(&text[start..end]);
    let day = NaiveDate::from_ymd_opt(part(0, 4)? as i32, part(5, 7)?, part(8, 10)?)?;
    Some(day.and_hms_opt(part(11, 13)?, part(14, 16)?, part(17, 19)?)?.and_utc().timestamp())
}

fn write_second(second: i64) -> [u8; SECONDS_LEN] {
    let mut text = *b"0000-00-00T00:00:00";
    // Every second of a `Timestamp` is a date.
    let Some(time) = DateTime::from_timestamp(second, 0) else { return text };
    let year = u32::try_from(time.year()).unwrap_or_default();
    for (number, start, end) in [
        (year, 0, 4),
        (time.month(), 5, 7),
        (time.day(), 8, 10),
        (time.hour(), 11, 13),
        (time.minute(), 14, 16),
        (time.second(), 17, 19),
    ] {
        write_digits(number, &mut text[start..end]);
    }
    text
}

/// At most nine digits.
fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u32::from(byte - b'0')))
}

/// Adds the last digits of a number to a run of zeros.
fn write_digits(number: u32, zeros: &mut [u8]) {
    let mut rest = number;
    for digit in zeros.iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_time(text: &[u8]) -> Option<Timestamp> {
        Times::default().parse(text)
    }

    #[test]
    fn times_read_back_as_written() {
        for text in [
            "2022-01-01T00:00:00",
            "2024-02-29T23:59:59.120",
            "1970-01-01T00:00:00.000001",
            "2262-01-01T00:00:00.123456789",
            "1700-12-31T01:02:03.004",
        ] {
            let mut out = Vec::new();
            Times::default().write(parse_time(text.as_bytes()).unwrap(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
        assert_eq!(parse_time(b"2022-01-01T00:00:00.5"), parse_time(b"2022-01-01T00:00:00.500000000"));
    }

    #[test]
    fn seconds_that_are_remembered_are_the_right_ones() {
        let (mut times, mut out) = (Times::default(), Vec::new());
        for nanos in [0, 1, -1, 999_999_999, 1_000_000_000, i64::MIN, i64::MAX, i64::MIN, 5_000_000] {
            out.clear();
            times.write(Timestamp(nanos), &mut out);
            let text = Timestamp(nanos).to_rfc3339();
            let plain = text.trim_end_matches('Z').trim_end_matches(".000");
            assert_eq!(std::str::from_utf8(&out).unwrap(), plain);
            if nanos != i64::MIN {
                assert_eq!(times.parse(&out), Some(Timestamp(nanos)));
            }
        }
        assert_eq!(times.parse(b"2022-01-01T00:00:00.x"), None);
        assert_eq!(times.parse(b"2022-01-01T00:00:00"), parse_time(b"2022-01-01T00:00:00"));
        assert_eq!(times.parse(b"2022-13-01T00:00:00"), None);
        assert_eq!(times.parse(b"2022-01-01T00:00:00.5"), parse_time(b"2022-01-01T00:00:00.5"));
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "2022-01-01",
            "2022-01-01 00:00:00",
            "2022-13-01T00:00:00",
            "2022-02-29T00:00:00",
            "2022-01-01T24:00:00",
            "2022-01-01T00:00:60",
            "2022-01-01T00:00:00Z",
            "2022-01-01T00:00:00.",
            "2022-01-01T00:00:00.0123456789",
            "2022-01-01T00:00:0x",
            "9999-01-01T00:00:00",
            "+022-01-01T00:00:00",
        ] {
            assert_eq!(parse_time(text.as_bytes()), None, "{text}");
        }
    }
}
