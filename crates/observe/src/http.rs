//! The HTTP server behind `--listen`.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | figures in Prometheus' text format |
//! | `/status` | the same and more as JSON: a [`Report`](crate::Report) |
//! | `/health` | 200 while the process answers at all |
//! | `/ready` | 200 when all pipelines are open and commit their epochs in time, else 503; JSON with the reasons |
//!
//! It only tells, and changes nothing: steering is the control socket's.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use millstream_core::{Error, ErrorKind, Result};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{observer::Observer, prometheus};

/// Connections at once; more wait until one is closed. Collectors keep one each.
const CONNECTIONS_MAX: usize = 64;
/// A request's head must be there in this time, also the next one's on a connection that is kept.
const HEAD_WITHIN: Duration = Duration::from_secs(90);
/// Waiting after the system has refused a connection, for lack of descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether other machines can reach an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Only this machine: other addresses are refused.
    Loopback,
    /// Whoever can reach the address.
    Anyone,
}

/// A bound address that answers nothing yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

/// Reads `9100`, `:9100`, `localhost:9100`, `127.0.0.1:9100`, `[::1]:9100`; without a host it is 127.0.0.1.
pub fn address(text: &str) -> Result<SocketAddr> {
    let text = text.trim();
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    numeric.parse().map_err(|_| {
        Error::new(ErrorKind::Option, format!("`{text}` is no address to listen on"))
            .hint("write a port, or `127.0.0.1:9100`; port 0 takes a free one")
    })
}

impl Server {
    /// Takes an address. Needs a tokio runtime.
    pub async fn bind(address: SocketAddr, reach: Reach) -> Result<Self> {
        if reach == Reach::Loopback && !address.ip().is_loopback() {
            let message = format!("cannot listen on {address}: other machines could read the figures there");
            return Err(Error::new(ErrorKind::Option, message)
                .hint("listen on 127.0.0.1, or add --listen-public if they shall"));
        }
        let cannot = |error| Error::io(format!("cannot listen on {address}"), error);
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        Ok(Server { listener, address })
    }

    /// Where it listens, with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers for ever. Dropping the future closes the address and all connections.
    pub async fn serve(self, observer: Observer) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            // Never closed.
            let Ok(place) = room.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                // Only to forget those that are over.
                Some(_) = connections.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    let observer = observer.clone();
                    connections.spawn(async move {
                        connection(stream, observer).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(address = %self.address, %error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, observer: Observer) {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&observer, request.method(), request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection for figures ended early");
    }
}

fn answer(observer: &Observer, method: &Method, path: &str) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut answer = response(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET and HEAD\n".into());
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    const JSON: &str = "application/json";
    match path {
        "/metrics" => response(StatusCode::OK, prometheus::CONTENT_TYPE, prometheus::text(&observer.report())),
        "/status" => {
            response(StatusCode::OK, JSON, serde_json::to_string(&observer.report()).unwrap_or_default() + "\n")
        }
        "/health" => response(StatusCode::OK, "text/plain", "ok\n".into()),
        "/ready" => {
            let report = observer.report();
            let reasons = report.pipelines.iter().filter_map(|pipeline| {
                pipeline.unready.as_ref().map(|reason| json!({ "pipeline": pipeline.name, "reason": reason }))
            });
            let reasons: Vec<_> = reasons.collect();
            let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            response(status, JSON, json!({ "ready": reasons.is_empty(), "reasons": reasons }).to_string() + "\n")
        }
        _ => response(StatusCode::NOT_FOUND, "text/plain", "there are /metrics, /status, /health, /ready\n".into()),
    }
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_that_people_type() {
        for text in ["9100", ":9100", "localhost:9100", "127.0.0.1:9100"] {
            assert_eq!(address(text).unwrap(), SocketAddr::from(([127, 0, 0, 1], 9100)), "{text}");
        }
        assert!(address("[::1]:9100").unwrap().ip().is_loopback());
        for text in ["", "example", "127.0.0.1", "70000", "a:b", "localhost:http"] {
            assert_eq!(address(text).unwrap_err().kind(), ErrorKind::Option, "{text}");
        }
    }

    #[tokio::test]
    async fn what_others_could_reach_must_be_wanted() {
        let anywhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let error = Server::bind(anywhere, Reach::Loopback).await.unwrap_err();
        assert!(error.hint_text().unwrap().contains("--listen-public"), "{error:?}");
        assert!(Server::bind(anywhere, Reach::Anyone).await.is_ok());
    }
}
