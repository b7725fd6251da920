//! A lane: reads keys which can be asked for together, one answer ahead of the source.
//!
//! ```text
//!   Redis ──► Lane (one connection; the next answer is on its way while this one is decoded) ──► news (bounded) ──► next()
//! ```
//!
//! One lane reads all keys of one server. In a cluster a command's keys must lie in one slot, so each slot has its lane.
//!
//! Lanes are no tasks of their own: `next` polls them, and between its calls they stand still. So a record that somebody waits
//! for is handed over without another thread being woken, which costs more than reading it.

use std::{pin::Pin, sync::Arc, time::Duration};

use millstream_core::{Error, ErrorKind, Result, ShardKey};
use tokio::sync::mpsc;

use super::{
    assemble::{Assembler, Handed},
    claim::Claims,
    link::Link,
    place::Place,
    reading::Reading,
    resume::resume,
    shards::Shard,
    start::END,
};
use crate::{
    error::{refused, unexpected},
    id::EntryId,
    resp::{Commands, Reply},
};

/// How long a read waits for entries: how soon a dead connection is noticed.
const BLOCK: Duration = Duration::from_secs(2);

/// The first read asks for so few, because nobody knows yet how large entries are: a few of the largest should fit into memory.
/// Where they are small it is doubled with each answer.
pub(super) const COUNT_FIRST: u32 = 4;

/// Answers with fewer entries are handed over before the next read is sent: somebody may wait for them.
const FEW: usize = 16;

/// Answers that wait to be handed over, beside the one in each lane's hands. Each has about `batch.bytes`.
pub(super) const NEWS_MAX: usize = 2;

/// A read takes about so many bytes, and so many for each key.
const COMMAND_BYTES: usize = 128;

/// A lane tells its source.
pub(super) enum News {
    /// Records.
    Read(Handed),
    /// New shards.
    Found(Vec<Shard>),
    /// Shards of a group whose keys are not there any more; the lane goes on without them.
    Gone(Vec<Shard>),
    /// The lane has ended; where its keys stand. No error: there is no more to read.
    Stopped(Vec<LaneKey>, Option<Error>),
    /// New shards cannot be looked for.
    Blind(Error),
}

/// A key of a lane.
#[derive(Clone, Debug)]
pub(super) struct LaneKey {
    pub(super) shard: Shard,
    /// Behind the newest entry that was read.
    pub(super) after: Place,
    /// Entries behind it are not read. Those that a group hands out all the same stay pending, and are given back at the end.
    pub(super) end: Option<EntryId>,
    /// Where a group begins that is not there, as Redis wants it.
    pub(super) group_start: String,
    /// How many entries its last lane has asked for.
    pub(super) count: u32,
}

impl LaneKey {
    /// The group is there, or was. Where it is made again it does not begin at the end: much may have come since, and nobody
    /// knows any more what its members were still to acknowledge.
    pub(super) fn group_was_there(&mut self) {
        if self.group_start == END {
            self.group_start = EntryId::ZERO.to_string();
        }
    }
}

/// A lane at work: goes on while it is polled, and ends when it is dropped.
pub(super) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A lane.
pub(super) struct Lane {
    pub(super) reading: Arc<Reading>,
    pub(super) keys: Vec<LaneKey>,
    pub(super) dictionary: Arc<Vec<ShardKey>>,
    pub(super) news: mpsc::Sender<News>,
    count: u32,
}

impl Lane {
    pub(super) fn new(reading: Arc<Reading>, keys: Vec<LaneKey>, news: mpsc::Sender<News>) -> Self {
        let dictionary = Arc::new(keys.iter().map(|key| key.shard.key.clone()).collect());
        let count = keys.iter().map(|key| key.count).min().unwrap_or(COUNT_FIRST).min(reading.batch.count);
        Lane { reading, keys, dictionary, news, count }
    }

    /// Begins to read from `node`.
    pub(super) fn start(mut self, node: Arc<str>) -> Work {
        Box::pin(async move {
            let error = Box::pin(self.work(&node)).await.err().map(|error| self.ask_for_less(error));
            self.keys.iter_mut().for_each(|key| key.count = self.count);
            // Without a source nobody wants to know.
            let _ = self.news.send(News::Stopped(self.keys, error)).await;
        })
    }

    /// An answer with several entries that is too large is one that we should not have asked for.
    fn ask_for_less(&mut self, error: Error) -> Error {
        if error.kind() != ErrorKind::TooLarge || self.count == 1 {
            return error;
        }
        // At once, and not step by step: a group has counted all of them as handed out.
        self.count = 1;
        error.with_kind(ErrorKind::Unavailable).hint("records are large here: they are asked for one at a time")
    }

