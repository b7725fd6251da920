//! Which consumer the records that wait are for, and how much may wait.
//!
//! ```text
//!   push ─► deal: all to the only member, else row by row in turn ─► parts of each member ─► taken
//!                                 ▲ what a member leaves behind, or a new one is to share
//! ```

use std::{
    collections::{BTreeMap, VecDeque},
    task::Waker,
};

use millstream_core::{Batch, Owner, Position, Read, ShardKey};

use super::{log::Log, part::Part, shards::Assigned, shelf::Phase};
use crate::ConsumerOptions;

/// The number of the consumer for whom a source is opened.
pub(super) const MEMBER_FIRST: u32 = 0;

/// What is behind the lock of the shelf.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(super) members: Vec<Member>,
    next_member: u32,
    turn: usize,
    /// Absent in real time.
    pub(crate) log: Option<Log>,
    pub(crate) assigned: Assigned,
    pub(crate) shards: Vec<ShardKey>,
    /// Shards that have gone, each with the turn at which it went: what was taken before that is not ours any more.
    pub(super) gone: BTreeMap<ShardKey, u64>,
    pub(crate) phase: Phase,
    /// The source is open, or was.
    pub(crate) open: bool,
    /// Somebody has asked for something.
    pub(super) wanted: bool,
    pub(super) buffered: (usize, usize),
    limits: Limits,
    /// The reading task has found no room, and waits for some.
    pub(super) task_waits: bool,
    /// The last consumer has gone: nobody may come, because what is read now is given to nobody.
    pub(super) closed: bool,
    /// What the last consumer has not had in its hands.
    pub(super) unseen: VecDeque<Part>,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    buffered: (usize, usize),
    unacked: (usize, usize),
    /// Read only for a consumer that waits: what it has not taken could not be given to others.
    on_demand: bool,
}

/// One consumer.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: u32,
    pub(super) parts: VecDeque<Part>,
    pub(super) waker: Option<Waker>,
    /// The newest turn that it knows of.
    pub(super) turn: u64,
}

/// Whether to read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Yes,
    /// Records wait that nobody has taken.
    Full,
    /// Too much is not acknowledged.
    Unacked,
}

impl Inner {
    /// Nothing, for a first member.
    pub(super) fn new(options: &ConsumerOptions, on_demand: bool) -> Self {
        Inner {
            members: vec![Member { id: MEMBER_FIRST, parts: VecDeque::new(), waker: None, turn: 0 }],
            next_member: MEMBER_FIRST + 1,
            turn: 0,
            log: None,
            assigned: Assigned::default(),
            shards: Vec::new(),
            gone: BTreeMap::new(),
            phase: Phase::Opening,
            open: false,
            wanted: false,
            buffered: (0, 0),
            limits: Limits {
                buffered: (options.buffer_records_max.max(1), options.buffer_bytes_max.max(1)),
                unacked: (options.unacked_records_max.max(1), options.unacked_bytes_max.max(1)),
                on_demand,
            },
            task_waits: false,
            closed: false,
            unseen: VecDeque::new(),
        }
    }

    /// Another member; `None` if the last one has gone.
    pub(crate) fn add_member(&mut self) -> Option<u32> {
        if self.closed {
            return None;
        }
        let id = self.next_member;
        self.next_member += 1;
        self.members.push(Member { id, parts: VecDeque::new(), waker: None, turn: 0 });
        if self.members.len() > 1 {
            self.share_waiting();
        }
        Some(id)
    }

    /// Deals what waits anew, so that a new member gets its share of it.
    fn share_waiting(&mut self) {
        let mut waiting: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for part in self.members.iter_mut().flat_map(|member| member.parts.drain(..)) {
            waiting.entry(part.entry).or_default().extend(part.rows_left());
        }
        self.buffered = (0, 0);
        for (entry, mut rows) in waiting {
            rows.sort_unstable();
            self.deal_again(entry, rows, false);
        }
    }

    pub(super) fn parts(&self, member: u32) -> usize {
        self.members.iter().find(|of| of.id == member).map_or(0, |of| of.parts.len())
    }

