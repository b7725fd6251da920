//! Taps: records that pass a point.

use std::time::{Duration, Instant};

use millstream_core::{ErrorKind, Result};
use millstream_observe::control::{Ask, Client, LeftOut, Sight};
use millstream_testkit::{FakeSink, FakeSource, budget};
use serde_json::Value;

use crate::{control::Serving, observer, spec, start, until};

fn tap(point: &str) -> Ask {
    Ask::Tap { pipeline: None, point: point.to_owned(), r#where: None, count: None, rate: 1_000_000 }
}

/// What a tap shows until it ends: the values, and what is left out.
fn all(mut client: Client) -> Result<(Vec<String>, LeftOut)> {
    let (mut values, mut left_out) = (Vec::new(), LeftOut::default());
    while let Some(sight) = client.see()? {
        match sight {
            Sight::Record(record) => {
                let record: Value = serde_json::from_str(&record).unwrap();
                values.push(record["value"].as_str().unwrap().to_owned());
            }
            Sight::LeftOut(now) => left_out = now,
        }
    }
    Ok((values, left_out))
}

async fn try_open(serving: &Serving, ask: Ask) -> Result<Client> {
    let process = serving.0.clone();
    let opening = move || {
        let mut client = Client::connect(&process)?;
        client.tap(&ask)?;
        Ok(client)
    };
    tokio::task::spawn_blocking(opening).await.unwrap()
}

async fn open(serving: &Serving, ask: Ask) -> Client {
    try_open(serving, ask).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_of_a_slow_stream_is_seen_on_both_sides_of_a_stage() {
    let folder = tempfile::tempdir().unwrap();
    for point in ["orders", "pass.in", "pass", "pass.out", "out"] {
        let (source, sink) = (FakeSource::live(), FakeSink::plain());
        let observer = observer();
        let mut running = start(&observer, &spec("orders", &source, &sink));
        running.handle().started().await;
        let serving = Serving::at(folder.path(), &observer);
        let client = open(&serving, tap(point)).await;
        let reading = tokio::task::spawn_blocking(move || all(client));
        let pushed: Vec<String> = (0..20).map(|number| number.to_string()).collect();
        pushed.iter().for_each(|value| source.push(None, value.as_str()));
        until("all records", || sink.values() == pushed).await;
        running.drain(Duration::from_secs(5)).await.unwrap();
        let (values, left_out) = reading.await.unwrap().unwrap();
        assert_eq!((values, left_out), (pushed, LeftOut::default()), "at {point}");
        serving.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_chooses_and_stops_at_its_count() {
    let folder = tempfile::tempdir().unwrap();
    let (source, sink) = (FakeSource::live(), FakeSink::plain());
    let observer = observer();
    let running = start(&observer, &spec("orders", &source, &sink));
    running.handle().started().await;
    let serving = Serving::at(folder.path(), &observer);
    let ask = Ask::Tap {
        pipeline: Some("orders".into()),
        point: "pass".into(),
        r#where: Some("good".into()),
        count: Some(3),
        rate: 1_000_000,
    };
    let client = open(&serving, ask).await;
    let reading = tokio::task::spawn_blocking(move || all(client));
    let mut number = 0;
    until("the end of the tap", || {
        source.push(None, format!("bad {number}"));
        source.push(None, format!("good {number}"));
        source.push(None, format!("other {number}"));
        number += 1;
        reading.is_finished()
    })
    .await;
    let (values, left_out) = reading.await.unwrap().unwrap();
    assert_eq!(values.len(), 3);
    assert!(values.iter().all(|value| value.starts_with("good ")), "{values:?}");
    assert!(left_out.failed > 0 && left_out.failure.unwrap().contains("cannot look into `bad"));
    running.handle().stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wishes_that_cannot_be_met_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let observer = observer();
    let running = start(&observer, &spec("orders", &FakeSource::live(), &FakeSink::plain()));
    let serving = Serving::at(folder.path(), &observer);
    let with = |point: &str, r#where: Option<&str>, rate| Ask::Tap {
        pipeline: None,
        point: point.into(),
        r#where: r#where.map(str::to_owned),
        count: None,
        rate,
    };
    for (ask, kind) in [
        (with("pasta", None, 1), ErrorKind::Option),
        (with("orders.in", None, 1), ErrorKind::Option),
        (with("pass", Some("open ("), 1), ErrorKind::Syntax),
        (with("pass", None, 0), ErrorKind::Option),
    ] {
        let error = try_open(&serving, ask.clone()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{ask:?}: {error:?}");
    }
    running.handle().stop();
}

/// A tap whose reader is away for the whole time costs the pipeline nothing but what it leaves out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tap_that_nobody_reads_holds_nobody_up() {
    let records = budget(30_000, 2_000_000);
    let folder = tempfile::tempdir().unwrap();
    let (source, sink) = (FakeSource::of((0..records).map(|number| number.to_string())), FakeSink::plain());
    let observer = observer();
    sink.stall(true);
    let mut running = start(&observer, &spec("orders", &source, &sink));
    running.handle().started().await;
    let serving = Serving::at(folder.path(), &observer);
    let client = open(&serving, tap("pass")).await;
    sink.stall(false);
    let began = Instant::now();
    let summary = running.wait().await.unwrap();
    assert_eq!((summary.stages["out"].records_out, sink.values().len()), (records, records as usize));
    let took = began.elapsed();
    let (values, left_out) = tokio::task::spawn_blocking(move || all(client)).await.unwrap().unwrap();
    let seen = values.len() as u64 + left_out.records;
    assert!(seen <= records, "{seen} of {records} in {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beyond_its_rate_a_tap_leaves_out_and_says_how_much() {
    let folder = tempfile::tempdir().unwrap();
    let (source, sink) = (FakeSource::live().in_batches_of(10), FakeSink::plain());
    let observer = observer();
    let mut running = start(&observer, &spec("orders", &source, &sink));
    running.handle().started().await;
    let serving = Serving::at(folder.path(), &observer);
    let client =
        open(&serving, Ask::Tap { pipeline: None, point: "pass".into(), r#where: None, count: None, rate: 5 }).await;
    let reading = tokio::task::spawn_blocking(move || all(client));
    let began = Instant::now();
    let mut pushed = 0u64;
    until("a second and a half", || {
        source.push(None, pushed.to_string());
        pushed += 1;
        began.elapsed() > Duration::from_millis(1500)
    })
    .await;
    running.drain(Duration::from_secs(5)).await.unwrap();
    let seconds = began.elapsed().as_secs() + 2;
    let (values, left_out) = reading.await.unwrap().unwrap();
    assert!(!values.is_empty() && values.len() as u64 <= 5 * seconds, "{} in {seconds} s", values.len());
    assert!(left_out.records > 0 && left_out.records + values.len() as u64 <= pushed, "{left_out:?} of {pushed}");
}
