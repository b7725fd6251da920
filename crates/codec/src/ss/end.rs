//! Finding the end of a file, to append to it: through the last beacon, not by a scan.

use millstream_core::Result;

use super::{
    damage::Damage,
    header::Header,
    reader::{SsReader, Step},
    state::{Known, States, known_at},
    walk::{Beacons, ReadAt, Walk, beacons_within, length, read_header},
};

/// The end of a file, and all that [`SsWriter::resume`](super::SsWriter::resume) needs to go on there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The header of the file.
    pub header: Header,
    /// Where appending goes on: truncate the file to this length first. It lies behind the last whole message, or
    /// before the end-of-stream message.
    pub offset: u64,
    /// Where the end-of-stream message begins, if the file has ended.
    pub end_of_stream: Option<u64>,
    /// What follows the last whole message.
    pub tail: Tail,
    /// How long the file was.
    pub file_bytes: u64,
    /// Every stream and shard of the file, in order.
    pub streams: Vec<StreamEnd>,
    /// Which of `streams` the next beacon shows first.
    pub(super) turn: usize,
}

/// What follows the last whole message of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing.
    Whole,
    /// Part of a message or beacon, as after a crash.
    Torn {
        /// Where it begins.
        offset: u64,
    },
    /// Bytes that no writer has written. To cut them off may lose what `repair` could save.
    Damaged {
        /// Where they begin.
        offset: u64,
        /// What is wrong.
        damage: Damage,
    },
}

/// The end of one stream and shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamEnd {
    /// The stream key.
    pub key: String,
    /// The shard.
    pub shard: u64,
    /// The highest sequence.
    pub sequence: u64,
    /// The latest time, in milliseconds since the epoch.
    pub time_ms: u64,
    /// The running checksum.
    pub running: u16,
}

/// Finds the end of a file and the state of its streams.
///
/// This reads the last beacon and what follows it. Only where beacons do not name every stream (more streams than
/// fit, or a foreign writer that forgot some) it goes back over earlier beacons, and where even these leave a doubt,
/// it reads the file from the start.
///
/// # Errors
/// `Corrupt` or `Version` if the header cannot be read; whatever reading met.
pub fn find_end<R: ReadAt + ?Sized>(file: &R) -> Result<End> {
    let header = read_header(file)?;
    let file_bytes = length(file)?;
    let search = Search { file, header: &header, file_bytes };
    let last = search.last_usable_beacon()?;
    let (found, states) = match known_at(file, &header, last)? {
        Known::Nothing => search.walk(0, States::default())?,
        Known::All(states) => search.walk(last, states)?,
        Known::Since { beacon, states } => {
            let streams = states.len();
            let (found, states) = search.walk(beacon, states)?;
            // With no stream begun since, each has had its turn. Else some may have been passed over.
            match found.begun || states.len() > streams {
                true => search.walk(0, States::default())?,
                false => (found, states),
            }
        }
    };
    let Found { offset, end_of_stream, tail, .. } = found;
    let (offset, streams) = (end_of_stream.unwrap_or(offset), states.into_streams());
    let turn = search.turn_at(offset, &streams)?;
    Ok(End { header, offset, end_of_stream, tail, file_bytes, streams, turn })
}

struct Search<'a, R: ?Sized> {
    file: &'a R,
    header: &'a Header,
    file_bytes: u64,
}

/// The end that a walk came to.
struct Found {
    offset: u64,
    end_of_stream: Option<u64>,
    tail: Tail,
    /// Whether a stream began: its sequence 1 was read.
    begun: bool,
}

