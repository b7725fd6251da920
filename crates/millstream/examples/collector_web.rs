//! A web server whose answers can be relied on: 202 when the order is committed, 503 when there is no room for it.
//!
//! ```text
//! cargo run --release --example collector_web -- 127.0.0.1:8080
//! curl -i -d '{"customer": "anna", "total": 12.5}' -H 'content-type: application/json' 127.0.0.1:8080/orders
//! ```
//!
//! Orders go to standard output. `POST /pause` and `POST /resume` stop and start the pipeline behind the server. The second
//! argument says how many orders may wait to be read.

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use millstream::{Collector, CollectorOptions, prelude::*};

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Order {
    customer: String,
    total: f64,
}

async fn take(State(orders): State<Collector<Order>>, Json(order): Json<Order>) -> (StatusCode, String) {
    let receipt = match orders.try_push_with_receipt(order) {
        Ok(receipt) => receipt,
        Err((error, _)) => return (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    };
    match receipt.await {
        Ok(_) => (StatusCode::ACCEPTED, "committed\n".to_owned()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let records_max = arguments.next().map_or(Ok(10_000), |most| most.parse())?;

    let pipeline = Pipeline::new("collector-web").in_memory();
    let (collector, orders) =
        pipeline.collector::<Order>(CollectorOptions { records_max, ..CollectorOptions::default() });
    orders.filter(|order| order.total > 0.0).to_json().sink_with("stdout", serde_json::json!({}));
    let mut running = pipeline.start()?;
    let (pause, resume) = (running.handle(), running.handle());

    let routes = Router::new()
        .route("/orders", post(take))
        .with_state(collector)
        .route("/pause", post(async move || pause.pause()))
        .route("/resume", post(async move || resume.resume()));
    let listener = tokio::net::TcpListener::bind(address).await?;
    eprintln!("listening on {}", listener.local_addr()?);
    let stopped = async {
        // Without a handler of its own the process ends by the signal.
        let _ = tokio::signal::ctrl_c().await;
    };
    // The last collector goes with the server: the pipeline delivers what was accepted, and ends.
    axum::serve(listener, routes).with_graceful_shutdown(stopped).await?;
    let summary = running.wait().await?;
    eprintln!("{} orders taken", summary.stages["collector"].records_in);
    Ok(())
}
