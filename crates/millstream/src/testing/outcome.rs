//! What has become of a record that a test gave.

#![allow(clippy::panic, reason = "an assertion of a test fails by panicking, at the place of its caller")]

use std::{fmt, sync::Arc};

use millstream_core::{DeadLetter, ErrorKind, Record};

use super::{
    books::Table,
    records::{Records, text},
};

/// What has become of a record by the end of an epoch: everything that was made of it, at every sink.
///
/// It is known by the record's identity: what is made of a record carries the record's source and sequence. A record of
/// which nothing has come out is [waiting](Outcome::is_waiting) while the pipeline keeps records for later (for another try,
/// behind others of their key, for the rest of a batch, for their turn, in the state of a fold), and was left out else. Where
/// other records wait, one that was left out cannot be told from one that waits.
#[derive(Clone)]
pub struct Outcome {
    pub(super) source: String,
    pub(super) sequence: u64,
    pub(super) delivered: Vec<(String, Record)>,
    pub(super) dead: Vec<DeadLetter>,
    pub(super) failures: Vec<Failed>,
    /// Stages that keep records for later, with how many.
    pub(super) waiting: Vec<(String, u64)>,
    pub(super) table: Arc<Table>,
}

/// A failure of a record at a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The stage.
    pub stage: String,
    /// The kind of the error.
    pub kind: ErrorKind,
    /// Its message and causes.
    pub message: String,
    /// How often the record had failed there by then.
    pub attempts: u32,
}

impl Outcome {
    /// The record's sequence at its source: the first that a test gives has 0.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What was made of it at this sink.
    pub fn delivered(&self, sink: &str) -> Records {
        let of = self.delivered.iter().filter(|(name, _)| name == sink);
        Records::new(sink, of.map(|(_, record)| record.clone()).collect())
    }

    /// The sinks that something made of it was delivered to, each once.
    pub fn sinks(&self) -> Vec<&str> {
        let mut sinks: Vec<&str> = self.delivered.iter().map(|(sink, _)| sink.as_str()).collect();
        sinks.sort_unstable();
        sinks.dedup();
        sinks
    }

    /// The dead letters that it, or what was made of it, has become.
    pub fn dead_letters(&self) -> &[DeadLetter] {
        &self.dead
    }

    /// All its failures so far, those that were tried again too.
    pub fn failures(&self) -> &[Failed] {
        &self.failures
    }

    /// Whether it has not come to its end, as far as can be told: nothing has come out, and the pipeline keeps records for
    /// later.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() && self.is_empty()
    }

    /// Whether its epoch counts, and nothing has come out or is kept for later: it was left out, or dropped by an error rule
    /// ([`Outcome::failures`]).
    pub fn is_filtered(&self) -> bool {
        self.waiting.is_empty() && self.is_empty()
    }

    /// Whether nothing was delivered of it, and something became a dead letter.
    pub fn is_dead(&self) -> bool {
        self.delivered.is_empty() && !self.dead.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.delivered.is_empty() && self.dead.is_empty()
    }

    /// Asserts that something made of it was delivered to this sink; answers with that.
    #[track_caller]
    pub fn expect_delivered(&self, sink: &str) -> Records {
        let delivered = self.delivered(sink);
        if delivered.is_empty() {
            self.unexpected(&format!("to be delivered to `{sink}`"));
        }
        delivered
    }

    /// Asserts that it was left out.
    #[track_caller]
    pub fn expect_filtered(&self) {
        if !self.is_filtered() {
            self.unexpected("to be left out");
        }
    }

    /// Asserts that it has become a dead letter at this stage with an error of this kind, and nothing of it was delivered;
    /// answers with the letter.
    #[track_caller]
    pub fn expect_dead(&self, stage: &str, kind: ErrorKind) -> &DeadLetter {
        let code = kind.facts().code;
        match self.dead.iter().find(|letter| letter.stage == stage && letter.code == code) {
            Some(letter) if self.delivered.is_empty() => letter,
            _ => self.unexpected(&format!("to become a dead letter at `{stage}` with {code}")),
        }
    }

    /// Asserts that it waits.
    #[track_caller]
    pub fn expect_waiting(&self) {
        if !self.is_waiting() {
            self.unexpected("to wait");
        }
    }

    #[track_caller]
    fn unexpected(&self, expected: &str) -> ! {
        panic!("record {} of `{}` was expected {expected}, but:\n{self}\n{}", self.sequence, self.source, self.table)
    }
}

/// One line for each thing that has become of it.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (sink, record) in &self.delivered {
            writeln!(f, "  delivered to `{sink}`: {}", text(record))?;
        }
        for letter in &self.dead {
            let DeadLetter { stage, code, causes, attempts, .. } = letter;
            let mut causes = causes.clone();
            causes.dedup();
            writeln!(f, "  became a dead letter at `{stage}` (try {attempts}): {code} {}", causes.join(": "))?;
        }
        for failed in &self.failures {
            let Failed { stage, kind, message, attempts } = failed;
            writeln!(f, "  failed at `{stage}` (try {attempts}): {} {message}", kind.facts().code)?;
        }
        if self.is_filtered() {
            writeln!(f, "  nothing came out of it, and nothing waits")?;
        }
        if self.is_waiting() {
            let stages: Vec<_> = self.waiting.iter().map(|(stage, many)| format!("{many} at `{stage}`")).collect();
            writeln!(f, "  nothing has come out of it yet; records wait: {}", stages.join(", "))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {} of `{}`\n{self}", self.sequence, self.source)
    }
}
