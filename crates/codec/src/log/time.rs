//! Times as the protocol has them: `YYYY-MM-DDTHH:MM:SS[.subsec]`, always UTC, without a zone.

use chrono::{DateTime, Datelike, NaiveDate, Timelike};
use millstream_core::Timestamp;

/// Length without a fraction.
const SECONDS_LEN: usize = 19;
/// Nanoseconds have nine digits.
const FRACTION_DIGITS_MAX: usize = 9;

/// Reads a time; `None` if it is anything else, also one that no [`Timestamp`] can hold.
pub(super) fn parse_time(text: &[u8]) -> Option<Timestamp> {
    let (seconds, fraction) = text.split_at_checked(SECONDS_LEN)?;
    let shape = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    if shape.iter().any(|(at, byte)| seconds[*at] != *byte) {
        return None;
    }
    let part = |start, end| number(&seconds[start..end]);
    let nanos = match fraction.split_first() {
        None => 0,
        Some((b'.', digits)) if (1..=FRACTION_DIGITS_MAX).contains(&digits.len()) => {
            number(digits)? * 10u32.pow((FRACTION_DIGITS_MAX - digits.len()) as u32)
        }
        Some(_) => return None,
    };
    let day = NaiveDate::from_ymd_opt(part(0, 4)? as i32, part(5, 7)?, part(8, 10)?)?;
    let time = day.and_hms_nano_opt(part(11, 13)?, part(14, 16)?, part(17, 19)?, nanos)?;
    time.and_utc().timestamp_nanos_opt().map(Timestamp)
}

/// At most nine digits.
fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u32::from(byte - b'0')))
}

/// Appends a time: whole seconds without a fraction, else milliseconds, or finer where the instant needs it.
pub fn write_time(time: Timestamp, out: &mut Vec<u8>) {
    let time = DateTime::from_timestamp_nanos(time.0);
    let year = u32::try_from(time.year()).unwrap_or_default();
    for (number, digits, before) in [
        (year, 4, None),
        (time.month(), 2, Some(b'-')),
        (time.day(), 2, Some(b'-')),
        (time.hour(), 2, Some(b'T')),
        (time.minute(), 2, Some(b':')),
        (time.second(), 2, Some(b':')),
    ] {
        out.extend(before);
        write_digits(number, digits, out);
    }
    let nanos = time.nanosecond();
    let (number, digits) = match nanos {
        0 => return,
        _ if nanos % 1_000_000 == 0 => (nanos / 1_000_000, 3),
        _ if nanos % 1_000 == 0 => (nanos / 1_000, 6),
        _ => (nanos, 9),
    };
    out.push(b'.');
    write_digits(number, digits, out);
}

fn write_digits(number: u32, digits: usize, out: &mut Vec<u8>) {
    let mut rest = number;
    let start = out.len();
    out.resize(start + digits, b'0');
    for digit in out[start..].iter_mut().rev() {
        *digit += (rest % 10) as u8;
        rest /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            write_time(parse_time(text.as_bytes()).unwrap(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
        assert_eq!(parse_time(b"2022-01-01T00:00:00.5"), parse_time(b"2022-01-01T00:00:00.500000000"));
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
