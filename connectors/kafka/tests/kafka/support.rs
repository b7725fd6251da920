//! Topics of their own on the shared broker; sources and sinks by their options; reading with a deadline.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use millstream_core::{
    Batch, BatchBuilder, Error, Event, PlanContext, Planner, Record, Resume, Role, Sink, SinkPlan, Source, SourcePlan,
};
use millstream_kafka::components;
use millstream_testkit::servers::Kafka;
use serde_json::{Value, json};

/// Longer than anything here takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn kafka() -> &'static Kafka {
    Kafka::shared().unwrap()
}

/// A topic that no other test has.
pub(crate) fn topic(partitions: usize) -> String {
    topic_with(partitions, &[])
}

pub(crate) fn topic_with(partitions: usize, configs: &[(&str, &str)]) -> String {
    let name = name("topic");
    kafka().create_topic(&name, partitions, configs);
    name
}

/// A name that nobody else has in this run.
pub(crate) fn name(of: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{of}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn url(topic: &str) -> String {
    format!("kafka://{}/{topic}", kafka().bootstrap())
}

/// Options with those of `more`.
pub(crate) fn options(topic: &str, more: Value) -> Value {
    let mut options = json!({ "url": url(topic) });
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    options
}

pub(crate) fn source_plan(options: &Value) -> Result<Box<dyn SourcePlan>, Error> {
    let component = components().into_iter().find(|component| component.role() == Role::Source).unwrap();
    let Planner::Source(plan) = component.planner else { unreachable!() };
    plan(options, &PlanContext::default())
}

pub(crate) fn sink_plan(options: &Value) -> Result<Box<dyn SinkPlan>, Error> {
    let component = components().into_iter().find(|component| component.role() == Role::Sink).unwrap();
    let Planner::Sink(plan) = component.planner else { unreachable!() };
    plan(options, &PlanContext::default())
}

pub(crate) fn source(topic: &str, more: Value) -> Box<dyn Source> {
    source_plan(&options(topic, more)).unwrap().create().unwrap()
}

pub(crate) async fn opened(topic: &str, more: Value, resume: &Resume) -> Box<dyn Source> {
    let mut source = source(topic, more);
    source.open(resume).await.unwrap();
    source
}

pub(crate) async fn sink(topic: &str, more: Value) -> Box<dyn Sink> {
    let mut sink = sink_plan(&options(topic, more)).unwrap().create().unwrap();
    sink.open(&[]).await.unwrap();
    sink
}

pub(crate) fn batch(records: &[Record]) -> Batch {
    let mut builder = BatchBuilder::new();
    records.iter().for_each(|record| builder.push(record));
    builder.finish()
}

pub(crate) fn values(from: usize, to: usize) -> Vec<Record> {
    (from..to)
        .map(|i| Record { key: Some(format!("k{}", i % 7).into()), ..Record::new("test", i.to_string()) })
        .collect()
}

/// Writes, and sees that all is delivered.
pub(crate) async fn write_all(topic: &str, more: Value, records: &[Record]) {
    let mut sink = sink(topic, more).await;
    for chunk in records.chunks(4096) {
        sink.write(batch(chunk)).await.unwrap();
    }
    assert!(sink.flush().await.unwrap().rejected.is_empty());
    sink.close().await.unwrap();
}

/// The next event, within the deadline.
pub(crate) async fn event(source: &mut dyn Source) -> Result<Event, Error> {
    tokio::time::timeout(LONG, source.next()).await.expect("an event in time")
}

/// So many records, in the order in which they come.
pub(crate) async fn read(source: &mut dyn Source, count: usize) -> Vec<Record> {
    let mut records = Vec::new();
    while records.len() < count {
        if let Event::Batch(read) = event(source).await.unwrap() {
            records.extend(read.batch.iter().map(|record| record.to_record()));
        }
    }
    assert_eq!(records.len(), count, "no more than asked for");
    records
}

/// All records up to the end.
pub(crate) async fn read_to_end(topic: &str, more: Value) -> Vec<Record> {
    let mut source = opened(topic, more, &Resume { until_end: true, ..Resume::default() }).await;
    let mut records = Vec::new();
    loop {
        match event(&mut *source).await.unwrap() {
            Event::Batch(read) => records.extend(read.batch.iter().map(|record| record.to_record())),
            Event::End => break,
            _ => {}
        }
    }
    source.close().await.unwrap();
    records
}

pub(crate) fn texts(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| String::from_utf8_lossy(record.value.as_deref().unwrap_or(b"-")).into_owned()).collect()
}
