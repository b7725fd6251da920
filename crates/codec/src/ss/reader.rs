//! The reader: blocks of a file in, messages out, without copying them.

use std::ops::Range;

use super::{
    beacon::{Beacon, Decoded},
    crc,
    cut::{Cut, Found, TOO_LONG},
    damage::Damage,
    header::{HEADER_BYTES, Header},
    message::{END_OF_STREAM, Head, LINE_END, TAIL_BYTES},
    streams::{StreamId, Streams, names_control},
};

/// Some contiguous bytes of a file.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// Where the first of them lies in the file.
    pub offset: u64,
    /// Whether the file, as far as it is to be read, ends with this block: what is not whole then is torn.
    pub last: bool,
}

/// What [`SsReader::next`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A message, its checksum verified.
    Message(Message),
    /// The end-of-stream message. Whoever goes on after it reads what a careless writer may have appended.
    EndOfStream {
        /// Where the message begins: appending goes on here.
        offset: u64,
        /// Where it ends.
        end: u64,
        /// When the stream was ended, in milliseconds since the epoch.
        time_ms: u64,
    },
    /// The block ends before the message does. Come again with a block that reaches from [`SsReader::offset`] at
    /// least `bytes` far; where that is more than the block had, doubling it keeps the work small. A message cut by
    /// beacons asks only as far as the next of them, so a damaged size is found out within one beacon interval.
    NeedMore {
        /// Bytes wanted, from [`SsReader::offset`].
        bytes: u64,
    },
    /// Nothing follows the last whole message: the file ends cleanly, though without an end-of-stream message.
    FileEnd,
    /// The file ends within a message or beacon, as after a crash.
    Torn {
        /// Where the message begins that is torn, and where appending goes on; or, if that lies before where reading
        /// began, the beacon that cuts it.
        offset: u64,
    },
    /// Something no writer has written. [`SsReader::resync`] goes on behind it.
    Damaged {
        /// Where the damaged message or beacon begins.
        offset: u64,
        /// What is wrong with it.
        damage: Damage,
    },
}

/// One message of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its stream and shard: see [`SsReader::stream`].
    pub stream: StreamId,
    /// Its sequence.
    pub sequence: u64,
    /// Its time, in milliseconds since the epoch.
    pub time_ms: u64,
    /// Where its payload is: see [`SsReader::payload`].
    pub payload: Payload,
    /// The checksum of the payload.
    pub checksum: u16,
    /// Where its first byte lies in the file.
    pub offset: u64,
    /// Where the byte after its last one lies.
    pub end: u64,
}

/// Where the payload of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// In the block: bytes `start..end` of it.
    InBlock {
        /// Index of the first byte.
        start: usize,
        /// Index after the last byte.
        end: usize,
    },
    /// A beacon cut it, so it was put together in the reader; it stays there until the next call.
    Assembled {
        /// How many bytes it has.
        bytes: usize,
    },
}

impl Payload {
    pub(super) fn in_block(range: Range<usize>) -> Self {
        Payload::InBlock { start: range.start, end: range.end }
    }
}

/// Reads messages out of blocks of a file. It keeps no reference to them and does no I/O.
#[derive(Clone, Debug)]
pub struct SsReader {
    interval: u64,
    /// The next byte to read: a message boundary, or a beacon if `aligning`.
    offset: u64,
    /// The first multiple of the interval at or after `offset`.
    beacon_at: u64,
    /// The beacon from which the first message boundary is looked for, until it is found.
    aligning: Option<u64>,
    /// Where to go on after damage.
    detour: Detour,
    /// Whether payloads are compared with their checksums. Searching does not read them.
    verify: bool,
    streams: Streams,
    cut: Cut,
}

#[derive(Clone, Copy, Debug)]
enum Detour {
    /// A payload is wrong in a frame that is right: the next message most likely follows.
    Message(u64),
    /// Nothing is certain before the next beacon after this offset.
    BeaconAfter(u64),
}

impl SsReader {
    /// A reader of a file from its first message.
    pub fn new(header: &Header) -> Self {
        Self::at(header, HEADER_BYTES as u64)
    }

