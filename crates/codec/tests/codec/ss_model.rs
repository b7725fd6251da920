//! The `.ss` format once more: plain, slow, one byte at a time, and from the specification alone. It shares no code
//! with the crate, so that where the two agree, both are right.
#![allow(unreachable_pub)]

use std::collections::BTreeMap;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Msg {
    pub key: String,
    pub shard: u64,
    pub sequence: u64,
    pub time_ms: u64,
    pub payload: Vec<u8>,
}

pub fn crc(mut sum: u16, bytes: &[u8]) -> u16 {
    for byte in bytes {
        sum ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            sum = if sum & 0x8000 == 0 { sum << 1 } else { (sum << 1) ^ 0xC867 };
        }
    }
    sum
}

/// Sequence, latest time, running checksum.
pub type State = (u64, u64, u16);

/// What a file holds after some message: where it ends, where the beacon right behind it ends, and all states.
#[derive(Clone, Debug)]
pub struct Mark {
    pub end: u64,
    pub after: u64,
    pub states: BTreeMap<(String, u64), State>,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub bytes: Vec<u8>,
    pub interval: u64,
    pub states: BTreeMap<(String, u64), State>,
    pub shown: usize,
    pub marks: Vec<Mark>,
}

impl Model {
    pub fn new(interval: u32, name: &str, created_at_ms: u64) -> Self {
        let mut bytes = b"Ss\x01".to_vec();
        bytes.push(name.len() as u8);
        bytes.extend(name.bytes());
        bytes.extend(created_at_ms.to_be_bytes());
        bytes.extend(interval.to_be_bytes());
        bytes.resize(127, 0);
        bytes.push(0x0D);
        let mut model =
            Model { bytes, interval: u64::from(interval), states: BTreeMap::new(), shown: 0, marks: Vec::new() };
        model.beacon_if_due(0);
        let (end, after) = (128, model.bytes.len() as u64);
        model.marks.push(Mark { end, after, states: BTreeMap::new() });
        model
    }

    fn beacon_if_due(&mut self, remaining: u32) {
        if !(self.bytes.len() as u64).is_multiple_of(self.interval) {
            return;
        }
        let items_max = std::cmp::min(255, (self.interval as usize - 7) / 282) / 2;
        let count = items_max.min(self.states.len());
        self.bytes.push(0x0D);
        self.bytes.extend(remaining.to_be_bytes());
        self.bytes.push(count as u8);
        let all: Vec<_> = self.states.iter().collect();
        for n in 0..count {
            let ((key, shard), (sequence, time_ms, running)) = all[(self.shown + n) % all.len()];
            self.bytes.push(key.len() as u8);
            self.bytes.extend(key.bytes());
            self.bytes.extend(shard.to_be_bytes());
            self.bytes.extend(sequence.to_be_bytes());
            self.bytes.extend(time_ms.to_be_bytes());
            self.bytes.extend(running.to_be_bytes());
        }
        self.shown += count;
        self.bytes.push(0x0D);
    }

    pub fn write(&mut self, msg: &Msg) {
        let sum = crc(0xFFFF, &msg.payload);
        let state = self.states.entry((msg.key.clone(), msg.shard)).or_insert((0, 0, 0xFFFF));
        *state = (state.0.max(msg.sequence), state.1.max(msg.time_ms), crc(state.2, &sum.to_be_bytes()));
        let mut bytes = vec![msg.key.len() as u8];
        bytes.extend(msg.key.bytes());
        bytes.extend(msg.shard.to_be_bytes());
        bytes.extend(msg.sequence.to_be_bytes());
        bytes.extend(msg.time_ms.to_be_bytes());
        bytes.extend((msg.payload.len() as u32).to_be_bytes());
        bytes.extend(&msg.payload);
        bytes.extend(sum.to_be_bytes());
        bytes.push(0x0D);
        let mut end = 0;
        for (at, byte) in bytes.iter().enumerate() {
            self.bytes.push(*byte);
            end = self.bytes.len() as u64;
            self.beacon_if_due((bytes.len() - at - 1) as u32);
        }
        self.marks.push(Mark { end, after: self.bytes.len() as u64, states: self.states.clone() });
    }

    /// The sequence that comes next in a stream.
    pub fn next(&self, key: &str, shard: u64) -> u64 {
        self.states.get(&(key.to_owned(), shard)).map_or(0, |state| state.0) + 1
    }

    /// The file after a crash at byte `cut`, opened to append; gives where it was cut.
    pub fn reopen(&mut self, cut: u64) -> u64 {
        while self.marks.last().is_some_and(|mark| mark.end > cut) {
            self.marks.pop();
        }
        let mark = self.marks.last().expect("never cut in the header").clone();
        let offset = if mark.after <= cut { mark.after } else { mark.end };
        self.bytes.truncate(offset as usize);
        self.states = mark.states.clone();
        // Turns go on behind the last item of the last beacon.
        let last = (offset - 1) / self.interval * self.interval;
        let items = if last == 0 { Vec::new() } else { beacon(&self.bytes, last as usize).2 };
        let order: Vec<_> = self.states.keys().cloned().collect();
        self.shown =
            items.last().and_then(|last| order.iter().position(|stream| stream == last)).map_or(0, |at| at + 1);
        self.beacon_if_due(0);
        let after = self.bytes.len() as u64;
        self.marks.last_mut().expect("there is one").after = after;
        offset
    }
}

/// End offset, remaining bytes and streams of the beacon at `at`.
pub fn beacon(bytes: &[u8], at: usize) -> (usize, u32, Vec<(String, u64)>) {
    let mut pos = at;
    let mut take = |count: usize| {
        pos += count;
        bytes[pos - count..pos].to_vec()
    };
    assert_eq!(take(1), [0x0D]);
    let remaining = u32::from_be_bytes(take(4).try_into().unwrap());
    let items = (0..take(1)[0])
        .map(|_| {
            let key_bytes = usize::from(take(1)[0]);
            let key = String::from_utf8(take(key_bytes)).unwrap();
            let shard = u64::from_be_bytes(take(8).try_into().unwrap());
            take(8 + 8 + 2);
            (key, shard)
        })
        .collect();
    assert_eq!(take(1), [0x0D]);
    (pos, remaining, items)
}

/// All messages of an undamaged file with their offsets, control messages too.
pub fn read(bytes: &[u8]) -> Vec<(u64, Msg)> {
    let interval = {
        let name = usize::from(bytes[3]);
        u32::from_be_bytes(bytes[4 + name + 8..4 + name + 12].try_into().unwrap()) as usize
    };
    let mut at = 128;
    let mut plain = Vec::new();
    let mut places = Vec::new();
    while at < bytes.len() {
        if at % interval == 0 {
            at = beacon(bytes, at).0;
        } else {
            plain.push(bytes[at]);
            places.push(at as u64);
            at += 1;
        }
    }
    let mut messages = Vec::new();
    let mut at = 0;
    while at < plain.len() {
        let offset = places[at];
        let mut take = |count: usize| {
            at += count;
            plain[at - count..at].to_vec()
        };
        let number = |bytes: Vec<u8>| bytes.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        let key_bytes = usize::from(take(1)[0]);
        let key = String::from_utf8(take(key_bytes)).unwrap();
        let (shard, sequence, time_ms) = (number(take(8)), number(take(8)), number(take(8)));
        let size = number(take(4)) as usize;
        let payload = take(size);
        assert_eq!(number(take(2)) as u16, crc(0xFFFF, &payload));
        assert_eq!(take(1), [0x0D]);
        messages.push((offset, Msg { key, shard, sequence, time_ms, payload }));
    }
    messages
}
