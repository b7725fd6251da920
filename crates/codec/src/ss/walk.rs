//! Reading at any place of a file: what searching, verifying and repairing are built on.

use std::io;

use millstream_core::{Error, Result};

use super::{
    beacon::{BEACON_BYTES_MAX, Beacon, Decoded},
    header::{HEADER_BYTES, Header},
    reader::{Block, Message, SsReader, Step},
};

/// Bytes that can be read at any place.
pub trait ReadAt {
    /// Reads some bytes from `offset` into `buf`, and says how many; 0 only at the end.
    ///
    /// # Errors
    /// Whatever reading met.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// How many bytes there are.
    ///
    /// # Errors
    /// Whatever asking met.
    fn len(&self) -> io::Result<u64>;

    /// Whether there are none.
    ///
    /// # Errors
    /// Whatever asking met.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let bytes = rest.len().min(buf.len());
        buf[..bytes].copy_from_slice(&rest[..bytes]);
        Ok(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(<[u8]>::len(self) as u64)
    }
}

#[cfg(unix)]
impl ReadAt for std::fs::File {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// Fills `buf` from `offset` as far as the file reaches, and says how far.
pub(super) fn read_full<R: ReadAt + ?Sized>(file: &R, offset: u64, buf: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(offset.saturating_add(filled as u64), rest) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(format!("cannot read the .ss file at offset {offset}"), error)),
        }
    }
    Ok(filled.min(buf.len()))
}

pub(super) fn length<R: ReadAt + ?Sized>(file: &R) -> Result<u64> {
    file.len().map_err(|error| Error::io("cannot read the length of the .ss file", error))
}

/// Reads the header of a file.
///
/// # Errors
/// See [`Header::decode`]; and whatever reading met.
pub fn read_header<R: ReadAt + ?Sized>(file: &R) -> Result<Header> {
    let mut bytes = [0; HEADER_BYTES];
    let read = read_full(file, 0, &mut bytes)?;
    Header::decode(&bytes[..read])
}

/// The beacons of a file, read one at a time.
pub(super) struct Beacons<'a, R: ?Sized> {
    file: &'a R,
    interval: u64,
    bytes: Vec<u8>,
}

/// Most beacons have a few items, and this is one page.
const BEACON_READ_BYTES: usize = 4096;

impl<'a, R: ReadAt + ?Sized> Beacons<'a, R> {
    pub(super) fn new(file: &'a R, header: &Header) -> Self {
        Beacons { file, interval: u64::from(header.beacon_interval()), bytes: Vec::new() }
    }

    /// Beacon `n`; `None` if it is torn or damaged.
    pub(super) fn read(&mut self, n: u64) -> Result<Option<Beacon<'_>>> {
        let offset = n.saturating_mul(self.interval);
        let bytes_max = BEACON_BYTES_MAX.min(self.interval as usize);
        self.bytes.resize(bytes_max, 0);
        let mut read = read_full(self.file, offset, &mut self.bytes[..bytes_max.min(BEACON_READ_BYTES)])?;
        if read == BEACON_READ_BYTES && matches!(Beacon::decode(&self.bytes[..read]), Decoded::Short(_)) {
            read = read_full(self.file, offset, &mut self.bytes)?;
        }
        Ok(match Beacon::decode(&self.bytes[..read]) {
            Decoded::Beacon(beacon) if (beacon.bytes as u64) < self.interval => Some(beacon),
            _ => None,
        })
    }
}

/// The numbers of the beacons that cut a message. One that lies right before or behind it does not.
pub(super) fn beacons_within(message: &Message, interval: u64) -> std::ops::RangeInclusive<u64> {
    message.offset / interval + 1..=message.end.saturating_sub(1) / interval
}

/// What a first read takes, and what reads grow to while nothing is found.
const READ_BYTES: [usize; 2] = [64 * 1024, 1024 * 1024];

/// An [`SsReader`] with the file under it. The length is that of the start: what is written meanwhile is not seen.
pub(super) struct Walk<'a, R: ?Sized> {
    file: &'a R,
    len: u64,
    bytes: Vec<u8>,
    offset: u64,
    read_bytes: usize,
    pub(super) reader: SsReader,
}

impl<'a, R: ReadAt + ?Sized> Walk<'a, R> {
    pub(super) fn new(file: &'a R, len: u64, reader: SsReader) -> Self {
        Walk { file, len, bytes: Vec::new(), offset: reader.offset(), read_bytes: READ_BYTES[0], reader }
    }

    pub(super) fn block(&self) -> Block<'_> {
        let last = self.offset + self.bytes.len() as u64 >= self.len;
        Block { bytes: &self.bytes, offset: self.offset, last }
    }

    /// The next step; never `NeedMore`.
    pub(super) fn step(&mut self) -> Result<Step> {
        loop {
            let last = self.offset + self.bytes.len() as u64 >= self.len;
            match self.reader.next(Block { bytes: &self.bytes, offset: self.offset, last }) {
                Step::NeedMore { bytes } => self.fill(bytes)?,
                step => return Ok(step),
            }
        }
    }

    /// The payload of the message just found.
    pub(super) fn payload(&self, payload: super::Payload) -> &[u8] {
        self.reader.payload(self.block(), payload)
    }

    /// Reads on, so that the block begins at the reader's offset and has at least `bytes` where the file has them.
    pub(super) fn fill(&mut self, bytes: u64) -> Result<()> {
        let from = self.reader.offset();
        let known = self.block().from(from).map_or(0, <[u8]>::len);
        self.bytes.drain(..self.bytes.len() - known);
        self.offset = from;
        // Doubled, so that a message cut by a thousand beacons is not put together a thousand times.
        let wanted = (self.read_bytes as u64).max(bytes).max(2 * known as u64).min(self.len.saturating_sub(from));
        self.read_bytes = READ_BYTES[1].min(2 * self.read_bytes);
        // On machines where this fails to fit, the file is read as if it ended.
        self.bytes.resize(usize::try_from(wanted).unwrap_or(known).max(known), 0);
        let read = read_full(self.file, from + known as u64, &mut self.bytes[known..])?;
        self.bytes.truncate(known + read);
        if (self.bytes.len() as u64) < wanted {
            // Somebody has cut the file.
            self.len = from + self.bytes.len() as u64;
        }
        Ok(())
    }
}
