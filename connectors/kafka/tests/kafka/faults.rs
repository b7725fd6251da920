use std::{collections::BTreeMap, time::Duration};

use millstream_core::{Delivery, Event, PlanContext, Planner, Record, Resume, Role, Sink, Source};
use millstream_kafka::components;
use millstream_state::Memory;
use millstream_testkit::{servers::Kafka, started};
use rdkafka::{
    mocking::MockCluster,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use serde_json::{Value, json};

use crate::{
    runs::{self, shared, spec, wait_while},
    support::{LONG, batch, sink_plan, source_plan, topic, write_all},
};

fn at(kafka: &Kafka, topic: &str, more: Value) -> Value {
    runs::at(&kafka.bootstrap(), topic, more)
}

async fn sink(options: &Value) -> Box<dyn Sink> {
    let mut sink = sink_plan(options).unwrap().create().unwrap();
    sink.open(&[]).await.unwrap();
    sink
}

async fn source(options: &Value) -> Box<dyn Source> {
    let mut source = source_plan(options).unwrap().create().unwrap();
    source.open(&Resume::default()).await.unwrap();
    source
}

fn numbered(from: usize, to: usize) -> Vec<Record> {
    (from..to).map(|i| Record::new("x", i.to_string())).collect()
}

/// Reads up to a number, and tells how often each came; errors that can be retried are.
async fn collect(source: &mut dyn Source, until: usize) -> (BTreeMap<usize, usize>, Vec<String>, bool) {
    let (mut counts, mut troubles, mut ordered, mut last) = (BTreeMap::new(), Vec::new(), true, BTreeMap::new());
    while counts.len() < until {
        match tokio::time::timeout(LONG * 2, source.next()).await.expect("records in time") {
            Ok(Event::Batch(read)) => {
                for record in read.batch.iter() {
                    let number: usize = String::from_utf8_lossy(record.value().unwrap()).parse().unwrap();
                    *counts.entry(number).or_default() += 1;
                    ordered &= last.insert(record.origin().clone(), number).is_none_or(|last: usize| last < number);
                }
            }
            Ok(_) => {}
            Err(error) => {
                assert!(error.facts().retry, "{error:?}");
                troubles.push(error.message().to_owned());
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    (counts, troubles, ordered)
}

async fn goes_through(kafka: Kafka, fault: impl FnOnce(&Kafka)) {
    kafka.create_topic("numbers", 3, &[]);
    let options = at(&kafka, "numbers", json!({}));
    let (mut writer, mut reader) = (sink(&options).await, source(&options).await);
    let writing = tokio::spawn(async move {
        for i in 0..200 {
            loop {
                match writer.write(batch(&numbered(i * 100, i * 100 + 100))).await {
                    Ok(_) => break,
                    Err(error) => assert!(error.facts().retry, "{error:?}"),
                }
            }
            assert!(writer.flush().await.unwrap().rejected.is_empty());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let reading = tokio::spawn(async move { collect(&mut *reader, 20_000).await });
    tokio::time::sleep(Duration::from_millis(500)).await;
    tokio::task::block_in_place(|| fault(&kafka));
    writing.await.unwrap();
    let (counts, _, ordered) = reading.await.unwrap();
    assert_eq!(counts.len(), 20_000);
    assert!(counts.values().all(|count| *count == 1), "an idempotent producer repeats nothing");
    assert!(ordered, "the order within each partition holds");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_restarted_loses_and_repeats_nothing() {
    goes_through(Kafka::start().unwrap(), |kafka| {
        kafka.stop(1);
        kafka.restart(1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_killed_loses_and_repeats_nothing() {
    goes_through(Kafka::start().unwrap(), |kafka| {
        kafka.kill(1);
        kafka.restart(1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_paused_loses_and_repeats_nothing() {
    goes_through(Kafka::setup().patient().start().unwrap(), |kafka| {
        kafka.pause(1);
        std::thread::sleep(Duration::from_secs(5));
        kafka.resume(1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_killed_and_another_that_takes_over_lose_and_repeat_nothing() {
    goes_through(Kafka::setup().brokers(3).start().unwrap(), |kafka| {
        let old = kafka.leader("numbers", 0).unwrap();
        kafka.kill(old);
        kafka.wait_for_leader_other_than(old, "numbers", 0);
        kafka.restart(old);
        kafka.wait_for_in_sync("numbers", 3);
        // The lead goes back to where it was, without anybody's end.
        kafka.tool("kafka-leader-election", &["--election-type", "preferred", "--all-topic-partitions"]);
    })
    .await;
}

/// For a moment the cluster has no brokers, and says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_its_cluster_took_for_dead_loses_and_repeats_nothing() {
    goes_through(Kafka::start().unwrap(), |kafka| {
        // Its controller may hear its next sign of life before it looks at the time.
        while !kafka.log(1).contains("Fencing broker 1") {
            kafka.pause(1);
            std::thread::sleep(Duration::from_secs(4));
            kafka.resume(1);
            std::thread::sleep(Duration::from_secs(1));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_says_that_the_broker_is_away_and_goes_on_when_it_is_back() {
    let kafka = Kafka::start().unwrap();
    kafka.create_topic("numbers", 1, &[]);
    let options = at(&kafka, "numbers", json!({"discover": "200ms"}));
    let mut reader = source(&options).await;
    tokio::task::block_in_place(|| kafka.kill(1));
    let error = tokio::time::timeout(Duration::from_secs(10), reader.next()).await.expect("a word").unwrap_err();
    assert!(error.facts().retry && error.message().contains("127.0.0.1") && error.hint_text().is_some(), "{error:?}");
    tokio::task::block_in_place(|| kafka.restart(1));
    let mut writer = sink(&at(&kafka, "numbers", json!({}))).await;
    writer.write(batch(&numbered(0, 10))).await.unwrap();
    writer.flush().await.unwrap();
    assert_eq!(collect(&mut *reader, 10).await.0.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_says_that_the_broker_is_away_and_keeps_memory_bounded() {
    let kafka = Kafka::start().unwrap();
    kafka.create_topic("numbers", 1, &[]);
    let component = components().into_iter().find(|component| component.role() == Role::Sink).unwrap();
    let Planner::Sink(plan) = component.planner else { unreachable!() };
    let options = at(&kafka, "numbers", json!({"buffer": "1MiB"}));
    let mut writer = plan(&options, &PlanContext::default()).unwrap().create().unwrap();
    writer.open(&[]).await.unwrap();
    tokio::task::block_in_place(|| kafka.kill(1));
    let big = || batch(&(0..100).map(|_| Record::new("x", vec![b'x'; 1000])).collect::<Vec<_>>());
    let refused = tokio::time::timeout(LONG, async {
        let mut accepted = 0;
        loop {
            match writer.write(big()).await {
                Ok(_) => accepted += 1,
                Err(error) => return (accepted, error),
            }
        }
    });
    let (accepted, error) = refused.await.expect("a word in time");
    assert!(accepted <= 11 && error.facts().retry, "{accepted} {error:?}");
    tokio::task::block_in_place(|| kafka.restart(1));
    let outcomes = tokio::time::timeout(LONG, writer.flush()).await.unwrap().unwrap();
    assert!(outcomes.rejected.is_empty() && outcomes.sequences.len() == accepted);
}

/// As after an election that lost records: the broker no longer knows what the producer wrote last, which ends it for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_has_ended_for_good_is_followed_by_another() {
    const EACH: usize = 2_000;
    let _kafka = started!(Kafka::shared());
    let (brokers, from) = (shared().bootstrap(), topic(2));
    let forgetful = MockCluster::new(1).unwrap();
    forgetful.create_topic("copy", 2, 1).unwrap();
    let far = forgetful.bootstrap_servers();
    // It is asked for the topic's limits, and does not answer.
    let sink = runs::at(&far, "copy", json!({"partition": "origin", "timeout": "1s"}));
    let spec = spec("numbers to copy", Delivery::AtLeastOnce, &runs::at(&brokers, &from, json!({})), &[sink]);
    let mut running = runs::run(&spec, &Memory::new());
    let handle = running.handle();
    for written in [0, EACH] {
        let records = runs::numbered_in(2, written..written + EACH);
        if written > 0 {
            assert_eq!(handle.status().restarts, 0);
            let forgotten = RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
            forgetful.request_errors(RDKafkaApiKey::Produce, &[forgotten]);
        }
        write_all(&from, json!({"partition": "origin"}), &records).await;
        let found = wait_while(&far, "copy", (written + EACH) * 2, || format!("{:?}", handle.status())).await;
        runs::repeats(&found, 2, written + EACH, "the copy");
    }
    assert_eq!(handle.status().restarts, 1);
    tokio::time::timeout(LONG, running.drain(Duration::from_secs(20))).await.expect("an end").unwrap();
}
