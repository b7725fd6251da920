//! What is told of the buffers in front of a pipeline's sinks.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use millstream_observe::{BufferReport, Observed, prometheus};
use millstream_testkit::{FakeSink, FakeSource};

use crate::{exposition::Exposition, observer, spec, start_with};

fn full(waiting: Option<f64>) -> BufferReport {
    BufferReport {
        pipeline: "orders".into(),
        sink: "out".into(),
        records: 7,
        bytes: 700,
        disk_bytes: 900,
        disk_bytes_max: 1000,
        fill: 0.9,
        oldest_age_seconds: Some(1.5),
        dropped: 3,
        waiting_seconds: waiting,
        waiting: waiting.map(|_| "the buffer of `out` is full: redis://:secret@host is slow".into()),
    }
}

#[tokio::test]
async fn buffers_are_told_with_every_figure_and_a_sink_that_waits_for_its_buffer_says_so() {
    let observer = observer();
    let now = Arc::new(Mutex::new(full(Some(2.0))));
    let read = now.clone();
    let with = |observed: Observed| {
        let read = move || vec![read.lock().unwrap().clone()];
        observed.with_buffers(Arc::new(read)).hiding(Arc::new(|text: &str| text.replace("secret", "***")))
    };
    let mut running = start_with(&observer, &spec("orders", &FakeSource::live(), &FakeSink::plain()), with);
    running.handle().started().await;
    let report = observer.report();
    let pipeline = &report.pipelines[0];
    let why = "the buffer of `out` is full: redis://:***@host is slow";
    assert_eq!(pipeline.buffers[0], BufferReport { waiting: Some(why.into()), ..full(Some(2.0)) });
    assert_eq!(pipeline.bottleneck, format!("everything waits: {why}"));
    let waits = |at: usize| pipeline.stages[at].waiting.as_deref();
    assert_eq!((waits(1), waits(2)), (None, Some("waiting for room in its buffer")));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["pipelines"][0]["buffers"][0]["oldest_age_seconds"], 1.5);

    let text = Exposition::parse(&prometheus::text(&report));
    let labels = [("pipeline", "orders"), ("sink", "out")];
    for (name, value) in [
        ("records", 7.0),
        ("bytes", 700.0),
        ("disk_bytes", 900.0),
        ("disk_bytes_max", 1000.0),
        ("fill_ratio", 0.9),
        ("oldest_age_seconds", 1.5),
        ("records_dropped_total", 3.0),
        ("waiting", 1.0),
    ] {
        assert_eq!(text.value(&format!("millstream_buffer_{name}"), &labels), value, "{name}");
    }
    *now.lock().unwrap() = full(None);
    let report = observer.report();
    assert_eq!(report.pipelines[0].stages[2].waiting, None);
    assert_eq!(Exposition::parse(&prometheus::text(&report)).value("millstream_buffer_waiting", &labels), 0.0);
    running.drain(Duration::from_secs(5)).await.unwrap();
}
