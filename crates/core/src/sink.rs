//! The contracts of a sink, and of a sink that hosts the checkpoint.

use std::{any::Any, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{Batch, Checkpoint, Epoch, Error, ErrorKind, Result, Stamp, Token};

/// Names one accepted [`Sink::write`]; given in order by the sink, unique while it is open.
pub type WriteId = u64;

/// Writes batches to one system. The runtime owns every loop, retry, reconnect and shutdown around it.
///
/// ```text
/// open(tokens of the checkpoint)        the outside is as the checkpoint says
///   (write* settled*)* flush            accepted ... the truth about each record
///   prepare(epoch) ── decided ── commit(token)
/// close
/// ```
///
/// All calls come from one task. Bodies may be parsed: call [`Batch::into_bytes`].
#[async_trait]
pub trait Sink: Send {
    /// Who writes: the sink's name in its pipeline, the same for as long as there are tokens of it, and the pipeline with the
    /// newest epoch that counts. Comes before `open` in a pipeline.
    fn introduce(&mut self, name: &str, stamp: &Stamp) {
        let _ = (name, stamp);
    }

    /// Takes part in the transactions of a host; see [`Host::share`]. Comes before `open`.
    fn join(&mut self, share: &Share) -> Result<()> {
        let _ = share;
        Err(Error::new(ErrorKind::Unsupported, "this sink cannot write in the transaction of another"))
    }

    /// Connects, and brings the system to where the checkpoint stands: cuts to its mark, commits the tokens that it names,
    /// aborts younger ones. `resume` holds the newest tokens of the checkpoint, oldest first; empty: nothing was ever
    /// committed. Called again after an error that can be retried.
    async fn open(&mut self, resume: &[(Epoch, Token)]) -> Result<()>;

    /// Accepts a batch. An error means that none of its records is written, or that the sink can cut those that are; the
    /// runtime gives the batch again, to the sink as it is. One that must be opened again accepts the batch, and says why as an
    /// error of `settled` and `flush`.
    async fn write(&mut self, batch: Batch) -> Result<WriteId>;

    /// The truth about every write since the last flush that `settled` has not told: what is not reported as rejected has been delivered.
    /// An error leaves that open: the runtime opens the sink again at the checkpoint, and the records come again.
    async fn flush(&mut self) -> Result<Outcomes>;

    /// What became of the oldest writes, as soon as something is known: up to which write, and their outcomes, which `flush` does
    /// not tell again. Waits if nothing is; is called only while there are writes whose outcome is not known. `None`: `flush`
    /// alone can tell it, and waits until all that is under way has arrived. An error is one of `flush`.
    ///
    /// Cancel-safe: dropped before its end it has told nothing, and tells it next time.
    async fn settled(&mut self) -> Result<Option<(WriteId, Outcomes)>> {
        Ok(None)
    }

    /// Makes all that was flushed ready to count with `epoch`, and says how to make it count. Comes after `flush`.
    ///
    /// `last`: no more records will come in this run, and if `finished`, none ever.
    async fn prepare(&mut self, epoch: Epoch, last: Last) -> Result<Option<Token>> {
        let _ = (epoch, last);
        Ok(None)
    }

    /// The epoch of the token is decided: make it count. Idempotent; may come again after a crash.
    async fn commit(&mut self, token: &Token) -> Result<()> {
        let _ = token;
        Ok(())
    }

    /// The epoch of the token will never be decided.
    async fn abort(&mut self, token: &Token) -> Result<()> {
        let _ = token;
        Ok(())
    }

    /// Disconnects. Not called after a crash.
    async fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Whether more records may come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Last {
    /// Yes.
    #[default]
    No,
    /// Not in this run; the next one goes on.
    Drained,
    /// Never: all inputs have ended by themselves. A file is given its final name.
    Finished,
}

/// What became of accepted writes.
#[derive(Clone, Debug, Default)]
pub struct Outcomes {
    /// Records that the system refused: the write, the record's position in its batch (ascending within a write), the cause.
    pub rejected: Vec<(WriteId, u32, Error)>,
    /// The sequences that readers will see, for the writes for which the system tells them.
    pub sequences: Vec<(WriteId, Vec<u128>)>,
    /// Delivered records that may be there more than once: an earlier try ended without an answer. Where the sink can tell.
    pub repeated: Vec<(WriteId, u32)>,
}

/// How a sink keeps `exactly_once`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It does not.
    None,
    /// The checkpoint is written inside the sink's own transaction.
    Hosting,
    /// What was written after the checkpoint is cut off.
    Truncating,
    /// Writes are prepared under a token, and committed or aborted by it.
    TwoPhase,
    /// Writes are keyed; doing them again changes nothing.
    Idempotent,
}

/// What a sink can do. The planner relies on it; the conformance suite checks every claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinkCapabilities {
    /// How it keeps `exactly_once`.
    pub way: Way,
    /// It reports rejected records one by one.
    pub per_record: bool,
    /// It reports the sequences that readers will see.
    pub sequences: bool,
    /// It keeps keys.
    pub keys: bool,
    /// It keeps headers.
    pub headers: bool,
    /// It keeps absent values apart from empty ones.
    pub tombstones: bool,
    /// It keeps event times.
    pub times: bool,
    /// The largest record that it takes, where there is a limit, in bytes.
    pub record_bytes_max: Option<u64>,
}