    pub(super) fn room(&self) -> Room {
        let Limits { buffered, unacked, on_demand } = self.limits;
        if self.buffered.0 >= buffered.0 || self.buffered.1 >= buffered.1 {
            return Room::Full;
        }
        if on_demand && !self.members.iter().any(|member| member.waker.is_some() && member.parts.is_empty()) {
            return Room::Full;
        }
        let (records, bytes) = self.log.as_ref().map_or((0, 0), Log::size);
        if records >= unacked.0 || bytes >= unacked.1 { Room::Unacked } else { Room::Yes }
    }

    pub(super) fn unbuffer(&mut self, records: usize, bytes: usize) {
        self.buffered.0 = self.buffered.0.saturating_sub(records);
        self.buffered.1 = self.buffered.1.saturating_sub(bytes);
    }

    pub(super) fn wake_all(&mut self) {
        self.members.iter_mut().filter_map(|member| member.waker.take()).for_each(Waker::wake);
    }

    /// Takes up what was read; `after`: the source's position behind it.
    pub(crate) fn push(&mut self, read: Read, after: Option<Position>) {
        let Read { batch, failed, alone } = read;
        let batch = batch.into_bytes();
        let plain = self.assigned.all() && self.log.as_ref().is_none_or(Log::skips_nothing);
        let mut rows = None;
        let mut passed = vec![];
        if !plain {
            let mut picks = Vec::with_capacity(batch.len());
            for (row, record) in batch.iter().enumerate() {
                if !self.assigned.reads(record.origin()) {
                    self.assigned.passed(record.origin(), record.sequence(), self.log.as_ref());
                    passed.push(row as u32);
                } else if !self.log.as_ref().is_some_and(|log| log.was_done(record.origin(), record.sequence())) {
                    picks.push(row as u32);
                }
            }
            rows = Some(picks);
        }
        let dealt = self.deal(batch.len(), rows.as_deref());
        let entry = match (&mut self.log, after) {
            (Some(log), Some(after)) => {
                let mut owners = vec![None; batch.len()];
                passed.iter().for_each(|row| owners[*row as usize] = Some(None));
                for (member, rows) in &dealt {
                    match rows {
                        Some(rows) => rows.iter().for_each(|row| owners[*row as usize] = Some(Some(*member))),
                        None => owners.fill(Some(Some(*member))),
                    }
                }
                let entry = log.push(batch.clone(), failed.clone(), after, |row| owners[row]);
                if alone {
                    log.goes_alone(entry);
                }
                entry
            }
            _ => 0,
        };
        for (member, rows) in dealt {
            self.queue(member, Part::new(entry, &batch, rows, &failed), false);
        }
    }

    /// Deals rows to the members in turn; `None` means all rows. When the last has gone, to one that never comes.
    fn deal(&mut self, len: usize, rows: Option<&[u32]>) -> Vec<(u32, Option<Vec<u32>>)> {
        let members = self.members.len();
        if let [only] = self.members.as_slice() {
            return vec![(only.id, rows.map(<[u32]>::to_vec))];
        }
        if members == 0 {
            return vec![(self.next_member, rows.map(<[u32]>::to_vec))];
        }
        let mut picks = vec![Vec::new(); members];
        let mut give = |row| {
            picks[self.turn % members].push(row);
            self.turn = self.turn.wrapping_add(1);
        };
        match rows {
            Some(rows) => rows.iter().copied().for_each(&mut give),
            None => (0..len as u32).for_each(&mut give),
        }
        let dealt = self.members.iter().zip(picks).filter(|(_, rows)| !rows.is_empty());
        dealt.map(|(member, rows)| (member.id, Some(rows))).collect()
    }

    pub(super) fn deal_again(&mut self, entry: u64, rows: Vec<u32>, first: bool) {
        for (member, rows) in self.deal(0, Some(&rows)) {
            let rows = rows.unwrap_or_default();
            let given = self.log.as_mut().and_then(|log| log.give(entry, &rows, member));
            if let Some(part) = given.map(|(batch, failed)| Part::new(entry, batch, Some(rows.clone()), failed)) {
                self.queue(member, part, first);
            }
        }
    }

    fn queue(&mut self, member: u32, part: Part, first: bool) {
        if part.left() == 0 {
            return;
        }
        self.buffered.0 += part.left();
        self.buffered.1 += part.bytes;
        if let Some(of) = self.members.iter_mut().find(|of| of.id == member) {
            match first {
                true => of.parts.push_front(part),
                false => of.parts.push_back(part),
            }
            if let Some(waker) = of.waker.take() {
                waker.wake();
            }
        } else {
            self.unseen.push_back(part);
        }
    }

