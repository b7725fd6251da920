//! Batches by a key that the records bring along: each tenant has a batch of its own, with its own timer.
//!
//! ```text
//! cargo run --release --example keyed_batches
//! ```

use std::time::Duration;

use millstream::prelude::*;
use tokio::sync::mpsc::unbounded_channel;

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Event {
    tenant: String,
    id: u32,
}

#[tokio::main]
async fn main() -> Result<()> {
    // Nobody has told the pipeline which tenants there are.
    let tenants = ["ada", "ada", "bob", "ada", "eve", "ada", "ada", "eve", "bob", "ada", "eve", "ada"];
    let events = tenants.iter().zip(1..).map(|(tenant, id)| Event { tenant: (*tenant).to_owned(), id });
    let (done, mut handled) = unbounded_channel();

    let pipeline = Pipeline::new("keyed-batches").in_memory();
    pipeline
        .values(events)
        .batch(Batching::count(3).linger(Duration::from_secs(10)).key(|event: &Event| event.tenant.clone()))
        .handle(move |batch| {
            let done = done.clone();
            async move {
                let tenant = String::from_utf8_lossy(batch.key().unwrap_or_default());
                let ids: Vec<u32> = batch.iter().map(|event| event.id).collect();
                done.send(format!("{tenant} {ids:?}, closed by {}", batch.trigger())).map_err(|_| "nobody listens")
            }
        })
        .name("by tenant")
        .drop();
    pipeline.run().await?;

    let mut lines: Vec<String> = std::iter::from_fn(|| handled.try_recv().ok()).collect();
    lines.sort();
    lines.iter().for_each(|line| println!("{line}"));
    Ok(())
}
