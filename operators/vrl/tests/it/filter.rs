//! `filter`.

use millstream_core::{Body, ErrorKind, Form, Record};

use crate::support::{Running, batch, context, plan, records, refused, run, run_records};

#[test]
fn the_example() {
    let outcome =
        run("filter", ".amount > 0", Form::Json, [r#"{"amount":1}"#, r#"{"amount":0}"#, r#"{ "amount": 0.5 }"#]);
    assert_eq!(outcome.values(0), [r#"{"amount":1}"#, r#"{ "amount": 0.5 }"#]);
    assert_eq!(outcome.counts.filtered, 1);
}

#[test]
fn an_expression_that_can_fail_is_accepted_and_its_error_is_the_records() {
    for (condition, value, message) in [
        (".amount > 0", r#"{"amount":"x"}"#, None),
        (".amount > 0", "{}", Some("`.amount` is missing")),
        (".amount + 1 > .total", r#"{"amount":1}"#, Some("`.total` is missing")),
        ("to_float(.amount) > 1", r#"{"amount":"12,50"}"#, Some("`.amount` is text \"12,50\"")),
        ("contains(.name, \"x\")", r#"{"name":1}"#, Some("`.name` is the integer 1")),
        ("length(split(.name, \",\")) > 1", r#"{"name":1}"#, Some("`.name` is the integer 1")),
        ("!.deleted", r#"{"deleted":"no"}"#, None),
        (".a && .b", r#"{"a":true,"b":"x"}"#, None),
        ("if .a > 1 { true } else { false }", r#"{"a":"x"}"#, None),
        ("x = .a * 2\nx > 1", r#"{"a":{}}"#, None),
        ("starts_with(to_string(.a + 1), \"1\")", r#"{"a":{}}"#, None),
        ("[.a > 1][0] == true", r#"{"a":{}}"#, None),
    ] {
        let outcome = run("filter", condition, Form::Json, [value, "{\"no\":"]);
        assert_eq!(outcome.failed.len(), 2, "{condition}");
        assert_eq!(outcome.failed[0].1.kind(), ErrorKind::Data, "{condition}");
        if let Some(message) = message {
            assert_eq!(outcome.failed[0].1.message(), message, "{condition}");
        }
        assert_eq!(outcome.failed[0].0.value.as_deref(), Some(value.as_bytes()));
        assert_eq!(outcome.failed[1].1.kind(), ErrorKind::Decode, "{condition}");
    }
}

#[test]
fn what_can_fail_works_where_it_does_not() {
    for (condition, yes, no) in [
        ("to_float(.a) > 1", r#"{"a":"2"}"#, r#"{"a":1}"#),
        ("contains(.a, \"x\")", r#"{"a":"xy"}"#, r#"{"a":"y"}"#),
        ("!.a", r#"{"a":false}"#, r#"{"a":true}"#),
        (".a && .b", r#"{"a":true,"b":true}"#, r#"{"a":true,"b":false}"#),
        ("if .a > 1 { true } else { false }", r#"{"a":2}"#, r#"{"a":1}"#),
        ("x = .a * 2\nx > 3", r#"{"a":2}"#, r#"{"a":1}"#),
        ("starts_with(to_string(.a + 1), \"1\")", r#"{"a":0}"#, r#"{"a":1}"#),
        ("(to_int(.a) ?? 0) > 1", r#"{"a":"2"}"#, r#"{"a":"x"}"#),
        ("to_bool(.a) ?? true", r#"{"a":"x"}"#, r#"{"a":"false"}"#),
        ("includes([1, 2], .a)", r#"{"a":2}"#, r#"{"a":3}"#),
        ("exists(.a)", r#"{"a":null}"#, "{}"),
        (".a == null", "{}", r#"{"a":0}"#),
        (".a", r#"{"a":true}"#, r#"{"a":false}"#),
        ("%vars.MIN == \"10\" && .a == 1", r#"{"a":1}"#, r#"{"a":2}"#),
    ] {
        let outcome = run("filter", condition, Form::Json, [yes, no]);
        assert!(outcome.failed.is_empty(), "{condition}: {:?}", outcome.failed);
        assert_eq!(outcome.values(0), [yes], "{condition}");
    }
}

#[test]
fn a_result_that_is_no_boolean_is_refused_where_it_is_known() {
    for condition in [".amount * 2", "\"x\"", "upcase(.a)", "null"] {
        let error = refused("filter", condition, Form::Json);
        assert_eq!(error.kind(), ErrorKind::Syntax, "{condition}");
        assert_eq!(error.place().unwrap().span, Some((0, condition.len())), "{condition}");
    }
    assert_eq!(refused("filter", ".", Form::Text).kind(), ErrorKind::Syntax);
}

#[test]
fn else_it_is_a_data_error() {
    let outcome = run("filter", ".a", Form::Json, [r#"{"a":"true"}"#, "{}", r#"{"a":true}"#]);
    assert_eq!(outcome.errors(), ["the condition gave text \"true\"", "the condition gave null"]);
    assert_eq!(outcome.values(0), [r#"{"a":true}"#]);
}

#[test]
fn nothing_can_be_changed() {
    for condition in [".a = 1\ntrue", "del(.a) == 1", "%key = \"x\"\ntrue"] {
        assert_eq!(refused("filter", condition, Form::Json).kind(), ErrorKind::Syntax, "{condition}");
    }
}

#[test]
fn text_stays_the_bytes_that_it_is() {
    let plan = plan("filter", ". != \"\"".into(), &context(Form::Text)).unwrap();
    let given = batch(&records(Form::Text, ["a", "", "b"]));
    let bytes = given.values().unwrap().0.data().as_ptr();
    let outcome = Running::new(&*plan).apply(given);
    assert_eq!(outcome.values(0), ["a", "b"]);
    let (_, batch) = &outcome.batches[0];
    assert_eq!(batch.values().unwrap().0.data().as_ptr(), bytes);
}

#[test]
fn json_is_parsed_once_and_its_bytes_are_not_copied() {
    let plan = plan("filter", ".a == 1".into(), &context(Form::Json)).unwrap();
    let given = batch(&records(Form::Json, [r#"{"a":1}"#, r#"{"a":2}"#]));
    let bytes = given.values().unwrap().0.data().as_ptr();
    let outcome = Running::new(&*plan).apply(given);
    let (_, batch) = &outcome.batches[0];
    assert!(matches!(batch.body().0, Body::Parsed(_)));
    assert_eq!(batch.clone().into_bytes().values().unwrap().0.data().as_ptr(), bytes);
}

#[test]
fn metadata_can_be_asked() {
    let mut all = records(Form::Json, ["1", "2", "3"]);
    all[0].key = Some("a".into());
    all[2].key = Some("b".into());
    let outcome = run_records("filter", "%key == \"a\" || %sequence == 1", Form::Json, &all);
    assert_eq!(outcome.values(0), ["1", "2"]);
}

#[test]
fn a_tombstone_is_null() {
    let absent = Record { value: None, form: Form::Json, ..Record::new("x", "") };
    let outcome = run_records("filter", "is_null(.)", Form::Json, &[absent]);
    assert_eq!(outcome.out[0][0].value, None);
}
