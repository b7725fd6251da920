//! The contract of a source.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Batch, Companion, Error, ErrorKind, Position, Result, SeekTo, ShardKey, Stamp};

/// Reads batches from one system. The runtime owns every loop, retry, reconnect and shutdown around it.
///
/// Call order: `open`, then any of the others, then `close`. All calls come from one task.
#[async_trait]
pub trait Source: Send {
    /// Connects, and goes to where `resume` says. Called again after an error that can be retried, and after a restart inside
    /// the process: what it holds in the system (membership, claims) it keeps then.
    async fn open(&mut self, resume: &Resume) -> Result<()>;

    /// The next event; waits until there is one, and for as long as that takes.
    ///
    /// Cancel-safe: when the future is dropped, nothing that it has read is lost, and the position has not moved. An error
    /// of a class that can be retried is followed by another call; any other ends the source.
    async fn next(&mut self) -> Result<Event>;

    /// The next event that is no records: shards that are added, leave or are lost. Asked instead of `next` while no records
    /// are wanted, because what is behind is full or the pipeline drains; errors wait for `next`. Cancel-safe; `next` does not
    /// say it again.
    async fn news(&mut self) -> Event {
        std::future::pending().await
    }

    /// Behind the last record that `next` has returned.
    fn position(&self) -> Result<Position>;

    /// Everything up to `upto` is durable: acknowledge, store the group's offsets, delete. Idempotent. A system that keeps
    /// something beside the position keeps the stamp there.
    async fn commit(&mut self, upto: &Position, stamp: Option<&Stamp>) -> Result<()> {
        let _ = (upto, stamp);
        Ok(())
    }

    /// These records are done, though others before them are not. Only where [`SourceCapabilities::acknowledge`].
    async fn acknowledge(&mut self, records: &Batch) -> Result<()> {
        let _ = records;
        Err(Error::new(ErrorKind::Unsupported, "this source cannot acknowledge single records"))
    }

    /// Goes elsewhere, on all shards or on those named. After an error the source stands where it stood.
    async fn seek(&mut self, to: &SeekTo, shards: Option<&[ShardKey]>) -> Result<()> {
        let _ = shards;
        Err(Error::new(ErrorKind::Unsupported, format!("this source cannot seek to {to}")))
    }

    /// The shards that it reads now.
    fn shards(&self) -> Vec<ShardKey> {
        Vec::new()
    }

    /// Records or bytes that are there and not yet read; neither, while they are not known. `None` where the system does not
    /// tell. Asked about once a second: it answers with what is known and waits for nobody.
    fn lag(&self) -> Option<Lag> {
        None
    }

    /// How much there is to read at most, where that is known, for a progress bar.
    fn size(&self) -> Option<Lag> {
        None
    }

    /// Gives shards away after the epoch that drained them; the answer to [`Event::Leaving`]. From then on `position` does not
    /// name them.
    async fn release(&mut self, shards: &[ShardKey]) -> Result<()> {
        let _ = shards;
        Ok(())
    }

    /// Gives records back to their queue, as if they had never been handed out; a later `commit` does not cover them. Only
    /// where [`SourceCapabilities::give_back`].
    async fn give_back(&mut self, records: &Batch) -> Result<()> {
        let _ = records;
        Err(Error::new(ErrorKind::Unsupported, "this source cannot take records back"))
    }

    /// Renews the claim on what has been handed over and is not yet committed. Only where [`SourceCapabilities::keep_alive`].
    /// Cancel-safe: it is dropped when it takes longer than that interval. An error is a warning.
    async fn keep_alive(&mut self) -> Result<()> {
        Ok(())
    }

    /// What a host of the same system puts into its transaction, such as a group's metadata, or the ids to acknowledge.
    /// Asked at each barrier, together with `position`, where a host takes it. `commit` follows all the same: the system knows
    /// already, but what the source holds for it can go.
    fn companion(&self) -> Option<Companion> {
        None
    }

