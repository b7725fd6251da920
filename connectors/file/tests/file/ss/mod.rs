//! `.ss` stream files as a source and a sink, on real files.

mod cli;
mod crash;
mod follow;
mod position;
mod property;
mod rotate;
mod series;
mod sink;
mod source;
mod speed;
mod url;

use std::{path::Path, time::Duration};

use millstream_core::{
    Batch, BatchBuilder, Component, Delivery, Error, Event, Form, Last, PlanContext, Planner, Result, Resume, Role,
    SeekTo, ShardKey, Sink, Source, Timestamp, Token,
};
use serde_json::{Value, json};

/// Stream, shard, sequence, value.
type Got = (String, u64, u64, String);

fn component(role: Role) -> Component {
    millstream_file::components().into_iter().find(|component| component.role() == role).unwrap()
}

fn plan_source(options: &Value) -> Result<Box<dyn millstream_core::SourcePlan>> {
    let Planner::Source(plan) = component(Role::Source).planner else { panic!("no source") };
    plan(options, &PlanContext::default())
}

fn plan_sink(options: &Value, context: &PlanContext) -> Result<Box<dyn millstream_core::SinkPlan>> {
    let Planner::Sink(plan) = component(Role::Sink).planner else { panic!("no sink") };
    plan(options, context)
}

fn exactly_once() -> PlanContext {
    PlanContext { delivery: Delivery::ExactlyOnce, ..PlanContext::default() }
}

/// A source that has begun, where its plan says.
async fn open_source(options: Value, resume: Resume) -> Result<Box<dyn Source>> {
    let plan = plan_source(&options)?;
    let mut source = plan.create()?;
    source.open(&Resume { start: plan.start(), ..resume }).await?;
    Ok(source)
}

async fn reader(path: &Path) -> Box<dyn Source> {
    open_source(json!({ "path": path }), Resume::default()).await.unwrap()
}

async fn follower(path: &Path, start: &str) -> Box<dyn Source> {
    open_source(json!({ "path": path, "follow": true, "start": start }), Resume::default()).await.unwrap()
}

fn rows(batch: &Batch) -> Vec<Got> {
    let row = |record: millstream_core::RecordRef<'_>| {
        let value = record.value().map_or("(absent)".into(), |value| String::from_utf8_lossy(value).into_owned());
        (record.origin().stream.to_string(), record.origin().shard, record.sequence() as u64, value)
    };
    batch.iter().map(row).collect()
}

/// The next batch, or nothing at the end.
async fn next(source: &mut dyn Source) -> Option<(Vec<Got>, Vec<(u32, Error)>)> {
    loop {
        match tokio::time::timeout(Duration::from_secs(9), source.next()).await.expect("nothing came").unwrap() {
            Event::Batch(read) => return Some((rows(&read.batch), read.failed)),
            Event::End => return None,
            _ => {}
        }
    }
}

/// All that comes until the end.
async fn all(source: &mut dyn Source) -> Vec<Got> {
    let mut got = Vec::new();
    while let Some((rows, failed)) = next(source).await {
        assert!(failed.is_empty(), "{failed:?}");
        got.extend(rows);
    }
    got
}

/// At least so many records.
async fn some(source: &mut dyn Source, count: usize) -> Vec<Got> {
    let mut got = Vec::new();
    while got.len() < count {
        got.extend(next(source).await.expect("it has ended").0);
    }
    got
}

/// Nothing comes for a while.
async fn quiet(source: &mut dyn Source) {
    let waited = tokio::time::timeout(Duration::from_millis(150), source.next()).await;
    assert!(waited.is_err(), "{waited:?}");
}

fn values(got: &[Got]) -> Vec<&str> {
    got.iter().map(|(.., value)| value.as_str()).collect()
}

/// Records: stream, shard, milliseconds, value.
fn batch(records: &[(&str, u64, i64, &str)]) -> Batch {
    let mut builder = BatchBuilder::new();
    for (at, (stream, shard, ms, value)) in records.iter().enumerate() {
        let time = Some(Timestamp::from_millis(*ms));
        builder.push_value(
            &ShardKey::new(*stream, *shard),
            at as u128,
            time,
            Form::Bytes,
            None,
            Some(value.as_bytes()),
        );
    }
    builder.finish()
}

/// A batch of stream `s` with these values.
fn of(values: &[&str]) -> Batch {
    batch(&values.iter().map(|value| ("s", 0, 1_000, *value)).collect::<Vec<_>>())
}

async fn open_sink(options: &Value, context: &PlanContext, resume: &[(u64, Token)]) -> Result<Box<dyn Sink>> {
    let mut sink = plan_sink(options, context)?.create()?;
    sink.open(resume).await?;
    Ok(sink)
}

async fn writer(path: &Path) -> Box<dyn Sink> {
    open_sink(&json!({ "path": path, "beacon_interval": 1024 }), &PlanContext::default(), &[]).await.unwrap()
}

/// Writes, flushes, prepares and commits.
async fn epoch(sink: &mut dyn Sink, batch: Batch, last: Last) -> Token {
    let token = prepared(sink, batch, last).await;
    sink.commit(&token).await.unwrap();
    token
}

async fn prepared(sink: &mut dyn Sink, batch: Batch, last: Last) -> Token {
    sink.write(batch).await.unwrap();
    assert!(sink.flush().await.unwrap().rejected.is_empty());
    sink.prepare(1, last).await.unwrap().unwrap()
}

/// A file with these records, closed.
async fn written(path: &Path, records: &[(&str, u64, i64, &str)]) {
    let mut sink = writer(path).await;
    epoch(&mut *sink, batch(records), Last::Drained).await;
    sink.close().await.unwrap();
}

async fn contents(path: &Path) -> Vec<String> {
    let mut source = reader(path).await;
    all(&mut *source).await.into_iter().map(|(.., value)| value).collect()
}

fn at(sequence: u128) -> SeekTo {
    SeekTo::At(sequence)
}

fn ms(ms: i64) -> SeekTo {
    SeekTo::Time(Timestamp::from_millis(ms))
}
