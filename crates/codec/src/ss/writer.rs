//! The writer: records in, the bytes of the file out.

mod sequel;

use std::collections::HashMap;

use millstream_core::{Error, ErrorKind, Result};

use super::{
    beacon::{Beacon, Turns, beacon_items_max},
    crc,
    end::{End, StreamEnd},
    header::Header,
    message::{CONTROL_KEY, END_OF_STREAM, LINE_END, PAYLOAD_BYTES_MAX, TAIL_BYTES, name_of},
};

/// Makes the bytes of a file. It does no I/O: every call appends to `out` what belongs next into the file, and the
/// caller writes that when it likes.
///
/// If writing to the file fails midway, the writer knows more than the file: drop it, and begin again with
/// [`find_end`](super::find_end) and [`SsWriter::resume`].
#[derive(Clone, Debug)]
pub struct SsWriter {
    interval: u64,
    items_max: usize,
    /// Where the next byte lies in the file.
    offset: u64,
    /// The first multiple of the interval above `offset`. At that very offset the beacon is written at once, also
    /// after the last message, so `offset` never rests on a multiple.
    beacon_at: u64,
    streams: Vec<Stream>,
    handles: HashMap<Box<[u8]>, StreamHandle>,
    turns: Turns,
    /// The longest name of a stream, as in the file.
    name_bytes_max: usize,
    ended: bool,
}

/// A stream and shard of one [`SsWriter`], looked up once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamHandle(u32);

#[derive(Clone, Debug)]
struct Stream {
    /// As in the file: length, key, shard.
    name: Box<[u8]>,
    key_bytes: usize,
    shard: u64,
    sequence: u64,
    time_ms: u64,
    running: u16,
    /// Whether it has a message in the file: only then beacons show it.
    begun: bool,
}

impl Stream {
    fn key(&self) -> &[u8] {
        // The name was built as one length byte, the key, the shard.
        &self.name[1..1 + self.key_bytes]
    }
}

