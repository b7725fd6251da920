//! The state of the streams of a file, as beacons and messages tell it.

use std::collections::HashMap;

use millstream_core::Result;

use super::{
    beacon::{Beacon, BeaconItem, beacon_items_max},
    crc,
    end::StreamEnd,
    header::Header,
    message::CONTROL_KEY,
    reader::{Message, SsReader},
    walk::{Beacons, ReadAt},
};

/// What a beacon item says of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) sequence: u64,
    pub(super) time_ms: u64,
    pub(super) running: u16,
}

impl State {
    pub(super) const BEFORE: State = State { sequence: 0, time_ms: 0, running: crc::INITIAL };

    /// The state after one more message. What beacons show never goes back.
    pub(super) fn after(self, message: &Message) -> State {
        State {
            sequence: self.sequence.max(message.sequence),
            time_ms: self.time_ms.max(message.time_ms),
            running: crc::run(self.running, message.checksum),
        }
    }
}

impl From<&BeaconItem<'_>> for State {
    fn from(item: &BeaconItem<'_>) -> Self {
        State { sequence: item.sequence, time_ms: item.time_ms, running: item.running }
    }
}

/// The states of all streams known. Control messages have none.
#[derive(Clone, Debug, Default)]
pub(super) struct States {
    states: Vec<State>,
    /// Index of a stream in `states`.
    index: HashMap<(String, u64), usize>,
    /// Index in `states` of the streams of a reader, so that a message costs no look-up by key.
    of_reader: Vec<usize>,
}

impl States {
    pub(super) fn len(&self) -> usize {
        self.states.len()
    }

    fn place(&mut self, key: &str, shard: u64) -> usize {
        *self.index.entry((key.to_owned(), shard)).or_insert_with(|| {
            self.states.push(State::BEFORE);
            self.states.len() - 1
        })
    }

    /// Takes an item of an older beacon, unless a newer one has been taken; whether it has.
    fn insert_older(&mut self, item: &BeaconItem<'_>) -> bool {
        let known = self.len();
        if item.key != CONTROL_KEY {
            let place = self.place(item.key, item.shard);
            // `place` is below `len`, as it comes from `States::place`.
            if place == known {
                self.states[place] = State::from(item);
            }
        }
        self.len() > known
    }

    /// The state of one stream.
    pub(super) fn get(&self, key: &str, shard: u64) -> Option<State> {
        self.states.get(*self.index.get(&(key.to_owned(), shard))?).copied()
    }

    /// Takes an item over whatever is known.
    pub(super) fn set(&mut self, item: &BeaconItem<'_>) {
        let place = self.place(item.key, item.shard);
        self.states[place] = State::from(item);
    }

    /// Takes all that a newer beacon says.
    pub(super) fn refresh(&mut self, beacon: Option<Beacon<'_>>) {
        for item in beacon.iter().flat_map(Beacon::items).filter(|item| item.key != CONTROL_KEY) {
            self.set(&item);
        }
    }

    /// Counts a message in.
    pub(super) fn message(&mut self, reader: &SsReader, message: &Message) {
        while self.of_reader.len() <= message.stream.0 as usize {
            let next = super::StreamId(self.of_reader.len() as u32);
            // A reader numbers its streams without gaps.
            let Some((key, shard)) = reader.stream(next) else { return };
            let place = self.place(key, shard);
            self.of_reader.push(place);
        }
        let state = &mut self.states[self.of_reader[message.stream.0 as usize]];
        *state = state.after(message);
    }

    /// All streams in order of key and shard.
    pub(super) fn into_streams(self) -> Vec<StreamEnd> {
        let named = |((key, shard), place): ((String, u64), usize)| {
            let State { sequence, time_ms, running } = self.states[place];
            StreamEnd { key, shard, sequence, time_ms, running }
        };
        let mut streams: Vec<_> = self.index.into_iter().map(named).collect();
        streams.sort_by(|a, b| (&a.key, a.shard).cmp(&(&b.key, b.shard)));
        streams
    }
}

/// What the beacons of a file tell of its streams.
pub(super) enum Known {
    /// Not enough.
    Nothing,
    /// The state of every stream, at the beacon asked for.
    All(States),
    /// The state of every stream at `beacon` or later; messages since then have to be read.
    Since { beacon: u64, states: States },
}

/// What the beacons of a file up to `last` tell of its streams.
pub(super) fn known_at<R: ReadAt + ?Sized>(file: &R, header: &Header, last: u64) -> Result<Known> {
    let items_max = beacon_items_max(header.beacon_interval());
    let mut beacons = Beacons::new(file, header);
    let mut states = States::default();
    let mut oldest = last;
    for n in (1..=last).rev() {
        let Some(beacon) = beacons.read(n)? else { return Ok(Known::Nothing) };
        for item in beacon.items() {
            if states.insert_older(&item) {
                oldest = n;
            }
        }
        // Fewer items than fit: these are all the streams that there were.
        if !beacon.is_empty() && beacon.len() < items_max {
            if n == last {
                let forgotten = forgotten(&mut beacons, &states, last)?;
                return Ok(if forgotten { Known::Nothing } else { Known::All(states) });
            }
            break;
        }
    }
    // Turns are judged by two rounds at least; a file too short for that is read faster than judged.
    const ITEMS_MIN: usize = 64;
    let wanted = ITEMS_MIN + 2 * states.len();
    let Ok(rounds) = u64::try_from(wanted.div_ceil(items_max.max(1))) else { return Ok(Known::Nothing) };
    let first = oldest.min(last.saturating_sub(rounds));
    if states.len() == 0 || first == 0 || !took_turns(&mut beacons, &states, first, last)? {
        return Ok(Known::Nothing);
    }
    Ok(Known::Since { beacon: first, states })
}

/// Whether an earlier beacon names a stream that the last one does not: a foreign writer that was opened again may
/// have forgotten it. A few beacons stand for all.
fn forgotten<R: ReadAt + ?Sized>(beacons: &mut Beacons<'_, R>, states: &States, last: u64) -> Result<bool> {
    const SAMPLES: u64 = 16;
    let step = last.div_ceil(SAMPLES + 1).max(1);
    for n in (1..last).rev().step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
        let Some(beacon) = beacons.read(n)? else { return Ok(true) };
        let unknown = |item: BeaconItem<'_>| !states.index.contains_key(&(item.key.to_owned(), item.shard));
        if beacon.items().any(unknown) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the beacons `first..=last` show the known streams strictly in turn.
fn took_turns<R: ReadAt + ?Sized>(
    beacons: &mut Beacons<'_, R>,
    states: &States,
    first: u64,
    last: u64,
) -> Result<bool> {
    let mut order: Vec<_> = states.index.keys().map(|(key, shard)| (&**key, *shard)).collect();
    order.sort_unstable();
    let mut next = None;
    for n in first..=last {
        let Some(beacon) = beacons.read(n)? else { return Ok(false) };
        for item in beacon.items() {
            let Ok(at) = order.binary_search(&(item.key, item.shard)) else { return Ok(false) };
            if next.is_some_and(|next| next != at) {
                return Ok(false);
            }
            next = Some((at + 1) % order.len());
        }
    }
    Ok(next.is_some())
}
