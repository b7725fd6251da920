//! Checking a whole file, and saving what is whole.

use std::io::Write;

use millstream_core::{Error, ErrorKind, Result};

use super::{
    beacon::BeaconItem,
    end::StreamEnd,
    header::{HEADER_BYTES, Header},
    message::CONTROL_KEY,
    reader::{SsReader, Step},
    state::{State, States},
    walk::{Beacons, ReadAt, Walk, beacons_within, length, read_full, read_header},
    writer::SsWriter,
};

/// Damaged places that a report lists; more are counted. A file of garbage would else fill the memory.
pub const PLACES_MAX: usize = 10_000;

/// What a walk over a whole file found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Damaged places in order, the first [`PLACES_MAX`] of them.
    pub damaged: Vec<Place>,
    /// Damaged places beyond those.
    pub damaged_more: u64,
    /// Where a torn message begins with which the file ends, as after a crash. It is no damage: appending cuts it off.
    pub torn: Option<u64>,
    /// Where the end-of-stream message begins that ends the file.
    pub end_of_stream: Option<u64>,
    /// Whole messages, without control messages.
    pub messages: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// Beacons that were read.
    pub beacons: u64,
    /// Every stream and shard, in order of key and shard.
    pub streams: Vec<StreamReport>,
}

/// One damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where the damaged message, beacon or header begins.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

/// What a file holds of one stream and shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamReport {
    /// Its highest sequence and latest time, and the running checksum over the messages that are whole.
    pub end: StreamEnd,
    /// How many messages are whole.
    pub messages: u64,
    /// The sequence of the first.
    pub first_sequence: u64,
}

impl Report {
    /// Whether nothing is damaged. A torn last message is none.
    pub fn whole(&self) -> bool {
        self.damaged.is_empty()
    }

    /// The error for a file that is not whole; `None` if it is.
    pub fn error(&self) -> Option<Error> {
        let first = self.damaged.first()?;
        let count = self.damaged.len() as u64 + self.damaged_more;
        let message = format!("the .ss file is damaged at offset {} ({count} places): {}", first.offset, first.what);
        Some(Error::new(ErrorKind::Corrupt, message).hint("`repair` writes a new file with all that is whole"))
    }

    fn place(&mut self, offset: u64, what: impl Into<String>) {
        let what = what.into();
        // After damage the next beacon is tried, which may be the damaged place itself.
        if self.damaged.last().is_some_and(|last| last.offset == offset) {
            return;
        }
        match self.damaged.len() < PLACES_MAX {
            true => self.damaged.push(Place { offset, what }),
            false => self.damaged_more += 1,
        }
    }
}

/// Reads a whole file and reports every damaged place: messages, beacons, what beacons say of streams, the header.
///
/// # Errors
/// `Corrupt` or `Version` if the header cannot be read; whatever reading met.
pub fn verify<R: ReadAt + ?Sized>(file: &R) -> Result<Report> {
    let header = read_header(file)?;
    walk(file, &header, &mut |_| Ok(()))
}

/// Copies all whole messages of a file to `out`, with their sequences and times: a new file under `header`, which is
/// that of the old one ([`read_header`]) or, where it is lost, a new one of the same beacon interval. Gives the report on the
/// old file.
///
/// # Errors
/// Whatever reading and writing met.
pub fn repair<R: ReadAt + ?Sized>(file: &R, header: &Header, out: &mut dyn Write) -> Result<Report> {
    let mut bytes = Vec::new();
    let mut writer = SsWriter::new(header, &mut bytes);
    let mut ended = None;
    let report = walk(file, header, &mut |message| {
        match message {
            Copied::Message { key, shard, sequence, time_ms, payload } => {
                let stream = writer.stream(key, shard)?;
                // A foreign file may have sequences that do not rise: they are copied as they are.
                writer.put(stream, sequence, time_ms, payload, &mut bytes);
                ended = None;
            }
            Copied::EndOfStream { time_ms } => ended = Some(time_ms),
        }
        if bytes.len() >= WRITE_BYTES {
            write(out, &mut bytes)?;
        }
        Ok(())
    })?;
    if let Some(time_ms) = ended {
        writer.end(time_ms, &mut bytes)?;
    }
    write(out, &mut bytes)?;
    Ok(report)
}

/// Bytes that are gathered before they are written.
const WRITE_BYTES: usize = 1024 * 1024;

fn write(out: &mut dyn Write, bytes: &mut Vec<u8>) -> Result<()> {
    out.write_all(bytes).map_err(|error| Error::io("cannot write the repaired .ss file", error))?;
    bytes.clear();
    Ok(())
}

enum Copied<'a> {
    Message { key: &'a str, shard: u64, sequence: u64, time_ms: u64, payload: &'a [u8] },
    EndOfStream { time_ms: u64 },
}

