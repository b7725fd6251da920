//! Order for each key: the bookings of an account one after the other, those of different accounts beside each other.
//!
//! ```text
//! cargo run --release --example keyed_order
//! ```

use std::{collections::BTreeMap, time::Duration};

use millstream::prelude::*;
use tokio::sync::mpsc::unbounded_channel;

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Booking {
    account: String,
    nth: u32,
}

#[tokio::main]
async fn main() -> Result<()> {
    let accounts = ["ada", "bob", "eve", "joe", "kim"];
    let bookings = (1..=8).flat_map(|nth| accounts.map(|account| Booking { account: account.to_owned(), nth }));
    let (done, mut booked) = unbounded_channel();

    let pipeline = Pipeline::new("keyed-order").in_memory();
    pipeline
        .values(bookings)
        .partition_by(|booking| booking.account.clone())
        .for_each(move |booking| {
            let done = done.clone();
            async move {
                // The first ones take the longest: without a key, the later ones would overtake them.
                tokio::time::sleep(Duration::from_millis(20 / u64::from(booking.nth))).await;
                done.send(booking).map_err(|_| "nobody listens")
            }
        })
        .concurrency(4)
        .in_flight(100)
        .unordered()
        .name("book");
    pipeline.run().await?;

    let mut order = BTreeMap::<String, Vec<u32>>::new();
    while let Ok(booking) = booked.try_recv() {
        order.entry(booking.account).or_default().push(booking.nth);
    }
    for (account, bookings) in order {
        println!("{account} {bookings:?}");
    }
    Ok(())
}
