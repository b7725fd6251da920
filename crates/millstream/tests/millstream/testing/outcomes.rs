//! What is told of a record, and in which shapes.

use std::time::Duration;

use millstream::{
    Delivery, ErrorKind, Pipeline, Timestamp,
    testing::{Given, Test},
};

use super::{Order, copy, order, orders, retry, started};

#[tokio::test]
async fn a_record_is_delivered_left_out_or_a_dead_letter() {
    let test = started(&orders(), "orders").await;
    test.record("orders", order(1, 12.5)).await.unwrap().expect_delivered("charged").equals(&[order(1, 12.5)]);
    test.record("orders", order(2, 0.0)).await.unwrap().expect_filtered();
    let dead = test.record("orders", order(3, 2e6)).await.unwrap();
    let letter = dead.expect_dead("charge", ErrorKind::Data);
    assert_eq!((letter.causes[0].as_str(), letter.attempts, dead.sequence()), ("too much", 1, 2));
    test.record("orders", "no order").await.unwrap().expect_dead("json", ErrorKind::Decode);
    let books = test.finish().await.unwrap();
    books.delivered("charged").equals(&[order(1, 12.5)]);
    assert_eq!(books.dead_letters().len(), 2);
    assert_eq!((books.stage("orders").records_in, books.stage("filter").filtered, books.dead()), (4, 1, 2));
}

#[tokio::test]
async fn a_batch_has_an_outcome_for_each_of_its_records_in_their_order() {
    let test = started(&orders(), "orders").await;
    let outcomes = test.batch("orders", [order(0, 1.0), order(1, 0.0), order(2, 2e6), order(3, 4.0)]).await.unwrap();
    outcomes[0].expect_delivered("charged").equals(&[order(0, 1.0)]);
    outcomes[1].expect_filtered();
    outcomes[2].expect_dead("charge", ErrorKind::Data);
    outcomes[3].expect_delivered("charged").equals(&[order(3, 4.0)]);
    let books = test.finish().await.unwrap();
    assert_eq!(books.stage("orders").batches, 1);
}

#[tokio::test]
async fn everything_that_is_made_of_a_record_is_told_at_every_sink() {
    let pipeline = Pipeline::new("words");
    let lines = pipeline.source("file:book.txt").name("book").text();
    let words = lines.clone().flat_map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
    let (short, long) = words.branch(|word| word.len() < 4);
    short.to_text().sink("file:short").name("short");
    long.to_text().sink("file:long").name("long");
    lines.drop().name("lines");
    let test = started(&pipeline, "book").await;
    test.record("book", "something else").await.unwrap().expect_delivered("long").equals_texts(&["something", "else"]);
    let outcome = test.record("book", "an old song").await.unwrap();
    outcome.expect_delivered("short").equals_texts(&["an", "old"]);
    outcome.expect_delivered("long").equals_texts(&["song"]);
    assert_eq!(outcome.sinks(), ["lines", "long", "short"]);
    assert_eq!(outcome.delivered("lines").len(), 1);
    test.finish().await.unwrap();
}

#[tokio::test]
async fn a_record_that_waits_is_told_with_its_failure_and_later_with_its_end() {
    let pipeline = Pipeline::new("retries");
    let numbers = pipeline.source("file:n").name("in").json::<u64>();
    let tried = numbers.try_map(|n: &u64| if *n == 0 { Err(super::away()) } else { Ok(*n) }).name("try");
    tried.on_error(retry(2, Duration::from_secs(60))).to_json().sink("file:out").name("out");
    let test = started(&pipeline, "in").await;
    let outcome = test.record("in", 0u64).await.unwrap();
    outcome.expect_waiting();
    let failed = &outcome.failures()[0];
    assert_eq!((failed.stage.as_str(), failed.kind, failed.attempts), ("try", ErrorKind::Unavailable, 1));
    test.record("in", 1u64).await.unwrap().expect_delivered("out");
    test.advance(Duration::from_secs(118)).await.unwrap();
    test.latest(&outcome).await.unwrap().expect_waiting();
    test.advance(Duration::from_secs(3)).await.unwrap();
    let outcome = test.latest(&outcome).await.unwrap();
    assert_eq!((outcome.expect_dead("try", ErrorKind::Unavailable).attempts, outcome.failures().len()), (3, 3));
    test.finish().await.unwrap();
}

#[tokio::test]
async fn a_record_that_a_rule_drops_counts_as_left_out_and_tells_its_failure() {
    let pipeline = orders().on_error(millstream::ErrorRule::any().then(millstream::Then::Drop));
    let test = started(&pipeline, "orders").await;
    let outcome = test.record("orders", order(1, 2e6)).await.unwrap();
    outcome.expect_filtered();
    assert_eq!(outcome.failures()[0].message, "too much");
    assert_eq!(test.finish().await.unwrap().stage("charge").dropped, 1);
}

