//! The server behind `--listen`.

use std::{net::SocketAddr, time::Duration};

use millstream_core::{Error, ErrorKind};
use millstream_observe::{
    Observer, Report,
    http::{Reach, Server},
    prometheus,
};
use millstream_testkit::{FakeSink, FakeSource};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

use crate::{exposition::Exposition, observer, spec, start, until};

struct Serving(SocketAddr, JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.1.abort();
    }
}

async fn serve(observer: &Observer) -> Serving {
    let server = Server::bind(SocketAddr::from(([127, 0, 0, 1], 0)), Reach::Loopback).await.unwrap();
    Serving(server.address(), tokio::spawn(server.serve(observer.clone())))
}

/// Asks as plainly as it can be done: head and body of the answer.
async fn ask(serving: &Serving, request: &str) -> (String, String) {
    let mut stream = TcpStream::connect(serving.0).await.unwrap();
    stream.write_all(format!("{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

async fn get(serving: &Serving, path: &str) -> (u16, String) {
    let (head, body) = ask(serving, &format!("GET {path}")).await;
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
}

#[tokio::test]
async fn metrics_are_what_prometheus_reads_and_what_happened() {
    let (source, sink) = (FakeSource::live(), FakeSink::plain());
    let observer = observer();
    let mut running = start(&observer, &spec("or\"d\\ers\n", &source, &sink));
    let serving = serve(&observer).await;
    (0..100).for_each(|number| source.push(None, number.to_string()));
    until("all records", || sink.values().len() == 100).await;
    running.handle().checkpoint().await.unwrap();

    let (head, body) = ask(&serving, "GET /metrics").await;
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
    let metrics = Exposition::parse(&body);
    let of = |stage| [("pipeline", "or\"d\\ers\n"), ("stage", stage)];
    assert_eq!(metrics.value("millstream_stage_records_in_total", &of("orders")), 100.0);
    assert_eq!(metrics.value("millstream_stage_records_out_total", &of("out")), 100.0);
    assert_eq!(metrics.value("millstream_stage_records_dead_total", &of("out")), 0.0);
    assert_eq!(metrics.value("millstream_stage_workers", &of("pass")), 1.0);
    assert!(metrics.value("millstream_stage_queue_batches_max", &of("out")) >= 1.0);
    assert_eq!(metrics.value("millstream_stage_info", &[("stage", "out"), ("role", "sink"), ("kind", "custom")]), 1.0);
    assert_eq!(metrics.value("millstream_pipeline_phase", &[("phase", "running")]), 1.0);
    assert_eq!(metrics.value("millstream_pipeline_phase", &[("phase", "over")]), 0.0);
    assert!(metrics.value("millstream_pipeline_epochs_total", &[]) >= 1.0);
    running.drain(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn counters_never_go_back_also_when_the_books_do() {
    let (source, sink) = (FakeSource::live(), FakeSink::truncating());
    let observer = observer();
    let mut spec = spec("orders", &source, &sink);
    spec.delivery = millstream_core::Delivery::ExactlyOnce;
    spec.checkpoint.every = "20ms".parse().unwrap();
    let mut running = start(&observer, &spec);
    (0..50).for_each(|number| source.push(None, number.to_string()));
    until("all records", || sink.committed() == 50).await;
    sink.fail_flushes([Error::new(ErrorKind::Unavailable, "the disk is full")]);
    source.push(None, "more");
    let read = || running.handle().status().stages["orders"].records_in;
    until("one more", || read() == 51).await;
    let before = Exposition::parse(&prometheus::text(&observer.report()));
    until("a restart", || running.handle().status().restarts > 0).await;
    until("all records again", || sink.committed() == 51).await;
    let after = Exposition::parse(&prometheus::text(&observer.report()));
    for (name, labels, value) in before.counters() {
        let labels: Vec<_> = labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert!(after.value(name, &labels) >= value, "{name} {labels:?}");
    }
    running.drain(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn the_status_is_the_report_as_json() {
    let (source, sink) = (FakeSource::live(), FakeSink::plain());
    let observer = observer();
    let mut running = start(&observer, &spec("orders", &source, &sink));
    running.handle().started().await;
    let serving = serve(&observer).await;
    let (code, body) = get(&serving, "/status").await;
    let report: Report = serde_json::from_str(&body).unwrap();
    assert_eq!((code, report.pid, report.pipelines.len()), (200, std::process::id(), 1));
    let pipeline = &report.pipelines[0];
    let reads: Vec<_> = pipeline.stages.iter().map(|stage| (stage.name.as_str(), stage.reads.join(","))).collect();
    assert_eq!(reads[..3], [("orders", String::new()), ("pass", "orders".into()), ("out", "pass".into())]);
    assert_eq!((pipeline.phase.as_str(), pipeline.delivery.as_str()), ("running", "at least once"));
    assert_eq!(pipeline.bottleneck, "nothing to do: no record has come of late");
    running.drain(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn ready_means_open_and_committing_in_time_and_healthy_means_alive() {
    let observer = Observer::new(Duration::from_millis(50), crate::steps::registry());
    let (source, sink) = (FakeSource::live(), FakeSink::plain());
    let serving = serve(&observer).await;
    assert_eq!(get(&serving, "/ready").await.0, 200, "nothing to wait for");
    let mut running = start(&observer, &spec("orders", &source, &sink));
    running.handle().started().await;
    until("running", || observer.report().pipelines[0].phase == "running").await;
    let (code, body) = get(&serving, "/ready").await;
    assert_eq!((code, body.as_str()), (200, "{\"ready\":true,\"reasons\":[]}\n"));

    sink.stall(true);
    source.push(None, "stuck");
    until("an old epoch", || observer.report().pipelines[0].unready.is_some()).await;
    let (code, body) = get(&serving, "/ready").await;
    assert_eq!(code, 503);
    assert!(body.contains("\"pipeline\":\"orders\"") && body.contains("no epoch has been committed"), "{body}");
    assert_eq!(get(&serving, "/health").await, (200, "ok\n".to_owned()), "slow is not dead");

    sink.stall(false);
    until("the epoch", || observer.report().pipelines[0].unready.is_none()).await;
    assert_eq!(get(&serving, "/ready").await.0, 200);
    running.drain(Duration::from_secs(5)).await.unwrap();
    assert_eq!(get(&serving, "/ready").await.0, 200, "over is not unready");
    observer.failed("orders", &Error::new(ErrorKind::Unavailable, "the disk is gone"));
    let (code, body) = get(&serving, "/ready").await;
    assert!(code == 503 && body.contains("failed: the disk is gone"), "{body}");
}

#[tokio::test]
async fn a_pipeline_that_cannot_open_its_sink_is_not_ready_and_says_why() {
    let (source, sink) = (FakeSource::live(), FakeSink::plain());
    let observer = observer();
    sink.fail_writes((0..1000).map(|_| Error::new(ErrorKind::Unavailable, "connection refused")));
    source.push(None, "first");
    let running = start(&observer, &spec("orders", &source, &sink));
    let waits = |report: Report| report.pipelines[0].stages.iter().any(|stage| stage.waiting.is_some());
    until("waiting for the sink", || waits(observer.report())).await;
    let report = observer.report();
    assert!(report.pipelines[0].bottleneck.starts_with("nothing moves: `out` is waiting"), "{report:?}");
    running.handle().stop();
}

#[tokio::test]
async fn only_reading_is_answered_and_nonsense_is_survived() {
    let observer = observer();
    let serving = serve(&observer).await;
    let (head, _) = ask(&serving, "POST /metrics").await;
    assert!(head.starts_with("HTTP/1.1 405") && head.to_lowercase().contains("allow: get, head"), "{head}");
    let (head, body) = ask(&serving, "HEAD /health").await;
    assert!(head.starts_with("HTTP/1.1 200") && body.is_empty(), "{head}{body}");
    assert_eq!(get(&serving, "/").await.0, 404);
    assert_eq!(get(&serving, "/metrics/../../etc/passwd").await.0, 404);
    for nonsense in [&b"\0\xff\xfe nonsense\r\n\r\n"[..], &[b'a'; 1 << 20][..]] {
        let mut stream = TcpStream::connect(serving.0).await.unwrap();
        // The server may have closed it before all is written.
        let _ = stream.write_all(nonsense).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(get(&serving, "/health").await.0, 200);
}
