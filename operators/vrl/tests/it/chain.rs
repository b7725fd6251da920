//! Steps behind each other.

use millstream_core::{Batch, Form, PlanContext};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{Outcome, Running, batch, context, plan, records, run};

/// Steps one behind the other, each planned for what the one before gives.
struct Chain(Vec<Running>);

impl Chain {
    fn new(form: Form, steps: &[(&str, Value)]) -> Self {
        let mut form = form;
        let running = steps.iter().map(|(name, options)| {
            let plan = plan(name, options.clone(), &PlanContext { form, ..context(form) }).unwrap();
            form = plan.form();
            Running::new(&*plan)
        });
        Chain(running.collect())
    }

    /// What the last one gives on its first output; books balance at each step.
    fn apply(&mut self, given: Batch) -> Outcome {
        let mut last = Outcome { batches: vec![(0, given)], ..Outcome::default() };
        for step in &mut self.0 {
            let mut next = Outcome::default();
            for (_, batch) in last.batches.drain(..) {
                let mut outcome = step.apply(batch);
                next.batches.append(&mut outcome.batches);
                next.failed.append(&mut outcome.failed);
                next.out.append(&mut outcome.out);
            }
            last = next;
        }
        last
    }
}

#[test]
fn word_count() {
    let mut chain = Chain::new(
        Form::Text,
        &[
            ("map", json!(". = split(downcase(string!(.)), r'[^a-z]+')")),
            ("split", json!({})),
            ("filter", json!(". != \"\"")),
            ("aggregate", json!({"key": ".", "fields": {"count": "count()"}, "emit": "end"})),
        ],
    );
    chain.apply(batch(&records(Form::Text, ["Call me Ishmael.", "", "The whale! the whale"])));
    let counts = chain.0.last_mut().unwrap().end();
    assert_eq!(
        counts.values(0),
        [
            r#"{"key":"call","count":1}"#,
            r#"{"key":"me","count":1}"#,
            r#"{"key":"ishmael","count":1}"#,
            r#"{"key":"the","count":2}"#,
            r#"{"key":"whale","count":2}"#
        ]
    );
}

