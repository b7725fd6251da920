use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::report::{PipelineReport, StageReport, Totals};

fn exporter(pairs: &'static [(&'static str, &'static str)]) -> Result<Option<Exporter>> {
    Exporter::from_variables(|name| {
        pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    })
}

fn report() -> Report {
    let totals = Totals { records_in: 7, busy_ns: 1_500_000_000, ..Totals::default() };
    let stage =
        StageReport { name: "charge".into(), role: "step".into(), workers: 2, totals, ..StageReport::default() };
    let pipeline = PipelineReport { name: "orders".into(), stages: vec![stage], ..PipelineReport::default() };
    Report { pid: 1, version: "1.2.3".into(), pipelines: vec![pipeline] }
}

#[test]
fn the_environment_says_where_to() {
    assert!(exporter(&[]).unwrap().is_none());
    let by_base = exporter(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318/")]).unwrap().unwrap();
    assert_eq!((by_base.endpoint.to_string().as_str(), by_base.every), ("http://localhost:4318/v1/metrics", EVERY));
    for wrong in [
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "https://far/")][..],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost")],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://near"), ("OTEL_METRIC_EXPORT_INTERVAL", "0")],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://near"), ("OTEL_EXPORTER_OTLP_HEADERS", "token")],
    ] {
        let found = Exporter::from_variables(|name| {
            wrong.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        });
        assert_eq!(found.unwrap_err().kind(), ErrorKind::Option, "{wrong:?}");
    }
}

#[tokio::test]
async fn a_collector_gets_what_the_protocol_says() {
    let collector = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}/v1/metrics", collector.local_addr().unwrap());
    let get = move |name: &str| match name {
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT" => Some(endpoint.clone()),
        "OTEL_EXPORTER_OTLP_HEADERS" => Some("x-token=abc, x-team = b".to_owned()),
        _ => None,
    };
    let exporter = Exporter::from_variables(get).unwrap().unwrap();
    let collect = async {
        let (mut stream, _) = collector.accept().await.unwrap();
        let mut request = Vec::new();
        let body = loop {
            stream.read_buf(&mut request).await.unwrap();
            let text = String::from_utf8(request.clone()).unwrap();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            if let Ok(body) = serde_json::from_str::<Value>(body) {
                assert!(head.starts_with("POST /v1/metrics HTTP/1.1\r\n"), "{head}");
                assert!(head.contains("x-token: abc") && head.contains("x-team: b"), "{head}");
                assert!(head.contains("content-type: application/json"), "{head}");
                break body;
            }
        };
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").await.unwrap();
        body
    };
    let all = report();
    let (body, exported) = tokio::join!(collect, exporter.export(&all));
    exported.unwrap();
    let metrics = body["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].as_array().unwrap();
    let metric = |name: &str| metrics.iter().find(|metric| metric["name"] == name).unwrap();
    let busy = metric("millstream.stage.busy");
    assert_eq!((&busy["unit"], &busy["sum"]["isMonotonic"]), (&json!("s"), &json!(true)));
    let point = &busy["sum"]["dataPoints"][0];
    assert_eq!(point["asDouble"], 1.5);
    assert_eq!(point["attributes"][1], json!({ "key": "stage", "value": { "stringValue": "charge" } }));
    assert!(point["timeUnixNano"].as_str().unwrap().parse::<u64>().unwrap() > 1_600_000_000_000_000_000);
    assert_eq!(metric("millstream.stage.records_in")["sum"]["dataPoints"][0]["asDouble"], 7.0);
    assert_eq!(metric("millstream.stage.workers")["gauge"]["dataPoints"][0]["asDouble"], 2.0);
    let service = &body["resourceMetrics"][0]["resource"]["attributes"][0];
    assert_eq!(service, &json!({ "key": "service.name", "value": { "stringValue": "millstream" } }));
}

#[tokio::test]
async fn a_collector_that_refuses_is_an_error() {
    let collector = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", collector.local_addr().unwrap());
    let get = |name: &str| (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| endpoint.clone());
    let exporter = Exporter::from_variables(get).unwrap().unwrap();
    let refuse = async {
        let (mut stream, _) = collector.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        stream.write_all(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        stream
    };
    let all = report();
    let (_stream, refused) = tokio::join!(refuse, exporter.export(&all));
    assert!(refused.unwrap_err().message().contains("503"));
    drop(collector);
    assert_eq!(exporter.export(&all).await.unwrap_err().kind(), ErrorKind::Unavailable);
}
