//! Taking over what was handed out and never acknowledged: our own first, then that of members that do not show up.
//!
//! | handed out, this time included | how |
//! |---|---|
//! | up to 2 times | in batches |
//! | 3 times or more | one at a time, each committed before the next: a record that ends its process drags no other with it |
//! | more than `max_deliveries` times | to the dead letters, in batches |

use std::{collections::HashMap, sync::Arc, time::Duration};

use millstream_core::Result;
use tokio::time::Instant;

use super::{
    assemble::{Assembler, Deliveries, Handed},
    group::{LEAVE, MADE_UP},
    lane::Lane,
    link::Link,
    reading::Member,
};
use crate::{
    error::{not_open, unexpected},
    id::EntryId,
    resp::{Commands, Reply},
};

/// From here on a record goes alone.
const ALONE_FROM: u32 = 3;

/// Pending entries that one question asks for.
const PAGE: usize = 1000;

/// Often enough for the shortest `claim_idle`.
const SWEEP_MIN: Duration = Duration::from_millis(50);

/// How often to look for members that do not show up, at most: part of what a takeover takes behind `claim_idle`.
const SWEEP_MAX: Duration = Duration::from_secs(2);

/// When to look again, and where.
pub(super) struct Claims {
    every: Duration,
    due_at: Instant,
    /// Where a look goes on that has not come to its end, by key: a page at a time, so that what is new is read in between.
    rest: HashMap<Arc<str>, String>,
}

/// An entry that was handed out and not acknowledged.
#[derive(Clone, Debug)]
struct Pending {
    id: EntryId,
    ours: bool,
    /// A member whose name was made up for one run; it will not come back.
    made_up: Option<Vec<u8>>,
    deliveries: u32,
}

impl Claims {
    /// Looks for the first time at once.
    pub(super) fn new(claim_idle: Duration) -> Self {
        let every = (claim_idle / 3).clamp(SWEEP_MIN, SWEEP_MAX);
        Claims { every, due_at: Instant::now(), rest: HashMap::new() }
    }

    /// How often to look.
    pub(super) fn every(&self) -> Duration {
        self.every
    }

    /// Whether it is time to look.
    pub(super) fn due(&self) -> bool {
        self.goes_on() || Instant::now() >= self.due_at
    }

    /// Whether the last look has not come to its end.
    pub(super) fn goes_on(&self) -> bool {
        !self.rest.is_empty()
    }
}

impl Lane {
    pub(super) fn member(&self) -> Result<&Member> {
        self.reading.member.as_ref().ok_or_else(not_open)
    }

    /// Takes up what is pending under our name and not with us.
    pub(super) async fn take_own(&mut self, link: &mut Link, key: usize) -> Result<()> {
        let mut from = Some("-".to_owned());
        while let Some(first) = from {
            let (page, next) = self.pending(link, key, None, &first).await?;
            from = next;
            self.take(link, key, page, Duration::ZERO).await?;
        }
        Ok(())
    }

    /// Whether more is pending under our name than we hold: a command on a connection that broke was carried out after we had
    /// looked for what it left.
    async fn has_strays(&self, link: &mut Link, key: usize) -> Result<bool> {
        let (Some(key), member) = (self.keys.get(key), self.member()?) else { return Err(not_open()) };
        let command = Commands::one(&[b"XPENDING", key.shard.name.as_bytes(), member.group.name.as_bytes()]);
        let reply = link.demand("look for pending records", &command).await?;
        let ours =
            pending_of(&reply, &member.name).ok_or_else(|| unexpected("look for pending records", link.server()))?;
        Ok(ours > member.ledger.count(&key.shard.key))
    }

