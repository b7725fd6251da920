use std::time::Duration;

use millstream_observe::{Report, prometheus};
use millstream_testkit::{FakeSink, FakeSource};

use crate::{exposition::Exposition, observer, spec, start, until};

#[tokio::test]
async fn what_a_paused_source_has_not_read_is_its_lag() {
    let (source, sink) = (FakeSource::live().telling_lag(), FakeSink::plain());
    let observer = observer();
    let mut running = start(&observer, &spec("orders", &source, &sink));
    running.handle().started().await;
    running.handle().pause();
    until("paused", || observer.report().pipelines[0].phase == "paused").await;
    (0..7).for_each(|number| source.push(None, number.to_string()));
    let lag = |report: &Report, stage: usize| report.pipelines[0].stages[stage].lag.and_then(|lag| lag.records);
    until("the lag", || lag(&observer.report(), 0) == Some(7)).await;
    let report = observer.report();
    assert_eq!(lag(&report, 2), None, "a sink has none");
    let text = prometheus::text(&report);
    assert_eq!(Exposition::parse(&text).value("millstream_stage_lag_records", &[("stage", "orders")]), 7.0);
    assert!(!text.contains("millstream_stage_lag_bytes{"), "nobody counts bytes");
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["pipelines"][0]["stages"][0]["lag"], serde_json::json!({"records": 7, "bytes": null}));
    assert_eq!(lag(&serde_json::from_value(json).unwrap(), 0), Some(7));
    running.handle().resume();
    until("nothing left", || lag(&observer.report(), 0) == Some(0)).await;
    running.drain(Duration::from_secs(5)).await.unwrap();
}
