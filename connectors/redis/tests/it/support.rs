//! What the tests share.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use millstream_core::{
    Batch, BatchBuilder, Error, Event, Outcomes, PlanContext, Planner, Position, Read, Record, Resume, SeekTo, Sink,
    SinkPlan, Source, SourcePlan, Stamp,
};
use millstream_testkit::servers::Redis;
use serde_json::{Value, json};

/// Long enough for a loaded machine, short enough to notice.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A key that no other test uses.
pub fn key() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("k{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn plan_source(options: &Value) -> Result<Box<dyn SourcePlan>, Error> {
    for component in millstream_redis::components() {
        if let Planner::Source(plan) = component.planner {
            return plan(options, &PlanContext::default());
        }
    }
    unreachable!()
}

pub fn plan_sink(options: &Value) -> Result<Box<dyn SinkPlan>, Error> {
    for component in millstream_redis::components() {
        if let Planner::Sink(plan) = component.planner {
            return plan(options, &PlanContext::default());
        }
    }
    unreachable!()
}

/// Options with the server's URL.
pub fn options(redis: &Redis, mut more: Value) -> Value {
    more["url"] = redis.url().into();
    more
}

pub async fn source(redis: &Redis, more: Value) -> Box<dyn Source> {
    source_at(redis, more, Resume::default()).await
}

pub async fn source_at(redis: &Redis, more: Value, resume: Resume) -> Box<dyn Source> {
    let mut source = plan_source(&options(redis, more)).unwrap().create().unwrap();
    source.open(&resume).await.unwrap();
    source
}

pub async fn sink(redis: &Redis, more: Value) -> Box<dyn Sink> {
    let mut sink = plan_sink(&options(redis, more)).unwrap().create().unwrap();
    sink.open(&[]).await.unwrap();
    sink
}

pub fn from(position: Position) -> Resume {
    Resume { position: Some(position), ..Resume::default() }
}

pub fn start(start: SeekTo) -> Resume {
    Resume { start, ..Resume::default() }
}

pub fn until_end() -> Resume {
    Resume { until_end: true, ..Resume::default() }
}

/// The next records; `None` at the end.
pub async fn next_read(source: &mut dyn Source) -> Option<Read> {
    loop {
        match tokio::time::timeout(PATIENCE, source.next()).await.expect("records in time").unwrap() {
            Event::Batch(read) => return Some(read),
            Event::End => return None,
            _ => {}
        }
    }
}

/// The same, waiting again as the runtime would when a connection fails.
pub async fn next_again(source: &mut dyn Source) -> Option<Read> {
    let begun = Instant::now();
    loop {
        match tokio::time::timeout(PATIENCE, source.next()).await.expect("an event in time") {
            Ok(Event::Batch(read)) => return Some(read),
            Ok(Event::End) => return None,
            Ok(_) => {}
            Err(error) if error.facts().retry && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// It says that it waits for this stream.
pub async fn waits_for(source: &mut dyn Source, stream: &str) {
    let error = tokio::time::timeout(PATIENCE, source.next()).await.expect("a word in time").unwrap_err();
    assert!(error.facts().retry && error.message().contains(&format!("`{stream}`")), "{error:?}");
}

/// At least `n` values.
pub async fn take(source: &mut dyn Source, n: usize) -> Vec<String> {
    let mut got = Vec::new();
    while got.len() < n {
        got.extend(values(&next_read(source).await.expect("more records").batch));
    }
    got
}

/// Everything up to the end.
pub async fn all(source: &mut dyn Source) -> Vec<String> {
    let mut got = Vec::new();
    while let Some(read) = next_read(source).await {
        got.extend(values(&read.batch));
    }
    got
}

/// Nothing comes for a while.
pub async fn quiet(source: &mut dyn Source, wait: Duration) {
    let until = tokio::time::Instant::now() + wait;
    while let Ok(event) = tokio::time::timeout_at(until, source.next()).await {
        match event.unwrap() {
            Event::Batch(read) => panic!("unexpected {:?}", values(&read.batch)),
            Event::End => panic!("unexpected end"),
            _ => {}
        }
    }
}

pub fn values(batch: &Batch) -> Vec<String> {
    batch.iter().map(|record| String::from_utf8_lossy(record.value().unwrap_or(b"<none>")).into_owned()).collect()
}

pub fn records(batch: &Batch) -> Vec<Record> {
    batch.iter().map(|record| record.to_record()).collect()
}

pub fn batch(all: &[Record]) -> Batch {
    let mut builder = BatchBuilder::new();
    all.iter().for_each(|record| builder.push(record));
    builder.finish()
}

pub fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|i| format!("v{i}")).collect()
}

pub fn value_batch(range: std::ops::Range<usize>) -> Batch {
    batch(&numbered(range).into_iter().map(|value| Record::new("in", value)).collect::<Vec<_>>())
}

pub async fn put(sink: &mut dyn Sink, all: &[Record]) -> Outcomes {
    sink.write(batch(all)).await.unwrap();
    sink.flush().await.unwrap()
}

/// Writes numbered values with the connector's own sink.
pub async fn fill(redis: &Redis, stream: &str, range: std::ops::Range<usize>) {
    let mut sink = sink(redis, json!({"stream": stream})).await;
    for start in range.clone().step_by(1000) {
        sink.write(value_batch(start..range.end.min(start + 1000))).await.unwrap();
    }
    assert!(sink.flush().await.unwrap().rejected.is_empty());
}

pub fn stamp(store_id: &str) -> Stamp {
    Stamp { pipeline: "p".into(), store_id: store_id.into(), epoch: 0 }
}