    async fn work(&mut self, node: &Arc<str>) -> Result<()> {
        let mut link = Link::connect(&self.reading.server, node).await?;
        let mut claims = self.begin(&mut link).await?;
        let block = claims.as_ref().map_or(BLOCK, |claims| claims.every().min(BLOCK));
        let (mut sent, mut wait) = (false, None);
        // What was asked for when the end comes is not read, and could not be given back.
        let forgets_at_end = self.reading.forgets() && self.reading.until_end;
        while !self.keys.is_empty() {
            if !sent {
                if let Some(claims) = &mut claims {
                    self.sweep(&mut link, claims).await?;
                }
                // What can be taken over does not wait for what is new.
                let goes_on = claims.as_ref().is_some_and(Claims::goes_on);
                wait = Some(block).filter(|_| !self.reading.until_end && !goes_on);
                link.send(&self.read_command(wait)).await?;
            }
            let reply = link.reply(wait.unwrap_or_default()).await?;
            sent = false;
            if let Some(text) = reply.error() {
                self.refused(&mut link, &reply, text).await?;
                continue;
            }
            let entries = self.note(&reply).ok_or_else(|| unexpected("read", &self.reading.server))?;
            let due = claims.as_ref().is_some_and(Claims::due);
            let mut asked = Ok(());
            if entries > FEW && !due && !forgets_at_end {
                asked = link.send(&self.read_command(wait)).await;
                sent = true;
            }
            // Also when the connection is broken: this answer has been noted.
            self.hand_over(&reply).await?;
            asked?;
            if !claims.as_ref().is_some_and(Claims::goes_on) {
                self.end_what_is_read(entries);
            }
            if entries > 0 && !sent {
                // Asking again costs as much as the record has taken so far: only when it is out of our hands, and whoever waits
                // for it has had his turn.
                let _ = self.news.reserve_many(NEWS_MAX).await;
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// Makes sure that reading can begin where it should.
    async fn begin(&mut self, link: &mut Link) -> Result<Option<Claims>> {
        if self.reading.member.is_none() {
            for key in &mut self.keys {
                resume(link, key, self.reading.on_missing).await?;
            }
            return Ok(None);
        }
        self.join(link).await.map(Some)
    }

    async fn refused(&mut self, link: &mut Link, reply: &Reply, text: &str) -> Result<()> {
        if link.follow(reply).await? {
            return Ok(());
        }
        Err(refused("read", &self.reading.server, text))
    }

    /// Reads what is new, waiting for it so long.
    fn read_command(&self, wait: Option<Duration>) -> Commands {
        let (member, batch) = (&self.reading.member, self.count);
        let mut command = Commands::with_capacity(COMMAND_BYTES * (1 + self.keys.len()));
        let no_ack = self.reading.forgets();
        let words = 4 + if member.is_some() { 3 } else { 0 } + if wait.is_some() { 2 } else { 0 } + usize::from(no_ack);
        command.begin(words + 2 * self.keys.len());
        match member {
            Some(member) => {
                command.word(b"XREADGROUP");
                command.word(b"GROUP");
                command.word(member.group.name.as_bytes());
                command.word(member.name.as_bytes());
            }
            None => command.word(b"XREAD"),
        }
        command.word(b"COUNT");
        command.number(batch.into());
        if let Some(wait) = wait {
            command.word(b"BLOCK");
            // 0 would wait for ever.
            command.number(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1));
        }
        if no_ack {
            command.word(b"NOACK");
        }
        command.word(b"STREAMS");
        self.keys.iter().for_each(|key| command.word(key.shard.name.as_bytes()));
        for key in &self.keys {
            match member {
                Some(_) => command.word(b">"),
                None => command.word(key.after.id.to_string().as_bytes()),
            }
        }
        command
    }

    /// Goes behind what an answer holds, and learns how large entries are; how many there are.
    fn note(&mut self, reply: &Reply) -> Option<usize> {
        let mut cursor = reply.cursor();
        let (mut entries, mut most) = (0, 0);
        for _ in 0..cursor.array()? {
            cursor.array()?;
            let name = cursor.text()?;
            let Some(key) = self.keys.iter_mut().find(|key| key.shard.name.as_bytes() == name) else {
                // Asked for ahead, and read to its end since.
                cursor.skip();
                continue;
            };
            let count = cursor.array()?;
            for _ in 0..count {
                cursor.array()?;
                key.after = key.after.on_to(EntryId::parse(cursor.text()?)?, 1);
                cursor.skip();
            }
            entries += count;
            most = most.max(count);
        }
        self.learn(reply.data().len() as u64, most as u64);
        Some(entries)
    }

    /// Asks for fewer entries when answers get too large, and for more when they are small.
    pub(super) fn learn(&mut self, bytes: u64, most: u64) {
        let target = self.reading.batch.bytes.0.max(1);
        let count = u64::from(self.count);
        let next = if bytes > target {
            count.saturating_mul(target) / bytes
        } else if most >= count && bytes < target / 2 {
            count * 2
        } else {
            count
        };
        self.count = u32::try_from(next).unwrap_or(u32::MAX).clamp(1, self.reading.batch.count);
    }

    /// Entries that one command may ask for.
    pub(super) fn count(&self) -> usize {
        self.count as usize
    }

    async fn hand_over(&mut self, reply: &Reply) -> Result<()> {
        let handed = self.decode(reply).ok_or_else(|| unexpected("read", &self.reading.server))?;
        self.give(handed).await
    }

    pub(super) async fn give(&self, handed: Vec<Handed>) -> Result<()> {
        for handed in handed {
            self.tell(News::Read(handed)).await?;
        }
        Ok(())
    }

    pub(super) async fn tell(&self, news: News) -> Result<()> {
        self.news.send(news).await.map_err(|_| Error::new(ErrorKind::Closed, "the source is gone"))
    }

    fn decode(&self, reply: &Reply) -> Option<Vec<Handed>> {
        let mut assembler = Assembler::new(&self.reading, &self.dictionary, reply);
        let mut cursor = reply.cursor();
        for _ in 0..cursor.array()? {
            cursor.array()?;
            let name = cursor.text()?;
            let Some(key) = self.keys.iter().find(|key| key.shard.name.as_bytes() == name) else {
                cursor.skip();
                continue;
            };
            let shard = self.dictionary.iter().position(|shard| *shard == key.shard.key)?;
            // What nobody keeps is handed over, also where it lies behind the end.
            let end = key.end.filter(|_| !self.reading.forgets());
            assembler.entries(shard as u32, &mut cursor, end, None)?;
        }
        Some(assembler.finish())
    }

    /// Leaves out keys that have been read to their ends.
    fn end_what_is_read(&mut self, entries: usize) {
        if self.reading.until_end {
            self.keys.retain(|key| entries > 0 && key.end.is_none_or(|end| key.after.id < end));
        }
    }
}
