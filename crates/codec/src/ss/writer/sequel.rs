//! Files that follow one another: what a writer carries over, and how much room is needed before one is full.

use millstream_core::Result;

use super::{
    super::{
        HEADER_BYTES,
        beacon::BEACON_BYTES_MIN,
        crc,
        header::Header,
        message::{CONTROL_KEY, END_OF_STREAM, message_bytes},
    },
    SsWriter, Stream, StreamHandle,
};

impl SsWriter {
    /// Begins the file that follows this one: appends its header to `out`. It has the same streams, under the same
    /// handles, and their sequences go on.
    #[must_use]
    pub fn next_file(&self, header: &Header, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&header.encode());
        let streams: Vec<Stream> = self.streams.iter().map(Stream::not_begun).collect();
        Self::at(header, HEADER_BYTES as u64, &streams, 0, out)
    }

    /// Says that a stream has had messages before this file: its next sequence comes after `sequence`.
    ///
    /// # Errors
    /// `Option` for a key that cannot be written.
    pub fn carry(&mut self, key: &str, shard: u64, sequence: u64) -> Result<()> {
        let handle = self.stream(key, shard)?;
        if let Some(stream) = self.streams.get_mut(handle.0 as usize) {
            stream.sequence = stream.sequence.max(sequence);
        }
        Ok(())
    }

    /// Key, shard and last sequence of all streams, as they go on in a file behind this one.
    pub fn sequences(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.sequences_of(|_| true)
    }

    /// The same of streams that have had messages before this file and none in it.
    pub fn carried(&self) -> impl Iterator<Item = (&str, u64, u64)> {
        self.sequences_of(|stream| !stream.begun)
    }

    fn sequences_of(&self, wanted: impl Fn(&Stream) -> bool) -> impl Iterator<Item = (&str, u64, u64)> {
        // Control messages have none.
        let streams = self.streams.iter().filter(move |stream| wanted(stream) && stream.sequence > 0);
        // Keys were given as text.
        streams.filter_map(|stream| Some((std::str::from_utf8(stream.key()).ok()?, stream.shard, stream.sequence)))
    }

    /// At most so many bytes a record of this size will add to the file, beacons included.
    pub fn bytes_max(&self, stream: StreamHandle, payload_bytes: usize) -> u64 {
        let key_bytes = self.streams.get(stream.0 as usize).map_or(0, |stream| stream.key_bytes);
        self.with_beacons(message_bytes(key_bytes, payload_bytes) as u64)
    }

    /// At most so many bytes [`SsWriter::end`] will add to the file.
    pub fn end_bytes_max(&self) -> u64 {
        // It may be cut by a beacon of its own, whatever stands before it.
        let end = message_bytes(CONTROL_KEY.len(), END_OF_STREAM.len()) as u64;
        end + self.beacon_bytes_max() * (1 + end / (self.interval - self.beacon_bytes_max()).max(1))
    }

    /// A message, and the beacons that it reaches.
    fn with_beacons(&self, message: u64) -> u64 {
        let room = self.beacon_at - self.offset;
        if message < room {
            return message;
        }
        let beacon = self.beacon_bytes_max();
        // At least half of an interval is messages: see `beacon_items_max`.
        message + beacon * (1 + (message - room) / (self.interval - beacon).max(1))
    }

    fn beacon_bytes_max(&self) -> u64 {
        // One more for the control stream.
        let items = self.items_max.min(self.streams.len() + 1);
        // Sequence, time and running checksum follow the name.
        (BEACON_BYTES_MIN + items * (self.name_bytes_max + 8 + 8 + 2)) as u64
    }
}

impl Stream {
    /// The same stream in a file that it has no message in yet.
    fn not_begun(&self) -> Self {
        Stream { time_ms: 0, running: crc::INITIAL, begun: false, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ss::{find_end, verify};

    fn header(interval: u32) -> Header {
        Header::new("x.ss", 1, interval).unwrap()
    }

    #[test]
    fn sequences_go_on_in_the_next_file_and_are_resumed_there() {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let mut writer = SsWriter::new(&header(1024), &mut first);
        for _ in 0..3 {
            writer.append("a", 0, None, 1, b"v", &mut first).unwrap();
        }
        let b = writer.stream("b", 7).unwrap();
        assert_eq!(writer.append_to(b, 1, b"v", &mut first).unwrap(), 1);
        let mut writer = writer.next_file(&header(1024), &mut second);
        assert_eq!(writer.carried().collect::<Vec<_>>(), [("a", 0, 3), ("b", 7, 1)]);
        assert_eq!(writer.append_to(b, 1, b"v", &mut second).unwrap(), 2, "handles stay");
        let a = writer.stream("a", 0).unwrap();
        writer.append_at(a, 3, 1, b"v", &mut second).unwrap_err();
        assert_eq!(writer.carried().collect::<Vec<_>>(), [("a", 0, 3)]);
        assert_eq!(writer.sequences().collect::<Vec<_>>(), [("a", 0, 3), ("b", 7, 2)]);
        assert!(verify(&second[..]).unwrap().whole());
        let end = find_end(&second[..]).unwrap();
        let mut writer = SsWriter::resume(&end, &mut second).unwrap();
        writer.carry("a", 0, 3).unwrap();
        writer.carry("b", 7, 1).unwrap();
        assert_eq!(writer.append("a", 0, None, 1, b"v", &mut second).unwrap(), 4);
        assert_eq!(writer.append("b", 7, None, 1, b"v", &mut second).unwrap(), 3);
        assert!(verify(&second[..]).unwrap().whole());
    }

    #[test]
    fn a_record_never_takes_more_room_than_was_said() {
        for (interval, streams) in [(1024, 1), (1024, 5), (4096, 20), (1 << 20, 3)] {
            let mut out = Vec::new();
            let mut writer = SsWriter::new(&header(interval), &mut out);
            for n in 0..600_usize {
                let stream = writer.stream(&"s".repeat(1 + n * 7 % 249), (n % streams) as u64).unwrap();
                let payload = vec![b'v'; n * n * 37 % 5000];
                let (before, most) = (writer.offset(), writer.bytes_max(stream, payload.len()));
                writer.append_to(stream, 1, &payload, &mut out).unwrap();
                assert!(writer.offset() - before <= most, "{n} at {before}");
                let mut ended = writer.clone();
                ended.end(1, &mut Vec::new()).unwrap();
                assert!(ended.offset() - writer.offset() <= writer.end_bytes_max());
            }
        }
    }
}