#[tokio::test]
async fn keys_headers_times_and_tombstones_go_through() {
    let test = started(&copy(), "in").await;
    let given = Given::bytes("v").key("k").header("h", "1").header("n", 7).time(Timestamp::from_millis(5));
    let delivered = test.record("in", given).await.unwrap().expect_delivered("out");
    assert_eq!((delivered.keys(), delivered.header("h")), (vec![Some("k".to_owned())], vec![Some("1".to_owned())]));
    assert_eq!(delivered.header("n"), [Some("7".to_owned())]);
    assert_eq!(delivered.records()[0].time, Some(Timestamp::from_millis(5)));
    let gone = test.record("in", Given::tombstone().key("k")).await.unwrap().expect_delivered("out");
    assert_eq!(gone.bytes(), [None]);
    test.finish().await.unwrap();
}

#[tokio::test]
async fn sources_of_bytes_take_text_and_bytes_as_they_are_and_values_as_json() {
    let test = started(&copy(), "in").await;
    test.record("in", "a text").await.unwrap().expect_delivered("out").equals_texts(&["a text"]);
    test.record("in", "a string".to_owned()).await.unwrap().expect_delivered("out").equals_texts(&["a string"]);
    test.record("in", vec![0xffu8]).await.unwrap();
    test.record("in", order(1, 2.0)).await.unwrap().expect_delivered("out").equals(&[order(1, 2.0)]);
    test.record("in", serde_json::json!({"a": 1})).await.unwrap().expect_delivered("out").equals_texts(&[r#"{"a":1}"#]);
    let all = test.delivered("out").unwrap();
    assert_eq!((all.bytes()[2], all.len()), (Some(&[0xffu8][..]), 5));
    test.finish().await.unwrap();
}

#[tokio::test]
async fn typed_sources_take_their_values_and_what_reads_as_one() {
    let pipeline = Pipeline::new("typed");
    let orders = pipeline.values(vec![order(9, 9.0)]).name("orders").map(|order| order.id);
    let names = pipeline.values(vec!["x".to_owned()]).name("names").map(|name| name.len() as u64);
    orders.merge(names).drop().name("out");
    let test = Test::of(&pipeline).source("orders").source("names").start().await.unwrap();
    test.record("orders", order(1, 1.5)).await.unwrap().expect_delivered("out").equals(&[1u64]);
    let json = serde_json::json!({"id": 2, "total": 0.5});
    test.record("orders", json).await.unwrap().expect_delivered("out").equals(&[2u64]);
    test.record("names", "four").await.unwrap().expect_delivered("out").equals(&[4u64]);
    let wrong = test.record("orders", "no order").await.unwrap_err().chain();
    assert!(
        wrong.contains("cannot give a record to `orders`") && wrong.contains("Order") && wrong.contains("str"),
        "{wrong}"
    );
    let books = test.finish().await.unwrap();
    books.delivered("out").equals(&[1u64, 2, 4]);
}

#[tokio::test]
async fn values_that_json_cannot_say_are_read_back_as_values() {
    let pipeline = Pipeline::new("odd");
    type Odd = std::collections::BTreeMap<(u8, u8), u8>;
    pipeline.values(Vec::<Odd>::new()).name("in").drop().name("out");
    let test = started(&pipeline, "in").await;
    let odd = Odd::from([((1, 2), 3)]);
    // As it is, without a detour by JSON.
    test.record("in", odd.clone()).await.unwrap().expect_delivered("out").equals(&[odd]);
    test.finish().await.unwrap();
}

#[tokio::test]
async fn records_of_an_at_most_once_pipeline_have_their_outcome_too() {
    let test = started(&orders().delivery(Delivery::AtMostOnce), "orders").await;
    test.record("orders", order(1, 1.0)).await.unwrap().expect_delivered("charged");
    test.record("orders", order(2, 0.0)).await.unwrap().expect_filtered();
    test.finish().await.unwrap();
}

#[tokio::test]
async fn state_that_is_told_at_the_end_is_in_the_books() {
    let pipeline = Pipeline::new("totals");
    let orders = pipeline.values(Vec::<Order>::new()).name("orders").key_by(|order| order.id);
    let totals = orders.fold("totals", |sum: &mut f64, order| *sum += order.total, |_, sum| *sum);
    totals.to_json().sink("file:totals").name("totals-out");
    let test = started(&pipeline, "orders").await;
    test.batch("orders", [order(1, 1.0), order(1, 2.0), order(2, 5.0)]).await.unwrap()[0].expect_waiting();
    let books = test.finish().await.unwrap();
    books.delivered("totals-out").equals_unordered(&[5.0, 3.0]);
}
