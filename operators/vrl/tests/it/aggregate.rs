//! `aggregate`.

use millstream_core::{ErrorKind, Form};
use serde_json::{Value, json};

use crate::support::{Running, batch, context, now, plan, records, refused, run, text};

fn ended(options: &Value, values: &[&str]) -> Vec<String> {
    let plan = plan("aggregate", options.clone(), &context(Form::Json)).unwrap();
    let mut running = Running::new(&*plan);
    let outcome = running.apply(batch(&records(Form::Json, values.iter().copied())));
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
    running.end().values(0)
}

fn sum(emit: &str) -> Value {
    json!({"key": ".k", "fields": {"count": "count()", "total": "sum(.n)"}, "emit": emit})
}

#[test]
fn the_example() {
    let values = [r#"{"k":"b","n":1}"#, r#"{"k":"a","n":2.5}"#, r#"{"k":"b","n":3}"#];
    assert_eq!(
        ended(&sum("end"), &values),
        [r#"{"key":"b","count":2,"total":4}"#, r#"{"key":"a","count":1,"total":2.5}"#]
    );
}

#[test]
fn all_functions() {
    let options = json!({"key": "1", "fields": {
        "z": "count()", "sum": "sum(.n)", "min": "min(.n)", "max": "max(.n)", "mean": "mean(.n)", "last": "max(.t)"
    }, "emit": "end"});
    let values = [r#"{"n":3,"t":"b"}"#, r#"{"n":1,"t":"c"}"#, r#"{"n":2.5,"t":"a"}"#];
    assert_eq!(
        ended(&options, &values),
        [r#"{"key":1,"z":3,"sum":6.5,"min":1,"max":3,"mean":2.1666666666666665,"last":"c"}"#]
    );
}

#[test]
fn integers_are_summed_exactly() {
    let value = r#"{"k":1,"n":9223372036854775807}"#;
    assert_eq!(ended(&sum("end"), &[value; 3]), [r#"{"key":1,"count":3,"total":27670116110564327421}"#]);
}

#[test]
fn the_records_own_key_is_the_key_as_text() {
    let plan = plan("aggregate", sum("end"), &context(Form::Json)).unwrap();
    let mut running = Running::new(&*plan);
    let keys = [r#""a""#, "7", "true", r#"[1,"x"]"#, r#"{"b":1,"a":2}"#, "1.5"];
    let values: Vec<_> = keys.iter().map(|key| format!("{{\"k\":{key},\"n\":1}}")).collect();
    running.apply(batch(&records(Form::Json, values.iter().map(String::as_str))));
    let outcome = running.end();
    let own: Vec<_> = outcome.out[0].iter().map(|record| text(record.key.as_deref().unwrap())).collect();
    assert_eq!(own, ["a", "7", "true", r#"[1,"x"]"#, r#"{"a":2,"b":1}"#, "1.5"]);
    assert!(outcome.out[0].iter().all(|record| record.form == Form::Json));
    assert_eq!(outcome.values(0)[3], r#"{"key":[1,"x"],"count":1,"total":1}"#);
}

#[test]
fn keys_are_equal_by_json_type_and_value() {
    let values = [r#"{"k":1,"n":1}"#, r#"{"k":1.0,"n":1}"#, r#"{"k":"1","n":1}"#];
    assert_eq!(ended(&sum("end"), &values), [r#"{"key":1,"count":2,"total":2}"#, r#"{"key":"1","count":1,"total":1}"#]);
}

#[test]
fn a_key_may_be_compound() {
    let options = json!({"key": "[.a, .b]", "fields": {"n": "count()"}, "emit": "end"});
    assert_eq!(ended(&options, &[r#"{"a":1,"b":"x"}"#, r#"{"a":1,"b":"x"}"#]), [r#"{"key":[1,"x"],"n":2}"#]);
}

#[test]
fn a_null_or_missing_key_is_a_data_error() {
    let outcome = run("aggregate", sum("end"), Form::Json, [r#"{"n":1}"#, r#"{"k":null,"n":1}"#, r#"{"k":1,"n":1}"#]);
    assert_eq!(outcome.errors(), ["the key is null or missing"; 2]);
    assert_eq!(outcome.failed[0].1.kind(), ErrorKind::Data);
    assert_eq!(outcome.counts.absorbed, 1);
}

#[test]
fn pass_lets_it_through_unkeyed() {
    let options = json!({"key": ".k", "fields": {"n": "count()"}, "emit": "end", "null_key": "pass"});
    let outcome = run("aggregate", options, Form::Json, [r#"{"n":1}"#, r#"{"k":1}"#]);
    assert_eq!(outcome.values(0), [r#"{"n":1}"#]);
}

#[test]
fn an_argument_that_fails_is_the_records_error_and_changes_nothing() {
    let plan = plan("aggregate", sum("end"), &context(Form::Json)).unwrap();
    let mut running = Running::new(&*plan);
    let values = [
        r#"{"k":1,"n":"12,5"}"#,
        r#"{"k":1,"n":1}"#,
        r#"{"k":1}"#,
        r#"{"k":2,"n":[]}"#,
        r#"{"k":1,"n":18446744073709551616}"#,
        r#"{"k":1,"n":2}"#,
        "{",
    ];
    let outcome = running.apply(batch(&records(Form::Json, values)));
    assert_eq!(outcome.failed.len(), 5);
    assert_eq!(outcome.failed[0].1.message(), "`sum` cannot take text \"12,5\", which is not a number");
    assert_eq!(running.end().values(0), [r#"{"key":1,"count":2,"total":3}"#]);
}

#[test]
fn change_emits_the_new_value_of_each_changed_key_once_a_batch() {
    let plan = plan("aggregate", sum("change"), &context(Form::Json)).unwrap();
    assert!(!plan.needs_end());
    let mut running = Running::new(&*plan);
    let values = [r#"{"k":"a","n":1}"#, r#"{"k":"b","n":1}"#, r#"{"k":"a","n":2}"#];
    let outcome = running.apply(batch(&records(Form::Json, values)));
    assert_eq!(outcome.values(0), [r#"{"key":"b","count":1,"total":1}"#, r#"{"key":"a","count":2,"total":3}"#]);
    assert_eq!(outcome.counts.absorbed, 1);
    assert_eq!(outcome.out[0][1].key.as_deref(), Some(&b"a"[..]));
    assert_eq!(outcome.out[0][1].id(), "orders/0@2");
    let outcome = running.apply(batch(&records(Form::Json, [r#"{"k":"b","n":5}"#])));
    assert_eq!(outcome.values(0), [r#"{"key":"b","count":2,"total":6}"#]);
    assert!(running.end().values(0).is_empty());
}

#[test]
fn state_comes_back_after_a_crash() {
    let plan = plan("aggregate", sum("end"), &context(Form::Json)).unwrap();
    assert!(plan.stateful() && plan.needs_end());
    let mut before = Running::new(&*plan);
    let mut saved = Vec::new();
    for values in [[r#"{"k":"b","n":1}"#, r#"{"k":"a","n":1}"#], [r#"{"k":"a","n":2.5}"#, r#"{"k":"c","n":1}"#]] {
        before.apply(batch(&records(Form::Json, values)));
        let changes = before.operator().changes().unwrap();
        assert_eq!(changes.len(), 2);
        saved.retain(|old: &millstream_core::Change| changes.iter().all(|new| new.key != old.key));
        saved.extend(changes);
    }
    saved.sort_by(|one, other| other.key.cmp(&one.key));
    let mut after = Running::new(&*plan);
    now(after.operator().restore(saved)).unwrap();
    let more = [r#"{"k":"d","n":1}"#, r#"{"k":"b","n":9}"#];
    let ends = [&mut before, &mut after].map(|running| {
        running.apply(batch(&records(Form::Json, more)));
        running.end().values(0)
    });
    assert_eq!(ends[0], ends[1]);
    assert_eq!(
        ends[0],
        [
            r#"{"key":"b","count":2,"total":10}"#,
            r#"{"key":"a","count":2,"total":3.5}"#,
            r#"{"key":"c","count":1,"total":1}"#,
            r#"{"key":"d","count":1,"total":1}"#
        ]
    );
}

#[test]
fn state_of_other_functions_is_refused() {
    let first = plan("aggregate", sum("end"), &context(Form::Json)).unwrap();
    let mut running = Running::new(&*first);
    running.apply(batch(&records(Form::Json, [r#"{"k":1,"n":1}"#])));
    let saved = running.operator().changes().unwrap();
    let options = json!({"key": ".k", "fields": {"a": "min(.n)", "b": "max(.n)"}, "emit": "end"});
    let second = plan("aggregate", options, &context(Form::Json)).unwrap();
    let error = now(Running::new(&*second).operator().restore(saved)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StateMismatch);
}

#[test]
fn what_is_no_function_is_refused() {
    for (function, hint) in [
        ("coutn()", "did you mean `count`?"),
        ("sum()", "write `sum(.amount)`"),
        (".a", "write `count()`, `sum(.amount)`, `max(.at)`"),
        ("count(.a)", "write `count()`, behind a `filter` for some records"),
    ] {
        let options = json!({"key": ".k", "fields": {"n": function}, "emit": "end"});
        assert_eq!(refused("aggregate", options, Form::Json).hint_text(), Some(hint), "{function}");
    }
    let options = json!({"key": ".k", "fields": {"key": "count()"}, "emit": "end"});
    assert_eq!(refused("aggregate", options, Form::Json).place().unwrap().path, ["fields", "key"]);
    let options = json!({"key": ".k", "fields": {"n": "count()"}});
    assert_eq!(refused("aggregate", options, Form::Json).message(), "option `emit` is missing");
}

#[test]
fn a_function_in_the_place_of_another_is_refused_too() {
    let planned = |function: &str| {
        let options = json!({"key": ".k", "fields": {"a": function}, "emit": "end"});
        plan("aggregate", options, &context(Form::Json)).unwrap()
    };
    let mut running = Running::new(&*planned("sum(.n)"));
    running.apply(batch(&records(Form::Json, [r#"{"k":1,"n":1}"#])));
    let saved = running.operator().changes().unwrap();
    assert!(now(Running::new(&*planned("min(.n)")).operator().restore(saved.clone())).is_err());
    assert!(now(Running::new(&*planned("mean(.n)")).operator().restore(saved)).is_ok());
}