    /// Disconnects. Not called after a crash.
    async fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What a source says next.
#[derive(Debug)]
pub enum Event {
    /// Records, in order within each shard.
    Batch(Read),
    /// These shards are read from now on.
    Added(Vec<ShardKey>),
    /// These shards are to be given away: no more records of them follow. The runtime answers with [`Source::release`]; if the
    /// source is opened again before that, it says so again.
    Leaving(Vec<ShardKey>),
    /// These shards are gone; what was read of them and is not committed must be thrown away, and the source is opened again. Of
    /// none: it has no place in its group for now, and is opened again after a while.
    Lost(Vec<ShardKey>),
    /// There will be no more records.
    End,
}

/// Records as they were read.
#[derive(Debug)]
pub struct Read {
    /// The records.
    pub batch: Batch,
    /// Positions in the batch, ascending, of records that are at fault (not decodable, say), each with the cause.
    /// They follow the source's error rule and go no further.
    pub failed: Vec<(u32, Error)>,
    /// Its epoch is to be cut at once: somebody waits for it, or the source gives no more before these have been committed. It
    /// is asked for more all the same.
    pub alone: bool,
}

impl Read {
    /// Records, and which of them are at fault.
    pub fn new(batch: Batch, failed: Vec<(u32, Error)>) -> Self {
        Read { batch, failed, alone: false }
    }
}

impl From<Batch> for Read {
    fn from(batch: Batch) -> Self {
        Read::new(batch, Vec::new())
    }
}

/// Where a source is to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The saved position; without one `start` counts. Shards that it does not name begin at `start` too.
    pub position: Option<Position>,
    /// Where to begin without a position.
    pub start: SeekTo,
    /// Stop at the end as it is now, also where the source would follow.
    pub until_end: bool,
    /// The pipeline, with the newest epoch that counts; `None` where there is no pipeline.
    pub stamp: Option<Stamp>,
    /// A name in its group that it alone has, the same each time: what was taken under it comes back first. `None`: the stamp
    /// tells members apart, or the system does.
    pub member: Option<String>,
    /// The pipeline keeps keyed state: it must agree with where the source begins.
    pub keyed: bool,
    /// The pipeline begins anew on purpose, and has read nothing since: what the system still knows of its old state is no
    /// contradiction.
    pub fresh: bool,
}

impl Default for Resume {
    fn default() -> Self {
        Resume {
            position: None,
            start: SeekTo::Beginning,
            until_end: false,
            stamp: None,
            member: None,
            keyed: false,
            fresh: false,
        }
    }
}

/// Something countable that lies between two positions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lag {
    /// Records, where they can be counted.
    pub records: Option<u64>,
    /// Bytes, where they can be counted.
    pub bytes: Option<u64>,
}

/// Who remembers where a source stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Our checkpoint: the source can go back to any position that it has given.
    Checkpoint,
    /// The system: a group, or a queue with acknowledgements.
    System,
    /// Nobody: what was handed over cannot be read again. The runtime keeps it until its epoch has committed.
    Nobody,
}

/// What a source can do. The planner relies on it; the conformance suite checks every claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceCapabilities {
    /// Who remembers the position.
    pub owner: Owner,
    /// It ends by itself.
    pub bounded: bool,
    /// It has ordered sequences and can [`Source::seek`] to one.
    pub seek: bool,
    /// It can seek to a time.
    pub seek_time: bool,
    /// Members of a group share its shards or records.
    pub groups: bool,
    /// It can take single records back.
    pub give_back: bool,
    /// It can take note of single records that are done before others, with [`Source::acknowledge`].
    pub acknowledge: bool,
    /// It has claims that must be renewed this often.
    pub keep_alive: Option<Duration>,
}

impl SourceCapabilities {
    /// A log whose position our checkpoint keeps.
    pub const LOG: Self = SourceCapabilities {
        owner: Owner::Checkpoint,
        bounded: false,
        seek: true,
        seek_time: true,
        groups: false,
        give_back: false,
        acknowledge: false,
        keep_alive: None,
    };

    /// A stream that cannot be read again.
    pub const ONCE: Self = SourceCapabilities { owner: Owner::Nobody, seek: false, seek_time: false, ..Self::LOG };
}
