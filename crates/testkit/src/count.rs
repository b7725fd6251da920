//! An operator with keyed state: counts values, and tells the counts at the end.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use bytes::Bytes;
use millstream_core::{
    Batch, BatchBuilder, Change, Error, ErrorKind, Form, Operator, Output, Record, Result, Step, StepPlan, group,
};

/// Counts values. At the end of the input each becomes a record `value=count`, in the order of the values.
#[derive(Clone, Copy, Debug, Default)]
pub struct CountValues;

impl StepPlan for CountValues {
    fn form(&self) -> Form {
        Form::Text
    }

    fn stateful(&self) -> bool {
        true
    }

    fn create(&self) -> Result<Step> {
        Ok(Step::Operator(Box::new(Counting::default())))
    }
}

#[derive(Default)]
struct Counting {
    counts: BTreeMap<Bytes, u64>,
    changed: BTreeSet<Bytes>,
}

#[async_trait]
impl Operator for Counting {
    async fn restore(&mut self, state: Vec<Change>) -> Result<()> {
        for Change { key, value, .. } in state {
            let count = value.and_then(|value| <[u8; 8]>::try_from(&*value).ok()).map(u64::from_be_bytes);
            let damaged = || Error::new(ErrorKind::Corrupt, "cannot read a count from the saved state");
            self.counts.insert(key, count.ok_or_else(damaged)?);
        }
        Ok(())
    }

    async fn process(&mut self, _: usize, batch: Batch, out: &mut Output) -> Result<()> {
        let batch = batch.into_bytes();
        for record in batch.iter() {
            let key = Bytes::copy_from_slice(record.value().unwrap_or_default());
            *self.counts.entry(key.clone()).or_default() += 1;
            self.changed.insert(key);
        }
        out.absorbed(batch.len());
        Ok(())
    }

    async fn end(&mut self, out: &mut Output) -> Result<()> {
        let mut builder = BatchBuilder::new();
        for (sequence, (value, count)) in self.counts.iter().enumerate() {
            let text = format!("{}={count}", String::from_utf8_lossy(value));
            builder.push(&Record { sequence: sequence as u128, form: Form::Text, ..Record::new("counts", text) });
        }
        out.created(builder.len());
        out.emit(0, builder.finish());
        Ok(())
    }

    fn changes(&mut self) -> Result<Vec<Change>> {
        let changed = std::mem::take(&mut self.changed).into_iter();
        let change = |key: Bytes| {
            let value = self.counts.get(&key).map(|count| Bytes::copy_from_slice(&count.to_be_bytes()));
            Change { group: group(&key), key, value }
        };
        Ok(changed.map(change).collect())
    }
}
