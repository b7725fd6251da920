//! Every block of the specification of pipeline files that this version has.

use std::path::Path;

use millstream_config::{Variables, parse};
use millstream_core::{Delivery, Role, Size};
use millstream_runtime::{Entry, Plan, PlanOptions, StateSpec, Then, Written};
use serde_json::{Value, json};

use crate::fake::{good, read, shown};

fn options<P: ?Sized>(entry: &Entry<P>) -> &Value {
    match &entry.component {
        Written::Named { options, .. } => options,
        Written::Ready(_) => panic!("made by a program"),
    }
}

const STRAIGHT: &str = r#"
name: word-count                # default: the file's stem
source:
  file: { path: "${BOOK:-book.txt}", codec: lines }
steps:
  - map: ". = split(downcase(string!(.)), r'[^a-z]+')"
  - split: {}
  - filter: '. != ""'
  - aggregate: { key: ., fields: { count: count() }, emit: end }
sink:
  stdout: { codec: ndjson }     # {"key":"whale","count":1131}
"#;

#[test]
fn the_straight_form() {
    let file = good(STRAIGHT);
    let spec = file.spec();
    assert_eq!(spec.name, "word-count");
    let kinds: Vec<_> = spec.steps.iter().map(Entry::kind).collect();
    assert_eq!(kinds, ["map", "split", "filter", "aggregate"]);
    assert_eq!(options(&spec.sources[0]), &json!({"path": "book.txt", "codec": "lines"}));
    assert_eq!(options(&spec.steps[0]), ". = split(downcase(string!(.)), r'[^a-z]+')");
    assert_eq!(options(&spec.steps[3])["key"], ".");
    assert_eq!(spec.steps[3].place, ["steps", "3", "aggregate"]);
    assert_eq!(spec.sinks[0].place, ["sink", "stdout"]);
    assert!(spec.steps.iter().all(|step| step.from.is_empty() && step.name.is_none()));
}

const GRAPH: &str = r#"
sources:
  orders: { kafka: { url: "kafka://localhost:9092/orders", group: billing, codec: json } }
steps:
  - name: priced
    map: '.total = to_float!(.amount) * 1.19'
    partition_by: .customer
    concurrency: 4
  - name: size
    route: { to: { big: '.total > 1000', small: '.total <= 1000' } }      # what fits none leaves by size.rest
sinks:
  alarms: { from: size.big, redis_stream: { url: "redis://localhost:6379/alarms", codec: json } }
  ledger: { from: [size.small, size.rest], file: { path: ledger.ss } }
"#;

#[test]
fn the_graph_form() {
    let wrong = read(GRAPH).unwrap_err();
    let hints: Vec<_> = wrong.iter().map(|one| one.error().hint_text().unwrap()).collect();
    assert_eq!(hints, ["`partition_by` is not in this version yet", "`concurrency` is not in this version yet"]);

    let file = good(&GRAPH.replace("    partition_by: .customer\n    concurrency: 4\n", ""));
    let spec = file.spec();
    assert_eq!(spec.name, "p");
    assert_eq!(spec.sources[0].name.as_deref(), Some("orders"));
    assert_eq!(spec.sources[0].place, ["sources", "orders", "kafka"]);
    assert_eq!(spec.steps[1].name.as_deref(), Some("size"));
    assert_eq!(spec.sinks[0].from, ["size.big"]);
    assert_eq!(spec.sinks[1].from, ["size.small", "size.rest"]);
    // The first output that fits wins, so the order of the file must stay.
    let outputs: Vec<_> = options(&spec.steps[1])["to"].as_object().unwrap().keys().collect();
    assert_eq!(outputs, ["big", "small"]);
}