impl<R: ReadAt + ?Sized> Search<'_, R> {
    /// The last beacon behind which a message begins and is whole; 0 is the header.
    fn last_usable_beacon(&self) -> Result<u64> {
        let interval = u64::from(self.header.beacon_interval());
        let mut beacons = Beacons::new(self.file, self.header);
        for n in (1..=self.file_bytes.saturating_sub(1) / interval).rev() {
            // A message that goes on behind the next beacon may be torn, and then began before this one.
            let aligned = beacons.read(n)?.map(|beacon| beacon.bytes as u64 + u64::from(beacon.remaining));
            let usable = aligned.is_some_and(|bytes| bytes <= interval && n * interval + bytes < self.file_bytes);
            if usable && self.message_follows(n)? {
                return Ok(n);
            }
        }
        Ok(0)
    }

    fn message_follows(&self, beacon: u64) -> Result<bool> {
        let mut walk = Walk::new(self.file, self.file_bytes, SsReader::at_beacon(self.header, beacon));
        loop {
            match walk.step()? {
                Step::Message(_) | Step::EndOfStream { .. } => return Ok(true),
                Step::Damaged { .. } => walk.reader.resync(),
                Step::FileEnd | Step::Torn { .. } | Step::NeedMore { .. } => return Ok(false),
            }
        }
    }

    /// Reads from the first message behind `beacon` to the end, bringing `states` up to date.
    fn walk(&self, beacon: u64, mut states: States) -> Result<(Found, States)> {
        let interval = u64::from(self.header.beacon_interval());
        let mut beacons = Beacons::new(self.file, self.header);
        let mut walk = Walk::new(self.file, self.file_bytes, SsReader::at_beacon(self.header, beacon));
        let offset = walk.reader.offset();
        let mut found = Found { offset, end_of_stream: None, tail: Tail::Whole, begun: false };
        loop {
            // Beacons tell the state without the messages before them, whether these were read or damaged. A beacon
            // that is passed between two messages comes before the second, one within a message already counts it.
            let before = walk.reader.offset();
            let step = walk.step()?;
            if before.is_multiple_of(interval) {
                states.refresh(beacons.read(before / interval)?);
            }
            let tail = match step {
                Step::Message(message) => {
                    found.whole(walk.reader.offset());
                    found.begun |= message.sequence <= 1;
                    states.message(&walk.reader, &message);
                    for n in beacons_within(&message, interval) {
                        states.refresh(beacons.read(n)?);
                    }
                    continue;
                }
                Step::EndOfStream { offset, .. } => {
                    found.whole(walk.reader.offset());
                    found.end_of_stream = Some(offset);
                    continue;
                }
                Step::Damaged { offset, damage } => {
                    walk.reader.resync();
                    Tail::Damaged { offset, damage }
                }
                Step::Torn { offset } => Tail::Torn { offset },
                Step::FileEnd | Step::NeedMore { .. } => Tail::Whole,
            };
            if found.tail == Tail::Whole {
                found.offset = match tail {
                    Tail::Damaged { offset, .. } | Tail::Torn { offset } => offset,
                    Tail::Whole => walk.reader.offset(),
                };
                found.tail = tail;
            }
            if !matches!(step, Step::Damaged { .. }) {
                return Ok((found, states));
            }
        }
    }

    /// Where in `streams` the beacon after `offset` goes on, so that turns survive many short sessions.
    fn turn_at(&self, offset: u64, streams: &[StreamEnd]) -> Result<usize> {
        let last = offset.saturating_sub(1) / u64::from(self.header.beacon_interval());
        let mut beacons = Beacons::new(self.file, self.header);
        let beacon = if last == 0 { None } else { beacons.read(last)? };
        let shown = beacon.and_then(|beacon| beacon.items().last());
        let found = shown.and_then(|item| {
            streams.binary_search_by(|stream| (&*stream.key, stream.shard).cmp(&(item.key, item.shard))).ok()
        });
        Ok(found.map_or(0, |at| at + 1))
    }
}

impl Found {
    /// A whole message ends at `offset`: whatever damage came before it is not the tail.
    fn whole(&mut self, offset: u64) {
        (self.offset, self.end_of_stream, self.tail) = (offset, None, Tail::Whole);
    }
}
