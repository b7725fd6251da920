//! Whole pipelines, exactly once, killed at named steps: what goes into a topic comes out of two, once each.

use std::time::Duration;

use millstream_core::{Delivery, Registry, Resume};
use millstream_runtime::{Entry, PipelineSpec, Plan, PlanOptions};
use millstream_testkit::{run_killed, servers::Kafka, silence_kills, started};
use serde_json::{Value, json};

use crate::support::*;

const RECORDS: usize = 2_000;

fn spec(source: &Value, sinks: [&Value; 2]) -> PipelineSpec {
    let mut spec = PipelineSpec {
        name: name("pipeline"),
        sources: vec![Entry::named("kafka", source.clone())],
        sinks: sinks.map(|sink| Entry::named("kafka", sink.clone())).into(),
        delivery: Delivery::ExactlyOnce,
        ..PipelineSpec::default()
    };
    spec.sinks[1].name = Some("second".to_owned());
    spec.checkpoint.count = Some(150);
    spec
}

fn planned(spec: &PipelineSpec) -> Plan {
    let mut registry = Registry::default();
    millstream_kafka::components().into_iter().for_each(|component| registry.add(component));
    Plan::new(spec, &registry, PlanOptions::default()).unwrap()
}

/// The numbers in a topic, as readers of committed records see them.
async fn numbers_in(topic: &str) -> Vec<usize> {
    let mut source = opened(topic, json!({}), &Resume { until_end: true, ..Resume::default() }).await;
    let mut numbers = Vec::new();
    while let millstream_core::Event::Batch(read) = tokio::time::timeout(LONG, source.next()).await.unwrap().unwrap() {
        let values = read.batch.iter().map(|record| String::from_utf8_lossy(record.value().unwrap()).parse().unwrap());
        numbers.extend::<Vec<usize>>(values.collect());
    }
    numbers.sort_unstable();
    numbers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_transaction_over_two_topics_is_exactly_once_however_often_it_is_killed() {
    let _kafka = started!(Kafka::shared());
    silence_kills();
    let mut killed = 0;
    for (seed, more) in [(0, json!({"group": name("group")})), (1, json!({})), (2, json!({"group": name("group")}))] {
        let (from, first, second) = (topic(2), topic(2), topic(1));
        let mut sink = sink(&from, json!({})).await;
        let records: Vec<_> = (0..RECORDS).map(|number| millstream_core::Record::new("", number.to_string())).collect();
        sink.write(batch(&records)).await.unwrap();
        assert!(sink.flush().await.unwrap().rejected.is_empty());
        sink.close().await.unwrap();
        let spec = spec(&options(&from, more), [&options(&first, json!({})), &options(&second, json!({}))]);
        killed += run_killed(|| planned(&spec), 5, 2, seed, LONG * 2).await;
        for topic in [first, second] {
            let got = tokio::time::timeout(Duration::from_secs(60), numbers_in(&topic)).await.unwrap();
            assert!(got == (0..RECORDS).collect::<Vec<_>>(), "seed {seed}: {} numbers in {topic}", got.len());
        }
    }
    assert!(killed >= 5, "{killed} kills");
}
