//! Values of a type of your own through a pipeline that parts, waits for a service and batches.
//!
//! ```text
//! cargo run --release --example orders
//! ```

use std::time::Duration;

use millstream::prelude::*;

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Order {
    customer: String,
    total: f64,
}

async fn charge(order: Order) -> Result<Order> {
    Ok(order)
}

async fn insert(orders: &[Order]) -> Result<()> {
    println!("{} small orders", orders.len());
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let pipeline = Pipeline::new("orders").in_memory();
    let orders = pipeline.source("file:examples/data/orders.ndjson").json::<Order>();
    let (large, small) = orders.filter(|order| order.total > 0.0).branch(|order| order.total > 1000.0);
    // Orders of a customer one after the other, those of different customers beside each other.
    large
        .partition_by(|order| order.customer.clone())
        .map_async(charge)
        .concurrency(4)
        .in_flight(100)
        .timeout(Duration::from_secs(5))
        .name("charge")
        .drop();
    // Up to a hundred together, and none waits longer than a second.
    small
        .batch(Batching::count(100).linger(Duration::from_secs(1)))
        .handle(|orders| async move { insert(&orders).await })
        .name("insert")
        .drop();
    let summary = pipeline.run().await?;
    println!("{} large ones charged", summary.stages["charge"].records_out);
    Ok(())
}
