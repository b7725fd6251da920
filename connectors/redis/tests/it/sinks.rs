//! Several sinks of one pipeline on one cluster, exactly once: what one of them has prepared the others leave alone, wherever
//! the pipeline dies.

use std::sync::Arc;

use millstream_core::{Record, Registry};
use millstream_runtime::{DeadLetterSpec, Entry, PipelineSpec, Plan, PlanOptions, Probe, RunOptions, Running, Step};
use millstream_state::{Memory, MemoryStore};
use millstream_testkit::{FakeSink, servers::RedisCluster, silence_kills, started};
use serde_json::{Value, json};

use crate::{
    pipeline::{check, exact, spec_of, stored},
    support::*,
};

/// A stream of the 5,000 numbers, with names of its own.
struct Scene {
    url: String,
    source: Value,
    tag: String,
}

impl Scene {
    /// All records name a tag in the header `tag`; each tenth has a header `odd`.
    async fn new(cluster: &RedisCluster) -> Self {
        let (url, tag) = (cluster.url(), format!("{{{}}}", key()));
        let source = json!({"url": url, "stream": key(), "shards": 3});
        let mut sink = plan_sink(&source).unwrap().create().unwrap();
        sink.open(&[]).await.unwrap();
        let record = |i: usize| {
            let mut record = Record::new("in", format!("v{i}"));
            record.headers = vec![("tag".into(), Some(tag.clone().into()))];
            record.headers.extend(i.is_multiple_of(10).then(|| ("odd".into(), Some("1".into()))));
            record
        };
        for i in 0..5 {
            let records: Vec<Record> = (i * 1000..(i + 1) * 1000).map(record).collect();
            assert!(put(&mut *sink, &records).await.rejected.is_empty());
        }
        let source = json!({"url": url, "stream": source["stream"], "batch": {"count": 100}});
        Scene { url, source, tag }
    }

    /// A sink whose keys lie in several slots: it commits in two phases.
    fn far(&self) -> Value {
        json!({"url": self.url, "stream": key(), "shards": 4})
    }

    /// A sink whose keys lie in one slot, which hosts the checkpoint.
    fn near(&self) -> Value {
        json!({"url": self.url, "stream": format!("{}{}", self.tag, key())})
    }

    /// A sink whose keys happen to lie in one slot, which only the records know: it commits in two phases.
    fn by_header(&self) -> (Value, String) {
        let name = key();
        let to = format!("{}{name}", self.tag);
        (json!({"url": self.url, "stream": format!("{{header:tag}}{name}")}), to)
    }

    fn spec(&self, sinks: &[&Value]) -> PipelineSpec {
        let mut spec = spec_of(&key(), &self.source, sinks);
        spec.checkpoint.count = Some(100);
        spec
    }

    /// The numbers in what a sink has written.
    async fn written(&self, sink: &Value) -> Vec<usize> {
        stored(json!({"url": self.url, "stream": sink["stream"]})).await
    }
}

/// Runs to the end of the source, on one store. Before, a life ends at each of the named steps.
async fn run(spec: &PipelineSpec) {
    silence_kills();
    let plan = || Plan::new(spec, &Registry::default(), PlanOptions::default()).unwrap();
    let memory = Memory::new();
    let run = async |probe| {
        let mut options = RunOptions::new(Box::new(MemoryStore::new(memory.clone())), Arc::new(FakeSink::truncating()));
        options.restarts_per_minute_max = 0;
        options.until_end = true;
        options.probe = probe;
        tokio::time::timeout(PATIENCE * 3, Running::start(plan(), options).wait()).await.expect("an end in time")
    };
    let hosted: &[Step] = if plan().host().is_some() { &Step::HOSTED } else { &[] };
    // There are no stages between source and sinks.
    let steps = || Step::ALL.iter().chain(hosted).filter(|step| **step != Step::BetweenStages);
    for nth in 1..=2 {
        for step in steps() {
            let error = run(Probe::at(*step, nth, move || panic!("killed at {step:?}"))).await.unwrap_err();
            assert!(error.chain().contains("killed at"), "{step:?}: {error:?}");
        }
    }
    run(Probe::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sinks_over_several_slots_do_not_delete_what_the_other_has_prepared() {
    let scene = Scene::new(started!(RedisCluster::shared())).await;
    let (one, other) = (scene.far(), scene.far());
    run(&scene.spec(&[&one, &other])).await;
    for (i, sink) in [one, other].iter().enumerate() {
        check(&scene.written(sink).await, 5000, i as u64);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_hosts_and_one_in_two_phases_stand_beside_each_other_in_any_order() {
    let cluster = started!(RedisCluster::shared());
    for seed in 0..2 {
        let scene = Scene::new(cluster).await;
        let (near, far) = (scene.near(), scene.far());
        let sinks = if seed == 0 { [&near, &far] } else { [&far, &near] };
        run(&scene.spec(&sinks)).await;
        for sink in sinks {
            check(&scene.written(sink).await, 5000, seed);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_sinks_in_two_phases_may_write_the_same_slot() {
    let scene = Scene::new(started!(RedisCluster::shared())).await;
    let ((one, to_one), (other, to_other)) = (scene.by_header(), scene.by_header());
    run(&scene.spec(&[&one, &other])).await;
    for (i, stream) in [to_one, to_other].iter().enumerate() {
        check(&stored(json!({"url": scene.url, "stream": stream})).await, 5000, i as u64);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_in_the_same_cluster_come_once_too() {
    let cluster = started!(RedisCluster::shared());
    for seed in 0..2 {
        let scene = Scene::new(cluster).await;
        let mut picky = scene.far();
        // A header of that name is refused.
        picky["value_field"] = "odd".into();
        let letters = if seed == 0 { scene.far() } else { scene.near() };
        let mut spec = scene.spec(&[&picky]);
        spec.dead_letter = Some(DeadLetterSpec { sink: Some(Entry::ready(exact(&letters))), stop_after: None });
        run(&spec).await;
        let mut refused = scene.written(&letters).await;
        assert!(refused.iter().all(|number| number.is_multiple_of(10)));
        let source = json!({"url": scene.url, "stream": picky["stream"], "value_field": "odd"});
        refused.extend(stored(source).await);
        refused.sort();
        check(&refused, 5000, seed);
    }
}