/// The checks over one file.
struct Check<'a, R: ?Sized> {
    beacons: Beacons<'a, R>,
    report: Report,
    states: States,
    /// Messages and first sequence by number of the stream in the reader.
    counts: Vec<(u64, u64)>,
    /// Set when damage may have hidden messages: beacons are then believed, for each stream anew.
    believe: u64,
    /// Up to which doubt a stream has been set right.
    believed: std::collections::HashMap<(String, u64), u64>,
}

fn walk<R: ReadAt + ?Sized>(
    file: &R,
    header: &Header,
    copy: &mut dyn FnMut(Copied<'_>) -> Result<()>,
) -> Result<Report> {
    let interval = u64::from(header.beacon_interval());
    let mut check = Check {
        beacons: Beacons::new(file, header),
        report: Report::default(),
        states: States::default(),
        counts: Vec::new(),
        believe: 0,
        believed: std::collections::HashMap::new(),
    };
    let mut found = [0; HEADER_BYTES];
    let read = read_full(file, 0, &mut found)?;
    if found[..read] != header.encode() {
        check.report.place(0, "the file header is not as it was written");
    }
    let mut walk = Walk::new(file, length(file)?, SsReader::new(header));
    loop {
        let before = walk.reader.offset();
        let step = walk.step()?;
        // A beacon between two messages; whether it was whole shows in that the reader has passed it.
        if before.is_multiple_of(interval) && walk.reader.offset() > before {
            check.beacon(before / interval, before)?;
        }
        match step {
            Step::Message(message) => {
                check.report.end_of_stream = None;
                check.message(&walk.reader, &message);
                for n in beacons_within(&message, interval) {
                    check.beacon(n, n * interval)?;
                }
                let payload = walk.payload(message.payload);
                check.report.payload_bytes += payload.len() as u64;
                if let Some((key, shard)) = walk.reader.stream(message.stream) {
                    let (sequence, time_ms) = (message.sequence, message.time_ms);
                    copy(Copied::Message { key, shard, sequence, time_ms, payload })?;
                }
            }
            Step::EndOfStream { offset, time_ms, .. } => {
                check.report.end_of_stream = Some(offset);
                copy(Copied::EndOfStream { time_ms })?;
            }
            Step::Damaged { offset, damage } => {
                check.report.place(offset, damage.to_string());
                check.believe += 1;
                walk.reader.resync();
            }
            Step::Torn { offset } => {
                check.report.torn = Some(offset);
                break;
            }
            Step::FileEnd | Step::NeedMore { .. } => break,
        }
    }
    Ok(check.finish(&walk.reader))
}

impl<R: ReadAt + ?Sized> Check<'_, R> {
    fn message(&mut self, reader: &SsReader, message: &super::Message) {
        self.report.messages += 1;
        let stream = message.stream.0 as usize;
        if stream == self.counts.len() {
            self.counts.push((0, message.sequence));
        }
        if let Some((messages, _)) = self.counts.get_mut(stream) {
            *messages += 1;
        }
        self.states.message(reader, message);
    }

    /// Compares what beacon `n` says with what has been read.
    fn beacon(&mut self, n: u64, offset: u64) -> Result<()> {
        let Some(beacon) = self.beacons.read(n)? else { return Ok(()) };
        self.report.beacons += 1;
        for item in beacon.items().filter(|item| item.key != CONTROL_KEY) {
            let read = self.states.get(item.key, item.shard);
            if let Some(what) = contradiction(&item, read) {
                let believed = self.believed.entry((item.key.to_owned(), item.shard)).or_default();
                if *believed == self.believe {
                    self.report.place(offset, what);
                }
                *believed = self.believe;
                // One lost message is one damaged place, not one in every beacon that follows.
                self.states.set(&item);
            }
        }
        Ok(())
    }

    fn finish(self, reader: &SsReader) -> Report {
        let Check { mut report, states, counts, .. } = self;
        let mut first = std::collections::HashMap::new();
        for (at, count) in counts.into_iter().enumerate() {
            if let Some((key, shard)) = reader.stream(super::StreamId(at as u32)) {
                first.insert((key.to_owned(), shard), count);
            }
        }
        let streams = states.into_streams().into_iter().map(|end| {
            let (messages, first_sequence) = first.get(&(end.key.clone(), end.shard)).copied().unwrap_or_default();
            StreamReport { end, messages, first_sequence }
        });
        report.streams = streams.collect();
        report
    }
}

fn contradiction(item: &BeaconItem<'_>, read: Option<State>) -> Option<String> {
    let BeaconItem { key, shard, .. } = item;
    let Some(read) = read else {
        return Some(format!("a beacon knows messages of stream `{key}` shard {shard} that are not there"));
    };
    let (beacon, read_sequence) = (item.sequence, read.sequence);
    if beacon != read_sequence {
        return Some(format!(
            "a beacon has `{key}` shard {shard} at sequence {beacon}, its messages at {read_sequence}"
        ));
    }
    (item.running != read.running).then(|| format!("the running checksum of `{key}` shard {shard} is wrong"))
}