    /// Looks for what can be taken over, if it is time to: one page of each key.
    pub(super) async fn sweep(&mut self, link: &mut Link, claims: &mut Claims) -> Result<()> {
        let (keeps, idle) = (self.member()?.keeps(), self.member()?.group.claim_idle.0);
        if !keeps || !claims.due() {
            return Ok(());
        }
        let rest = std::mem::take(&mut claims.rest);
        if rest.is_empty() {
            // Once a look, and not for each of its pages.
            self.check_alone(link).await?;
        }
        for key in 0..self.keys.len() {
            let name = self.keys.get(key).ok_or_else(not_open)?.shard.name.clone();
            let next = match rest.get(&name) {
                Some(from) => self.take_over(link, key, idle, from).await?,
                None if !rest.is_empty() => None,
                None => {
                    if self.has_strays(link, key).await? {
                        self.take_own(link, key).await?;
                    }
                    self.take_over(link, key, idle, "-").await?
                }
            };
            claims.rest.extend(next.map(|next| (name, next)));
        }
        claims.due_at = Instant::now() + claims.every;
        Ok(())
    }

    /// Takes over a page of what is idle for so long; where the next one begins.
    async fn take_over(&mut self, link: &mut Link, key: usize, idle: Duration, from: &str) -> Result<Option<String>> {
        let (page, next) = self.pending(link, key, Some(idle), from).await?;
        let mut gone: Vec<Vec<u8>> = page.iter().filter_map(|pending| pending.made_up.clone()).collect();
        gone.dedup();
        self.take(link, key, page, idle).await?;
        self.bury(link, key, &gone).await?;
        Ok(next)
    }

    /// One page of what is pending: ours, or everybody's that is idle for so long; without what we hold, and what lies behind the end. And where
    /// the next page begins, if there is one.
    async fn pending(
        &self,
        link: &mut Link,
        key: usize,
        idle: Option<Duration>,
        from: &str,
    ) -> Result<(Vec<Pending>, Option<String>)> {
        let (Some(key), member) = (self.keys.get(key), self.member()?) else { return Err(not_open()) };
        let idle_ms = idle.map(|idle| idle.as_millis().to_string());
        let count = PAGE.to_string();
        let mut words: Vec<&[u8]> = vec![b"XPENDING", key.shard.name.as_bytes(), member.group.name.as_bytes()];
        words.extend(idle_ms.iter().flat_map(|ms| [b"IDLE".as_slice(), ms.as_bytes()]));
        words.extend([from.as_bytes(), b"+", count.as_bytes()]);
        if idle.is_none() {
            words.push(member.name.as_bytes());
        }
        let reply = link.demand("look for pending records", &Commands::one(&words)).await?;
        let mut page =
            read_pending(&reply, &member.name).ok_or_else(|| unexpected("look for pending records", link.server()))?;
        let next = page.last().filter(|_| page.len() >= PAGE).map(|last| format!("({}", last.id));
        if !page.is_empty() {
            let held = member.ledger.held(&key.shard.key);
            let wanted = |id: EntryId| key.end.is_none_or(|end| id <= end);
            page.retain(|pending| wanted(pending.id) && !held.contains(&pending.id));
        }
        Ok((page, next))
    }

