//! The frame around a gzip member (RFC 1952): header in front, checksum and length behind.

use millstream_core::{Error, ErrorKind, Result};

const FIXED_BYTES: usize = 10;
/// Checksum and length behind a member.
pub(super) const TRAILER_BYTES: usize = 8;
/// Longest header that is accepted: the extra field of 64 KiB, and as much again for name and comment.
const HEADER_BYTES_MAX: usize = 128 << 10;

const HEADER_CRC: u8 = 2;
const EXTRA: u8 = 4;
const NAME: u8 = 8;
const COMMENT: u8 = 16;

/// Length of the header at the front of `bytes`; `None` if more of it is needed.
pub(super) fn header_len(bytes: &[u8]) -> Result<Option<usize>> {
    let magic = &bytes[..bytes.len().min(3)];
    if *magic != [0x1f, 0x8b, 8][..magic.len()] {
        return Err(
            Error::new(ErrorKind::Corrupt, "the bytes are not gzip").hint("`compression: none` reads them as they are")
        );
    }
    if bytes.len() > HEADER_BYTES_MAX {
        return Err(Error::new(ErrorKind::Corrupt, "a gzip header is longer than 128 KiB"));
    }
    let Some(&flags) = bytes.get(3) else { return Ok(None) };
    let mut at = FIXED_BYTES;
    if flags & EXTRA != 0 {
        let Some(&[low, high]) = bytes.get(at..at + 2) else { return Ok(None) };
        at += 2 + usize::from(u16::from_le_bytes([low, high]));
    }
    for text in [NAME, COMMENT] {
        if flags & text != 0 {
            let Some(rest) = bytes.get(at..) else { return Ok(None) };
            let Some(end) = memchr::memchr(0, rest) else { return Ok(None) };
            at += end + 1;
        }
    }
    if flags & HEADER_CRC != 0 {
        at += 2;
    }
    Ok((bytes.len() >= at).then_some(at))
}

/// Whether the bytes behind a member fit what was unpacked.
pub(super) fn check_trailer(trailer: &[u8], sum: u32, bytes: u32) -> Result<()> {
    let mut expected = [0; TRAILER_BYTES];
    expected[..4].copy_from_slice(&sum.to_le_bytes());
    expected[4..].copy_from_slice(&bytes.to_le_bytes());
    if trailer == expected {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, "a gzip member does not fit its checksum").hint("the file is damaged"))
}
