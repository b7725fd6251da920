//! Whole pipelines, exactly once, killed at named steps: what goes into a topic comes out of two, once each.

use std::{
    panic,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use millstream_core::{Delivery, Registry, Resume};
use millstream_runtime::{Entry, PipelineSpec, Plan, PlanOptions, Probe, RunOptions, Running, Step};
use millstream_state::{Memory, MemoryStore};
use millstream_testkit::{Dice, FakeSink, servers::Kafka, started};
use serde_json::{Value, json};

use crate::support::*;

const STEPS: [Step; 9] = [
    Step::BeforeBarrier,
    Step::BeforeFlush,
    Step::AfterFlush,
    Step::AfterPrepare,
    Step::BeforeRecord,
    Step::BeforeHost,
    Step::AfterHost,
    Step::AfterRecord,
    Step::BeforeSourceCommit,
];

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

/// Runs to the end of the source, killed on the way: each kill at one step of the `nth` epoch to reach it.
async fn run(spec: &PipelineSpec, kills: usize, seed: u64) -> usize {
    let mut registry = Registry::default();
    millstream_kafka::components().into_iter().for_each(|component| registry.add(component));
    let (memory, mut dice, mut killed) = (Memory::new(), Dice::new(seed), 0);
    for life in 0.. {
        let kill = (life < kills).then(|| (STEPS[dice.roll(STEPS.len() as u64) as usize], 1 + dice.roll(2)));
        let passed = AtomicU64::new(0);
        let mut options = RunOptions::new(Box::new(MemoryStore::new(memory.clone())), Arc::new(FakeSink::truncating()));
        options.restarts_per_minute_max = 0;
        options.until_end = true;
        options.probe = Probe::new(move |step, _| {
            if kill.is_some_and(|(at, nth)| at == step && passed.fetch_add(1, Ordering::SeqCst) + 1 == nth) {
                panic!("killed at {step:?}");
            }
        });
        let plan = Plan::new(spec, &registry, PlanOptions::default()).unwrap();
        match tokio::time::timeout(LONG * 2, Running::start(plan, options).wait()).await.expect("an end in time") {
            Ok(_) if life >= kills => break,
            // It came to its end before the step.
            Ok(_) => {}
            Err(error) => {
                assert!(error.chain().contains("killed at"), "{error:?}");
                killed += 1;
            }
        }
    }
    killed
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
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !info.payload().downcast_ref::<String>().is_some_and(|text| text.starts_with("killed at")) {
            usual(info);
        }
    }));
    let mut killed = 0;
    for (seed, more) in [(0, json!({"group": name("group")})), (1, json!({})), (2, json!({"group": name("group")}))] {
        let (from, first, second) = (topic(2), topic(2), topic(1));
        let mut sink = sink(&from, json!({})).await;
        let records: Vec<_> = (0..RECORDS).map(|number| millstream_core::Record::new("", number.to_string())).collect();
        sink.write(batch(&records)).await.unwrap();
        assert!(sink.flush().await.unwrap().rejected.is_empty());
        sink.close().await.unwrap();
        let spec = spec(&options(&from, more), [&options(&first, json!({})), &options(&second, json!({}))]);
        killed += run(&spec, 5, seed).await;
        for topic in [first, second] {
            let got = tokio::time::timeout(Duration::from_secs(60), numbers_in(&topic)).await.unwrap();
            assert!(got == (0..RECORDS).collect::<Vec<_>>(), "seed {seed}: {} numbers in {topic}", got.len());
        }
    }
    assert!(killed >= 5, "{killed} kills");
}
