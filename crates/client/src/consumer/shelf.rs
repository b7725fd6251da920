//! What the reading task and the consumers share: records that wait, whose they are, and how things stand.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
};

use millstream_core::{Error, Position, Read, Result, ShardKey};
use tokio::sync::Notify;

use super::{log::Log, part::Part, shards::Assigned};
use crate::{ConsumerOptions, ConsumerState, Retrying};

/// Records that wait for the consumers of one source.
#[derive(Debug)]
pub(crate) struct Shelf {
    inner: Mutex<Inner>,
    /// Tells the reading task that something has changed that it waits for.
    pub(crate) changed: Notify,
    /// How often shards have gone. Looked at for each record, without the lock: it changes as good as never.
    turns: AtomicU64,
}

#[derive(Debug)]
pub(crate) struct Inner {
    members: Vec<Member>,
    next_member: u32,
    turn: usize,
    /// Absent in real time.
    pub(crate) log: Option<Log>,
    pub(crate) assigned: Assigned,
    pub(crate) shards: Vec<ShardKey>,
    /// Shards that have gone, each with the turn at which it went: what was taken before that is not ours any more.
    gone: BTreeMap<ShardKey, u64>,
    pub(crate) phase: Phase,
    /// The source is open, or was.
    pub(crate) open: bool,
    /// Somebody has asked for something.
    wanted: bool,
    buffered: (usize, usize),
    limits: Limits,
    /// The reading task has found no room, and waits for some.
    task_waits: bool,
    /// The last consumer has gone: nobody may come, because what is read now is given to nobody.
    closed: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Phase {
    Opening,
    Reading,
    Retrying(Retrying),
    Ended,
    Failed(Error),
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
struct Member {
    id: u32,
    parts: VecDeque<Part>,
    waker: Option<Waker>,
    /// The newest turn that it knows of.
    turn: u64,
}

/// Whether to read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Yes,
    /// Records wait that nobody has taken.
    Full,
    /// Too much is not acknowledged.
    Unacked,
}

impl Shelf {
    /// An empty shelf with its first member.
    pub(crate) fn new(options: &ConsumerOptions, on_demand: bool) -> (Self, u32) {
        let limits = Limits {
            buffered: (options.buffer_records_max.max(1), options.buffer_bytes_max.max(1)),
            unacked: (options.unacked_records_max.max(1), options.unacked_bytes_max.max(1)),
            on_demand,
        };
        let inner = Inner {
            members: vec![Member { id: 0, parts: VecDeque::new(), waker: None, turn: 0 }],
            next_member: 1,
            turn: 0,
            log: None,
            assigned: Assigned::default(),
            shards: Vec::new(),
            gone: BTreeMap::new(),
            phase: Phase::Opening,
            open: false,
            wanted: false,
            buffered: (0, 0),
            limits,
            task_waits: false,
            closed: false,
        };
        (Shelf { inner: Mutex::new(inner), changed: Notify::new(), turns: AtomicU64::new(0) }, 0)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics while it holds the lock; if it did, the records would still be whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether to read on; if not, the task is told when that may have changed.
    pub(crate) fn room(&self) -> bool {
        let mut inner = self.lock();
        inner.task_waits = inner.room() != Room::Yes;
        !inner.task_waits
    }

    /// How often shards have gone.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Acquire)
    }

    /// Nothing of these shards is handed out any more.
    pub(crate) fn leave(&self, shards: &[ShardKey]) {
        let mut inner = self.lock();
        inner.drop_waiting(shards);
        let turn = self.turns() + 1;
        inner.gone.extend(shards.iter().map(|shard| (shard.clone(), turn)));
        self.turns.store(turn, Ordering::Release);
    }

    /// A member takes note of the shards that have gone: what it has taken of them, and not handed out, it drops.
    pub(crate) fn note_turn(&self, member: u32, part: Option<&mut Part>) -> u64 {
        let mut inner = self.lock();
        let turn = self.turns();
        if let Some(part) = part {
            let taken = std::mem::replace(&mut part.turn, turn);
            part.keep_only(|shard| inner.gone.get(shard).is_none_or(|gone| *gone <= taken), |_, _, _| {});
        }
        if let Some(of) = inner.members.iter_mut().find(|of| of.id == member) {
            of.turn = turn;
        }
        self.changed.notify_one();
        turn
    }

    /// Waits until what was handed out is done, as far as consumers tell by asking for more: then it is not repeated.
    pub(crate) async fn hands_are_free(&self) {
        while !self.turn_is_known() {
            self.changed.notified().await;
        }
    }

    /// Whether all members have taken note of the shards that have gone, or wait with nothing in their hands.
    fn turn_is_known(&self) -> bool {
        let turn = self.turns();
        self.lock().members.iter().all(|member| member.turn >= turn || member.waker.is_some())
    }

    /// How things stand, for people.
    pub(crate) fn state(&self, member: u32) -> ConsumerState {
        let inner = self.lock();
        match &inner.phase {
            Phase::Opening => ConsumerState::Opening,
            Phase::Retrying(retrying) => ConsumerState::Retrying(retrying.clone()),
            Phase::Failed(error) => ConsumerState::Failed(error.clone()),
            Phase::Ended if inner.parts(member) == 0 => ConsumerState::Ended,
            Phase::Ended => ConsumerState::Reading,
            Phase::Reading => match inner.room() {
                Room::Unacked => ConsumerState::AwaitingAcks,
                _ => ConsumerState::Reading,
            },
        }
    }

    /// Somebody wants the source to be open.
    pub(crate) fn want(&self) {
        if !std::mem::replace(&mut self.lock().wanted, true) {
            self.changed.notify_one();
        }
    }

