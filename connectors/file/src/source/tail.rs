//! One path that is read: the file that has the name now, and those that had it before and may still grow.
//!
//! ```text
//!   rename      app.log.1 (old inode, half read) ──► read first, kept an eye on while it stays in the folder
//!               app.log   (new inode)            ──► read behind it
//!   truncate    app.log   (same inode, shorter)  ──► read from its front; what was cut unread is lost, with a warning
//! ```

use std::{collections::VecDeque, path::PathBuf, time::Duration};

use millstream_core::{Frames, Result, ShardKey};

use super::{
    assembler::Assembler,
    log::{CLOSE_AFTER, Log, Looked},
    mark::TailMark,
};
use crate::formats::Format;

/// Files that had the name before and are still watched: writers let go of a rotated file within a rotation or two.
const ROTATED_MAX: usize = 4;
/// A rotated file that has been quiet for this long will not complete its last line.
const ROTATED_QUIET: Duration = Duration::from_secs(5);

/// How all paths of a source are read.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) format: Format,
    /// Go on when the end is reached.
    pub(super) follow: bool,
    /// Where several lines are a record: the last one is complete when nothing has come for this long.
    pub(super) complete_after: Option<Duration>,
}

/// A path that is read.
pub(super) struct Tail {
    pub(super) path: PathBuf,
    pub(super) shard: ShardKey,
    /// Oldest first; the last one has the name, or had it last.
    pub(super) logs: VecDeque<Log>,
    /// Records of all its files so far.
    pub(super) records: u64,
    /// The first sequence to hand over.
    pub(super) from: u64,
}

impl Tail {
    /// Nothing known of it yet.
    pub(super) fn new(path: PathBuf) -> Self {
        let shard = ShardKey::new(path.to_string_lossy(), 0);
        Tail { path, shard, logs: VecDeque::new(), records: 0, from: 1 }
    }

    /// Where it stands.
    pub(super) fn mark(&self) -> Option<TailMark> {
        let mut logs = self.logs.iter().map(|log| log.mark.clone());
        let newest = logs.next_back()?;
        Some(TailMark { newest, records: self.records, rotated: logs.collect() })
    }

    /// All of it is read.
    pub(super) fn ended(&self) -> bool {
        self.logs.iter().all(|log| log.mark.ended)
    }

    /// Reads a block of the oldest file that has one; answers whether there was one.
    pub(super) fn visit(&mut self, reading: &Reading, out: &mut Assembler) -> Result<bool> {
        let mut at = 0;
        while at < self.logs.len() {
            let newest = at + 1 == self.logs.len();
            let log = &mut self.logs[at];
            if log.mark.ended {
                at += 1;
                continue;
            }
            let end = !reading.follow || (!newest && log.quiet() >= ROTATED_QUIET) || completes(log, reading);
            let mut frames = Frames::default();
            match log.look(&reading.format, end, &mut frames)? {
                Looked::Records(block) => {
                    let first = self.records + 1;
                    self.records += frames.len() as u64;
                    out.records(&self.shard, (first, self.from), (&block, reading.format.codec.form()), &mut frames);
                    self.report(out);
                    return Ok(true);
                }
                Looked::Truncated => {
                    let read = log.mark.offset;
                    tracing::warn!(
                        path = %log.path.display(), read,
                        "the file was truncated or overwritten: reading it from its front; what was cut unread is lost"
                    );
                    log.restart();
                    self.report(out);
                    return Ok(true);
                }
                Looked::Nothing if !reading.follow => {
                    log.end();
                    self.report(out);
                }
                Looked::Nothing if log.quiet() >= CLOSE_AFTER => log.close(),
                Looked::Nothing => {}
            }
            at += 1;
        }
        self.retire(out);
        Ok(false)
    }

    /// Forgets rotated files that cannot grow any more, or are too many.
    fn retire(&mut self, out: &mut Assembler) {
        let before = self.logs.len();
        while self.logs.len() > 1 {
            let Some(oldest) = self.logs.front() else { break };
            let done = oldest.mark.ended || oldest.deleted() || self.logs.len() > ROTATED_MAX + 1;
            let whole = oldest.undone() == 0 || oldest.quiet() >= ROTATED_QUIET;
            if !(done && whole) {
                break;
            }
            self.logs.pop_front();
        }
        if self.logs.len() < before {
            self.report(out);
        }
    }

    fn report(&self, out: &mut Assembler) {
        // While records before `from` are passed over, the saved place stays where it was: `from` is not saved.
        if self.records + 1 >= self.from {
            out.mark(self.shard.clone(), self.mark());
        }
    }

    /// When it wants to be looked at even if nothing happens.
    pub(super) fn wake(&self, reading: &Reading) -> Option<Duration> {
        let newest = self.logs.len().saturating_sub(1);
        let waits = self.logs.iter().enumerate().filter(|(_, log)| log.undone() > 0).filter_map(|(at, log)| {
            let after =
                if at < newest { Some(ROTATED_QUIET) } else { reading.complete_after.filter(|_| log.at_line_end()) };
            after.map(|after| after.saturating_sub(log.quiet()))
        });
        waits.min()
    }
}

/// Whether the last record of a file that is followed is complete because nothing has come behind it.
fn completes(log: &Log, reading: &Reading) -> bool {
    reading.complete_after.is_some_and(|after| log.undone() > 0 && log.at_line_end() && log.quiet() >= after)
}
