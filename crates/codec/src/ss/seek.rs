//! Finding a message by sequence or time: binary search over beacons, then a short walk.

use millstream_core::Result;

use super::{
    beacon::{BeaconItem, beacon_items_max},
    header::Header,
    message::CONTROL_KEY,
    reader::{Message, SsReader, Step},
    walk::{Beacons, ReadAt, Walk, length, read_header},
};

/// Which streams and shards a search looks at.
#[derive(Clone, Copy, Debug)]
pub enum Asked<'a> {
    /// All streams of the file.
    All,
    /// All shards of these stream keys.
    Keys(&'a [&'a str]),
    /// These stream keys and shards. The quickest where beacons cannot name all streams of the file.
    Shards(&'a [(&'a str, u64)]),
}

/// Where a search ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Where the message begins: [`SsReader::at`] or [`SsReader::seek`] goes on here.
    pub offset: u64,
    /// Its stream key.
    pub key: String,
    /// Its shard.
    pub shard: u64,
    /// Its sequence.
    pub sequence: u64,
    /// Its time, in milliseconds since the epoch.
    pub time_ms: u64,
}

/// Finds the first message of the asked streams whose sequence is `sequence` or above; `None` if there is none yet.
///
/// # Errors
/// `Corrupt` or `Version` if the header cannot be read; whatever reading met.
pub fn seek_sequence<R: ReadAt + ?Sized>(file: &R, asked: Asked<'_>, sequence: u64) -> Result<Option<Position>> {
    seek(file, asked, Target::Sequence(sequence))
}

/// Finds the first message of the asked streams whose time is `time_ms` or later; `None` if there is none yet.
///
/// # Errors
/// `Corrupt` or `Version` if the header cannot be read; whatever reading met.
pub fn seek_time<R: ReadAt + ?Sized>(file: &R, asked: Asked<'_>, time_ms: u64) -> Result<Option<Position>> {
    seek(file, asked, Target::Time(time_ms))
}

#[derive(Clone, Copy)]
enum Target {
    Sequence(u64),
    Time(u64),
}

impl Target {
    fn reached(self, sequence: u64, time_ms: u64) -> bool {
        match self {
            Target::Sequence(target) => sequence >= target,
            Target::Time(target) => time_ms >= target,
        }
    }
}

impl Asked<'_> {
    fn has(&self, key: &str, shard: u64) -> bool {
        match self {
            Asked::All => key != CONTROL_KEY,
            Asked::Keys(keys) => keys.contains(&key),
            Asked::Shards(shards) => shards.contains(&(key, shard)),
        }
    }
}

fn seek<R: ReadAt + ?Sized>(file: &R, asked: Asked<'_>, target: Target) -> Result<Option<Position>> {
    let header = read_header(file)?;
    let len = length(file)?;
    let search = Search { file, header: &header, len, asked, target };
    let start = search.before(true)?;
    match search.walk(&start)? {
        Walked::Found(position) => Ok(Some(position)),
        Walked::Nothing => Ok(None),
        // A writer has left a stream out of its beacons, though there was room: these prove nothing.
        Walked::Doubt => match search.walk(&search.before(false)?)? {
            Walked::Found(position) => Ok(Some(position)),
            Walked::Nothing | Walked::Doubt => Ok(None),
        },
    }
}

struct Search<'a, R: ?Sized> {
    file: &'a R,
    header: &'a Header,
    len: u64,
    asked: Asked<'a>,
    target: Target,
}

/// A beacon behind which the message that is looked for must lie.
struct Start {
    beacon: u64,
    /// Whether that rests on a beacon with room to spare being complete.
    trusting: bool,
}

enum Walked {
    Found(Position),
    Nothing,
    Doubt,
}

/// What one beacon says of the target.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    /// A message that reaches it lies before.
    Before,
    /// None does.
    Behind,
    /// The beacon does not name all streams.
    Unknown,
}

