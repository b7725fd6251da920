//! Connections that damage what goes through them, and that are slow.

use std::time::{Duration, Instant};

use millstream_core::{Error, Event, Resume, Source};
use millstream_testkit::{
    servers::{Flow, Proxy, Redis},
    started,
};
use serde_json::{Value, json};

use crate::support::*;

const RECORDS: usize = 400;

fn through(proxy: &Proxy, mut more: Value) -> Value {
    more["url"] = format!("redis://{}", proxy.address()).into();
    more["timeout"] = "1s".into();
    more
}

/// Tries until it is done, or told for good why not; whatever it was, it takes no longer than that.
async fn told<T>(mut work: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    tokio::time::timeout(PATIENCE, work()).await.expect("neither done nor told why not")
}

/// Reads so many values, or what there is before an error for good.
async fn read(source: &mut dyn Source, count: usize) -> Vec<String> {
    let mut got = Vec::new();
    told(async || {
        while got.len() < count {
            match source.next().await {
                Ok(Event::Batch(read)) => got.extend(values(&read.batch)),
                Ok(Event::End) => return None,
                Ok(_) => {}
                Err(error) if error.facts().retry => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => {
                    assert!(!error.message().is_empty());
                    return None;
                }
            }
        }
        Some(())
    })
    .await;
    got
}

/// RESP has no checksum: a value may come out wrong, or an id, and with it where reading goes on. Whatever byte it is, reading and
/// writing come to an end or say why not, the rest is as it was written, and what is read through another connection is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_byte_ends_in_an_error_or_a_new_connection_and_never_in_a_hang() {
    let redis = started!(Redis::shared());
    let proxy = Proxy::start(&redis.address());
    let k = key();
    fill(redis, &k, 0..RECORDS).await;
    let written = numbered(0..RECORDS);
    for byte in [0, 1, 2, 3, 5, 8, 40, 333, 1_200, 4_096, 9_999] {
        for more in [json!({"stream": k}), json!({"stream": k, "group": {"name": "g"}})] {
            let mut source = plan_source(&through(&proxy, more.clone())).unwrap().create().unwrap();
            let opened = told(async || Some(source.open(&until_end()).await)).await.unwrap();
            if opened.is_ok() {
                proxy.corrupt(Flow::ToClient, byte);
                let got = read(&mut *source, RECORDS).await;
                let strange = got.iter().filter(|value| !written.contains(value)).count();
                assert!(strange <= 1, "one byte was damaged, and {strange} values were never written");
            }
            drop(source);
            proxy.heal();
            redis.cli(&["XGROUP", "DESTROY", &k, "g"]);
        }
        let mut sink =
            plan_sink(&through(&proxy, json!({"stream": format!("{k}:damaged:{byte}")}))).unwrap().create().unwrap();
        if told(async || Some(sink.open(&[]).await)).await.unwrap().is_ok() {
            proxy.corrupt(Flow::ToServer, byte);
            told(async || {
                let _ = sink.write(value_batch(0..50)).await;
                // Outcomes, a refusal or an error: each is an answer.
                let _ = sink.flush().await;
                Some(())
            })
            .await;
        }
        proxy.heal();
    }
    let mut whole = source_at(redis, json!({"stream": k}), until_end()).await;
    assert_eq!(all(&mut *whole).await, written);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_connection_is_only_slow() {
    let redis = started!(Redis::shared());
    let proxy = Proxy::start(&redis.address());
    let (k, since) = (key(), Instant::now());
    proxy.limit(Some(16 << 10));
    proxy.delay(Duration::from_millis(20));
    let mut sink = plan_sink(&through(&proxy, json!({"stream": k, "timeout": "10s"}))).unwrap().create().unwrap();
    sink.open(&[]).await.unwrap();
    sink.write(value_batch(0..RECORDS)).await.unwrap();
    let outcomes = tokio::time::timeout(PATIENCE, sink.flush()).await.expect("outcomes in time").unwrap();
    assert!(outcomes.rejected.is_empty(), "{outcomes:?}");
    let mut source = plan_source(&through(&proxy, json!({"stream": k, "timeout": "10s"}))).unwrap().create().unwrap();
    source.open(&until_end()).await.unwrap();
    assert_eq!(all(&mut *source).await, numbered(0..RECORDS));
    assert!(since.elapsed() > Duration::from_secs(1), "{:?}", since.elapsed());
}

/// What a runtime hears that asks for no longer than that at a time.
async fn in_pieces(source: &mut dyn Source) -> Result<Event, Error> {
    let asked = told(async || {
        loop {
            if let Ok(heard) = tokio::time::timeout(Duration::from_millis(100), source.next()).await {
                return Some(heard);
            }
        }
    });
    asked.await.unwrap()
}

#[tokio::test]
async fn a_way_back_that_takes_longer_than_one_question_comes_to_its_end() {
    let redis = started!(Redis::shared());
    for more in [json!({}), json!({"group": "g"})] {
        let (proxy, k) = (Proxy::start(&redis.address()), key());
        fill(redis, &k, 0..1).await;
        let mut options = through(&proxy, more);
        options["stream"] = k.as_str().into();
        options["timeout"] = "500ms".into();
        let mut source = plan_source(&options).unwrap().create().unwrap();
        source.open(&Resume::default()).await.unwrap();
        take(&mut *source, 1).await;
        // Who does not answer is an error each time, so that somebody counts them.
        proxy.stall();
        proxy.cut();
        fill(redis, &k, 1..2).await;
        for _ in 0..2 {
            let error = in_pieces(&mut *source).await.unwrap_err();
            assert!(error.facts().retry, "{error:?}");
        }
        proxy.heal();
        proxy.delay(Duration::from_millis(60));
        let read = loop {
            match in_pieces(&mut *source).await {
                Ok(Event::Batch(read)) => break read,
                Ok(_) => {}
                Err(error) => assert!(error.facts().retry, "{error:?}"),
            }
        };
        assert_eq!(values(&read.batch), ["v1"]);
    }
}
