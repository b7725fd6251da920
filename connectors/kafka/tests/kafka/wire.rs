//! Connections that damage what goes through them, that are slow, and that let nothing through.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use millstream_core::{Error, ErrorKind, Event, Record, Resume, SeekTo, Sink, Source};
use millstream_testkit::{
    servers::{Flow, Kafka, Listener},
    started,
};
use serde_json::json;

use crate::{runs::at, support::*};

const RECORDS: usize = 60;
/// So large that a byte somewhere is almost always one of a value.
const BYTES: usize = 50 << 10;

/// The value of a number: a damaged one is none.
fn value(number: usize) -> Vec<u8> {
    let mut value = format!("{number}:").into_bytes();
    value.resize(BYTES, b'a' + (number % 26) as u8);
    value
}

fn large() -> Vec<Record> {
    (0..RECORDS).map(|number| Record::new("test", value(number))).collect()
}

/// Reads until every number came; how often each did. No value is other than it was written.
async fn numbers(source: &mut dyn Source, told: &mut Vec<Error>) -> BTreeMap<usize, usize> {
    let mut seen = BTreeMap::new();
    while seen.len() < RECORDS {
        match event(source).await {
            Ok(Event::Batch(read)) => {
                for record in read.batch.iter() {
                    let got = record.value().unwrap();
                    let number: usize = got
                        .split(|byte| *byte == b':')
                        .next()
                        .map(|number| String::from_utf8_lossy(number).parse().unwrap())
                        .unwrap();
                    assert!(got == value(number), "the value of {number} was damaged");
                    *seen.entry(number).or_default() += 1;
                }
            }
            Ok(Event::End) => panic!("the end after {seen:?}"),
            Ok(_) => {}
            Err(error) => {
                let retry = error.facts().retry;
                told.push(error);
                if !retry {
                    source.open(&Resume::default()).await.unwrap();
                }
            }
        }
    }
    seen
}

async fn writes(sink: &mut dyn Sink) {
    for record in large() {
        while let Err(error) = sink.write(batch(std::slice::from_ref(&record))).await {
            assert!(error.facts().retry, "{error:?}");
        }
    }
    let outcomes = tokio::time::timeout(LONG * 2, sink.flush()).await.expect("outcomes in time").unwrap();
    assert!(outcomes.rejected.is_empty(), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_connection_damages_delays_or_holds_back_is_read_and_written_as_it_was() {
    let kafka = started!(Kafka::setup().patient().proxied().start());
    let (bootstrap, proxy) = (kafka.bootstrap_of(Listener::Proxied), kafka.proxy(1));
    let sink_of = |topic: &str, more| sink_plan(&at(&bootstrap, topic, more)).unwrap().create().unwrap();
    let source_of = |topic: &str, more| source_plan(&at(&bootstrap, topic, more)).unwrap().create().unwrap();

    // Records that are read.
    kafka.create_topic("numbers", 1, &[]);
    let mut sink = sink_of("numbers", json!({"batch": {"bytes": "60000B"}}));
    sink.open(&[]).await.unwrap();
    writes(&mut *sink).await;
    let mut source = source_of("numbers", json!({"prefetch": "1MiB"}));
    source.open(&Resume::default()).await.unwrap();
    let mut told = Vec::new();
    for round in 0..6 {
        // Once it goes to the beginning, all of it comes again.
        proxy.corrupt(Flow::ToClient, 100_003 + round * 150_007);
        source.seek(&SeekTo::Beginning, None).await.unwrap();
        let seen = numbers(&mut *source, &mut told).await;
        assert!(seen.values().all(|count| *count == 1), "round {round}: {seen:?}");
    }
    assert!(told.iter().any(|error| error.message().contains("damaged") && error.facts().retry), "{told:?}");

    // Records that are written.
    kafka.create_topic("written", 1, &[]);
    let mut writer = sink_of("written", json!({"batch": {"bytes": "60000B"}}));
    writer.open(&[]).await.unwrap();
    proxy.corrupt(Flow::ToServer, 200_003);
    writes(&mut *writer).await;
    let mut written = source_of("written", json!({}));
    written.open(&Resume::default()).await.unwrap();
    assert!(numbers(&mut *written, &mut Vec::new()).await.values().all(|count| *count == 1));

    // Slow, and that is all.
    proxy.limit(Some(1 << 20));
    proxy.delay(Duration::from_millis(10));
    let since = Instant::now();
    source.seek(&SeekTo::Beginning, None).await.unwrap();
    let mut told = Vec::new();
    assert!(numbers(&mut *source, &mut told).await.values().all(|count| *count == 1));
    writes(&mut *sink).await;
    assert!(told.is_empty() && since.elapsed() > Duration::from_secs(4), "{:?} {told:?}", since.elapsed());
    proxy.heal();

    // Nothing goes through for longer than a delivery may take.
    let mut waiting = sink_of("numbers", json!({"delivery_timeout": "1s"}));
    waiting.open(&[]).await.unwrap();
    proxy.stall();
    waiting.write(batch(&values(0, 1))).await.unwrap();
    let error = tokio::time::timeout(LONG, waiting.flush()).await.expect("a word in time").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.facts().retry && error.message().contains("numbers"), "{error:?}");
    proxy.heal();
}
