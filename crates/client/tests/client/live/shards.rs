//! Where a record goes: its stream or topic, and its shard or partition, said by the record or by a partitioner.

use millstream_bundle::systems::{file::StreamFile, kafka::PartitionBy, redis::RedisStreams};
use millstream_client::{Backend, ProducerOptions, ShardBy, Streamer};
use millstream_core::{ErrorKind, Record, RecordRef, ShardKey};
use millstream_testkit::{
    servers::{Kafka as KafkaServer, Redis as RedisServer},
    started,
};

use super::support::{connect, kafka, name, next, places, reader, redis, text, to, topic};

/// Redis with streams of three shards.
fn redis_of_three(server: &RedisServer) -> RedisStreams {
    let mut redis = redis(server);
    redis.sink.shards = Some(3);
    redis
}

fn shards_by(shard_by: ShardBy) -> ProducerOptions {
    ProducerOptions { shard_by, ..ProducerOptions::default() }
}

/// By the first letter of the value.
fn by_letter(record: RecordRef<'_>) -> u64 {
    u64::from(record.value().unwrap_or_default()[0] - b'a')
}

async fn send(system: impl Backend, stream: &str, shard_by: ShardBy, records: Vec<Record>) {
    let producer = Streamer::of(system).create_producer(stream, shards_by(shard_by)).unwrap();
    for record in records {
        drop(producer.send(record).await.unwrap());
    }
    producer.end().await.unwrap();
}

/// Each record names its shard, or a partitioner does.
async fn goes_where_it_is_told(system: impl Backend + Clone, streams: [String; 2]) {
    let told = vec![to("", 2, "a"), to("", 0, "b"), to("", 1, "c"), to("", 2, "d")];
    let [by_record, by_partitioner] = streams;
    send(system.clone(), &by_record, ShardBy::Record, told.clone()).await;
    let expected = ["/0 b", "/1 c", "/2 a", "/2 d"].map(|place| format!("{by_record}{place}"));
    assert_eq!(places(system.clone(), &[&by_record], 4).await, expected);
    let three = ["a1", "b1", "c1", "a2"].map(|value| Record::new("", value)).into();
    send(system.clone(), &by_partitioner, ShardBy::partitioner(by_letter), three).await;
    let expected = ["/0 a1", "/0 a2", "/1 b1", "/2 c1"].map(|place| format!("{by_partitioner}{place}"));
    assert_eq!(places(system, &[&by_partitioner], 4).await, expected);
}

#[tokio::test]
async fn a_record_goes_to_the_partition_that_it_names_or_that_a_partitioner_names() {
    let server = started!(KafkaServer::shared());
    let mut kafka = kafka(server);
    kafka.sink.partition = PartitionBy::RoundRobin;
    goes_where_it_is_told(kafka, [topic(server, 3), topic(server, 3)]).await;
}

#[tokio::test]
async fn a_record_goes_to_the_shard_that_it_names_or_that_a_sharder_names() {
    let server = started!(RedisServer::shared());
    goes_where_it_is_told(redis_of_three(server), [name("stream"), name("stream")]).await;
}

#[tokio::test]
async fn a_record_goes_to_the_shard_of_a_stream_file_that_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = StreamFile::at(&format!("{}/x.ss", folder.path().display())).unwrap();
    goes_where_it_is_told(file, ["one".to_owned(), "two".to_owned()]).await;
}

#[tokio::test]
async fn partitioners_work_by_url_too() {
    let (kafka, redis) = (started!(KafkaServer::shared()), started!(RedisServer::shared()));
    let folder = tempfile::tempdir().unwrap();
    let stream = topic(kafka, 2);
    for url in [
        format!("kafka://{}", kafka.bootstrap()),
        format!("{}?shards=2", redis.url()),
        format!("file://{}/x.ss", folder.path().display()),
    ] {
        let streamer = connect(&url);
        let producer = streamer.create_producer(&stream, shards_by(ShardBy::partitioner(by_letter))).unwrap();
        let receipt = producer.send("b").await.unwrap().await.unwrap();
        producer.end().await.unwrap();
        let record = next(&mut reader(&streamer, &[&stream])).await;
        assert_eq!(
            (record.origin, Some(record.sequence)),
            (ShardKey::new(stream.as_str(), 1), receipt.sequence),
            "{url}"
        );
    }
}