#[test]
fn values_are_parsed_once_and_written_once_at_the_end() {
    let mut chain = Chain::new(
        Form::Json,
        &[
            ("filter", json!(".n > 0")),
            ("map", json!(".total = to_float!(.n) * 2.0")),
            ("filter", json!(".total > 2.0")),
            ("map", json!(".extra.b = 1\n.extra.a = .total\ndel(.drop)")),
        ],
    );
    let values = [r#"{"z":1.10,"n":0}"#, r#"{"z":1.10,"n":1}"#, r#"{ "z":1.10,"drop":[1], "n":2}"#];
    let outcome = chain.apply(batch(&records(Form::Json, values)));
    assert!(outcome.batches.iter().all(|(_, batch)| batch.values().is_none()));
    assert_eq!(outcome.values(0), [r#"{"z":1.10,"n":2,"total":4.0,"extra":{"b":1,"a":4.0}}"#]);
}

#[test]
fn a_batch_that_others_hold_is_not_changed() {
    let map = |program: &str| Running::new(&*plan("map", program.into(), &context(Form::Json)).unwrap());
    let first = map(".a = 1").apply(batch(&records(Form::Json, ["{}", "{\"b\":2}"])));
    let shared = first.batches[0].1.clone();
    let changed = map(".a = 2").apply(shared.clone());
    assert_eq!(changed.values(0), [r#"{"a":2}"#, r#"{"b":2,"a":2}"#]);
    let again = map(".c = 3").apply(shared.select(vec![1, 0, 1]));
    assert_eq!(again.values(0), [r#"{"b":2,"a":1,"c":3}"#, r#"{"a":1,"c":3}"#, r#"{"b":2,"a":1,"c":3}"#]);
    drop((first, changed));
    let alone = map(".c = 3").apply(shared.select(vec![1, 1]));
    assert_eq!(alone.values(0), [r#"{"b":2,"a":1,"c":3}"#; 2]);
}

proptest! {
    #[test]
    fn the_books_balance(values in prop::collection::vec((0u8..6, -3i64..4), 0..40)) {
        let texts: Vec<String> = values.iter().map(|(kind, n)| match kind {
            0 => "{".to_owned(),
            1 => "{}".to_owned(),
            2 => format!(r#"{{"n":"{n}"}}"#),
            _ => format!(r#"{{"n":{n}}}"#),
        }).collect();
        let given = || texts.iter().map(String::as_str);
        // `run` checks the balance of each.
        let good = run("filter", ".n > 0", Form::Json, given()).values(0).len();
        prop_assert_eq!(good, values.iter().filter(|(kind, n)| *kind > 2 && *n > 0).count());
        run("map", ".n = int!(.n) * 2", Form::Json, given());
        run("route", json!({"to": {"a": ".n > 0", "b": ".n > 1"}, "match": "all"}), Form::Json, given());
        run("aggregate", json!({"key": ".n", "fields": {"s": "sum(.n)"}, "emit": "change"}), Form::Json, given());
        run("aggregate", json!({"key": ".n", "fields": {"s": "count()"}, "emit": "end", "null_key": "pass"}), Form::Json, given());
    }
}

#[test]
fn steps_that_look_at_different_fields_see_what_the_others_left() {
    let mut chain = Chain::new(
        Form::Json,
        &[
            ("filter", json!(".a == 1")),
            ("map", json!(".new = .a\ndel(.gone)")),
            ("filter", json!(".b == 2 && !exists(.gone)")),
            ("map", json!(".all = .\n.c = .b")),
            ("route", json!({"to": {"x": ".c == 2 && .all.b == 2 && .all.new == 1"}})),
            ("aggregate", json!({"key": ".c", "fields": {"n": "sum(.a)"}, "emit": "change"})),
        ],
    );
    let value = r#"{"gone":0,"c":1.0,"b":2,"a":1,"z":{"y":1.0}}"#;
    let outcome = chain.apply(batch(&records(Form::Json, [value, value])));
    assert_eq!(outcome.values(0), [r#"{"key":2,"n":2}"#]);
}

proptest! {
    #[test]
    fn a_chain_gives_what_one_step_gives(
        deeds in prop::collection::vec((0usize..5, 0usize..5, 0u8..4), 1..6),
        present in prop::collection::vec(any::<bool>(), 5),
    ) {
        let names = ["a", "b", "c", "d", "e"];
        let fields: Vec<String> = names.iter().zip(&present).filter(|(_, present)| **present)
            .map(|(name, _)| format!(r#""{name}":{{"v":"{name}","n":1.0}}"#)).collect();
        let value = format!("{{{}}}", fields.join(","));
        let lines: Vec<String> = deeds.iter().map(|(one, other, deed)| {
            let (one, other) = (names[*one], names[*other]);
            match deed {
                0 => format!(".{one} = .{other}"),
                1 => format!("del(.{one})"),
                2 => format!(".{one}.n = 2"),
                _ => format!(".{one} = {{\"z\": 1, \"a\": .{other}}}"),
            }
        }).collect();
        let steps: Vec<_> = lines.iter().map(|line| ("map", json!(line))).collect();
        let chained = Chain::new(Form::Json, &steps).apply(batch(&records(Form::Json, [&*value]))).values(0);
        let at_once = run("map", lines.join("\n"), Form::Json, [&*value]).values(0);
        // One program that assigns objects of different looks to one field does not know their order.
        let values = |texts: &[String]| texts.iter().map(|text| serde_json::from_str::<Value>(text).unwrap()).collect::<Vec<_>>();
        prop_assert_eq!(values(&chained), values(&at_once));
        prop_assert!(deeds.iter().any(|(.., deed)| *deed == 3) || chained == at_once, "{:?} {:?}", chained, at_once);
    }
}
