//! `split`.

use millstream_core::{ErrorKind, Form};
use proptest::prelude::*;
use serde_json::json;

use crate::support::{Running, batch, context, plan, records, refused, run, run_records};

#[test]
fn an_array_gives_one_record_each() {
    let outcome = run("split", json!({}), Form::Json, [r#"[1.50, {"b":1,"a":2}, "t\"x", null]"#, "[]", "[[1]]"]);
    assert_eq!(outcome.values(0), ["1.50", r#"{"b":1,"a":2}"#, "t\"x", "null", "[1]"]);
    let forms: Vec<_> = outcome.out[0].iter().map(|record| record.form).collect();
    assert_eq!(forms, [Form::Json, Form::Json, Form::Text, Form::Json, Form::Json]);
    assert_eq!((outcome.counts.created, outcome.counts.filtered), (3, 1));
}

#[test]
fn outputs_are_told_apart_and_keep_what_their_record_had() {
    let mut all = records(Form::Json, ["[1,2]", "[3]"]);
    all[0].key = Some("k".into());
    let outcome = run_records("split", json!({}), Form::Json, &all);
    let ids: Vec<_> = outcome.out[0].iter().map(|record| record.id()).collect();
    assert_eq!(ids, ["orders/0@0", "orders/0@0#1", "orders/0@1"]);
    assert_eq!(outcome.out[0][1].key.as_deref(), Some(&b"k"[..]));
    assert_eq!(outcome.out[0][1].original.as_deref(), Some(&b"[1,2]"[..]));
}

#[test]
fn a_field_may_be_the_array() {
    let values = [r#"{"id":1,"items":[{"z":1.0,"a":1},2]}"#, r#"{"items":[]}"#, r#"{"items":3}"#, "{}", "[1]"];
    let outcome = run("split", json!({"path": ".items"}), Form::Json, values);
    assert_eq!(outcome.values(0), [r#"{"z":1.0,"a":1}"#, "2"]);
    assert_eq!(
        outcome.errors(),
        ["`.items` is the integer 3, not an array", "`.items` is missing", "`.items` is missing"]
    );
    assert!(outcome.failed.iter().all(|(_, error)| error.kind() == ErrorKind::Data));
    assert_eq!(outcome.failed[0].0.value.as_deref(), Some(values[2].as_bytes()));
}

#[test]
fn a_text_is_cut_at_a_separator() {
    let outcome = run("split", json!({"separator": "\n"}), Form::Text, ["a\nb\n", "", "\n\nc", "d"]);
    assert_eq!(outcome.values(0), ["a", "b", "", "", "c", "d"]);
    assert_eq!((outcome.counts.created, outcome.counts.filtered), (3, 1));
    let outcome =
        run("split", json!({"path": ".t", "separator": "--"}), Form::Json, [r#"{"t":"a--\n"}"#, r#"{"t":1}"#]);
    assert_eq!(outcome.values(0), ["a", "\n"]);
    assert_eq!(outcome.errors(), ["`.t` is the integer 1, not a text"]);
}

#[test]
fn what_another_step_did_not_touch_keeps_its_bytes() {
    let map = plan("map", ".id = 2".into(), &context(Form::Json)).unwrap();
    let split = plan("split", json!({"path": ".items"}), &context(Form::Json)).unwrap();
    let values = [r#"{"items":[{"z":1.50,"a":1}]}"#];
    let given = Running::new(&*map).apply(batch(&records(Form::Json, values))).batches.remove(0).1;
    assert_eq!(Running::new(&*split).apply(given).values(0), [r#"{"z":1.50,"a":1}"#]);
}

#[test]
fn what_cannot_be_split_is_refused() {
    assert_eq!(refused("split", json!({}), Form::Text).kind(), ErrorKind::Plan);
    assert_eq!(refused("split", json!({"separator": ""}), Form::Text).place().unwrap().path, ["separator"]);
    assert_eq!(refused("split", json!({"path": ".a + 1"}), Form::Json).place().unwrap().path, ["path"]);
}

proptest! {
    #[test]
    fn the_books_balance(values in prop::collection::vec(prop::collection::vec(0u8..5, 0..5), 0..20)) {
        let texts: Vec<String> = values.iter().map(|items| if items.contains(&4) { "7".to_owned() } else { format!("{items:?}") }).collect();
        // `run` checks the balance.
        let outcome = run("split", json!({}), Form::Json, texts.iter().map(String::as_str));
        let expected: usize = values.iter().filter(|items| !items.contains(&4)).map(Vec::len).sum();
        prop_assert_eq!(outcome.values(0).len(), expected);
    }
}
