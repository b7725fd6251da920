//! A step that makes a record of a line: key, headers, tombstone, or all of it from JSON.

use std::sync::Arc;

use bytes::Bytes;
use millstream::{
    core::{Batch, BatchBuilder, Form, Output, Record, RecordRef, Result, Step, StepPlan, Transform},
    runtime::Entry,
};
use millstream_codec::print::read_record;

/// What lines become.
#[derive(Clone, Debug, Default)]
pub(super) struct Shape {
    /// A line is a whole record, as JSON.
    pub(super) whole: bool,
    pub(super) key: Option<String>,
    pub(super) key_delimiter: Option<String>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) null: bool,
}

impl Shape {
    /// Whether a line is not simply the value.
    pub(super) fn changes(&self) -> bool {
        self.whole || self.key.is_some() || self.key_delimiter.is_some() || !self.headers.is_empty() || self.null
    }

    fn record(&self, line: &RecordRef<'_>) -> Result<Record> {
        let mut record = match self.whole {
            true => Record {
                sequence: line.sequence(),
                ..read_record(line.value().unwrap_or_default(), &line.origin().stream)?
            },
            false => line.to_record(),
        };
        if let Some(key) = &self.key {
            record.key = Some(Bytes::from(key.clone()));
        }
        if let (Some(delimiter), Some(value)) = (&self.key_delimiter, &record.value)
            && let Some(at) = value.windows(delimiter.len()).position(|part| part == delimiter.as_bytes())
        {
            record.key = Some(value.slice(..at));
            record.value = Some(value.slice(at + delimiter.len()..));
        }
        let headers = self.headers.iter().map(|(name, value)| (name.clone(), Some(Bytes::from(value.clone()))));
        record.headers.extend(headers);
        if self.null && record.value.as_ref().is_some_and(Bytes::is_empty) {
            record.value = None;
        }
        Ok(record)
    }
}

/// The step.
pub(super) fn step(shape: Shape) -> Entry<dyn StepPlan> {
    Entry { name: Some("line".to_owned()), ..Entry::ready(Arc::new(Shaped(shape))) }
}

#[derive(Debug)]
struct Shaped(Shape);

impl StepPlan for Shaped {
    fn form(&self) -> Form {
        if self.0.whole { Form::Bytes } else { Form::Text }
    }

    fn create(&self) -> Result<Step> {
        Ok(Step::Transform(Box::new(Shaping(self.0.clone()))))
    }
}

struct Shaping(Shape);

impl Transform for Shaping {
    fn apply(&mut self, batch: Batch, out: &mut Output) {
        let batch = batch.into_bytes();
        let mut builder = BatchBuilder::new();
        for (row, line) in batch.iter().enumerate() {
            match self.0.record(&line) {
                Ok(record) => builder.push(&record),
                Err(error) => out.fail(&batch, row, error),
            }
        }
        out.emit(0, builder.finish());
    }
}
