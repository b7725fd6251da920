//! When one file is full and the next one begins: by size, and by time. It does no I/O.

use std::collections::BTreeMap;

use millstream_codec::ss::{HEADER_BYTES, StreamHandle};
use millstream_core::{Error, ErrorKind, Last, Result, ShardKey, Timestamp};

use super::encode::Encoding;
use crate::sink::files::{Op, Place, window};

/// A new file costs about as much as writing so many bytes.
const FILE_BYTES: usize = 16 << 10;

/// What is known of the turns of files.
pub(super) struct Turning {
    /// What belongs to the disk before the newest bytes: the rest of one file, and that another begins.
    before: Vec<Op>,
    before_bytes: usize,
    every: Option<i64>,
    /// When the time of the file began.
    window: Option<Timestamp>,
}

impl Turning {
    pub(super) fn new(place: &Place, started_at: Option<Timestamp>) -> Self {
        let every = place.rotation.as_ref().and_then(|rotation| rotation.every);
        let window = every.zip(started_at).map(|(every, at)| window(at, every));
        Turning { before: Vec::new(), before_bytes: 0, every, window }
    }
}

impl Encoding {
    /// Bytes that a file may have.
    pub(super) fn limit(&self) -> Option<u64> {
        match &self.target.place.rotation {
            Some(rotation) => rotation.size,
            None => self.target.size_max,
        }
    }

    /// Whether the file has a record.
    fn used(&self) -> bool {
        self.writer.offset() > HEADER_BYTES as u64
    }

    /// Begins another file, if the time of this one is over.
    pub(super) fn turn(&mut self, now: Timestamp) -> Result<()> {
        let Some(every) = self.turning.every else { return Ok(()) };
        let now = Some(window(now, every));
        if self.used() && self.turning.window != now {
            self.rotate()?;
        }
        self.turning.window = now;
        Ok(())
    }

    /// Sees to it that a record fits: begins another file, or says that this one is full. A record that is larger than a
    /// whole file gets one for itself.
    pub(super) fn make_room(&mut self, stream: StreamHandle, bytes: usize) -> Result<StreamHandle> {
        let Some(limit) = self.limit() else { return Ok(stream) };
        let end = if self.target.end_of_stream { self.writer.end_bytes_max() } else { 0 };
        if self.writer.offset() + self.writer.bytes_max(stream, bytes) + end <= limit {
            return Ok(stream);
        }
        if self.target.place.rotation.is_none() {
            let path = self.target.place.path.display();
            let text = format!("`{path}` is full: with the next record it would have more than {limit} bytes");
            // Not `Closed`: that a reader has gone ends a pipeline well.
            return Err(Error::new(ErrorKind::Option, text)
                .hint("raise `size_max`, or go on in other files with `rotate: { size: 1GiB }`")
                .within("size_max"));
        }
        if self.used() {
            self.rotate()?;
        }
        Ok(stream)
    }

    fn rotate(&mut self) -> Result<()> {
        // The file gets its header when it gets its name.
        let (header, mut out) = (self.target.header("")?, Vec::new());
        self.writer = self.writer.next_file(&header, &mut out);
        let rest = std::mem::replace(&mut self.out, out);
        self.turning.before_bytes += rest.len() + FILE_BYTES;
        if !rest.is_empty() {
            self.turning.before.push(Op::Data(rest));
        }
        self.turning.before.push(Op::Rotate);
        Ok(())
    }

    /// Bytes that are not yet handed to the disk.
    pub(super) fn pending(&self) -> usize {
        self.turning.before_bytes + self.out.len()
    }

    /// Hands over all that belongs to the disk; `spare` is memory to go on with.
    pub(super) fn take(&mut self, spare: &mut Vec<u8>) -> impl Iterator<Item = Op> {
        self.turning.before_bytes = 0;
        // A header alone makes no file.
        let data =
            (self.used() && !self.out.is_empty()).then(|| std::mem::replace(&mut self.out, std::mem::take(spare)));
        std::mem::take(&mut self.turning.before).into_iter().chain(data.map(Op::Data))
    }

    /// Last sequences of streams that the file to go on with does not show: all, if the next one is another.
    pub(super) fn carried(&self, last: Last) -> BTreeMap<ShardKey, u64> {
        let named = |(key, shard, sequence)| (ShardKey::new(key, shard), sequence);
        match last {
            Last::Finished if self.target.place.rotation.is_some() => self.writer.sequences().map(named).collect(),
            _ => self.writer.carried().map(named).collect(),
        }
    }
}
