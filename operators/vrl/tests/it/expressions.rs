//! What holds for expressions of all steps.

use millstream_core::{ErrorKind, Form, Role};
use serde_json::json;

use crate::support::{context, plan, refused, run};

#[test]
fn the_codecs_type_is_known() {
    let error = refused("filter", "1 == 1 && .status == 200", Form::Text);
    assert_eq!(error.kind(), ErrorKind::Syntax);
    assert_eq!(error.place().unwrap().span, Some((10, 17)));
    assert!(error.hint_text().unwrap().contains("add `codec: json`"));
    assert_eq!(refused("map", ".status = 1", Form::Bytes).kind(), ErrorKind::Syntax);
    assert!(plan("map", ". = parse_json!(.)\n.status = 1".into(), &context(Form::Text)).is_ok());
}

#[test]
fn errors_in_options_know_their_path() {
    let error = refused("route", json!({"to": {"a": "true", "b": ".x +"}}), Form::Json);
    assert_eq!(error.place().unwrap().path, ["to", "b"]);
    let error = refused("aggregate", json!({"key": ".k", "fields": {"n": "sum(.a +)"}, "emit": "end"}), Form::Json);
    assert_eq!(error.place().unwrap().path, ["fields", "n"]);
    let error = refused("aggregate", json!({"key": "%kay", "fields": {"n": "count()"}, "emit": "end"}), Form::Json);
    assert_eq!(error.place().unwrap().path, ["key"]);
    let error = refused("split", json!({"pat": ".a"}), Form::Json);
    assert_eq!(
        (error.place().unwrap().path.as_slice(), error.hint_text()),
        (&["pat".to_owned()][..], Some("did you mean `path`?"))
    );
}

#[test]
fn an_argument_has_its_place_in_the_whole_function() {
    let source = "sum( %kay )";
    let error = refused("aggregate", json!({"key": ".k", "fields": {"n": source}, "emit": "end"}), Form::Json);
    let (start, end) = error.place().unwrap().span.unwrap();
    assert_eq!(&source[start..end], "%kay");
}

#[test]
fn only_true_and_false_are_booleans() {
    let outcome = run("filter", ".a == true", Form::Json, [r#"{"a":true}"#, r#"{"a":"true"}"#, r#"{"a":1}"#]);
    assert_eq!(outcome.values(0), [r#"{"a":true}"#]);
}

#[test]
fn every_component_has_a_summary_a_schema_and_an_example_that_plans() {
    let components = millstream_vrl::components();
    assert_eq!(
        components.iter().map(|component| component.name).collect::<Vec<_>>(),
        ["map", "filter", "split", "route", "aggregate"]
    );
    for component in components {
        assert_eq!(component.role(), Role::Step);
        assert!(component.summary.ends_with('.'));
        assert!(component.example.starts_with(component.name));
        let schema = serde_json::to_string(&(component.schema)()).unwrap();
        assert!(schema.contains(r#""format":"vrl""#), "{schema}");
    }
}