#[test]
fn who_chooses_is_said_once_and_only_where_there_is_a_choice() {
    let refused = |url: &str| {
        let streamer = connect(url);
        streamer.create_producer("x", shards_by(ShardBy::partitioner(by_letter))).unwrap_err()
    };
    for url in ["redis://localhost", "kafka://localhost?partition=3", "redis://localhost?shards=2&sharder=key"] {
        assert_eq!(refused(url).kind(), ErrorKind::Option, "{url}: {:?}", refused(url));
    }
    for url in ["drop:", "file:///tmp/text"] {
        assert_eq!(refused(url).kind(), ErrorKind::Unsupported, "{url}: {:?}", refused(url));
    }
}

#[tokio::test]
async fn a_record_that_no_partition_is_there_for_is_rejected_alone() {
    let server = started!(KafkaServer::shared());
    let (topic, kafka) = (topic(server, 2), kafka(server));
    let careless = |record: RecordRef<'_>| match record.value() {
        Some(b"panic") => panic!("a mistake in the partitioner"),
        Some(b"far") => 7,
        _ => 1,
    };
    let options =
        ProducerOptions { linger: std::time::Duration::from_millis(100), ..shards_by(ShardBy::partitioner(careless)) };
    let producer = Streamer::of(kafka.clone()).create_producer(&topic, options).unwrap();
    let mut receipts = Vec::new();
    for value in ["one", "panic", "far", "two"] {
        receipts.push(producer.send(value).await.unwrap());
    }
    let mut kinds = Vec::new();
    for receipt in receipts {
        kinds.push(receipt.await.map(|delivered| delivered.sequence.unwrap()).map_err(|error| error.kind()));
    }
    assert_eq!(kinds, [Ok(0), Err(ErrorKind::Panic), Err(ErrorKind::Rejected), Ok(1)]);
    let expected = ["/1 one", "/1 two"].map(|place| format!("{topic}{place}"));
    assert_eq!(places(kafka, &[&topic], 2).await, expected);
}

/// Records name their streams, where the producer names none.
async fn goes_to_the_stream_that_it_names(system: impl Backend + Clone, [one, two]: [String; 2]) {
    let records = vec![to(&one, 0, "1"), to(&two, 0, "2"), to(&one, 0, "3")];
    send(system.clone(), "", ShardBy::System, records.clone()).await;
    let expected = [format!("{one}/0 1"), format!("{one}/0 3"), format!("{two}/0 2")];
    assert_eq!(places(system.clone(), &[&one, &two], 3).await, expected);
    // A stream that the producer names is where all go, so that a record that was read elsewhere can be sent on as it is.
    send(system.clone(), &two, ShardBy::System, records).await;
    assert_eq!(places(system, &[&two], 4).await, ["1", "2", "2", "3"].map(|value| format!("{two}/0 {value}")));
}

#[tokio::test]
async fn a_record_names_its_topic() {
    let server = started!(KafkaServer::shared());
    goes_to_the_stream_that_it_names(kafka(server), [topic(server, 1), topic(server, 1)]).await;
}

#[tokio::test]
async fn a_record_names_its_redis_stream() {
    let server = started!(RedisServer::shared());
    goes_to_the_stream_that_it_names(redis(server), [name("stream"), name("stream")]).await;
}

/// Shards of real servers are put aside and taken up again.
async fn reads_what_is_assigned(system: impl Backend + Clone, stream: &str) {
    let shard = |number| ShardKey::new(stream, number);
    send(system.clone(), stream, ShardBy::Record, vec![to("", 0, "a0"), to("", 1, "b0"), to("", 2, "c0")]).await;
    let mut reader = reader(&Streamer::of(system.clone()), &[stream]);
    reader.opened().await.unwrap();
    let mut shards = reader.shards();
    shards.sort();
    assert_eq!(shards, [shard(0), shard(1), shard(2)]);
    reader.assign(&[shard(1)]).await.unwrap();
    assert_eq!(text(&next(&mut reader).await), "b0");
    reader.unassign(&[shard(1)]).await.unwrap();
    reader.assign(&[shard(2)]).await.unwrap();
    send(system.clone(), stream, ShardBy::Record, vec![to("", 1, "b1"), to("", 2, "c1")]).await;
    assert_eq!([text(&next(&mut reader).await), text(&next(&mut reader).await)], ["c0", "c1"]);
    reader.unassign(&[shard(2)]).await.unwrap();
    reader.assign(&[shard(1)]).await.unwrap();
    assert_eq!(text(&next(&mut reader).await), "b1");
}

#[tokio::test]
async fn partitions_are_assigned_and_unassigned() {
    let server = started!(KafkaServer::shared());
    reads_what_is_assigned(kafka(server), &topic(server, 3)).await;
}

#[tokio::test]
async fn shards_of_redis_are_assigned_and_unassigned() {
    let server = started!(RedisServer::shared());
    reads_what_is_assigned(redis_of_three(server), &name("stream")).await;
}
