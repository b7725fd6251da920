//! Servers that die, stop and come back; connections that break.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use millstream_core::{Batch, Sink};
use millstream_testkit::{
    budget,
    servers::{Flow, Proxy, Redis},
    started,
};
use serde_json::{Value, json};

use crate::support::*;

fn through(proxy: &Proxy, mut more: Value) -> Value {
    more["url"] = format!("redis://{}", proxy.address()).into();
    more["timeout"] = "1s".into();
    more
}

/// Writes and asks for outcomes as the runtime does: again after what can be tried again.
async fn write(sink: &mut dyn Sink, batch: Batch) {
    loop {
        match sink.write(batch.clone()).await {
            Ok(_) => break,
            Err(error) if error.facts().retry => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error:?}"),
        }
    }
}

async fn flush(sink: &mut dyn Sink) {
    loop {
        match sink.flush().await {
            Ok(outcomes) => {
                assert!(outcomes.rejected.is_empty(), "{:?}", outcomes.rejected);
                break;
            }
            Err(error) if error.facts().retry => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Every value is there, the first copies in order; how many copies there are.
fn at_least_once(got: &[String], expected: usize) -> usize {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut firsts = Vec::new();
    for value in got {
        let count = seen.entry(value).or_default();
        *count += 1;
        if *count == 1 {
            firsts.push(value.clone());
        }
    }
    assert_eq!(firsts, numbered(0..expected));
    got.len() - expected
}

#[tokio::test]
async fn connections_cut_in_the_middle_of_writes_lose_nothing() {
    let redis = started!(Redis::shared());
    let proxy = Proxy::start(&redis.address());
    let k = key();
    let mut sink = plan_sink(&through(&proxy, json!({"stream": k}))).unwrap().create().unwrap();
    sink.open(&[]).await.unwrap();
    for i in 0..40 {
        match i % 4 {
            1 => proxy.cut_after(Flow::ToServer, 5_000 + i as u64 * 37),
            3 => proxy.cut_after(Flow::ToClient, 500 + i as u64 * 11),
            _ => {}
        }
        write(&mut *sink, value_batch(i * 500..(i + 1) * 500)).await;
        if i % 5 == 4 {
            flush(&mut *sink).await;
        }
    }
    flush(&mut *sink).await;
    let mut source = source_at(redis, json!({"stream": k}), until_end()).await;
    let copies = at_least_once(&all(&mut *source).await, 20_000);
    // A cut repeats at most what was not flushed.
    assert!(copies <= 20 * 5 * 500, "{copies} copies");
}

#[tokio::test]
async fn who_wrote_hears_which_records_may_be_there_twice() {
    let redis = started!(Redis::shared());
    let proxy = Proxy::start(&redis.address());
    let k = key();
    let mut sink = plan_sink(&through(&proxy, json!({"stream": k}))).unwrap().create().unwrap();
    sink.open(&[]).await.unwrap();
    sink.write(value_batch(0..100)).await.unwrap();
    assert!(sink.flush().await.unwrap().repeated.is_empty());
    // Twenty are answered, and all are written.
    proxy.cut_after(Flow::ToClient, 20 * "$15\r\n1700000000000-0\r\n".len() as u64);
    let write = sink.write(value_batch(100..200)).await.unwrap();
    let repeated = sink.flush().await.unwrap().repeated;
    let mut source = source_at(redis, json!({"stream": k}), until_end()).await;
    let got = all(&mut *source).await;
    let twice = (0..200).filter(|i| got.iter().filter(|value| **value == format!("v{i}")).count() == 2);
    let told: BTreeSet<usize> = repeated.iter().map(|(_, row)| 100 + *row as usize).collect();
    assert!(repeated.iter().all(|(of, _)| *of == write) && (50..100).contains(&told.len()), "{repeated:?}");
    assert!(twice.eq(told), "{repeated:?}");
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_has_everything() {
    let redis = started!(Redis::setup().persistent().start());
    let mut sink = plan_sink(&options(&redis, json!({"stream": "k", "timeout": "1s"}))).unwrap().create().unwrap();
    sink.open(&[]).await.unwrap();
    let mut source = source(&redis, json!({"stream": "k", "timeout": "1s"})).await;
    let mut got = Vec::new();
    for i in 0..12 {
        write(&mut *sink, value_batch(i * 500..(i + 1) * 500)).await;
        if i % 4 == 2 {
            // With writes under way.
            redis.restart();
        }
        flush(&mut *sink).await;
        let begun = got.len();
        while got.len() < begun + 500 {
            got.extend(values(&next_again(&mut *source).await.unwrap().batch));
        }
    }
    let mut bounded = source_at(&redis, json!({"stream": "k"}), until_end()).await;
    let stored = all(&mut *bounded).await;
    at_least_once(&stored, 6000);
    while got.len() < stored.len() {
        got.extend(values(&next_again(&mut *source).await.unwrap().batch));
    }
    // The reader repeats nothing, whatever the writer did.
    assert_eq!(got, stored);
}

#[tokio::test]
async fn a_server_that_stands_still_is_waited_for() {
    let redis = started!(Redis::start());
    let mut sink = plan_sink(&options(&redis, json!({"stream": "k", "timeout": "300ms"}))).unwrap().create().unwrap();
    sink.open(&[]).await.unwrap();
    let group = json!({"stream": "k", "timeout": "300ms", "group": {"name": "g", "member": "m"}});
    let mut source = source(&redis, group).await;
    write(&mut *sink, value_batch(0..1000)).await;
    flush(&mut *sink).await;
    let mut got = Vec::new();
    while got.len() < 1000 {
        got.extend(values(&next_again(&mut *source).await.unwrap().batch));
    }
    redis.pause();
    write(&mut *sink, value_batch(1000..2000)).await;
    let error = tokio::time::timeout(PATIENCE, sink.flush()).await.unwrap().unwrap_err();
    assert!(error.facts().retry && error.hint_text().is_some(), "{error:?}");
    // The commit is kept for later.
    let position = source.position().unwrap();
    source.commit(&position, None).await.unwrap();
    redis.resume();
    flush(&mut *sink).await;
    let mut pieces = 0;
    // What had been on its way when the server stood still may come twice.
    while !got.contains(&"v1999".to_owned()) {
        got.extend(values(&next_again(&mut *source).await.unwrap().batch));
        pieces += 1;
        assert!(pieces < 1000);
    }
    at_least_once(&got, 2000);
    let position = source.position().unwrap();
    source.commit(&position, None).await.unwrap();
    source.close().await.unwrap();
    assert!(redis.cli(&["XPENDING", "k", "g"]).starts_with('0'));
}

/// How long a server stands still: more with MILLSTREAM_LONG.
fn pause() -> Duration {
    Duration::from_secs(budget(5, 30))
}

#[tokio::test]
async fn a_pause_far_beyond_all_timeouts_loses_nothing_while_the_input_goes_on() {
    let redis = started!(Redis::start());
    let options = options(&redis, json!({"stream": "k", "timeout": "500ms", "in_flight": "64KiB"}));
    let mut sink = plan_sink(&options).unwrap().create().unwrap();
    sink.open(&[]).await.unwrap();
    write(&mut *sink, value_batch(0..1000)).await;
    flush(&mut *sink).await;
    let mut source = source(&redis, json!({"stream": "k", "timeout": "500ms"})).await;
    assert_eq!(take(&mut *source, 1000).await, numbered(0..1000));
    redis.pause();
    let until = tokio::time::Instant::now() + pause();
    // Both go on trying, as the runtime would; what was accepted stays accepted.
    let mut accepted = 1000;
    while tokio::time::Instant::now() < until {
        if sink.write(value_batch(accepted..accepted + 100)).await.is_ok() {
            accepted += 100;
        }
        if let Ok(Ok(event)) = tokio::time::timeout(Duration::from_millis(100), source.next()).await {
            panic!("{event:?} of a server that stands still");
        }
    }
    redis.resume();
    flush(&mut *sink).await;
    let mut got = numbered(0..1000);
    let last = format!("v{}", accepted - 1);
    while !got.contains(&last) {
        got.extend(values(&next_again(&mut *source).await.unwrap().batch));
    }
    at_least_once(&got, accepted);
}

#[tokio::test]
async fn a_reader_whose_connection_breaks_repeats_nothing_and_misses_nothing() {
    let redis = started!(Redis::shared());
    let proxy = Proxy::start(&redis.address());
    for group in [false, true] {
        let k = key();
        fill(redis, &k, 0..20_000).await;
        let mut more = json!({"stream": k, "batch": {"count": 100}});
        if group {
            more["group"] = json!({"name": "g", "member": "m"});
        }
        let mut source = plan_source(&through(&proxy, more)).unwrap().create().unwrap();
        source.open(&Default::default()).await.unwrap();
        let mut got = Vec::new();
        let mut round = 0u64;
        while got.len() < 20_000 {
            round += 1;
            match round % 20 {
                3 => proxy.cut_after(Flow::ToClient, 1000 + round * 13),
                11 => proxy.reset(),
                _ => {}
            }
            let read = next_again(&mut *source).await.unwrap();
            got.extend(values(&read.batch));
            // What was handed out on connections that broke counts as handed out.
            if round.is_multiple_of(7) || read.alone {
                let position = source.position().unwrap();
                source.commit(&position, None).await.unwrap();
            }
        }
        proxy.heal();
        if group {
            // What was handed out on a connection that broke comes later, but once.
            let mut sorted: Vec<usize> = got.iter().map(|value| value[1..].parse().unwrap()).collect();
            sorted.sort();
            assert_eq!(sorted, (0..20_000).collect::<Vec<_>>());
            let position = source.position().unwrap();
            source.commit(&position, None).await.unwrap();
            source.close().await.unwrap();
            assert!(redis.cli(&["XPENDING", &k, "g"]).starts_with('0'));
        } else {
            assert_eq!(got, numbered(0..20_000));
        }
    }
}

#[tokio::test]
async fn memory_stays_flat_while_nobody_takes_records() {
    let redis = started!(Redis::shared());
    let k = key();
    let mut sink = sink(redis, json!({"stream": k})).await;
    for _ in 0..20 {
        let big: Vec<_> = (0..10).map(|_| millstream_core::Record::new("in", vec![b'x'; 100_000])).collect();
        sink.write(batch(&big)).await.unwrap();
    }
    sink.flush().await.unwrap();
    let proxy = Proxy::start(&redis.address());
    let mut source = plan_source(&through(&proxy, json!({"stream": k}))).unwrap().create().unwrap();
    source.open(&Default::default()).await.unwrap();
    next_read(&mut *source).await.unwrap();
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let passed = proxy.passed(Flow::ToClient);
        if passed == before {
            break;
        }
        before = passed;
    }
    // Some answers of a batch's size each.
    assert!(before < 8_000_000, "{before} bytes are held");
    let mut rest = 0;
    source.seek(&millstream_core::SeekTo::Beginning, None).await.unwrap();
    while rest < 200 {
        rest += next_read(&mut *source).await.unwrap().batch.len();
    }
}