    /// Takes over what may go in batches, then what goes alone.
    async fn take(&mut self, link: &mut Link, key: usize, page: Vec<Pending>, idle: Duration) -> Result<()> {
        let most = self.member()?.group.max_deliveries;
        let (alone, together): (Vec<_>, Vec<_>) =
            page.into_iter().partition(|pending| (ALONE_FROM..=most).contains(&(pending.deliveries + 1)));
        let mut rest = together.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.count().min(rest.len()));
            rest = later;
            let reply = self.claim(link, key, now, idle).await?;
            self.learn(reply.data().len() as u64, now.len() as u64);
            let handed = self.claimed(&reply, key, now).ok_or_else(|| unexpected("claim records", link.server()))?;
            self.give(handed).await?;
        }
        for pending in &alone {
            self.take_alone(link, key, pending, idle).await?;
        }
        Ok(())
    }

    /// Takes over one record that goes alone, when the one before has been committed. Only then, because claiming it counts as
    /// handing it out. Until then the source gives nothing else anyway.
    async fn take_alone(&mut self, link: &mut Link, key: usize, pending: &Pending, idle: Duration) -> Result<()> {
        // The gate is never closed.
        let permit = self.member()?.gate.clone().acquire_owned().await.map_err(|_| not_open())?;
        let one = std::slice::from_ref(pending);
        let reply = self.claim(link, key, one, idle).await?;
        let mut handed = self.claimed(&reply, key, one).ok_or_else(|| unexpected("claim records", link.server()))?;
        // Another member may have been faster; then the permit goes back.
        if let Some(handed) = handed.first_mut() {
            handed.read.alone = true;
            handed.alone = Some(permit);
        }
        self.give(handed).await
    }

    /// Deletes names that were made up for one run and have nothing left.
    async fn bury(&self, link: &mut Link, key: usize, names: &[Vec<u8>]) -> Result<()> {
        let (Some(key), member) = (self.keys.get(key), self.member()?) else { return Err(not_open()) };
        let (key, group) = (key.shard.name.as_bytes(), member.group.name.as_bytes());
        for name in names {
            let reply = link.call(&Commands::one(&[b"EVAL", LEAVE.as_bytes(), b"1", key, group, name])).await?;
            if let Some(text) = reply.error() {
                tracing::debug!(text, "an empty member stays in the group");
            }
        }
        Ok(())
    }

    async fn claim(&self, link: &mut Link, key: usize, all: &[Pending], idle: Duration) -> Result<Reply> {
        let (Some(key), member) = (self.keys.get(key), self.member()?) else { return Err(not_open()) };
        let mut command = Commands::default();
        command.begin(5 + all.len());
        command.word(b"XCLAIM");
        command.word(key.shard.name.as_bytes());
        command.word(member.group.name.as_bytes());
        command.word(member.name.as_bytes());
        // Our own may be idle for as short as they like, but must still be ours.
        let ours = all.iter().all(|pending| pending.ours);
        command.word(if ours { 0 } else { idle.as_millis() }.to_string().as_bytes());
        let mut text = Vec::new();
        for pending in all {
            pending.id.write(&mut text);
            command.word(&text);
        }
        link.demand("claim records", &command).await
    }

    fn claimed(&self, reply: &Reply, key: usize, all: &[Pending]) -> Option<Vec<Handed>> {
        let deliveries: Deliveries = all.iter().map(|pending| (pending.id, pending.deliveries + 1)).collect();
        let shard =
            self.dictionary.iter().position(|shard| self.keys.get(key).is_some_and(|key| key.shard.key == *shard))?;
        let mut assembler = Assembler::new(&self.reading, &self.dictionary, reply);
        assembler.entries(shard as u32, &mut reply.cursor(), None, Some(&deliveries))?;
        Some(assembler.finish())
    }
}

/// How many are pending under a name, in the summary of `XPENDING`.
fn pending_of(reply: &Reply, member: &str) -> Option<usize> {
    let mut cursor = reply.cursor();
    cursor.array()?;
    (0..3).for_each(|_| cursor.skip());
    for _ in 0..cursor.array()? {
        cursor.array()?;
        let ours = cursor.text()? == member.as_bytes();
        let count = cursor.integer()?;
        if ours {
            return usize::try_from(count).ok();
        }
    }
    Some(0)
}

fn read_pending(reply: &Reply, member: &str) -> Option<Vec<Pending>> {
    let mut cursor = reply.cursor();
    let mut all = Vec::new();
    for _ in 0..cursor.array()? {
        cursor.array()?;
        let id = EntryId::parse(cursor.text()?)?;
        let owner = cursor.text()?;
        let ours = owner == member.as_bytes();
        let made_up = (!ours && owner.starts_with(MADE_UP.as_bytes())).then(|| owner.to_vec());
        let _idle = cursor.integer()?;
        let deliveries = u32::try_from(cursor.integer()?).unwrap_or(u32::MAX - 1);
        all.push(Pending { id, ours, made_up, deliveries });
    }
    Some(all)
}
