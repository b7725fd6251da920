//! How a consumer reads and a producer writes.

use std::{fmt, sync::Arc, time::Duration};

use millstream_core::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Partitioner, SeekTo};

use crate::{Positions, Retry};

/// What a consumer is to its stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Reads from now on, or from `start`, and remembers nothing.
    #[default]
    RealTime,
    /// Goes on where a consumer of the same name has committed.
    Resumable {
        /// Name under which the position is kept; in a system with groups, the name of a group of one. No two consumers may run
        /// under it at once, wherever they are.
        name: String,
    },
    /// Shares the records with the other members of its group: each record goes to one of them.
    ///
    /// Where the system has groups of its own, its members may be anywhere. Elsewhere the members are the consumers of one
    /// streamer: they get the records of each stream in turn, the slowest sets the pace, and what a member has not
    /// acknowledged when it goes is given to the others.
    LoadBalanced {
        /// Name of the group.
        group: String,
    },
}

/// When a record counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ack {
    /// When the next one is asked for, or the consumer is closed.
    #[default]
    Auto,
    /// When [`Consumer::ack`](crate::Consumer::ack) is called with it.
    Manual,
}

/// How a consumer reads.
///
/// ```
/// # use millstream_client::ConsumerOptions;
/// # use millstream_core::SeekTo;
/// let options = ConsumerOptions { start: Some(SeekTo::Beginning), ..ConsumerOptions::resumable("billing") };
/// ```
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// What it is to the stream. Default [`Mode::RealTime`].
    pub mode: Mode,
    /// Where to begin if no position is kept. By default what the URL's `start` says; else a real-time consumer of a stream
    /// that can be read again and does not end begins at its end, and all others begin where the source does by itself.
    pub start: Option<SeekTo>,
    /// Stop at the end as it is when the consumer opens. Default: go on.
    pub until_end: bool,
    /// When a record counts as done. Default [`Ack::Auto`].
    pub ack: Ack,
    /// How often what is done is committed by itself; `None`: only by [`Consumer::commit`](crate::Consumer::commit) and at
    /// the end. Default 1 s: what a crash repeats is small, and a file is not synced all the time.
    pub commit_every: Option<Duration>,
    /// Where positions are kept. By default beside the stream if that is a file, and by the system itself if it has groups.
    pub positions: Option<Arc<dyn Positions>>,
    /// Reading waits when so many records are read and not handed out. One batch more may be there. Default 16384, four
    /// full batches: enough to keep the consumer busy while the source turns round.
    pub buffer_records_max: usize,
    /// The same in bytes. Default 4 MiB.
    pub buffer_bytes_max: usize,
    /// Reading waits when so many records are read and not committable, because a record before them is not acknowledged.
    /// One batch more may be there. Not in real time. Default 65536: enough for workers that finish out of order.
    pub unacked_records_max: usize,
    /// The same in bytes. Default 64 MiB.
    pub unacked_bytes_max: usize,
    /// What to do about errors that can pass.
    pub retry: Retry,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        ConsumerOptions {
            mode: Mode::default(),
            start: None,
            until_end: false,
            ack: Ack::default(),
            commit_every: Some(Duration::from_secs(1)),
            positions: None,
            buffer_records_max: 4 * BATCH_RECORDS_MAX,
            buffer_bytes_max: 4 * BATCH_BYTES_MAX,
            unacked_records_max: 16 * BATCH_RECORDS_MAX,
            unacked_bytes_max: 64 * BATCH_BYTES_MAX,
            retry: Retry::default(),
        }
    }
}

impl ConsumerOptions {
    /// Reads from now on; see [`Mode::RealTime`].
    pub fn real_time() -> Self {
        ConsumerOptions::default()
    }

    /// Goes on where `name` has committed; see [`Mode::Resumable`].
    pub fn resumable(name: impl Into<String>) -> Self {
        ConsumerOptions { mode: Mode::Resumable { name: name.into() }, ..ConsumerOptions::default() }
    }

    /// Reads as a member of `group`; see [`Mode::LoadBalanced`].
    pub fn load_balanced(group: impl Into<String>) -> Self {
        ConsumerOptions { mode: Mode::LoadBalanced { group: group.into() }, ..ConsumerOptions::default() }
    }
}

/// What a receipt waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The system has taken the record: a file holds it, a broker has acknowledged it.
    #[default]
    Flushed,
    /// What the sink does for a checkpoint is done too: a file is synced to the disk.
    Committed,
}

/// Who says to which shard of its stream a record goes: the partition of a topic, the shard of a Redis stream.
#[derive(Clone, Default)]
pub enum ShardBy {
    /// The system, as its own options have it; by default by the hash of the key.
    #[default]
    System,
    /// Each record, by the shard of its origin: `origin: ShardKey::new("", 3)`.
    Record,
    /// A partitioner of the program's own. It is called on the streamer's thread.
    Partitioner(Arc<dyn Partitioner>),
}

impl ShardBy {
    /// A partitioner of the program's own: a type or a closure.
    ///
    /// ```
    /// # use millstream_client::{ProducerOptions, ShardBy};
    /// # use millstream_core::RecordRef;
    /// let by_length = |record: RecordRef<'_>| record.value().map_or(0, |value| value.len() as u64 % 2);
    /// let options = ProducerOptions { shard_by: ShardBy::partitioner(by_length), ..ProducerOptions::default() };
    /// ```
    pub fn partitioner(partitioner: impl Partitioner) -> Self {
        ShardBy::Partitioner(Arc::new(partitioner))
    }
}

/// Shows who, not how.
impl fmt::Debug for ShardBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ShardBy::System => "System",
            ShardBy::Record => "Record",
            ShardBy::Partitioner(_) => "Partitioner",
        })
    }
}

/// How a producer writes.
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// Who says to which shard a record goes. Default [`ShardBy::System`].
    pub shard_by: ShardBy,
    /// Most records in one write. Default 4096.
    pub batch_records_max: usize,
    /// Most bytes in one write, unless one record alone is larger. Default 1 MiB.
    pub batch_bytes_max: usize,
    /// How long a write waits for more records. Default 0: a lone record goes at once, and what comes while a write is under
    /// way goes with the next.
    pub linger: Duration,
    /// Most records that are accepted and whose outcome is not known. Default 65536.
    pub pending_records_max: usize,
    /// Most bytes of such records; [`Producer::send`](crate::Producer::send) waits when it is reached. A larger record goes
    /// alone. Default 16 MiB, at most 4 GiB.
    pub pending_bytes_max: usize,
    /// What a receipt waits for. Default [`Durability::Flushed`].
    pub durability: Durability,
    /// How often the sink makes what was written count, for sinks that hold it back until then. Default 1 s.
    pub commit_every: Duration,
    /// How long a producer without handles may take to write what it has accepted. Default 30 s.
    pub drain_timeout: Duration,
    /// What to do about errors that can pass.
    pub retry: Retry,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        ProducerOptions {
            shard_by: ShardBy::default(),
            batch_records_max: BATCH_RECORDS_MAX,
            batch_bytes_max: BATCH_BYTES_MAX,
            linger: Duration::ZERO,
            pending_records_max: 16 * BATCH_RECORDS_MAX,
            pending_bytes_max: 16 * BATCH_BYTES_MAX,
            durability: Durability::default(),
            commit_every: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(30),
            retry: Retry::default(),
        }
    }
}
