//! Instants and durations as users write them.

use std::{fmt, str::FromStr, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// An instant: nanoseconds since 1970-01-01T00:00:00Z, from the year 1677 to 2262.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

#[cfg(feature = "virtual-time")]
thread_local! {
    static CLOCK: std::cell::Cell<Option<fn() -> Timestamp>> = const { std::cell::Cell::new(None) };
}

impl Timestamp {
    /// Now, by the machine's wall clock.
    pub fn now() -> Self {
        #[cfg(feature = "virtual-time")]
        if let Some(clock) = CLOCK.get() {
            return clock();
        }
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    /// For tests whose time is virtual: what [`Timestamp::now`] answers on this thread from now on; `None`: the machine's clock.
    #[cfg(feature = "virtual-time")]
    pub fn set_clock(clock: Option<fn() -> Timestamp>) {
        CLOCK.set(clock);
    }

    /// From milliseconds since 1970; saturates.
    pub const fn from_millis(ms: i64) -> Self {
        Timestamp(ms.saturating_mul(1_000_000))
    }

    /// Milliseconds since 1970, rounded down.
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// Reads RFC 3339; a time without a zone is UTC.
    pub fn parse(text: &str) -> Result<Self> {
        let parsed = DateTime::parse_from_rfc3339(text)
            .map(|time| time.with_timezone(&Utc))
            .or_else(|error| text.parse::<chrono::NaiveDateTime>().map(|time| time.and_utc()).map_err(|_| error));
        parsed.ok().and_then(|time| time.timestamp_nanos_opt()).map(Timestamp).ok_or_else(|| {
            Error::new(ErrorKind::Option, format!("`{text}` is not a time")).hint("write it as 2026-01-02T03:04:05Z")
        })
    }

    /// RFC 3339 in UTC with milliseconds, or finer where the instant needs it.
    pub fn to_rfc3339(self) -> String {
        let format = if self.0 % 1_000_000 == 0 { SecondsFormat::Millis } else { SecondsFormat::AutoSi };
        DateTime::from_timestamp_nanos(self.0).to_rfc3339_opts(format, true)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

/// A duration written with its unit: `250ms`, `5s`, `10m`, `1h`, `2d`; parts add up (`1m30s`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

const DURATION_UNITS: [(&str, f64); 7] =
    [("ns", 1e-9), ("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86400.0)];

impl FromStr for Span {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let total = parse_units(text, &DURATION_UNITS).filter(|total| *total <= 1e12);
        total.map(|total| Span(Duration::from_secs_f64(total))).ok_or_else(|| {
            Error::new(ErrorKind::Option, format!("`{text}` is not a duration"))
                .hint("write a number with a unit: `250ms`, `5s`, `10m`, `1h`")
        })
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        let units: [(&str, u128); 7] = [
            ("d", 86_400_000_000_000),
            ("h", 3_600_000_000_000),
            ("m", 60_000_000_000),
            ("s", 1_000_000_000),
            ("ms", 1_000_000),
            ("us", 1_000),
            ("ns", 1),
        ];
        let mut rest = nanos;
        for (unit, size) in units {
            if rest >= size {
                write!(f, "{}{unit}", rest / size)?;
                rest %= size;
            }
        }
        Ok(())
    }
}

/// A size written with its unit: `512B`, `64KiB`, `10MB`, `1GiB`; a bare number is bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(pub u64);

const SIZE_UNITS: [(&str, f64); 9] = [
    ("B", 1.0),
    ("KiB", 1024.0),
    ("MiB", 1048576.0),
    ("GiB", 1073741824.0),
    ("TiB", 1099511627776.0),
    ("KB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
];

impl FromStr for Size {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Ok(bytes) = text.trim().parse() {
            return Ok(Size(bytes));
        }
        let total = parse_units(text, &SIZE_UNITS).filter(|total| *total < 9e18);
        // The cast is exact enough: below 2^63, and a size is not finer than a byte.
        total.map(|total| Size(total as u64)).ok_or_else(|| {
            Error::new(ErrorKind::Option, format!("`{text}` is not a size"))
                .hint("write a number with a unit: `512B`, `64KiB`, `1MiB`, `10GB`")
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match units.iter().find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size)) {
            Some((unit, size)) => write!(f, "{}{unit}", self.0 / size),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// Sums `number unit` pairs; `None` if the text is anything else.
fn parse_units(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let mut rest = text.trim();
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
        let (number, tail) = rest.split_at(digits);
        let tail = tail.trim_start();
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
        total += number.parse::<f64>().ok()? * factor;
        rest = tail.trim_start();
    }
    Some(total)
}

macro_rules! as_text {
    ($type:ident, $description:literal, $pattern:literal) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(|error: Error| {
                    serde::de::Error::custom(format!("{error}; {}", error.hint_text().unwrap_or_default()))
                })
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "description": $description, "pattern": $pattern })
            }
        }
    };
}

as_text!(Span, "A duration with its unit: 250ms, 5s, 10m, 1h.", "^\\s*([0-9.]+\\s*(ns|us|ms|s|m|h|d)\\s*)+$");
as_text!(Size, "A size with its unit: 512B, 64KiB, 10MB.", "^\\s*[0-9.]+\\s*(B|[KMGT]i?B)?\\s*$");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_back_as_written() {
        for text in ["5s", "1m30s", "250ms", "2d", "0s"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        for text in ["64KiB", "1MiB", "100B"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        for text in ["", "5", "s", "5 parsecs", "-1s", "1e400s", "9999999999999999d"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        assert!("12XB".parse::<Size>().is_err());
    }

    #[test]
    fn times_are_utc() {
        let time = Timestamp::parse("2026-01-02T03:04:05.678+01:00").unwrap();
        assert_eq!(time.to_rfc3339(), "2026-01-02T02:04:05.678Z");
        assert_eq!(Timestamp::parse("2026-01-02T02:04:05.678").unwrap(), time);
        assert_eq!(Timestamp(1).to_rfc3339(), "1970-01-01T00:00:00.000000001Z");
        assert!(Timestamp::parse("yesterday").is_err());
    }
}
