//! Records that failed for good.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Error, Record, Timestamp};

/// A record that failed for good, kept with everything that is known of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The record as the failing stage got it; [`Record::original`] is what the source gave, where that differs.
    pub record: Record,
    /// The stage that gave up on it.
    pub stage: String,
    /// Stable code of the error.
    pub code: String,
    /// The error's message and its causes, outermost first.
    pub causes: Vec<String>,
    /// What to do about it.
    pub hint: Option<String>,
    /// How often it was tried.
    pub attempts: u32,
    /// When it was given up on.
    pub failed_at: Timestamp,
}

impl DeadLetter {
    /// The letter for `record`, which `stage` gave up on after `attempts` tries.
    pub fn new(record: Record, stage: &str, error: &Error, attempts: u32) -> Self {
        DeadLetter {
            record,
            stage: stage.to_owned(),
            code: error.facts().code.to_owned(),
            causes: error.causes(),
            hint: error.hint_text().map(str::to_owned),
            attempts,
            failed_at: Timestamp::now(),
        }
    }

    /// Stream, shard, sequence, index among that record's outputs, and stage: the same when the record fails again.
    pub fn id(&self) -> String {
        format!("{}:{}", self.record.id(), self.stage)
    }

    /// The letter as a record for a sink: the original value, key and headers, and headers that tell what happened.
    pub fn into_record(self) -> Record {
        let id = self.id();
        let source = format!("{}@{}", self.record.origin, self.record.sequence);
        let mut record = self.record;
        if let Some(original) = record.original.take() {
            record.value = Some(original);
            record.form = crate::Form::Bytes;
        }
        let told = [
            ("code", self.code),
            ("message", self.causes.join(": ")),
            ("stage", self.stage),
            ("attempts", self.attempts.to_string()),
            ("source", source),
            ("id", id),
        ];
        record.headers.extend(told.map(|(name, text)| (format!("millstream-error-{name}"), Some(Bytes::from(text)))));
        record
    }
}
