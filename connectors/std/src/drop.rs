//! `drop`: counts records and forgets them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use millstream_core::{
    Batch, Component, Epoch, Outcomes, PlanContext, Planner, Result, Sink, SinkCapabilities, SinkPlan, Token, Url, Way,
    WriteId, parse_options,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The sink `drop` has no options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DropOptions {}

pub(crate) const DROP: Component = Component {
    name: "drop",
    summary: "Counts records and forgets them.",
    schema: || schemars::schema_for!(DropOptions),
    planner: Planner::Sink(plan),
    schemes: &["drop"],
    from_url: Some(from_url),
    example: "drop: {}",
};

fn plan(options: &Value, _: &PlanContext) -> Result<Box<dyn SinkPlan>> {
    let DropOptions {} = parse_options(options)?;
    Ok(Box::new(Dropped::default()))
}

fn from_url(url: &Url) -> Result<Value> {
    url.options(&[]).map(Value::Object)
}

/// A planned sink that forgets what it gets, and how much that was.
#[derive(Clone, Debug, Default)]
pub struct Dropped(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    records: AtomicU64,
    bytes: AtomicU64,
}

impl Dropped {
    /// Records that its sinks were given.
    pub fn records(&self) -> u64 {
        self.0.records.load(Ordering::Relaxed)
    }

    /// Bytes of their values.
    pub fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }
}

impl SinkPlan for Dropped {
    fn capabilities(&self) -> SinkCapabilities {
        // Nothing is left outside, so there is nothing to commit or abort.
        SinkCapabilities { way: Way::TwoPhase, ..SinkCapabilities::WHOLE }
    }

    fn describe(&self) -> String {
        "nowhere".to_owned()
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(DropSink { counts: self.0.clone(), next_id: 0 }))
    }
}

struct DropSink {
    counts: Arc<Counts>,
    next_id: WriteId,
}

#[async_trait]
impl Sink for DropSink {
    async fn open(&mut self, _: &[(Epoch, Token)]) -> Result<()> {
        Ok(())
    }

    async fn write(&mut self, batch: Batch) -> Result<WriteId> {
        let bytes = match batch.values() {
            Some((column, _, rows)) => column.bytes(rows),
            None => batch.size(),
        };
        self.counts.records.fetch_add(batch.len() as u64, Ordering::Relaxed);
        self.counts.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.next_id += 1;
        Ok(self.next_id - 1)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        Ok(Outcomes::default())
    }
}
