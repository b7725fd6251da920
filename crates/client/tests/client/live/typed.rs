//! Systems chosen by type: options are checked by the compiler, and all else is as with a URL.

use std::time::Duration;

use millstream_bundle::systems::{
    file::StreamFile,
    kafka::{Acks, Kafka, OnMissing},
    redis::{GroupOptions, RedisStreams, Trim},
    stdio::{Reading, Stdio},
};
use millstream_client::{Ack, Backend, ByUrl, ConsumerOptions, ProducerOptions, Streamer};
use millstream_core::{Record, SeekTo, Timestamp};
use millstream_testkit::{
    servers::{Kafka as KafkaServer, Redis as RedisServer},
    started,
};

use super::support::{connect, kafka, name, next, reader, redis, take, text, topic};

/// Writes, reads, rewinds, acknowledges and commits: the same for every system that can.
async fn there_and_back(system: impl Backend, stream: &str) {
    let streamer = Streamer::of(system);
    let producer = streamer.create_producer(stream, ProducerOptions::default()).unwrap();
    let mut told = Vec::new();
    for number in 0..20 {
        let record = Record {
            key: Some("k".into()),
            time: Some(Timestamp::from_millis(1_767_225_600_000 + number)),
            ..Record::new("", number.to_string())
        };
        told.push(producer.send(record).await.unwrap().await.unwrap().sequence.expect("a sequence"));
    }
    let mut reader = reader(&streamer, &[stream]);
    let read = take(&mut reader, 20).await;
    assert_eq!(read.iter().map(|record| record.sequence).collect::<Vec<_>>(), told);
    reader.rewind(SeekTo::At(told[7])).await.unwrap();
    assert_eq!(text(&next(&mut reader).await), "7", "rewinding is inclusive");
    reader.seek(Timestamp::from_millis(1_767_225_600_003)).await.unwrap();
    assert_eq!(text(&next(&mut reader).await), "3");

    let options = ConsumerOptions {
        ack: Ack::Manual,
        start: Some(SeekTo::Beginning),
        commit_every: None,
        ..ConsumerOptions::resumable(name("careful"))
    };
    let mut careful = streamer.create_consumer(&[stream], options.clone()).unwrap();
    let read = take(&mut careful, 10).await;
    read[..6].iter().for_each(|record| careful.ack(record).unwrap());
    careful.commit().await.unwrap();
    careful.close().await.unwrap();
    let mut careful = streamer.create_consumer(&[stream], options).unwrap();
    assert_eq!(text(&next(&mut careful).await), "6", "what is committed does not come again");
    producer.end().await.unwrap();
}

#[tokio::test]
async fn kafka_by_type_does_what_it_does_by_url() {
    let server = started!(KafkaServer::shared());
    let mut kafka = kafka(server);
    kafka.source.on_missing = OnMissing::Beginning;
    kafka.sink.acks = Acks::One;
    there_and_back(kafka, &topic(server, 1)).await;
}

#[tokio::test]
async fn redis_by_type_does_what_it_does_by_url() {
    let server = started!(RedisServer::shared());
    let mut redis = redis(server);
    redis.sink.trim = Some(Trim { count: Some(1_000_000), age: None });
    redis.source.group = Some(GroupOptions { max_deliveries: 9, ..GroupOptions::named("takes the consumer's name") });
    there_and_back(redis, &name("stream")).await;
}

#[tokio::test]
async fn a_stream_file_by_type_does_what_it_does_by_url() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = StreamFile::at(&format!("{}/a b,c", folder.path().display())).unwrap();
    file.source.follow = true;
    there_and_back(file, "stream").await;
}

#[tokio::test]
async fn pipes_by_type_have_any_two_ends() {
    let input = std::io::Cursor::new("[words | 1] one\n[other | 1] x\n[words | 2] two\n");
    let stdio = Stdio::with(Reading::default(), input, std::io::sink()).unwrap();
    let mut words = Streamer::of(stdio).create_consumer(&["words"], ConsumerOptions::real_time()).unwrap();
    assert_eq!(take(&mut words, 2).await.iter().map(text).collect::<Vec<_>>(), ["one", "two"]);
    assert!(words.next().await.unwrap().is_none());
}

#[tokio::test]
async fn passwords_in_typed_options_reach_the_server() {
    let server = started!(RedisServer::setup().password("open sesame").start());
    let url = format!("redis://:open%20sesame@{}", server.address());
    there_and_back(RedisStreams::at(&url).unwrap(), "stream").await;
    let wrong = RedisStreams::at(&format!("redis://:wrong@{}", server.address())).unwrap();
    let error = Streamer::of(wrong).create_consumer(&["stream"], ConsumerOptions::real_time()).unwrap().next().await;
    assert!(!format!("{:?}", error.unwrap_err()).contains("wrong@"));
}

#[test]
fn a_streamer_gives_its_system_back_by_type() {
    let streamer = Streamer::of(Kafka::at("kafka://localhost:9092").unwrap());
    assert!(streamer.backend::<Kafka>().is_some());
    assert!(streamer.backend::<RedisStreams>().is_none());
    let by_url = connect("kafka://localhost:9092");
    assert!(by_url.backend::<Kafka>().is_none() && by_url.backend::<ByUrl>().is_some());
}

#[test]
fn the_group_is_that_of_each_consumer_whatever_the_url_says() {
    for url in [
        "redis://h/s?group=other",
        "redis://h/s?group.name=other&group.claim_idle=9s",
        "redis://h/s?group.claim_idle=9s",
        "kafka://h:1/s?group=other&membership.instance=i",
        "stdio:?group=other",
    ] {
        let streamer = connect(url);
        let by_url: &ByUrl = streamer.backend().unwrap();
        assert!(!by_url.source(&[], None).unwrap().capabilities().groups, "{url}");
        let member = by_url.source(&[], Some("team")).unwrap();
        assert!(member.capabilities().groups, "{url}");
        let claims = url.contains("claim_idle").then_some(Duration::from_secs(3));
        assert!(claims.is_none() || member.capabilities().keep_alive == claims, "what else it says counts");
        let named = member.describe();
        assert!(named.contains("team") || url.starts_with("stdio"), "{url}: {named}");
    }
}

#[test]
fn wrong_urls_are_said_at_once() {
    assert!(Kafka::at("redis://localhost").is_err());
    assert!(Kafka::at("kafka://localhost/a?group=g").is_err());
    assert!(RedisStreams::at("kafka://localhost").is_err());
    assert!(StreamFile::at("").is_err());
}
