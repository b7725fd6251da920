//! The figures pushed to an OpenTelemetry collector: OTLP over HTTP, in its JSON form.
//!
//! Set up by the variables that OpenTelemetry defines:
//!
//! | variable | meaning |
//! |---|---|
//! | `OTEL_EXPORTER_OTLP_METRICS_ENDPOINT` | where to, such as `http://localhost:4318/v1/metrics` |
//! | `OTEL_EXPORTER_OTLP_ENDPOINT` | the same without the path |
//! | `OTEL_EXPORTER_OTLP_HEADERS` | `name=value,name=value` |
//! | `OTEL_METRIC_EXPORT_INTERVAL` | milliseconds, 60000 by default |
//! | `OTEL_SERVICE_NAME` | `millstream` by default |
//!
//! Only `http:`, for a collector on the same machine or network; what needs TLS goes through it.

use std::{
    pin::pin,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Uri,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use millstream_core::{Error, ErrorKind, Result};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::MissedTickBehavior};

use crate::{figures, observer::Observer, report::Report};

/// OpenTelemetry's default.
const EVERY: Duration = Duration::from_secs(60);
/// OpenTelemetry's default for one export.
const EXPORT_WITHIN: Duration = Duration::from_secs(10);

/// Pushes figures.
#[derive(Clone, Debug)]
pub struct Exporter {
    endpoint: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    every: Duration,
    service: String,
    began: SystemTime,
}

impl Exporter {
    /// As the process's environment says; `None` where it names no collector.
    pub fn from_environment() -> Result<Option<Self>> {
        Exporter::from_variables(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// As these variables say.
    pub fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let whole = get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT");
        let base =
            || get("OTEL_EXPORTER_OTLP_ENDPOINT").map(|base| format!("{}/v1/metrics", base.trim_end_matches('/')));
        let Some(endpoint) = whole.or_else(base) else { return Ok(None) };
        let wrong = |what: &str| Error::new(ErrorKind::Option, format!("cannot export to OpenTelemetry: {what}"));
        let endpoint: Uri = endpoint.parse().map_err(|_| wrong(&format!("`{endpoint}` is no URL")))?;
        if endpoint.scheme_str() != Some("http") || endpoint.host().is_none() {
            return Err(wrong(&format!("`{endpoint}` is no http: URL")).hint("export to a collector nearby"));
        }
        let every = match get("OTEL_METRIC_EXPORT_INTERVAL") {
            None => EVERY,
            Some(text) => match text.parse() {
                Ok(milliseconds @ 1..) => Duration::from_millis(milliseconds),
                _ => return Err(wrong(&format!("`{text}` are no milliseconds"))),
            },
        };
        let headers = get("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default();
        let headers = headers.split(',').filter(|pair| !pair.trim().is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=')?;
            Some((name.trim().parse().ok()?, value.trim().parse().ok()?))
        });
        // Their values may be secret.
        let headers = headers.collect::<Option<_>>().ok_or_else(|| wrong("a header is not `name=value`"))?;
        let service = get("OTEL_SERVICE_NAME").unwrap_or_else(|| "millstream".to_owned());
        Ok(Some(Exporter { endpoint, headers, every, service, began: SystemTime::now() }))
    }

    /// Exports for ever. What cannot be exported is told in the log; the next export has all of it.
    pub async fn run(self, observer: Observer) {
        let mut ticks = tokio::time::interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            ticks.tick().await;
            let exported = tokio::time::timeout(EXPORT_WITHIN, self.export(&observer.report())).await;
            let exported = exported.unwrap_or_else(|_| Err(self.cannot("no answer")));
            if let Err(error) = &exported
                && !failing
            {
                tracing::warn!(error = %error.chain(), "no figures are exported for now");
            }
            failing = exported.is_err();
        }
    }

    /// Exports once.
    pub async fn export(&self, report: &Report) -> Result<()> {
        let lost = |error: hyper::Error| self.cannot("the connection broke").caused_by(error);
        let authority = self.endpoint.authority().map(ToString::to_string).unwrap_or_default();
        let address = (self.endpoint.host().unwrap_or_default(), self.endpoint.port_u16().unwrap_or(80));
        let stream = TcpStream::connect((address.0.trim_matches(['[', ']']), address.1)).await;
        let stream = stream.map_err(|error| self.cannot("no connection").caused_by(error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let path = self.endpoint.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder().method(Method::POST).uri(path);
        request = request.header(HOST, authority).header(CONTENT_TYPE, "application/json");
        request = self.headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        let body = Full::new(Bytes::from(self.body(report, SystemTime::now()).to_string()));
        let request = request.body(body).map_err(|error| self.cannot("no request").caused_by(error))?;
        let (mut answer, mut connection) = (pin!(sender.send_request(request)), pin!(connection));
        // The connection is driven only until the answer is there; it may be closed right behind it.
        let answer = tokio::select! {
            answer = &mut answer => answer,
            ended = &mut connection => {
                ended.map_err(lost)?;
                answer.await
            }
        };
        let answer = answer.map_err(lost)?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            status => Err(self.cannot(&format!("the answer is {status}"))),
        }
    }

    fn cannot(&self, why: &str) -> Error {
        Error::new(ErrorKind::Unavailable, format!("cannot export figures to {}: {why}", self.endpoint))
    }

    /// The request's body.
    fn body(&self, report: &Report, now: SystemTime) -> Value {
        let metrics = figures::all(report).into_iter().map(|metric| {
            let counts = metric.name.ends_with("_total");
            let points = metric.samples.iter().map(|(labels, value)| {
                let labels = labels.iter().map(|(label, value)| attribute(label, value));
                json!({
                    "attributes": labels.collect::<Value>(),
                    "startTimeUnixNano": nanoseconds(self.began),
                    "timeUnixNano": nanoseconds(now),
                    "asDouble": value,
                })
            });
            let points = points.collect::<Value>();
            let (name, unit) = name_and_unit(metric.name);
            match counts {
                // 2: cumulative, since the start.
                true => json!({
                    "name": name, "description": metric.help, "unit": unit,
                    "sum": { "aggregationTemporality": 2, "isMonotonic": true, "dataPoints": points },
                }),
                false => json!({
                    "name": name, "description": metric.help, "unit": unit, "gauge": { "dataPoints": points },
                }),
            }
        });
        let resource = [
            attribute("service.name", &self.service),
            attribute("service.version", &report.version),
            attribute("process.pid", &report.pid.to_string()),
        ];
        json!({ "resourceMetrics": [{
            "resource": { "attributes": resource },
            "scopeMetrics": [{
                "scope": { "name": "millstream", "version": report.version },
                "metrics": metrics.collect::<Value>(),
            }],
        }] })
    }
}

fn attribute(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

/// 64 bits are a text in this form of JSON.
fn nanoseconds(at: SystemTime) -> String {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}

/// `stage_busy_seconds_total` is `millstream.stage.busy` in `s`: units have a field of their own.
fn name_and_unit(name: &str) -> (String, &'static str) {
    let bare = name.strip_suffix("_total").unwrap_or(name);
    let (bare, unit) = match bare.strip_suffix("_seconds") {
        Some(bare) => (bare, "s"),
        None if bare.contains("bytes") => (bare, "By"),
        None => (bare, "1"),
    };
    (format!("millstream.{}", bare.replacen('_', ".", 1)), unit)
}

#[cfg(test)]
mod tests;