impl SinkCapabilities {
    /// Keeps all of a record and refuses single ones; no `exactly_once`.
    pub const WHOLE: Self = SinkCapabilities {
        way: Way::None,
        per_record: true,
        sequences: false,
        keys: true,
        headers: true,
        tombstones: true,
        times: true,
        record_bytes_max: None,
    };

    /// Keeps values and nothing else; no `exactly_once`.
    pub const VALUES: Self = SinkCapabilities {
        per_record: false,
        keys: false,
        headers: false,
        tombstones: false,
        times: false,
        ..Self::WHOLE
    };
}

/// What sinks of one system share to write in one transaction. Opaque to all but their connector.
pub type Share = Arc<dyn Any + Send + Sync>;

/// What a source gives to a host of its system. Opaque to all but their connector.
pub type Companion = Arc<dyn Any + Send + Sync>;

/// Carries the checkpoint inside the transaction in which the sinks of one system write.
///
/// ```text
/// introduce, fence       older runners are shut out; only then is the checkpoint read
///   share                each sink joins, and is opened
///   commit(checkpoint)   the deciding write
/// ```
///
/// A transaction begins with the first write of a sink and ends with `commit`: no sink is given a record of the next epoch
/// before that. All calls come from one task, which is not that of the sinks.
#[async_trait]
pub trait Host: Send {
    /// Who runs; comes before `fence`. The epoch is not known yet.
    fn introduce(&mut self, stamp: &Stamp);

    /// Connects, shuts out every older runner, and only then reads the checkpoint. Called again after every failure.
    async fn fence(&mut self) -> Result<Option<Checkpoint>>;

    /// What the sinks of this system join.
    fn share(&self) -> Share;

    /// The deciding write: the checkpoint, and the companions of sources of this system by the sources' names, in the
    /// transaction of its epoch, which may hold no records. Dropped, its outcome is unknown.
    async fn commit(&mut self, checkpoint: &Checkpoint, companions: &[(String, Companion)]) -> Hosted;

    /// How old a transaction may get, in time: epochs are made no longer than that.
    fn age_max(&self) -> Option<Duration> {
        None
    }

    /// Forgets the checkpoint, to begin anew; comes after `fence`.
    async fn reset(&mut self) -> Result<()>;

    /// Disconnects.
    async fn close(&mut self) -> Result<()> {
        Ok(())
    }
}

/// How a hosted deciding write ended.
#[derive(Clone, Debug)]
pub enum Hosted {
    /// It counts.
    Committed,
    /// It does not count and never will.
    Aborted(Error),
    /// Nobody knows: go through recovery.
    Unknown(Error),
    /// Another runner has taken over; this one must not come back.
    Fenced(Error),
}