impl SsWriter {
    /// Begins a new file: appends the header to `out`.
    pub fn new(header: &Header, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&header.encode());
        Self::at(header, super::HEADER_BYTES as u64, &[], 0, out)
    }

    /// Goes on with a file at [`End::offset`], to which the caller has truncated it. Appends to `out` only if a crash
    /// lost the beacon that belongs right there.
    ///
    /// # Errors
    /// `Option` if a stream of `end` has a key that no file can hold.
    pub fn resume(end: &End, out: &mut Vec<u8>) -> Result<Self> {
        let streams = end.streams.iter().map(Stream::resumed).collect::<Result<Vec<_>>>()?;
        Ok(Self::at(&end.header, end.offset, &streams, end.turn, out))
    }

    fn at(header: &Header, offset: u64, streams: &[Stream], turn: usize, out: &mut Vec<u8>) -> Self {
        let interval = u64::from(header.beacon_interval());
        let mut writer = SsWriter {
            interval,
            items_max: beacon_items_max(header.beacon_interval()),
            offset,
            beacon_at: offset.next_multiple_of(interval),
            streams: Vec::with_capacity(streams.len()),
            handles: HashMap::with_capacity(streams.len()),
            turns: Turns::from(turn),
            // The control message that ends the file is one too.
            name_bytes_max: 1 + CONTROL_KEY.len() + 8,
            ended: false,
        };
        for stream in streams {
            let handle = writer.push(stream.clone());
            if stream.begun {
                writer.turns.join(handle.0);
            }
        }
        if writer.offset == writer.beacon_at {
            writer.beacon(0, out);
        }
        writer
    }

    /// The offset in the file of the next byte that is written.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The handle of a stream and shard. Cheap, but not free: keep it where many records follow.
    ///
    /// # Errors
    /// `Option` if the key is longer than 255 bytes or is that of control messages.
    pub fn stream(&mut self, key: &str, shard: u64) -> Result<StreamHandle> {
        if key == CONTROL_KEY {
            return Err(Error::new(ErrorKind::Option, format!("cannot write to the stream `{CONTROL_KEY}`"))
                .hint("this key is kept for control messages; choose another"));
        }
        self.intern(key, shard)
    }

    /// The sequence of the last message of a stream; 0 before the first.
    pub fn last_sequence(&self, stream: StreamHandle) -> u64 {
        self.streams.get(stream.0 as usize).map_or(0, |stream| stream.sequence)
    }

    /// Appends a record and gives its sequence, the next of its stream.
    ///
    /// # Errors
    /// See [`SsWriter::append`]. On an error nothing has been written.
    #[inline]
    pub fn append_to(&mut self, stream: StreamHandle, time_ms: u64, payload: &[u8], out: &mut Vec<u8>) -> Result<u64> {
        self.check(payload)?;
        let Some(sequence) = self.known(stream)?.sequence.checked_add(1) else {
            return Err(Error::new(ErrorKind::Rejected, "cannot number a message after sequence 2^64 - 1"));
        };
        self.put(stream, sequence, time_ms, payload, out);
        Ok(sequence)
    }

    /// Appends a record that has a sequence already, such as one copied from elsewhere. Gaps are allowed.
    ///
    /// # Errors
    /// `Rejected` if `sequence` is not above the last of its stream, since no reader could find it; else see
    /// [`SsWriter::append`]. On an error nothing has been written.
    pub fn append_at(
        &mut self,
        stream: StreamHandle,
        sequence: u64,
        time_ms: u64,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<u64> {
        self.check(payload)?;
        let last = self.known(stream)?;
        if (last.begun || last.sequence > 0) && sequence <= last.sequence {
            let message = format!("cannot append sequence {sequence} after {}", last.sequence);
            return Err(Error::new(ErrorKind::Rejected, message).hint("sequences of a stream and shard must rise"));
        }
        self.put(stream, sequence, time_ms, payload, out);
        Ok(sequence)
    }

    /// Appends a record of stream `key` and `shard`; its sequence is the next of its stream unless one is given.
    ///
    /// # Errors
    /// `Option` for a key that cannot be written, `TooLarge` for a payload above [`PAYLOAD_BYTES_MAX`], `Rejected` for
    /// a sequence that does not rise, `Closed` after [`SsWriter::end`]. On an error nothing has been written.
    pub fn append(
        &mut self,
        key: &str,
        shard: u64,
        sequence: Option<u64>,
        time_ms: u64,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<u64> {
        let stream = self.stream(key, shard)?;
        match sequence {
            None => self.append_to(stream, time_ms, payload, out),
            Some(sequence) => self.append_at(stream, sequence, time_ms, payload, out),
        }
    }

    /// Ends the file with the end-of-stream message. Opening to append removes it again.
    ///
    /// # Errors
    /// `Closed` if it has ended already.
    pub fn end(&mut self, time_ms: u64, out: &mut Vec<u8>) -> Result<()> {
        self.check(END_OF_STREAM)?;
        let control = self.intern(CONTROL_KEY, 0)?;
        self.put(control, 0, time_ms, END_OF_STREAM, out);
        self.ended = true;
        Ok(())
    }

    fn intern(&mut self, key: &str, shard: u64) -> Result<StreamHandle> {
        let name = name_of(key, shard)?;
        if let Some(handle) = self.handles.get(&name) {
            return Ok(*handle);
        }
        if u32::try_from(self.streams.len()).is_err() {
            return Err(Error::new(ErrorKind::TooLarge, "cannot write more than 2^32 streams to one file"));
        }
        let (sequence, time_ms, running) = (0, 0, crc::INITIAL);
        Ok(self.push(Stream { name, key_bytes: key.len(), shard, sequence, time_ms, running, begun: false }))
    }

    fn push(&mut self, stream: Stream) -> StreamHandle {
        let handle = StreamHandle(self.streams.len() as u32);
        self.name_bytes_max = self.name_bytes_max.max(stream.name.len());
        self.handles.insert(stream.name.clone(), handle);
        self.streams.push(stream);
        handle
    }

    #[inline]
    fn check(&self, payload: &[u8]) -> Result<()> {
        if self.ended {
            return Err(Error::new(ErrorKind::Closed, "cannot append after the end of stream"));
        }
        if payload.len() > PAYLOAD_BYTES_MAX {
            let message = format!("cannot append a payload of {} bytes", payload.len());
            return Err(
                Error::new(ErrorKind::TooLarge, message).hint(format!("the limit is {PAYLOAD_BYTES_MAX} bytes"))
            );
        }
        Ok(())
    }

    #[inline]
    fn known(&self, stream: StreamHandle) -> Result<&Stream> {
        let foreign = || Error::new(ErrorKind::Bug, "cannot append to a stream handle of another writer");
        self.streams.get(stream.0 as usize).ok_or_else(foreign)
    }

    /// Writes a message whose stream is known, whose payload is not too long and whose sequence is right.
    #[inline]
    pub(super) fn put(&mut self, to: StreamHandle, sequence: u64, time_ms: u64, payload: &[u8], out: &mut Vec<u8>) {
        // The callers have proven the handle; without a stream there is nothing to write.
        let Some(stream) = self.streams.get_mut(to.0 as usize) else { return };
        let sum = crc::checksum(payload);
        if !std::mem::replace(&mut stream.begun, true) {
            self.turns.join(to.0);
        }
        // What beacons show never goes back: see `BeaconItem::time_ms`.
        stream.sequence = stream.sequence.max(sequence);
        stream.time_ms = stream.time_ms.max(time_ms);
        stream.running = crc::run(stream.running, sum);

        let name = &stream.name;
        let mut numbers = [0; 20];
        numbers[..8].copy_from_slice(&sequence.to_be_bytes());
        numbers[8..16].copy_from_slice(&time_ms.to_be_bytes());
        numbers[16..].copy_from_slice(&(payload.len() as u32).to_be_bytes());
        let [high, low] = sum.to_be_bytes();
        let tail: [u8; TAIL_BYTES] = [high, low, LINE_END];

        let bytes = (name.len() + numbers.len() + payload.len() + tail.len()) as u64;
        if bytes < self.beacon_at - self.offset {
            out.reserve(bytes as usize);
            out.extend_from_slice(name);
            out.extend_from_slice(&numbers);
            out.extend_from_slice(payload);
            out.extend_from_slice(&tail);
            self.offset += bytes;
        } else {
            let name = name.clone();
            self.put_cut(bytes, [&name, &numbers, payload, &tail], out);
        }
    }

    /// Writes a message that reaches the next beacon, or many.
    #[cold]
    fn put_cut(&mut self, bytes: u64, parts: [&[u8]; 4], out: &mut Vec<u8>) {
        let mut remaining = bytes;
        for mut part in parts {
            while !part.is_empty() {
                // `offset` is below `beacon_at`, and a part that is longer is cut there.
                let room = usize::try_from(self.beacon_at - self.offset).unwrap_or(usize::MAX).min(part.len());
                let (now, later) = part.split_at(room);
                out.extend_from_slice(now);
                part = later;
                self.offset += now.len() as u64;
                remaining -= now.len() as u64;
                if self.offset == self.beacon_at {
                    // Less than the message, which fits a u32: see `PAYLOAD_BYTES_MAX`.
                    self.beacon(remaining as u32, out);
                }
            }
        }
    }

    /// Writes the beacon that belongs at `offset`.
    fn beacon(&mut self, remaining: u32, out: &mut Vec<u8>) {
        let before = out.len();
        let streams = &self.streams;
        // Handles in `turns` come from `streams`, which only grows.
        let by_name = |a: &u32, b: &u32| {
            let (a, b) = (&streams[*a as usize], &streams[*b as usize]);
            (a.key(), a.shard).cmp(&(b.key(), b.shard))
        };
        let shown = self.turns.take(self.items_max, by_name);
        let items = shown.map(|stream| {
            let stream = &streams[stream as usize];
            (&*stream.name, stream.sequence, stream.time_ms, stream.running)
        });
        Beacon::encode(remaining, items, out);
        self.offset += (out.len() - before) as u64;
        self.beacon_at += self.interval;
    }
}

impl Stream {
    fn resumed(end: &StreamEnd) -> Result<Self> {
        Ok(Stream {
            name: name_of(&end.key, end.shard)?,
            key_bytes: end.key.len(),
            shard: end.shard,
            sequence: end.sequence,
            time_ms: end.time_ms,
            running: end.running,
            begun: true,
        })
    }
}
