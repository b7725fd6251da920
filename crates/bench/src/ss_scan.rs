//! Limits for `.ss` files: what a program would do that knows the format and nothing else.
//!
//! Reading would best be done over a memory map, which needs `unsafe`; this reads into one buffer instead, which costs one
//! copy out of the page cache and no page faults.

use std::{
    fs::File,
    io::{BufWriter, Read as _, Write as _},
    path::Path,
};

use anyhow::{Result, ensure};
use millstream_codec::ss::{BEACON_INTERVAL_DEFAULT, Beacon, Decoded, HEADER_BYTES, Header, crc};

use crate::{parts::RECORD_BYTES, ss::STREAM};

/// Writes messages with their checksums through a buffer, without beacons.
pub(crate) fn write_by_hand(path: &Path, payloads: &[u8], records: u64) -> Result<u64> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&Header::new("bench.ss", 0, BEACON_INTERVAL_DEFAULT)?.encode())?;
    let mut sequence = 0u64;
    for payload in payloads.chunks_exact(RECORD_BYTES).cycle().take(usize::try_from(records)?) {
        sequence += 1;
        file.write_all(&[STREAM.len() as u8])?;
        file.write_all(STREAM.as_bytes())?;
        file.write_all(&0u64.to_be_bytes())?;
        file.write_all(&sequence.to_be_bytes())?;
        file.write_all(&1u64.to_be_bytes())?;
        file.write_all(&(payload.len() as u32).to_be_bytes())?;
        file.write_all(payload)?;
        file.write_all(&crc::checksum(payload).to_be_bytes())?;
        file.write_all(b"\r")?;
    }
    file.flush()?;
    Ok(records)
}

/// Walks over all messages and compares their checksums.
pub(crate) fn scan(path: &Path) -> Result<u64> {
    let mut file = File::open(path)?;
    let interval = BEACON_INTERVAL_DEFAULT as usize;
    // What a beacon cuts off is moved to right before the rest behind it, over the beacon.
    const LEAD: usize = 4096;
    let mut buffer = vec![0; LEAD + interval];
    let (mut carried, mut records, mut first) = (Vec::new(), 0, true);
    loop {
        let mut filled = LEAD;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..])? {
                0 => break,
                more => filled += more,
            }
        }
        if filled == LEAD {
            ensure!(carried.is_empty(), "the file ends within a message");
            return Ok(records);
        }
        let skip = if std::mem::replace(&mut first, false) {
            HEADER_BYTES
        } else {
            match Beacon::decode(&buffer[LEAD..filled]) {
                Decoded::Beacon(beacon) => beacon.bytes,
                other => anyhow::bail!("{other:?}"),
            }
        };
        let start = LEAD + skip - carried.len();
        buffer[start..LEAD + skip].copy_from_slice(&carried);
        let mut rest = &buffer[start..filled];
        while let Some((payload, sum, behind)) = message(rest) {
            ensure!(crc::checksum(payload) == sum, "message {records} is damaged");
            records += 1;
            rest = behind;
        }
        carried = rest.to_vec();
        ensure!(carried.len() < LEAD, "a message is too long");
    }
}

/// Payload and checksum of the first message, and what follows it; `None` if it is not whole.
fn message(bytes: &[u8]) -> Option<(&[u8], u16, &[u8])> {
    let key_bytes = usize::from(*bytes.first()?);
    let (size, rest) = bytes.get(1 + key_bytes + 24..)?.split_first_chunk::<4>()?;
    let (payload, rest) = rest.split_at_checked(u32::from_be_bytes(*size) as usize)?;
    let (sum, rest) = rest.split_first_chunk::<2>()?;
    Some((payload, u16::from_be_bytes(*sum), rest.get(1..)?))
}
