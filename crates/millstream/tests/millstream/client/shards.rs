//! A pipeline that is built in Rust chooses the shard of each record, exactly once or not.

use std::{sync::Arc, time::Duration};

use millstream::{
    Delivery, Pipeline, RecordRef, SeekTo,
    client::{Backend, ConsumerOptions, Streamer},
    core::{Partitioned, PlanContext},
    systems::{kafka::Kafka, redis::RedisStreams},
};
use millstream_testkit::{servers, started};
use serde_json::json;

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// By the first letter of the value.
fn by_letter(record: RecordRef<'_>) -> u64 {
    u64::from(record.value().unwrap_or_default()[0] - b'a')
}

async fn goes_where_it_is_told(system: impl Backend + Clone, streams: [&str; 2]) {
    for (stream, delivery) in streams.into_iter().zip([Delivery::AtLeastOnce, Delivery::ExactlyOnce]) {
        let context = PlanContext { delivery, ..PlanContext::default() };
        let sink = Partitioned::new(system.sink_by_shard(stream, &context).unwrap(), Arc::new(by_letter));
        let pipeline = Pipeline::new(stream).in_memory().delivery(delivery);
        pipeline.source_with("values", json!({"values": ["a1", "b1", "a2"]})).sink_of(sink);
        tokio::time::timeout(LONG, pipeline.run()).await.expect("an end in time").unwrap();

        let options = ConsumerOptions { start: Some(SeekTo::Beginning), ..ConsumerOptions::real_time() };
        let mut reader = Streamer::of(system.clone()).create_consumer(&[stream], options).unwrap();
        let mut places = Vec::new();
        while places.len() < 3 {
            let record = tokio::time::timeout(LONG, reader.next()).await.expect("a record in time").unwrap().unwrap();
            places.push(format!("{} {}", record.origin, String::from_utf8_lossy(&record.value.unwrap())));
        }
        places.sort();
        assert_eq!(places, ["/0 a1", "/0 a2", "/1 b1"].map(|place| format!("{stream}{place}")), "{delivery}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_pipeline_chooses_partitions() {
    let server = started!(servers::Kafka::shared());
    server.create_topic("chosen", 2, &[]);
    server.create_topic("chosen-exactly-once", 2, &[]);
    let kafka = Kafka::at(&format!("kafka://{}", server.bootstrap())).unwrap();
    goes_where_it_is_told(kafka, ["chosen", "chosen-exactly-once"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_pipeline_chooses_shards() {
    let server = started!(servers::Redis::shared());
    let mut redis = RedisStreams::at(&server.url()).unwrap();
    redis.sink.shards = Some(3);
    goes_where_it_is_told(redis, ["chosen", "chosen-exactly-once"]).await;
}
