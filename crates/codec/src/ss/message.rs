//! The message header, which beacon items share, and what surrounds a payload.

use millstream_core::{Error, ErrorKind, Result};

/// Ends every message, and stands at both ends of a beacon: a soft line end, so that a file can be looked at in an editor.
pub const LINE_END: u8 = 0x0D;

/// The stream key of control messages. Nobody else may write to it.
pub const CONTROL_KEY: &str = "SEA_STREAMER_INTERNAL";

/// The payload of the control message that ends a file.
pub const END_OF_STREAM: &[u8] = b"EOS";

/// The length of a stream key is one byte.
pub const STREAM_KEY_BYTES_MAX: usize = u8::MAX as usize;

/// Checksum and line end, after the payload.
pub(super) const TAIL_BYTES: usize = 3;

/// Shard, sequence, time and payload size, after the stream key.
const NUMBERS_BYTES: usize = 8 + 8 + 8 + 4;

/// The largest payload of any stream: a beacon counts the bytes of a message in a u32.
pub const PAYLOAD_BYTES_MAX: usize = u32::MAX as usize - (1 + STREAM_KEY_BYTES_MAX + NUMBERS_BYTES + TAIL_BYTES);

/// Bytes that a message takes in a file, without the beacons that may cut it.
pub const fn message_bytes(key_bytes: usize, payload_bytes: usize) -> usize {
    1 + key_bytes + NUMBERS_BYTES + payload_bytes + TAIL_BYTES
}

/// A message header as it lies in the file; the same bytes begin a beacon item.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    /// Length byte, key and shard as written: they name the stream, and are compared as bytes.
    pub(super) name: &'a [u8],
    pub(super) sequence: u64,
    pub(super) time_ms: u64,
}

impl<'a> Head<'a> {
    /// The header at the start of `bytes`, and what follows it; `None` if it is not all there.
    #[inline(always)]
    pub(super) fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let key_bytes = usize::from(*bytes.first()?);
        let (name, rest) = bytes.split_at_checked(1 + key_bytes + 8)?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let (time_ms, rest) = rest.split_first_chunk::<8>()?;
        let head = Head { name, sequence: u64::from_be_bytes(*sequence), time_ms: u64::from_be_bytes(*time_ms) };
        Some((head, rest))
    }
}

/// Stream key and shard of a name as in the file; `None` if the key is not UTF-8.
pub(super) fn key_and_shard(name: &[u8]) -> Option<(&str, u64)> {
    let (key, shard) = name.get(1..)?.split_last_chunk::<8>()?;
    Some((std::str::from_utf8(key).ok()?, u64::from_be_bytes(*shard)))
}

/// How the file writes the name of a stream: length, key, shard.
///
/// # Errors
/// `Option` if the key is too long.
pub(super) fn name_of(key: &str, shard: u64) -> Result<Box<[u8]>> {
    let Ok(key_bytes) = u8::try_from(key.len()) else {
        let message = format!("cannot use a stream key of {} bytes in a .ss file", key.len());
        return Err(Error::new(ErrorKind::Option, message).hint(format!("the limit is {STREAM_KEY_BYTES_MAX} bytes")));
    };
    Ok([&[key_bytes], key.as_bytes(), &shard.to_be_bytes()].concat().into())
}
