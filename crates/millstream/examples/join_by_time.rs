//! Two streams joined by time: each order with what its customer had clicked on in the ten minutes before.
//!
//! ```text
//! cargo run --release --example join_by_time
//! ```
//!
//! It is put together from `merge`, `key_by` and `fold`: the state of a customer keeps both sides, and is joined when both
//! inputs have ended. So the answer does not depend on which of them is read faster, and it is right after a crash, too: the
//! state is in the checkpoint. But it is a join of inputs that end, and it keeps all that it has seen until then. For streams
//! without an end it is the wrong tool.

use millstream::prelude::*;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::unbounded_channel;

/// How long a click may lie before an order.
const WITHIN_MINUTES: u32 = 10;

/// Minute, customer, page.
type Click = (u32, &'static str, &'static str);
/// Minute, customer, article.
type Order = (u32, &'static str, &'static str);

const CLICKS: [Click; 6] = [
    (0, "ada", "lamps"),
    (3, "bob", "books"),
    (4, "ada", "news"),
    (9, "ada", "books"),
    (20, "bob", "pens"),
    (31, "ada", "pens"),
];
const ORDERS: [Order; 4] = [(5, "ada", "lamp"), (12, "ada", "book"), (25, "bob", "pen"), (41, "eve", "pen")];

/// A record of one of the two streams.
#[derive(Clone, Serialize, Deserialize)]
enum Event {
    Click { minute: u32, page: String },
    Order { minute: u32, article: String },
}

/// What is known of a customer.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Sides {
    clicks: Vec<(u32, String)>,
    orders: Vec<(u32, String)>,
}

impl Sides {
    fn add(&mut self, event: &Event) {
        match event.clone() {
            Event::Click { minute, page } => self.clicks.push((minute, page)),
            Event::Order { minute, article } => self.orders.push((minute, article)),
        }
    }

    fn join(&self, customer: &str) -> Vec<(u32, String)> {
        let clicked = |at: u32| {
            let near = self.clicks.iter().filter(move |(minute, _)| *minute <= at && at - minute <= WITHIN_MINUTES);
            near.map(|(_, page)| page.as_str()).collect::<Vec<_>>()
        };
        let joined = |(at, article): &(u32, String)| {
            (*at, format!("minute {at:>2}: {customer} orders a {article} after {:?}", clicked(*at)))
        };
        self.orders.iter().map(joined).collect()
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let (done, mut joined) = unbounded_channel();
    let pipeline = Pipeline::new("join-by-time").in_memory();
    let clicks = CLICKS.map(|(minute, who, page)| (who.to_owned(), Event::Click { minute, page: page.to_owned() }));
    let orders =
        ORDERS.map(|(minute, who, article)| (who.to_owned(), Event::Order { minute, article: article.to_owned() }));
    pipeline
        .values(clicks)
        .merge(pipeline.values(orders))
        .key_by(|(customer, _)| customer.clone())
        .fold(
            "join",
            |sides: &mut Sides, (_, event)| sides.add(event),
            |customer, sides| sides.join(&String::from_utf8_lossy(customer)),
        )
        .flat_map(|orders| orders.clone())
        .for_each(move |order| std::future::ready(done.send(order).map_err(|_| "nobody listens")));
    pipeline.run().await?;
    // Customers come in any order.
    let mut lines: Vec<(u32, String)> = std::iter::from_fn(|| joined.try_recv().ok()).collect();
    lines.sort();
    lines.iter().for_each(|(_, line)| println!("{line}"));
    Ok(())
}