const STEPS: &str = r#"
- map: '.total = to_float!(.amount) * 1.19'
- filter: '.amount > 0'
- split: {}                                                       # an array: one record each; { path: .items } a field; { separator: "\n" } text
- route: { to: { big: '.total > 1000', small: '.total <= 1000' } }         # first match; match: all for every match
- merge: { by: time, wait: 5s }                                   # several inputs in time order
- batch: { count: 500, bytes: 1MiB, linger: 2s, key: .customer }
- rate_limit: { records: 1000, per: 1s, key: .customer }
- sample: { one_in: 100 }
- dedupe: { key: .id, within: 10m }                               # duplicates leave by NAME.duplicates, else count as filtered
- changed: { key: .id, fields: [.price, .stock] }
- aggregate: { key: .word, fields: { count: count(), total: sum(.amount) }, emit: end }     # or change, or { every: 10s }
- window: { tumbling: 1m, key: .page, time: .at, disorder: 10s, lateness: 5m, idle_after: 30s, aggregate: { views: count(), users: distinct(.user) } }
- window: { sliding: 10m, every: 1m, key: .page, aggregate: { n: count() } }
- window: { session: 30m, key: .user, aggregate: { pages: collect(.page) } }
- window: { count: 100, key: .k, aggregate: { n: count(), last: last(.i) } }
- window: { signal: '.end == true', key: .k, aggregate: { n: count() } }
- join: { table: customers, key: .customer_id, table_key: '%key', kind: left, as: .customer }
- join: { with: rates, key: .currency, with_key: .code, within: 5m, as: .rate }
- exec: { command: [python3, enrich.py], protocol: ndjson }
- delay: 5s
- log: { level: info, message: '"got " + string!(.id)', one_in: 100 }
- drop: {}
"#;

#[test]
fn the_steps() {
    let file = good(&format!("source: {{ stdin: {{}} }}\nsink: {{ stdout: {{}} }}\nsteps:\n{STEPS}"));
    let steps = &file.spec().steps;
    assert_eq!(steps.len(), 22);
    assert_eq!(options(&steps[8]), &json!({"key": ".id", "within": "10m"}));
    assert_eq!(options(&steps[14])["count"], 100);
    assert_eq!(options(&steps[19]), "5s");
}

const ERRORS: &str = r#"
source: { stdin: {} }
sink: { stdout: {} }
errors:
  - { match: { class: timeout }, retry: { attempts: 5, delay: 1s, backoff: 2, jitter: 0.2, delay_max: 30s }, then: dead_letter }
  - { match: { code: E_DECODE, message: "EOF" }, then: drop }
dead_letter: { stop_after: 1000, file: { path: dead.ndjson } }
"#;

#[test]
fn error_rules_and_dead_letters() {
    let file = good(ERRORS);
    let spec = file.spec();
    assert_eq!(spec.errors[1].then, Some(Then::Drop));
    assert_eq!(spec.errors[0].retry.as_ref().unwrap().attempts, Some(5));
    let dead = spec.dead_letter.as_ref().unwrap();
    assert_eq!(dead.stop_after, Some(1000));
    assert_eq!(dead.sink.as_ref().unwrap().place, ["dead_letter", "file"]);
    let file = good("source: { stdin: {} }\nsink: { stdout: {} }\ndead_letter: { stop_after: 3 }");
    assert!(file.spec().dead_letter.as_ref().unwrap().sink.is_none());
}

const TOP_LEVEL: &str = r#"
name: orders
description: What it is for
version: 1.10
tags: [billing, 2026]
source: { stdin: {}, description: lines }
sink: { stdout: {}, errors: [{ then: stop }] }
delivery: exactly_once
state: { memory: {} }
checkpoint: { every: 2s, count: 10, bytes: 1MiB, in_flight: 2 }
limits: { memory: 64MiB }
"#;

#[test]
fn the_top_level() {
    let file = good(TOP_LEVEL);
    let spec = file.spec();
    assert_eq!(spec.version.as_deref(), Some("1.10"), "as written, not as a number");
    assert_eq!(spec.tags, ["billing", "2026"]);
    assert_eq!(spec.delivery, Delivery::ExactlyOnce);
    assert_eq!(spec.state, StateSpec::Memory);
    assert_eq!((spec.checkpoint.count, spec.checkpoint.in_flight), (Some(10), 2));
    assert_eq!(spec.limits.memory, Size(64 << 20));
    assert_eq!(spec.sources[0].description.as_deref(), Some("lines"));
    assert_eq!(spec.sinks[0].errors.len(), 1);
}

