//! The bytes of a segment: the changed keys of an epoch.
//!
//! ```text
//! version u8 = 1 │ epoch u64 │ stages u32 │ stage*
//! stage:   name length u32 │ name │ changes u32 │ change*
//! change:  group u16 │ key length u32 │ key │ value length + 1 (0: removed) u32 │ value
//! ```
//!
//! Numbers are little-endian. A segment's hash is xxh3 over all of it.

use bytes::{Buf, Bytes};
use millstream_core::{Change, Epoch, Error, ErrorKind, GROUPS, Result, Segment};

const VERSION: u8 = 1;
/// Longest name of a stage, in bytes: it stands in front of every key.
const STAGE_BYTES_MAX: usize = 1024;
/// Longest key or value, in bytes: lengths have 32 bits, and fjall takes no more.
const BYTES_MAX: usize = u32::MAX as usize - 1;

/// The hash by which a checkpoint names a segment.
pub(crate) fn hash(encoded: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(encoded)
}

/// The segment's bytes. Names, groups and lengths that cannot be stored are refused.
pub(crate) fn encode(segment: &Segment) -> Result<Vec<u8>> {
    let size = |change: &Change| 10 + change.key.len() + change.value.as_ref().map_or(0, Bytes::len);
    let stage_size = |(name, changes): &(String, Vec<Change>)| 8 + name.len() + changes.iter().map(size).sum::<usize>();
    let mut bytes = Vec::with_capacity(13 + segment.stages.iter().map(stage_size).sum::<usize>());
    bytes.push(VERSION);
    bytes.extend_from_slice(&segment.epoch.to_le_bytes());
    count(&mut bytes, segment.stages.len())?;
    for (name, changes) in &segment.stages {
        if name.is_empty() || name.len() > STAGE_BYTES_MAX || name.contains('\0') {
            return Err(Error::new(ErrorKind::Option, format!("cannot keep state of a stage named {name:?}"))
                .hint(format!("give it a `name` of 1 to {STAGE_BYTES_MAX} bytes without NUL")));
        }
        count(&mut bytes, name.len())?;
        bytes.extend_from_slice(name.as_bytes());
        count(&mut bytes, changes.len())?;
        for change in changes {
            if change.group >= GROUPS {
                let message = format!("cannot keep a key of `{name}` in group {} of {GROUPS}", change.group);
                return Err(Error::new(ErrorKind::Bug, message));
            }
            bytes.extend_from_slice(&change.group.to_le_bytes());
            count(&mut bytes, change.key.len())?;
            bytes.extend_from_slice(&change.key);
            match &change.value {
                Some(value) => {
                    count(&mut bytes, value.len())?;
                    let at = bytes.len() - 4;
                    let plus_one = (value.len() as u32 + 1).to_le_bytes();
                    bytes[at..].copy_from_slice(&plus_one);
                    bytes.extend_from_slice(value);
                }
                None => bytes.extend_from_slice(&[0; 4]),
            }
        }
    }
    Ok(bytes)
}

/// The segment in these bytes, sharing them. `None` if they are not a segment that this build knows.
pub(crate) fn decode(mut bytes: Bytes) -> Option<Segment> {
    if bytes.try_get_u8().ok()? != VERSION {
        return None;
    }
    let epoch = bytes.try_get_u64_le().ok()?;
    let mut segment = Segment { epoch, stages: Vec::new() };
    for _ in 0..bytes.try_get_u32_le().ok()? {
        let name = String::from_utf8(take(&mut bytes)?.to_vec()).ok()?;
        let changes = bytes.try_get_u32_le().ok()?;
        // Each change has at least 10 bytes, so a damaged count asks for no memory.
        let mut list = Vec::with_capacity((changes as usize).min(bytes.len() / 10));
        for _ in 0..changes {
            let group = bytes.try_get_u16_le().ok().filter(|group| *group < GROUPS)?;
            let key = take(&mut bytes)?;
            let value = match bytes.try_get_u32_le().ok()? {
                0 => None,
                plus_one => Some(split(&mut bytes, plus_one - 1)?),
            };
            list.push(Change { group, key, value });
        }
        segment.stages.push((name, list));
    }
    bytes.is_empty().then_some(segment)
}

/// The epoch of encoded bytes; `None` if they are not a segment that this build knows.
pub(crate) fn epoch(mut bytes: &[u8]) -> Option<Epoch> {
    (bytes.try_get_u8().ok()? == VERSION).then_some(())?;
    bytes.try_get_u64_le().ok()
}

fn count(bytes: &mut Vec<u8>, number: usize) -> Result<()> {
    let fits = u32::try_from(number).ok().filter(|_| number <= BYTES_MAX);
    let number = fits.ok_or_else(|| {
        Error::new(ErrorKind::TooLarge, format!("cannot keep {number} bytes of state under one key"))
            .hint("a key and its value have less than 4 GiB each")
    })?;
    bytes.extend_from_slice(&number.to_le_bytes());
    Ok(())
}

fn take(bytes: &mut Bytes) -> Option<Bytes> {
    let length = bytes.try_get_u32_le().ok()?;
    split(bytes, length)
}

fn split(bytes: &mut Bytes, length: u32) -> Option<Bytes> {
    (length as usize <= bytes.len()).then(|| bytes.split_to(length as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &[u8], value: Option<&[u8]>) -> Change {
        Change {
            group: millstream_core::group(key),
            key: Bytes::copy_from_slice(key),
            value: value.map(Bytes::copy_from_slice),
        }
    }

    #[test]
    fn segments_read_back_and_no_cut_or_flip_panics() {
        let segment = Segment {
            epoch: 812,
            stages: vec![
                ("count".into(), vec![change(b"whale", Some(b"\x01")), change(b"", Some(b"")), change(b"gone", None)]),
                ("empty".into(), vec![]),
            ],
        };
        let bytes = encode(&segment).unwrap();
        assert_eq!(decode(bytes.clone().into()), Some(segment));
        assert_eq!(epoch(&bytes), Some(812));
        for length in 0..bytes.len() {
            assert_eq!(decode(Bytes::copy_from_slice(&bytes[..length])), None);
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0xff;
            let _ = decode(flipped.into());
        }
    }

    #[test]
    fn names_and_groups_that_cannot_be_stored_are_refused() {
        let with = |name: &str, group| Segment {
            epoch: 1,
            stages: vec![(name.into(), vec![Change { group, key: Bytes::new(), value: None }])],
        };
        assert_eq!(encode(&with("a\0b", 0)).unwrap_err().kind(), ErrorKind::Option);
        assert_eq!(encode(&with("", 0)).unwrap_err().kind(), ErrorKind::Option);
        assert_eq!(encode(&with("a", 1024)).unwrap_err().kind(), ErrorKind::Bug);
    }
}
