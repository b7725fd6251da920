//! How much there is to read, as those see it who watch a pipeline.

use std::{sync::Arc, time::Duration};

use millstream_core::{Delivery, Lag, Record};
use millstream_runtime::{Entry, Handle, PipelineSpec};
use millstream_state::Memory;
use millstream_testkit::{FakeSink, servers::Kafka, started};
use serde_json::json;

use crate::{runs::run, support::*};

async fn becomes(handle: &Handle, records: u64) {
    let expected = Some(Lag { records: Some(records), bytes: None });
    let mut last = None;
    let same = async {
        while last != expected {
            last = handle.status().lags.get("kafka").copied();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let reached = tokio::time::timeout(LONG, same).await.is_ok();
    assert!(reached, "{last:?} instead of {expected:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_paused_pipeline_has_not_read_is_its_lag_beyond_what_is_read_ahead() {
    let _kafka = started!(Kafka::shared());
    let large = |count: usize| vec![Record::new("test", vec![b'x'; 50 << 10]); count];
    for more in [json!({"prefetch": "1MiB"}), json!({"prefetch": "1MiB", "group": name("lag")})] {
        let topic = topic(2);
        let sink = FakeSink::plain();
        let spec = PipelineSpec {
            name: name("lag"),
            sources: vec![Entry::named("kafka", options(&topic, more))],
            sinks: vec![Entry::ready(Arc::new(sink.clone()))],
            delivery: Delivery::AtLeastOnce,
            ..PipelineSpec::default()
        };
        let mut running = run(&spec, &Memory::new());
        let handle = running.handle();
        write_all(&topic, json!({}), &values(0, 10)).await;
        becomes(&handle, 0).await;
        tokio::time::timeout(LONG, async {
            while sink.committed() < 10 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .unwrap();
        handle.pause();
        // The first is more than the source holds: of the second no record comes by itself.
        for (written, all) in [(200, 200), (100, 300)] {
            write_all(&topic, json!({"partition": "round_robin"}), &large(written)).await;
            becomes(&handle, all).await;
        }
        handle.resume();
        becomes(&handle, 0).await;
        running.drain(LONG).await.unwrap();
    }
}
