//! A whole program as somebody writes it who has read the book, and its test.

use std::{fmt, time::Duration};

use millstream::{prelude::*, testing::Test};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sale {
    shop: String,
    total: u64,
}

#[derive(Debug)]
enum TaxError {
    Closed,
    Unknown(String),
}

impl fmt::Display for TaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TaxError::Closed => f.write_str("the office is closed"),
            TaxError::Unknown(shop) => write!(f, "nobody knows `{shop}`"),
        }
    }
}

impl std::error::Error for TaxError {}

fn taxed(sale: &Sale) -> Result<Sale, TaxError> {
    match sale.shop.as_str() {
        "" => Err(TaxError::Closed),
        "pirate" => Err(TaxError::Unknown(sale.shop.clone())),
        _ => Ok(Sale { total: sale.total * 2, ..sale.clone() }),
    }
}

/// Lines to taxed sales: the small ones are summed up by shop, the large ones booked in batches.
fn sales(lines: Vec<String>) -> Pipeline {
    let pipeline = Pipeline::new("sales")
        .in_memory()
        .classify(|error: &TaxError| match error {
            TaxError::Closed => ErrorKind::Unavailable,
            TaxError::Unknown(_) => ErrorKind::Rejected,
        })
        .on_error(ErrorRule::of(Class::Unavailable).retry(Retry::times(2)));
    let lines = pipeline.values(lines).name("lines");
    let taxed = lines.json::<Sale>().name("read").try_map(taxed).name("tax");
    let [small, large] = taxed.route(["small", "large"], |sale| if sale.total < 100 { "small" } else { "large" });
    let show = |shop: &[u8], sum: &u64| format!("{}={sum}", String::from_utf8_lossy(shop));
    small
        .key_by(|sale| sale.shop.clone())
        .fold("sums", |sum: &mut u64, sale| *sum += sale.total, show)
        .to_text()
        .sink("file:sums.txt")
        .name("out");
    large
        .batch(Batching::count(10).linger(Duration::from_secs(60)))
        .handle(|sales| async move { sales.iter().map(|sale| Ok::<_, Error>(sale.total)).collect::<Vec<_>>() })
        .name("book")
        .to_json()
        .sink("file:booked.ndjson")
        .name("booked");
    pipeline
}

#[tokio::test]
async fn a_whole_program_is_tested_as_it_is() {
    let test = Test::of(&sales(Vec::new())).source("lines").start().await.unwrap();
    let line = |shop: &str, total: u64| format!(r#"{{"shop":"{shop}","total":{total}}}"#);

    test.record("lines", "{").await.unwrap().expect_dead("read", ErrorKind::Decode);
    test.record("lines", line("pirate", 1)).await.unwrap().expect_dead("tax", ErrorKind::Rejected);
    let closed = test.record("lines", line("", 1)).await.unwrap();
    closed.expect_waiting();
    test.advance(Duration::from_secs(10)).await.unwrap();
    test.latest(&closed).await.unwrap().expect_dead("tax", ErrorKind::Unavailable);

    let large = test.record("lines", line("north", 70)).await.unwrap();
    large.expect_waiting();
    test.advance(Duration::from_secs(60)).await.unwrap();
    test.latest(&large).await.unwrap().expect_delivered("booked").equals(&[140u64]);

    test.batch("lines", [line("north", 3), line("south", 4), line("north", 5)]).await.unwrap();
    let books = test.finish().await.unwrap();
    let mut sums: Vec<String> = books.delivered("out").texts();
    sums.sort();
    assert_eq!((sums, books.stage("tax").dead), (vec!["north=16".to_owned(), "south=8".to_owned()], 2));
}