    /// Waits until somebody wants the source to be open.
    pub(crate) async fn wanted(&self) {
        while !self.lock().wanted {
            self.changed.notified().await;
        }
    }

    /// Sets the phase; consumers look again.
    pub(crate) fn set(&self, phase: Phase) {
        let mut inner = self.lock();
        inner.phase = phase;
        inner.wake_all();
    }

    /// Rows are done.
    pub(crate) fn done(&self, entry: u64, rows: &[u32]) {
        let mut inner = self.lock();
        let Some(log) = &mut inner.log else { return };
        let was_dirty = log.dirty();
        log.done(entry, rows);
        self.after_ack(&mut inner, was_dirty);
    }

    /// Tells the task what an acknowledgement may have changed for it.
    pub(crate) fn after_ack(&self, inner: &mut Inner, was_dirty: bool) {
        if !was_dirty || inner.task_waits {
            inner.task_waits = false;
            self.changed.notify_one();
        }
    }

    /// The next part for a member. If there is none, `waker` is woken when that changes.
    pub(crate) fn take(&self, member: u32, waker: &Waker) -> Taken {
        let mut inner = self.lock();
        if !std::mem::replace(&mut inner.wanted, true) {
            self.changed.notify_one();
        }
        let failed = match &inner.phase {
            Phase::Failed(error) => Some(Taken::Failed(error.clone())),
            Phase::Ended => Some(Taken::Ended),
            _ => None,
        };
        let Some(of) = inner.members.iter_mut().find(|of| of.id == member) else { return Taken::Ended };
        let taken = match of.parts.pop_front() {
            Some(mut part) => {
                part.turn = self.turns();
                inner.unbuffer(part.left(), part.bytes);
                Taken::Part(Box::new(part))
            }
            None => failed.unwrap_or_else(|| {
                if !of.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
                    of.waker = Some(waker.clone());
                }
                Taken::Pending
            }),
        };
        if inner.task_waits && inner.room() == Room::Yes {
            inner.task_waits = false;
            self.changed.notify_one();
        }
        taken
    }

    /// Whether the source is open; `None`: not yet, and `waker` is woken when that changes.
    pub(crate) fn poll_opened(&self, member: u32, waker: &Waker) -> Option<Result<()>> {
        let mut inner = self.lock();
        match &inner.phase {
            Phase::Failed(error) => return Some(Err(error.clone())),
            _ if inner.open => return Some(Ok(())),
            _ => {}
        }
        let of = inner.members.iter_mut().find(|of| of.id == member)?;
        of.waker = Some(waker.clone());
        None
    }

    /// Puts back what was taken and not handed out.
    pub(crate) fn put_back(&self, member: u32, mut part: Part) {
        self.note_turn(member, Some(&mut part));
        let mut inner = self.lock();
        inner.buffered.0 += part.left();
        inner.buffered.1 += part.bytes;
        if let Some(of) = inner.members.iter_mut().find(|of| of.id == member) {
            of.parts.push_front(part);
        }
    }

    /// A consumer goes: what it holds is given to the others.
    pub(crate) fn remove(&self, member: u32) {
        let mut inner = self.lock();
        let Some(at) = inner.members.iter().position(|of| of.id == member) else { return };
        let gone = inner.members.remove(at);
        for part in gone.parts {
            inner.unbuffer(part.left(), part.bytes);
        }
        if inner.members.is_empty() {
            inner.closed = true;
            return;
        }
        let held = inner.log.as_ref().map(|log| log.held_by(member)).unwrap_or_default();
        // Newest first, because each is put before what waits.
        for (entry, rows) in held.into_iter().rev() {
            inner.deal_again(entry, rows, true);
        }
        inner.wake_all();
    }
}

/// What a member gets.
#[derive(Debug)]
pub(crate) enum Taken {
    Part(Box<Part>),
    Pending,
    Ended,
    Failed(Error),
}

impl Inner {
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

    fn parts(&self, member: u32) -> usize {
        self.members.iter().find(|of| of.id == member).map_or(0, |of| of.parts.len())
    }

    fn room(&self) -> Room {
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

    fn unbuffer(&mut self, records: usize, bytes: usize) {
        self.buffered.0 = self.buffered.0.saturating_sub(records);
        self.buffered.1 = self.buffered.1.saturating_sub(bytes);
    }

    fn wake_all(&mut self) {
        self.members.iter_mut().filter_map(|member| member.waker.take()).for_each(Waker::wake);
    }

    /// Takes up what was read; `after`: the source's position behind it.
    pub(crate) fn push(&mut self, read: Read, after: Option<Position>) {
        if self.closed {
            return;
        }
        let Read { batch, failed, .. } = read;
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
                log.push(batch.clone(), failed.clone(), after, |row| owners[row])
            }
            _ => 0,
        };
        for (member, rows) in dealt {
            self.queue(member, Part::new(entry, &batch, rows, &failed), false);
        }
    }

    /// Deals rows to the members in turn; `None` means all rows.
    fn deal(&mut self, len: usize, rows: Option<&[u32]>) -> Vec<(u32, Option<Vec<u32>>)> {
        let members = self.members.len();
        if let [only] = self.members.as_slice() {
            return vec![(only.id, rows.map(<[u32]>::to_vec))];
        }
        if members == 0 {
            return Vec::new();
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

    fn deal_again(&mut self, entry: u64, rows: Vec<u32>, first: bool) {
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

    /// These shards belong to somebody else now.
    pub(crate) fn lose(&mut self, shards: &[ShardKey]) {
        self.drop_waiting(shards);
        if let Some(log) = &mut self.log {
            log.lose(shards);
        }
        self.shards.retain(|shard| !shards.contains(shard));
    }
}
