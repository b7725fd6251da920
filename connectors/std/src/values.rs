//! `values`: records that stand in the pipeline file.

use std::sync::Arc;

use async_trait::async_trait;
use millstream_core::{
    BATCH_BYTES_MAX, BATCH_RECORDS_MAX, Batch, Body, ColumnBuilder, Component, Envelope, Error, ErrorKind, Event, Form,
    Forms, Lag, PlanContext, Planner, Position, Result, Resume, SeekTo, Sequences, ShardKey, Shards, Source,
    SourceCapabilities, SourcePlan, Times, Told, parse_options,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Options of the source `values`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ValuesOptions {
    /// The values, in order. If all are texts, the records are text; else each is JSON.
    pub values: Vec<Value>,
}

pub(crate) const VALUES: Component = Component {
    name: "values",
    summary: "Records that stand in the pipeline file.",
    schema: || schemars::schema_for!(ValuesOptions),
    planner: Planner::Source(plan),
    schemes: &[],
    from_url: None,
    example: "values: { values: [\"to be\", \"or not\"] }",
};

fn plan(options: &Value, _: &PlanContext) -> Result<Box<dyn SourcePlan>> {
    let options: ValuesOptions = parse_options(options)?;
    Ok(values(options.values))
}

/// A planned source of these values. If all are texts, the records are text; else each is JSON.
pub fn values(values: Vec<Value>) -> Box<dyn SourcePlan> {
    let form = if values.iter().all(Value::is_string) { Form::Text } else { Form::Json };
    let bytes = values.iter().map(|value| match (form, value) {
        (Form::Text, Value::String(text)) => text.clone().into_bytes(),
        (_, value) => value.to_string().into_bytes(),
    });
    Box::new(ValuesPlan { values: bytes.collect(), form })
}

#[derive(Clone, Debug)]
struct ValuesPlan {
    values: Arc<[Vec<u8>]>,
    form: Form,
}

impl SourcePlan for ValuesPlan {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities { bounded: true, seek_time: false, ..SourceCapabilities::LOG }
    }

    fn form(&self) -> Form {
        self.form
    }

    fn describe(&self) -> String {
        format!("{} values", self.values.len())
    }

    fn create(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(ValuesSource { plan: self.clone(), next: 0 }))
    }
}

struct ValuesSource {
    plan: ValuesPlan,
    /// Index of the next value; its sequence.
    next: usize,
}

fn shard() -> ShardKey {
    ShardKey::new("values", 0)
}

#[async_trait]
impl Source for ValuesSource {
    async fn open(&mut self, resume: &Resume) -> Result<()> {
        match resume.position.as_ref().map(|position| position.shard::<usize>(&shard())).transpose()?.flatten() {
            Some(next) => self.next = next,
            None => self.seek(&resume.start, None).await?,
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        let first = self.next;
        let mut column = ColumnBuilder::default();
        while let Some(value) = self.plan.values.get(self.next)
            && column.len() < BATCH_RECORDS_MAX
            && column.size() < BATCH_BYTES_MAX
        {
            column.push(Some(value));
            self.next += 1;
        }
        if column.is_empty() {
            return Ok(Event::End);
        }
        let envelope = Envelope {
            shards: Shards::Same(shard()),
            sequences: Sequences::Run(first as u128),
            times: Times::Absent,
            keys: None,
            headers: None,
            told: Told::default(),
        };
        let body = Body::Bytes(column.finish(), Forms::Same(self.plan.form));
        Ok(Event::Batch(Batch::new(envelope, body).into()))
    }

    fn position(&self) -> Result<Position> {
        let mut position = Position::default();
        position.set(shard(), &self.next)?;
        Ok(position)
    }

    async fn seek(&mut self, to: &SeekTo, _: Option<&[ShardKey]>) -> Result<()> {
        self.next = match to {
            SeekTo::Beginning | SeekTo::Committed => 0,
            SeekTo::End => self.plan.values.len(),
            SeekTo::At(sequence) => usize::try_from(*sequence).unwrap_or(usize::MAX),
            SeekTo::Time(_) => return Err(Error::new(ErrorKind::Unsupported, "values have no time to seek to")),
        };
        Ok(())
    }

    fn shards(&self) -> Vec<ShardKey> {
        vec![shard()]
    }

    fn lag(&self) -> Option<Lag> {
        let left = self.plan.values.len().saturating_sub(self.next);
        Some(Lag { records: Some(left as u64), bytes: None })
    }

    fn size(&self) -> Option<Lag> {
        self.lag()
    }
}