    /// A reader from the message that begins at `offset`, such as [`Message::offset`] or [`Message::end`].
    pub fn at(header: &Header, offset: u64) -> Self {
        let interval = u64::from(header.beacon_interval());
        let detour = Detour::BeaconAfter(offset);
        let (streams, cut) = (Streams::new(), Cut::default());
        let mut reader =
            SsReader { interval, offset: 0, beacon_at: 0, aligning: None, detour, verify: true, streams, cut };
        reader.go_to(offset);
        reader
    }

    /// A reader from the first message that begins after beacon `n`, which lies at `n` x interval; beacon 0 is the
    /// file header.
    pub fn at_beacon(header: &Header, n: u64) -> Self {
        match n {
            0 => Self::new(header),
            _ => {
                let mut reader = Self::at(header, n.saturating_mul(u64::from(header.beacon_interval())));
                reader.aligning = Some(reader.offset);
                reader
            }
        }
    }

    /// Leaves checksums alone: for searching, which looks at headers only.
    pub(super) fn without_checksums(mut self) -> Self {
        self.verify = false;
        self
    }

    /// The offset in the file from which the next block must have bytes: the message boundary reached.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Goes on at the message that begins at `offset`; the streams met keep their numbers.
    pub fn seek(&mut self, offset: u64) {
        self.go_to(offset);
        self.aligning = None;
    }

    /// Stream key and shard of a message; `None` for a number of another reader.
    pub fn stream(&self, stream: StreamId) -> Option<(&str, u64)> {
        self.streams.get(stream)
    }

    /// How many streams and shards have been met.
    pub fn streams_met(&self) -> usize {
        self.streams.len()
    }

    /// The payload of the message that [`SsReader::next`] has just found in `block`.
    pub fn payload<'a>(&'a self, block: Block<'a>, payload: Payload) -> &'a [u8] {
        match payload {
            Payload::InBlock { start, end } => block.bytes.get(start..end).unwrap_or_default(),
            Payload::Assembled { .. } => self.cut.payload(),
        }
    }

    /// The next message. `block` must hold the byte at [`SsReader::offset`], else the answer is `NeedMore`.
    #[inline]
    pub fn next(&mut self, block: Block<'_>) -> Step {
        let whole = self.offset != self.beacon_at && self.aligning.is_none();
        if whole && let Some(step) = self.next_whole(block) {
            return step;
        }
        self.next_any(block)
    }

    /// The next message, if it lies in the block, no beacon cuts it, it is of a known stream and all is well.
    #[inline(always)]
    fn next_whole(&mut self, block: Block<'_>) -> Option<Step> {
        let at = usize::try_from(self.offset.checked_sub(block.offset)?).ok()?;
        let bytes = block.bytes.get(at..)?;
        let (head, rest) = Head::split(bytes)?;
        let (size, rest) = rest.split_first_chunk::<4>()?;
        let size = u32::from_be_bytes(*size) as usize;
        let (payload, rest) = rest.split_at_checked(size)?;
        let [high, low, LINE_END] = *rest.first_chunk::<TAIL_BYTES>()? else { return None };
        let start = block.bytes.len() - rest.len() - size;
        let total = (start - at + size + TAIL_BYTES) as u64;
        if total > self.beacon_at - self.offset || names_control(head.name) {
            return None;
        }
        let stream = self.streams.find(head.name)?;
        let checksum = u16::from_be_bytes([high, low]);
        if self.verify && crc::checksum(payload) != checksum {
            return None;
        }
        let offset = self.offset;
        self.offset += total;
        Some(Step::Message(Message {
            stream,
            sequence: head.sequence,
            time_ms: head.time_ms,
            payload: Payload::in_block(start..start + size),
            checksum,
            offset,
            end: self.offset,
        }))
    }