#[test]
fn json_is_yaml() {
    let text = r#"{
	"source": {"file": {"path": "a\u00e4\ud83d\ude00", "follow": false, "limit": 3}},
	"steps": [{"filter": ".a == \"b\\n\""}],
	"sink": {"stdout": {}}
}"#;
    let file = good(text);
    assert_eq!(options(&file.spec().sources[0]), &json!({"path": "aä😀", "follow": false, "limit": 3}));
    assert_eq!(options(&file.spec().steps[0]), ".a == \"b\\n\"");
}

#[test]
fn steps_may_be_a_map() {
    let file = good(
        "source: { stdin: {} }\nsteps:\n  b: { from: stdin, map: '. = 1' }\n  a: { from: [b], split: {} }\nsink: { from: a, stdout: {} }",
    );
    let steps = &file.spec().steps;
    assert_eq!(steps[0].name.as_deref(), Some("b"));
    assert_eq!(steps[1].place, ["steps", "a", "split"]);
    good("source: { stdin: {} }\nsteps: { only: { split: {} } }\nsink: { stdout: {} }");
    let wrong =
        read("source: { stdin: {} }\nsteps:\n  a: { split: {} }\n  b: { from: a, split: {} }\nsink: { stdout: {} }");
    let text = shown(&wrong.unwrap_err());
    assert!(text.contains("p.yaml:3:3") && text.contains("step `a` does not say what it reads"), "{text}");
    assert!(text.contains("p.yaml:5:1") && text.contains("the sink does not say what it reads"), "{text}");
}

#[test]
fn only_true_and_false_are_booleans_and_numbers_keep_their_digits() {
    let file = good(
        "source: { kafka: { a: yes, b: off, c: true, d: 007, e: 0x1F, f: -1.5e3, g: 123456789012345678901234567890, h: ~, i: '1', j: No } }\nsink: { stdout: {} }",
    );
    let expected = json!({"a": "yes", "b": "off", "c": true, "d": "007", "e": "0x1F", "f": -1.5e3,
        "g": "123456789012345678901234567890", "h": null, "i": "1", "j": "No"});
    assert_eq!(options(&file.spec().sources[0]), &expected);
}

#[test]
fn anchors_and_merge_keys() {
    let file = good(
        "source: { stdin: {} }\nsinks:\n  a: { file: &out { path: x, codec: json } }\n  b: { file: { <<: *out, path: y } }\n  c: { file: *out }",
    );
    assert_eq!(options(&file.spec().sinks[1]), &json!({"path": "y", "codec": "json"}));
    assert_eq!(options(&file.spec().sinks[2]), &json!({"path": "x", "codec": "json"}));
}

/// Plans a file with the components that this version has: their options are read, and must fit together.
fn planned(text: &str) {
    let registry = millstream_bundle::registry();
    let file = parse(text.as_bytes(), Path::new("p.yaml"), &registry, &Variables::default());
    let file = file.unwrap_or_else(|wrong| panic!("{text}\n{}", shown(&wrong)));
    if let Err(errors) = Plan::new(file.spec(), &registry, PlanOptions::default()) {
        panic!("{text}\n{errors:?}");
    }
}

#[test]
fn what_this_version_has_is_planned_as_written() {
    planned(STRAIGHT);
    planned(&GRAPH.replace("    partition_by: .customer\n    concurrency: 4\n", ""));
    planned(ERRORS);
    let registry = millstream_bundle::registry();
    let has = |line: &&str| {
        let kind = line.trim_start_matches("- ").split(':').next().unwrap();
        registry.get(Role::Step, kind).is_ok()
    };
    let known: Vec<_> = STEPS.lines().filter(has).collect();
    assert!(known.len() >= 5, "{known:?}");
    for step in known {
        let from = if step.contains("route") { "from: [route.big, route.small, route.rest], " } else { "" };
        let ends = format!("source: {{ file: {{ path: in, codec: json }} }}\nsink: {{ {from}stdout: {{}} }}");
        planned(&format!("{ends}\nsteps:\n{step}"));
    }
}
