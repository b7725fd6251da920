//! Pipelines between topics, and numbered records that go through them: what comes out is checked record by record.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use millstream_core::{
    Batch, Delivery, Event, Form, Output, Record, Registry, Resume, ShardKey, Step, StepPlan, Transform,
};
use millstream_runtime::{Entry, PipelineSpec, Plan, PlanOptions, RunOptions, Running};
use millstream_state::{Memory, MemoryStore};
use millstream_testkit::{FakeSink, servers::Kafka};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::support::{LONG, batch, event, sink_plan, source_plan};

/// Options of a topic behind these brokers.
pub(crate) fn at(brokers: &str, topic: &str, more: Value) -> Value {
    let mut options = json!({ "url": format!("kafka://{brokers}/{topic}") });
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    options
}

/// A step that changes nothing.
#[derive(Clone, Copy, Debug)]
struct Same;

impl Transform for Same {
    fn apply(&mut self, batch: Batch, out: &mut Output) {
        out.emit(0, batch);
    }
}

impl StepPlan for Same {
    fn form(&self) -> Form {
        Form::Bytes
    }

    fn create(&self) -> millstream_core::Result<Step> {
        Ok(Step::Transform(Box::new(*self)))
    }
}

/// From a topic through a step into topics, with short epochs.
pub(crate) fn spec(name: &str, delivery: Delivery, source: &Value, sinks: &[Value]) -> PipelineSpec {
    let mut spec = PipelineSpec {
        name: name.to_owned(),
        sources: vec![Entry::named("kafka", source.clone())],
        steps: vec![Entry::ready(Arc::new(Same))],
        delivery,
        ..PipelineSpec::default()
    };
    for (i, sink) in sinks.iter().enumerate() {
        let mut entry = Entry::named("kafka", sink.clone());
        (entry.name, entry.from) = (Some(format!("sink-{i}")), vec!["custom".to_owned()]);
        spec.sinks.push(entry);
    }
    spec.checkpoint.every = "100ms".parse().unwrap();
    spec.checkpoint.count = Some(500);
    spec
}

pub(crate) fn plan(spec: &PipelineSpec) -> Plan {
    tell();
    let mut registry = Registry::default();
    millstream_kafka::components().into_iter().for_each(|component| registry.add(component));
    Plan::new(spec, &registry, PlanOptions::default()).unwrap()
}

/// Runs it on a store in memory.
pub(crate) fn run(spec: &PipelineSpec, memory: &Memory) -> Running {
    let store = Box::new(MemoryStore::new(memory.clone()));
    Running::start(plan(spec), RunOptions::new(store, Arc::new(FakeSink::truncating())))
}

/// The record of a number in a partition.
pub(crate) fn numbered(partition: u64, number: usize) -> Record {
    Record {
        key: Some(format!("k{}", number % 17).into()),
        headers: vec![("n".into(), Some(number.to_string().into())), ("none".into(), None)],
        origin: ShardKey::new("feed", partition),
        ..Record::new("feed", format!("{partition}:{number}"))
    }
}

/// The records of these numbers, each in every partition.
pub(crate) fn numbered_in(partitions: u64, numbers: Range<usize>) -> Vec<Record> {
    numbers.flat_map(|number| (0..partitions).map(move |partition| numbered(partition, number))).collect()
}

/// Writes numbered records into every partition of a topic, until it is told to stop.
pub(crate) struct Feed {
    stop: Arc<AtomicBool>,
    writing: JoinHandle<usize>,
}

impl Feed {
    /// So many records at once into each of the partitions, and then a pause; at least once.
    pub(crate) fn start(brokers: &str, topic: &str, partitions: u64, (each, pause): (usize, Duration)) -> Feed {
        let options = at(brokers, topic, json!({"partition": "origin"}));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let writing = tokio::spawn(async move {
            let mut sink = sink_plan(&options).unwrap().create().unwrap();
            sink.open(&[]).await.unwrap();
            let mut written = 0;
            loop {
                let records = numbered_in(partitions, written..written + each);
                while let Err(error) = sink.write(batch(&records)).await {
                    assert!(error.facts().retry, "{error:?}");
                }
                let outcomes = tokio::time::timeout(LONG * 2, sink.flush()).await.expect("outcomes in time").unwrap();
                assert!(outcomes.rejected.is_empty(), "{outcomes:?}");
                written += each;
                if stopped.load(Ordering::Acquire) {
                    break;
                }
                tokio::time::sleep(pause).await;
            }
            sink.close().await.unwrap();
            written
        });
        Feed { stop, writing }
    }