    /// Forgets all records: the source stands elsewhere now, at `base`.
    pub(crate) fn clear(&mut self, base: Option<Position>) {
        self.members.iter_mut().for_each(|member| member.parts.clear());
        self.buffered = (0, 0);
        self.assigned.moved();
        if let (Some(log), Some(base)) = (&mut self.log, base) {
            log.reset(base);
        }
        self.phase = Phase::Reading;
        self.wake_all();
    }

    /// Takes out the waiting records of shards that are not read any more.
    pub(crate) fn keep_assigned(&mut self) {
        let Inner { members, assigned, log, .. } = self;
        let mut passed: Vec<(u64, ShardKey, u128, u32)> = Vec::new();
        for member in members.iter_mut() {
            for part in &mut member.parts {
                let entry = part.entry;
                part.keep_only(
                    |shard| assigned.reads(shard),
                    |shard, sequence, row| passed.push((entry, shard.clone(), sequence, row)),
                );
            }
            member.parts.retain(|part| part.left() > 0);
        }
        // First what is saved of each shard, then the marks that change it.
        for (_, shard, sequence, _) in &passed {
            assigned.passed(shard, *sequence, log.as_ref());
        }
        for (entry, _, _, row) in passed {
            if let Some(log) = log {
                log.pass(entry, &[row]);
            }
        }
        self.count_waiting();
    }

    /// Takes out what waits of these shards.
    pub(crate) fn drop_waiting(&mut self, shards: &[ShardKey]) {
        for member in &mut self.members {
            member.parts.iter_mut().for_each(|part| part.keep_only(|shard| !shards.contains(shard), |_, _, _| {}));
            member.parts.retain(|part| part.left() > 0);
        }
        self.count_waiting();
    }

    fn count_waiting(&mut self) {
        let parts = || self.members.iter().flat_map(|member| &member.parts);
        self.buffered = (parts().map(Part::left).sum(), parts().map(|part| part.bytes).sum());
    }

    /// What the source is to take back when the last consumer has gone. A system that remembers what it has handed out keeps
    /// what somebody had in hand, so that it counts how often a record is tried.
    pub(crate) fn leftovers(&mut self, owner: Owner) -> Vec<Batch> {
        match (owner, &self.log) {
            (Owner::System, Some(_)) => self.unseen.drain(..).map(|part| part.rest()).collect(),
            (_, log) => log.as_ref().map(Log::not_done).unwrap_or_default(),
        }
    }

    /// These shards belong to somebody else now.
    pub(crate) fn lose(&mut self, shards: &[ShardKey]) {
        self.drop_waiting(shards);
        if let Some(log) = &mut self.log {
            log.lose(shards);
        }
        self.shards.retain(|shard| !shards.contains(shard));
    }
}

#[cfg(test)]
mod tests {
    use millstream_core::{BatchBuilder, Record};

    use super::*;
    use crate::consumer::shelf::Shelf;

    fn read(values: &[&str]) -> Read {
        let mut builder = BatchBuilder::new();
        values.iter().for_each(|value| builder.push(&Record::new("s", value.to_string())));
        Read { batch: builder.finish(), failed: Vec::new(), alone: false }
    }

    #[test]
    fn what_is_read_while_the_last_consumer_goes_is_given_back_too() {
        for owner in [Owner::System, Owner::Checkpoint] {
            let (shelf, member) = Shelf::new(&ConsumerOptions::load_balanced("group"), false);
            shelf.lock().log = Some(Log::new(Position::default(), BTreeMap::new(), false));
            let mut behind = Position::default();
            behind.set(ShardKey::new("s", 0), &4).unwrap();
            shelf.lock().push(read(&["a", "b"]), Some(behind.clone()));
            shelf.remove(member);
            shelf.lock().push(read(&["c", "d"]), Some(behind));
            let mut inner = shelf.lock();
            let rest: Vec<Record> = inner
                .leftovers(owner)
                .iter()
                .flat_map(|batch| batch.iter().map(|r| r.to_record()).collect::<Vec<_>>())
                .collect();
            let values: Vec<_> = rest.iter().filter_map(|record| record.value.as_deref()).collect();
            assert_eq!(values, [b"a", b"b", b"c", b"d"]);
            assert!(inner.log.as_mut().is_some_and(|log| log.saved().position.0.is_empty()));
        }
    }
}