impl<R: ReadAt + ?Sized> Search<'_, R> {
    /// The last beacon before which no message reaches the target, as far as beacons tell.
    fn before(&self, trusting: bool) -> Result<Start> {
        let mut beacons = Beacons::new(self.file, self.header);
        let last = self.len.saturating_sub(1) / u64::from(self.header.beacon_interval());
        let (mut behind, mut before) = (0, last + 1);
        while before - behind > 1 {
            let middle = behind + (before - behind) / 2;
            match self.side(&mut beacons, middle, trusting)? {
                Side::Before => before = middle,
                Side::Behind => behind = middle,
                Side::Unknown => {
                    behind = self.before_turns(&mut beacons, behind, before, trusting)?;
                    break;
                }
            }
        }
        Ok(Start { beacon: behind, trusting })
    }

    fn side(&self, beacons: &mut Beacons<'_, R>, n: u64, trusting: bool) -> Result<Side> {
        let Some(beacon) = beacons.read(n)? else { return Ok(Side::Unknown) };
        let mut named = 0;
        for item in beacon.items().filter(|item| self.asked.has(item.key, item.shard)) {
            if self.target.reached(item.sequence, item.time_ms) {
                return Ok(Side::Before);
            }
            named += 1;
        }
        let all_named = matches!(self.asked, Asked::Shards(shards) if distinct(shards) == named);
        let complete = !beacon.is_empty() && beacon.len() < beacon_items_max(self.header.beacon_interval());
        Ok(if all_named || (trusting && complete) { Side::Behind } else { Side::Unknown })
    }

    /// The same where streams take turns: a stream that some beacon shows before the target has no message before
    /// that beacon that reaches it, whether or not earlier beacons show it. So each asked stream is looked at by itself.
    fn before_turns(&self, beacons: &mut Beacons<'_, R>, behind: u64, before: u64, trusting: bool) -> Result<u64> {
        let Asked::Shards(shards) = self.asked else {
            // Nobody knows the streams that no beacon has shown yet, so only beacons that show all count.
            let mut last = behind;
            for n in behind + 1..before {
                match self.side(beacons, n, trusting)? {
                    Side::Before => break,
                    Side::Behind => last = n,
                    Side::Unknown => {}
                }
            }
            return Ok(last);
        };
        let mut first = before;
        for (key, shard) in shards {
            let item = |item: &BeaconItem<'_>| item.key == *key && item.shard == *shard;
            first = first.min(self.before_turns_of(beacons, behind, before, item)?);
        }
        Ok(first.max(behind))
    }

    /// The last beacon in `behind..before` that shows a stream before the target; else `behind`. What the next beacon
    /// from `n` on that shows the stream says, never goes back as `n` grows: so it can be halved.
    fn before_turns_of(
        &self,
        beacons: &mut Beacons<'_, R>,
        mut behind: u64,
        mut before: u64,
        stream: impl Fn(&BeaconItem<'_>) -> bool,
    ) -> Result<u64> {
        while before - behind > 1 {
            let middle = behind + (before - behind) / 2;
            let mut shown = None;
            for n in middle..before {
                let item = beacons.read(n)?.and_then(|beacon| beacon.items().find(&stream));
                if let Some(item) = item {
                    shown = Some((n, self.target.reached(item.sequence, item.time_ms)));
                    break;
                }
            }
            match shown {
                Some((n, false)) => behind = n,
                Some((_, true)) | None => before = middle,
            }
        }
        Ok(behind)
    }

    /// The first message behind `start` that reaches the target.
    fn walk(&self, start: &Start) -> Result<Walked> {
        let reader = SsReader::at_beacon(self.header, start.beacon).without_checksums();
        let mut walk = Walk::new(self.file, self.len, reader);
        let mut streams: Vec<Met> = Vec::new();
        loop {
            match walk.step()? {
                Step::Message(message) => {
                    if message.stream.0 as usize == streams.len() {
                        streams.push(self.meet(&walk.reader, &message, start)?);
                    }
                    match streams.get(message.stream.0 as usize) {
                        Some(Met::Doubted) => return Ok(Walked::Doubt),
                        Some(Met::Asked) if self.target.reached(message.sequence, message.time_ms) => {
                            return Ok(self.found(&walk.reader, &message));
                        }
                        _ => {}
                    }
                }
                Step::Damaged { .. } => walk.reader.resync(),
                Step::EndOfStream { .. } => {}
                Step::FileEnd | Step::Torn { .. } | Step::NeedMore { .. } => return Ok(Walked::Nothing),
            }
        }
    }

    fn meet(&self, reader: &SsReader, message: &Message, start: &Start) -> Result<Met> {
        let Some((key, shard)) = reader.stream(message.stream).filter(|(key, shard)| self.asked.has(key, *shard))
        else {
            return Ok(Met::Other);
        };
        // Not its first message, so the beacon we came from should have named it.
        if start.trusting && start.beacon > 0 && message.sequence > 1 {
            let mut beacons = Beacons::new(self.file, self.header);
            if let Some(beacon) = beacons.read(start.beacon)?
                && beacon.len() < beacon_items_max(self.header.beacon_interval())
                && !beacon.items().any(|item| (item.key, item.shard) == (key, shard))
            {
                return Ok(Met::Doubted);
            }
        }
        Ok(Met::Asked)
    }

    fn found(&self, reader: &SsReader, message: &Message) -> Walked {
        let Some((key, shard)) = reader.stream(message.stream) else { return Walked::Nothing };
        let Message { offset, sequence, time_ms, .. } = *message;
        Walked::Found(Position { offset, key: key.to_owned(), shard, sequence, time_ms })
    }
}

/// What a stream met on the walk is to the search.
enum Met {
    Asked,
    Other,
    Doubted,
}

fn distinct(shards: &[(&str, u64)]) -> usize {
    shards.iter().enumerate().filter(|(at, shard)| !shards[..*at].contains(shard)).count()
}