    /// Stops; answers how many records each partition has got.
    pub(crate) async fn end(self) -> usize {
        self.stop.store(true, Ordering::Release);
        self.writing.await.unwrap()
    }
}

/// All committed records of a topic as it is now.
pub(crate) async fn all_in(brokers: &str, topic: &str) -> Vec<Record> {
    let options = at(brokers, topic, json!({}));
    let mut source = source_plan(&options).unwrap().create().unwrap();
    source.open(&Resume { until_end: true, ..Resume::default() }).await.unwrap();
    let mut records = Vec::new();
    loop {
        match event(&mut *source).await {
            Ok(Event::Batch(read)) => records.extend(read.batch.iter().map(|record| record.to_record())),
            Ok(Event::End) => break,
            Ok(_) => {}
            Err(error) => assert!(error.facts().retry, "{error:?}"),
        }
    }
    source.close().await.unwrap();
    records
}

/// The partition and the number that a value names.
pub(crate) fn number_of(record: &Record) -> (u64, usize) {
    let text = std::str::from_utf8(record.value.as_deref().unwrap()).unwrap();
    let (partition, number) = text.split_once(':').unwrap();
    (partition.parse().unwrap(), number.parse().unwrap())
}

/// Each number of each partition is there once, in order, with its key and headers.
#[track_caller]
pub(crate) fn assert_once(found: &[Record], partitions: u64, each: usize, what: &str) {
    assert_eq!(repeats(found, partitions, each, what), 0, "{what}: repeats");
}

/// Each number of each partition is there, in order, with its key and headers; going back is allowed. Answers how many
/// records were there more than once.
#[track_caller]
pub(crate) fn repeats(found: &[Record], partitions: u64, each: usize, what: &str) -> usize {
    let mut next: BTreeMap<u64, usize> = BTreeMap::new();
    let mut behind: BTreeMap<u64, usize> = BTreeMap::new();
    for record in found {
        let (partition, number) = number_of(record);
        let written = numbered(partition, number);
        assert_eq!((&record.key, &record.headers), (&written.key, &written.headers), "{what}: {record:?}");
        let (next, behind) = (next.entry(partition).or_default(), behind.entry(partition).or_default());
        assert!(
            number <= *behind,
            "{what}: {partition}:{number} comes behind {partition}:{behind}: records are missing"
        );
        *behind = number + 1;
        *next = (*next).max(number + 1);
    }
    let ends: Vec<usize> = (0..partitions).map(|partition| next.get(&partition).copied().unwrap_or(0)).collect();
    assert!(ends.iter().all(|end| *end == each), "{what}: {each} records in each partition, and not {ends:?}");
    found.len() - each * partitions as usize
}

/// Waits until a topic holds so many records that count.
pub(crate) async fn wait_for(brokers: &str, topic: &str, count: usize) -> Vec<Record> {
    wait_while(brokers, topic, count, String::new).await
}

/// The same; what `stands` says is told if it takes too long.
pub(crate) async fn wait_while(brokers: &str, topic: &str, count: usize, stands: impl Fn() -> String) -> Vec<Record> {
    let began = std::time::Instant::now();
    loop {
        let found = all_in(brokers, topic).await;
        if found.len() >= count {
            return found;
        }
        assert!(began.elapsed() < LONG * 2, "{} of {count} records in `{topic}`: {}", found.len(), stands());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Shows the log on standard error, as `MILLSTREAM_LOG` wants it.
fn tell() {
    if let Ok(wanted) = std::env::var("MILLSTREAM_LOG") {
        // Another test may have done it.
        let _ = tracing_subscriber::fmt().with_env_filter(wanted).with_writer(std::io::stderr).try_init();
    }
}

/// The one broker that all tests share.
pub(crate) fn shared() -> &'static Kafka {
    Kafka::shared().unwrap()
}
