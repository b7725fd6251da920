//! What is not wrapped is done with the native client, reached in the same way.

use std::{sync::Arc, time::Duration};

use millstream_bundle::systems::{
    kafka::{
        Kafka, NativeContext,
        rdkafka::{
            admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
            consumer::{BaseConsumer, Consumer as _},
        },
    },
    redis::{Answer, RedisStreams},
};
use millstream_client::{ProducerOptions, Streamer};
use millstream_core::ErrorKind;
use millstream_testkit::{
    servers::{Kafka as KafkaServer, Redis as RedisServer, RedisCluster, wait_until},
    started,
};

use super::support::{LONG, kafka, name, redis};

#[tokio::test]
async fn librdkafka_makes_a_topic_and_asks_for_what_is_in_it() {
    let server = started!(KafkaServer::shared());
    let streamer = Streamer::of(kafka(server));
    let kafka: &Kafka = streamer.backend().unwrap();
    let topic = name("native");
    let admin: AdminClient<NativeContext> = kafka.native(&[]).unwrap();
    let made = admin.create_topics([&NewTopic::new(&topic, 3, TopicReplication::Fixed(1))], &AdminOptions::new()).await;
    made.unwrap().into_iter().for_each(|made| drop(made.unwrap()));

    let consumer: BaseConsumer<NativeContext> = kafka.native(&[("group.id", "looks only")]).unwrap();
    let consumer = Arc::new(consumer);
    let (asked, of) = (consumer.clone(), topic.clone());
    // The broker says that it has made it before it knows it.
    let known = tokio::task::spawn_blocking(move || {
        wait_until("known to the broker", LONG, || {
            let metadata = asked.fetch_metadata(Some(&of), Duration::from_secs(30)).unwrap();
            metadata.topics()[0].partitions().len() == 3
        });
    });
    known.await.unwrap();

    let producer = streamer.create_producer(&topic, ProducerOptions::default()).unwrap();
    for number in 0..10 {
        drop(producer.send(("same key", number.to_string())).await.unwrap());
    }
    producer.end().await.unwrap();

    let ends = tokio::task::spawn_blocking(move || {
        let end = |partition| consumer.fetch_watermarks(&topic, partition, Duration::from_secs(30)).unwrap().1;
        [end(0), end(1), end(2)]
    });
    let mut ends = ends.await.unwrap();
    ends.sort_unstable();
    assert_eq!(ends, [0, 0, 10]);
}

#[test]
fn properties_of_librdkafka_are_checked() {
    let mut kafka = Kafka::at("kafka+tls://me:geheim@localhost:9092").unwrap();
    kafka.source.auth = None;
    let config = kafka.native_config().unwrap();
    assert_eq!(config.get("bootstrap.servers"), Some("localhost:9092"));
    assert_eq!(config.get("security.protocol"), Some("sasl_ssl"));
    assert_eq!(config.get("sasl.password"), Some("geheim"));
    let error = kafka.native::<BaseConsumer<NativeContext>>(&[("no.such.property", "1")]).map(drop).unwrap_err();
    assert!(!error.chain().contains("geheim"), "{}", error.chain());
}

#[tokio::test]
async fn any_command_is_sent_to_redis() {
    let server = started!(RedisServer::shared());
    let streamer = Streamer::of(redis(server));
    let key = name("native");
    let producer = streamer.create_producer(&key, ProducerOptions::default()).unwrap();
    let sequence = producer.send(("k", "v")).await.unwrap().await.unwrap().sequence.unwrap();
    let mut connection = streamer.backend::<RedisStreams>().unwrap().connection().unwrap();
    let key = key.as_bytes();
    assert_eq!(connection.command(&[b"XLEN", key]).await.unwrap(), Answer::Integer(1));
    assert_eq!(connection.command(&[b"GET", b"nothing"]).await.unwrap(), Answer::Nil);
    let text = |text: &str| Answer::Text(text.to_owned().into());
    let fields = ["_key", "k", "msg", "v"].map(text);
    let entry =
        Answer::Array(vec![text(&format!("{}-{}", sequence >> 16, sequence & 0xffff)), Answer::Array(fields.into())]);
    assert_eq!(connection.command(&[b"XRANGE", key, b"-", b"+"]).await.unwrap(), Answer::Array(vec![entry]));
    let script = b"return {1, redis.call('XLEN', KEYS[1]), {err = 'MY error'}}";
    assert_eq!(
        connection.command_on(key, &[b"EVAL", script, b"1", key]).await.unwrap(),
        Answer::Array(vec![Answer::Integer(1), Answer::Integer(1), Answer::Error("MY error".to_owned())])
    );
    let refused = connection.command(&[b"LPOP", key]).await.unwrap_err();
    assert!(refused.chain().contains("WRONGTYPE"), "{}", refused.chain());
    assert_eq!(connection.command(&[]).await.unwrap_err().kind(), ErrorKind::Option);
}

#[tokio::test]
async fn a_command_whose_connection_broke_is_not_sent_again_and_the_next_connects_anew() {
    let server = started!(RedisServer::shared());
    let mut connection = redis(server).connection().unwrap();
    let Answer::Integer(id) = connection.command(&[b"CLIENT", b"ID"]).await.unwrap() else { panic!("no id") };
    server.cli(&["CLIENT", "KILL", "ID", &id.to_string()]);
    let key = name("counter");
    let error = connection.command(&[b"INCR", key.as_bytes()]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(connection.command(&[b"INCR", key.as_bytes()]).await.unwrap(), Answer::Integer(1));
}

#[tokio::test]
async fn commands_find_their_node_in_a_cluster() {
    let cluster = started!(RedisCluster::shared());
    let mut connection = RedisStreams::at(&cluster.url()).unwrap().connection().unwrap();
    for number in 0..20 {
        let key = format!("{}-{number}", name("native"));
        let made = connection
            .command_on(key.as_bytes(), &[b"XGROUP", b"CREATE", key.as_bytes(), b"g", b"$", b"MKSTREAM"])
            .await;
        assert_eq!(made.unwrap(), Answer::Text("OK".into()));
        assert_eq!(connection.command(&[b"XLEN", key.as_bytes()]).await.unwrap(), Answer::Integer(0));
    }
}
