//! What a test of a pipeline can do: one behaviour each.

#![cfg(feature = "testing")]

mod messages;
mod outcomes;
mod program;
mod swaps;
mod time;
mod trouble;

use std::time::Duration;

use millstream::{Error, ErrorKind, ErrorRule, Pipeline, Retry, testing::Test};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
    total: f64,
}

fn order(id: u64, total: f64) -> Order {
    Order { id, total }
}

/// What a program runs: reads orders, leaves out those without a total, charges the others; real systems at both ends.
fn orders() -> Pipeline {
    let pipeline = Pipeline::new("orders");
    let charge = |order: &Order| if order.total < 1e6 { Ok(order.clone()) } else { Err("too much") };
    let orders = pipeline.source("kafka://nowhere/orders").name("orders").json::<Order>();
    let charged = orders.filter(|order| order.total > 0.0).try_map(charge).name("charge");
    charged.to_json().sink("kafka://nowhere/charged").name("charged");
    pipeline
}

/// A pipeline that writes down what it reads.
fn copy() -> Pipeline {
    let pipeline = Pipeline::new("copy");
    pipeline.source("file:in.txt").name("in").sink("file:out.txt").name("out");
    pipeline
}

fn retry(attempts: u32, delay: Duration) -> ErrorRule {
    ErrorRule::any().retry(Retry::times(attempts).delay(delay).backoff(1.0).jitter(0.0))
}

fn away() -> Error {
    Error::new(ErrorKind::Unavailable, "not now")
}

async fn started(pipeline: &Pipeline, source: &str) -> Test {
    Test::of(pipeline).source(source).start().await.unwrap()
}

/// What a panic of this says.
fn panic_of(call: impl FnOnce()) -> String {
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).expect_err("it panics");
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap()
}