    /// The next message, whatever comes.
    #[inline(never)]
    fn next_any(&mut self, block: Block<'_>) -> Step {
        loop {
            if let Some(step) = self.pass_beacons(block) {
                return step;
            }
            let offset = self.offset;
            let found = match self.cut.read(block, offset, self.interval, self.beacon_at) {
                Ok(found) => found,
                Err(step) => {
                    // A beacon that contradicts the message may be right: it is tried again, from the outside.
                    self.detour = Detour::BeaconAfter(offset);
                    return step;
                }
            };
            let Found { sequence, time_ms, payload, checksum, end } = found;
            self.detour = Detour::Message(end);
            let computed = if self.verify { crc::checksum(self.payload(block, payload)) } else { checksum };
            if computed != checksum {
                return Step::Damaged { offset, damage: Damage::Checksum { stored: checksum, computed } };
            }
            if !names_control(self.cut.name()) {
                let Some(stream) = self.streams.meet(self.cut.name()) else {
                    return Step::Damaged { offset, damage: Damage::StreamKey };
                };
                self.go_to(end);
                return Step::Message(Message { stream, sequence, time_ms, payload, checksum, offset, end });
            }
            self.go_to(end);
            if self.payload(block, payload) == END_OF_STREAM {
                return Step::EndOfStream { offset, end, time_ms };
            }
            // A pulse, which no writer should have written, carries nothing.
        }
    }

    /// Goes on behind damage: with the next message if only a payload is wrong, else at the next beacon. Only to be
    /// called after `Damaged`.
    pub fn resync(&mut self) {
        match self.detour {
            Detour::Message(offset) => self.seek(offset),
            Detour::BeaconAfter(offset) => {
                self.go_to(offset.saturating_add(1));
                self.go_to(self.beacon_at);
                self.aligning = Some(self.offset);
            }
        }
    }

    /// Reads the beacon at `offset`, if there is one, and those up to the first message boundary if aligning.
    fn pass_beacons(&mut self, block: Block<'_>) -> Option<Step> {
        while self.offset == self.beacon_at || self.aligning.is_some() {
            let bytes = match block.from(self.offset) {
                Some(bytes) if !bytes.is_empty() => bytes,
                _ if block.last && self.offset >= block.end() => {
                    return Some(match self.aligning {
                        Some(offset) if offset < self.offset => Step::Torn { offset },
                        _ => Step::FileEnd,
                    });
                }
                _ => return Some(Step::NeedMore { bytes: 1 }),
            };
            let beacon = match Beacon::decode(bytes) {
                Decoded::Short(bytes) => return Some(self.short(block, bytes as u64)),
                Decoded::Damaged(what) => return Some(self.damaged(what)),
                Decoded::Beacon(beacon) => beacon,
            };
            let (beacon_bytes, remaining) = (beacon.bytes as u64, u64::from(beacon.remaining));
            if beacon_bytes >= self.interval {
                return Some(self.damaged(TOO_LONG));
            }
            if self.aligning.is_none() && remaining != 0 {
                return Some(self.damaged("a beacon cuts a message where none is"));
            }
            if beacon_bytes + remaining > self.interval {
                // The message goes on behind the next beacon.
                self.go_to(self.offset + self.interval);
                continue;
            }
            if (bytes.len() as u64) < beacon_bytes + remaining {
                return Some(self.short(block, beacon_bytes + remaining));
            }
            // Where the message ends, the next beacon may begin: it is read as one between messages.
            self.seek(self.offset + beacon_bytes + remaining);
        }
        None
    }

    fn go_to(&mut self, offset: u64) {
        self.offset = offset;
        self.beacon_at = offset.checked_next_multiple_of(self.interval).unwrap_or(u64::MAX);
    }

    fn damaged(&mut self, what: &'static str) -> Step {
        self.detour = Detour::BeaconAfter(self.offset);
        Step::Damaged { offset: self.offset, damage: Damage::Beacon(what) }
    }

    fn short(&self, block: Block<'_>, bytes: u64) -> Step {
        match block.last {
            true => Step::Torn { offset: self.aligning.unwrap_or(self.offset) },
            false => Step::NeedMore { bytes },
        }
    }
}

impl<'a> Block<'a> {
    /// The bytes from `offset` of the file on; `None` if the block begins later or ends before it.
    #[inline(always)]
    pub(super) fn from(&self, offset: u64) -> Option<&'a [u8]> {
        self.bytes.get(usize::try_from(offset.checked_sub(self.offset)?).ok()?..)
    }

    /// The offset in the file of the byte after the last.
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(self.bytes.len() as u64)
    }
}
