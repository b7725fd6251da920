//! `route`.

use millstream_core::{ErrorKind, Form};
use serde_json::json;

use crate::support::{context, plan, refused, run};

#[test]
fn the_first_match_wins() {
    let to = json!({"to": {"big": ".total > 1000", "small": ".total > 10"}});
    let outcome = run("route", to, Form::Json, [r#"{"total":2000}"#, r#"{"total":20}"#, r#"{"total":2}"#, "{}"]);
    assert_eq!(outcome.values(0), [r#"{"total":2000}"#]);
    assert_eq!(outcome.values(1), [r#"{"total":20}"#]);
    assert_eq!(outcome.values(2), [r#"{"total":2}"#]);
    assert_eq!(outcome.errors(), ["`.total` is missing"]);
}

#[test]
fn outputs_have_the_order_in_which_they_are_written() {
    let plan = plan("route", json!({"to": {"z": "true", "a": "true"}}), &context(Form::Json)).unwrap();
    assert_eq!(plan.outputs(), ["z", "a", "rest"]);
    assert!(plan.optional_outputs().is_empty());
}

#[test]
fn all_sends_a_copy_to_every_match() {
    let to = json!({"to": {"a": ".x > 1", "b": ".x > 2"}, "match": "all"});
    let outcome = run("route", to, Form::Json, [r#"{"x":3}"#, r#"{"x":2}"#, r#"{"x":1}"#]);
    assert_eq!(outcome.values(0), [r#"{"x":3}"#, r#"{"x":2}"#]);
    assert_eq!(outcome.values(1), [r#"{"x":3}"#]);
    assert_eq!(outcome.values(2), [r#"{"x":1}"#]);
    assert_eq!(outcome.counts.created, 1);
}

#[test]
fn rest_may_be_dropped() {
    let plan = plan("route", json!({"to": {"a": "false"}, "rest": "drop"}), &context(Form::Json)).unwrap();
    assert_eq!(plan.optional_outputs(), ["rest"]);
}

#[test]
fn what_cannot_be_routed_is_refused() {
    assert_eq!(refused("route", json!({"to": {}}), Form::Json).kind(), ErrorKind::Option);
    assert_eq!(refused("route", json!({"to": {"rest": "true"}}), Form::Json).place().unwrap().path, ["to", "rest"]);
    assert_eq!(refused("route", json!({"to": {"a": "1"}}), Form::Json).place().unwrap().path, ["to", "a"]);
}
