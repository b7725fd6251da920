//! Orders of a shop: decoded, checked, priced by one look-up for many, charged with retries. What fails for good is kept with
//! its cause, and printed at the end.
//!
//! ```text
//! cargo run --release --example order_pipeline
//! ```

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use millstream::prelude::*;

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Order {
    id: u32,
    customer: String,
    article: String,
    count: u32,
}

/// One query for all the orders that come together.
async fn prices(_orders: Vec<Order>) -> Result<BTreeMap<&'static str, u32>> {
    Ok(BTreeMap::from([("book", 25), ("lamp", 60), ("pen", 2)]))
}

/// A bank that does not answer its first two callers, and knows eve.
async fn charge(calls: Arc<AtomicU32>, (order, price): (Order, u32)) -> Result<String> {
    let failed = |kind, message| Err(Error::new(kind, message));
    match order.customer.as_str() {
        "eve" => failed(ErrorKind::Rejected, "the card has expired"),
        "kim" => failed(ErrorKind::Unavailable, "kim's bank is closed"),
        "bob" if calls.fetch_add(1, Ordering::Relaxed) < 2 => failed(ErrorKind::Unavailable, "no answer"),
        customer => Ok(format!("order {}: {customer} pays {price}", order.id)),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // Only what another try can help is tried again: three times, after 10 ms, 20 ms, 40 ms.
    let again = ErrorRule::of(Class::Unavailable).retry(Retry::times(3).delay(Duration::from_millis(10)));
    let calls = Arc::new(AtomicU32::new(0));

    let pipeline = Pipeline::new("order-pipeline").in_memory();
    pipeline
        .source("file:examples/data/shop.ndjson")
        .json::<Order>()
        .try_map(|order| if order.count > 0 { Ok(order.clone()) } else { Err("an order of nothing") })
        .name("check")
        .prepare(prices)
        .map(|order, prices| match prices.get(order.article.as_str()) {
            Some(price) => Ok((order.clone(), price * order.count)),
            None => Err(format!("there is no article `{}`", order.article)),
        })
        .name("price")
        // Orders of a customer in order. One that waits for another try holds up that customer only.
        .partition_by(|(order, _)| order.customer.clone())
        .map_async(move |order| charge(calls.clone(), order))
        .concurrency(2)
        .timeout(Duration::from_secs(5))
        .on_error(again)
        .name("charge")
        // Together again, and printed in one piece.
        .batch(Batching::open())
        .handle(|receipts| async move {
            let mut receipts = receipts.into_values();
            receipts.sort();
            receipts.iter().for_each(|receipt| println!("{receipt}"));
        })
        .name("print")
        .concurrency(1)
        .drop();
    let summary = pipeline.run().await?;

    println!("{} dead letters", summary.dead());
    let mut letters = pipeline.dead_letters()?;
    letters.sort_by_key(|letter| letter.record.sequence);
    for letter in letters {
        let (stage, code, attempts) = (letter.stage, letter.code, letter.attempts);
        let why = letter.causes.first().map_or("", String::as_str);
        println!("`{stage}` gave up with {code} after {attempts} attempts: {why}");
    }
    Ok(())
}
