//! Redis Streams, beside raw loops and the crate `redis` on the same server.
//!
//! We keep to one core, as in all cases; the server may use the others. Rates are by the clock on the wall, because both sides
//! wait for the server; the processor time that a record costs the client has rows of its own.

mod consume;
#[cfg(feature = "peers")]
mod krate;
mod latency;
mod paused;
mod produce;
mod raw;

use anyhow::Result;
use millstream_core::{Batch, BatchBuilder, PlanContext, Planner, Record, Resume, Sink, Source};
use millstream_testkit::servers::Redis;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::{
    data::letters,
    harness::{Rates, Table, Target, on_all_cores, rate},
    parts::RECORD_BYTES,
};

/// Records of one run.
const RECORDS: usize = 300_000;
/// Records that one call writes or asks for.
const CALL: usize = 1000;
/// The stream that is read.
const INPUT: &str = "input";

/// Measures the case.
pub(crate) fn run(table: &mut Table) -> Result<()> {
    let mut started = None;
    on_all_cores(|| {
        started = Some(Redis::start());
        Ok(())
    })?;
    match started {
        Some(Ok(redis)) => {
            produce::run(table, &redis)?;
            consume::run(table, &redis)?;
            latency::run(table, &redis)?;
            paused::run(table, &redis)
        }
        Some(Err(missing)) => {
            table.skipped("redis", &missing);
            Ok(())
        }
        None => Ok(()),
    }
}

/// One comparison: the rates, and what a record costs the client.
fn rows(table: &mut Table, case: &str, ours: &Rates, other: &Rates, target: f64) {
    let figures = (rate(ours.median_wall()), format!("{} {}", rate(other.median_wall()), other.name));
    table.row(case, figures, ours.ratio_wall(other), "", Target::AtLeast(target));
    let micros = |rates: &Rates| format!("{:.2} us", 1e6 / rates.median());
    let figures = (micros(ours), format!("{} {}", micros(other), other.name));
    table.row("  processor time of a record", figures, other.ratio(ours), "", Target::Below(2.0));
}

fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// A source that is open; until the end of what is there if `until_end`.
async fn source(redis: &Redis, mut options: Value, until_end: bool) -> Result<Box<dyn Source>> {
    options["url"] = redis.url().into();
    for component in millstream_redis::components() {
        if let Planner::Source(plan) = component.planner {
            let mut source = plan(&options, &PlanContext::default())?.create()?;
            source.open(&Resume { until_end, ..Resume::default() }).await?;
            return Ok(source);
        }
    }
    anyhow::bail!("the connector has no source")
}

/// A sink that is open.
async fn sink(redis: &Redis, mut options: Value) -> Result<Box<dyn Sink>> {
    options["url"] = redis.url().into();
    for component in millstream_redis::components() {
        if let Planner::Sink(plan) = component.planner {
            let mut sink = plan(&options, &PlanContext::default())?.create()?;
            sink.open(&[]).await?;
            return Ok(sink);
        }
    }
    anyhow::bail!("the connector has no sink")
}

/// Records of 100 bytes.
fn records(count: usize) -> Batch {
    let mut builder = BatchBuilder::new();
    let record = Record::new("in", letters(RECORD_BYTES));
    (0..count).for_each(|_| builder.push(&record));
    builder.finish()
}

/// Options that name a stream only.
fn stream(name: &str) -> Value {
    json!({ "stream": name })
}
