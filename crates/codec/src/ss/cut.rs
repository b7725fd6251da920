//! Messages that beacons cut: put together again, while the beacons are checked against them.

use super::{
    beacon::{Beacon, Decoded},
    damage::Damage,
    message::{Head, LINE_END, TAIL_BYTES},
    reader::{Block, Payload, Step},
};

/// The parts of the message last read, as far as they do not lie in the block. Kept to use the memory again.
#[derive(Clone, Debug, Default)]
pub(super) struct Cut {
    head: Vec<u8>,
    payload: Vec<u8>,
    tail: Vec<u8>,
}

/// A whole message; its checksum is not looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) sequence: u64,
    pub(super) time_ms: u64,
    pub(super) payload: Payload,
    pub(super) checksum: u16,
    pub(super) end: u64,
}

impl Cut {
    /// The name of the stream of the message last read.
    pub(super) fn name(&self) -> &[u8] {
        Head::split(&self.head).map_or(&[], |(head, _)| head.name)
    }

    /// The payload of the message last read, if a beacon cut it.
    pub(super) fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Reads the message that begins at `offset`, with the next beacon at `beacon_at`. Any step that comes back
    /// instead says why there is none.
    pub(super) fn read(&mut self, block: Block<'_>, offset: u64, interval: u64, beacon_at: u64) -> Result<Found, Step> {
        if block.from(offset).is_none_or(<[u8]>::is_empty) {
            let end = block.last && offset >= block.end();
            return Err(if end { Step::FileEnd } else { Step::NeedMore { bytes: 1 } });
        }
        let mut way = Way { block, start: offset, at: offset, interval, beacon_at, taken: 0, total: None };
        self.head.clear();
        self.payload.clear();
        self.tail.clear();
        way.take(1, &mut self.head)?;
        let key_bytes = self.head.first().map_or(0, |key_bytes| usize::from(*key_bytes));
        way.take(key_bytes + 8 + 8 + 8 + 4, &mut self.head)?;
        // `take` has filled `head`, so it splits; if it did not, the file would not be to blame.
        let Some((head, Some(size))) = Head::split(&self.head).map(|(head, rest)| (head, rest.first_chunk::<4>()))
        else {
            return Err(Step::NeedMore { bytes: 1 });
        };
        let (sequence, time_ms, size) = (head.sequence, head.time_ms, u32::from_be_bytes(*size) as usize);
        way.expect(way.taken + size as u64 + TAIL_BYTES as u64, offset)?;
        let payload = match way.take_uncut(size)? {
            Some(range) => Payload::in_block(range),
            None => {
                way.take(size, &mut self.payload)?;
                Payload::Assembled { bytes: size }
            }
        };
        way.take(TAIL_BYTES, &mut self.tail)?;
        let [high, low, LINE_END] = self.tail[..] else {
            return Err(Step::Damaged { offset, damage: Damage::LineEnd });
        };
        Ok(Found { sequence, time_ms, payload, checksum: u16::from_be_bytes([high, low]), end: way.at })
    }
}

/// The way through the bytes of one message, around its beacons.
struct Way<'a> {
    block: Block<'a>,
    start: u64,
    at: u64,
    interval: u64,
    beacon_at: u64,
    /// Bytes of the message so far.
    taken: u64,
    /// Bytes of the whole message, as its size or a beacon says: whichever came first.
    total: Option<u64>,
}

impl Way<'_> {
    /// The next `bytes` of the message, copied.
    fn take(&mut self, mut bytes: usize, into: &mut Vec<u8>) -> Result<(), Step> {
        while bytes > 0 {
            self.pass_beacon()?;
            let room = self.room().min(bytes);
            let piece = self.block.from(self.at).unwrap_or_default();
            let Some(piece) = piece.get(..room) else { return Err(self.short(room)) };
            into.extend_from_slice(piece);
            self.step(room);
            bytes -= room;
        }
        Ok(())
    }

    /// The next `bytes` of the message as a range of the block, if no beacon cuts them.
    fn take_uncut(&mut self, bytes: usize) -> Result<Option<std::ops::Range<usize>>, Step> {
        if bytes > 0 {
            self.pass_beacon()?;
        }
        if bytes > self.room() {
            return Ok(None);
        }
        let rest = self.block.from(self.at).unwrap_or_default();
        if rest.len() < bytes {
            return Err(self.short(bytes));
        }
        let start = self.block.bytes.len() - rest.len();
        self.step(bytes);
        Ok(Some(start..start + bytes))
    }

    fn pass_beacon(&mut self) -> Result<(), Step> {
        if self.at != self.beacon_at {
            return Ok(());
        }
        let offset = self.at;
        let beacon = match Beacon::decode(self.block.from(offset).unwrap_or_default()) {
            Decoded::Short(bytes) => return Err(self.short(bytes)),
            Decoded::Damaged(what) => return Err(Step::Damaged { offset, damage: Damage::Beacon(what) }),
            Decoded::Beacon(beacon) => beacon,
        };
        if beacon.bytes as u64 >= self.interval {
            return Err(Step::Damaged { offset, damage: Damage::Beacon(TOO_LONG) });
        }
        self.expect(self.taken + u64::from(beacon.remaining), offset)?;
        self.at += beacon.bytes as u64;
        self.beacon_at += self.interval;
        Ok(())
    }

    /// Size and beacons must say the same. So a damaged size is found out at the first beacon, not gigabytes later.
    fn expect(&mut self, total: u64, offset: u64) -> Result<(), Step> {
        match *self.total.get_or_insert(total) == total {
            true => Ok(()),
            false => Err(Step::Damaged { offset, damage: Damage::Beacon(DISAGREE) }),
        }
    }

    /// Bytes up to the next beacon.
    fn room(&self) -> usize {
        usize::try_from(self.beacon_at - self.at).unwrap_or(usize::MAX)
    }

    fn step(&mut self, bytes: usize) {
        self.at += bytes as u64;
        self.taken += bytes as u64;
    }

    /// `bytes` more are needed, and they are not there.
    fn short(&self, bytes: usize) -> Step {
        match self.block.last {
            true => Step::Torn { offset: self.start },
            false => Step::NeedMore { bytes: self.at - self.start + bytes as u64 },
        }
    }
}

pub(super) const TOO_LONG: &str = "a beacon reaches the next one";
const DISAGREE: &str = "a message and a beacon that cuts it disagree on its size";
