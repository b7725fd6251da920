//! No input makes the reader panic, and places inside texts are right for every way to write them.

use std::path::Path;

use millstream_config::{Variables, apply_fixes, parse, schema};
use millstream_core::{Error, ErrorKind};
use proptest::prelude::*;

use crate::fake::{good, registry};

const SEED: &str = r#"
name: word-count
vars: { A: { type: int, default: 5 } }
source: &s
  file: { path: "${BOOK:-b\u00e4ok.txt}", codec: lines, url: "k://${A}@h/${dir}" }
steps:
  - map: ". = split(downcase(string!(.)), r'[^a-z]+')"
  - filter: '. != "" && it''s'
  - map: |
      .a = %vars.A

      .b = { "x": 1 }
  - aggregate: { key: merge(.a, .b), fields: { count: count() }, emit: end }
  - filter: >-
      a
       b
      c
errors: [{ match: { code: E_DECODE }, retry: { attempts: 3 }, then: drop }]
dead_letter: { file: { path: x }, stop_after: 3 }
sink: { <<: *s, from: [a, b] }
"#;

fn survives(bytes: &[u8]) {
    let mut variables = Variables::default();
    variables.set("B", "x");
    match parse(bytes, Path::new("dir/p.yaml"), &registry(), &variables) {
        Ok(file) => {
            for (start, end) in [(0, 0), (1, 3), (5, 2), (7, 900), (usize::MAX - 1, usize::MAX)] {
                for path in [&["steps", "0", "map"][..], &["source", "file", "path"], &["steps", "3", "filter"], &[]] {
                    let error = Error::new(ErrorKind::Syntax, "unknown x").span(start, end);
                    let error = path.iter().rev().fold(error, |error, key| error.within(*key));
                    file.diagnostic(error).render(true);
                }
            }
        }
        Err(wrong) => {
            assert!(!wrong.is_empty());
            wrong.iter().for_each(|one| drop((one.render(true), one.to_json())));
            let text = String::from_utf8_lossy(bytes);
            apply_fixes(&text, &wrong);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        survives(&bytes);
    }

    #[test]
    fn random_yaml(text in "([-a-e:{}\\[\\]#&*!|>'\"%@`, \t\n$?.()é😀\\\\]|: |- |\n  |\\$\\{|steps|source|map|<<: ){0,60}") {
        survives(text.as_bytes());
        survives(format!("source: {{ stdin: {{}} }}\nsink: {{ stdout: {{}} }}\nsteps:\n  - map: {text}").as_bytes());
    }

    #[test]
    fn mutated_files(changes in prop::collection::vec((0usize..SEED.len(), 0usize..8, any::<u8>()), 1..6)) {
        let mut bytes = SEED.as_bytes().to_vec();
        for (at, what, byte) in changes {
            let at = at.min(bytes.len().saturating_sub(1));
            match what {
                0 => drop(bytes.drain(at..(at + usize::from(byte % 9)).min(bytes.len()))),
                1 => bytes.truncate(at),
                2 => bytes.splice(at..at, *b"\n  - ").for_each(drop),
                3 => bytes.splice(at..at, *b"${").for_each(drop),
                4 => bytes.insert(at, b"{}[]:#&*!|>'\"%@`,-\n \t"[usize::from(byte) % 21]),
                _ if !bytes.is_empty() => bytes[at] = if what == 5 { byte } else { byte % 128 },
                _ => {}
            }
        }
        survives(&bytes);
    }

    /// Words on lines, written in every style: each word is found where it stands.
    #[test]
    fn places_inside_texts(
        lines in prop::collection::vec(prop::collection::vec("[a-zé😀]{1,4}", 0..4), 1..6),
        style in 0usize..5,
        indent in 5usize..8,
    ) {
        let mut words = 0;
        let lines: Vec<String> = lines.iter().map(|line| {
            let line: Vec<_> = line.iter().map(|word| { words += 1; format!("{word}{words}") }).collect();
            line.join(" ")
        }).collect();
        prop_assume!(words > 0 && lines.iter().any(|line| !line.is_empty()));
        let pad = " ".repeat(indent);
        let body: Vec<String> = lines.iter().map(|line| if line.is_empty() { String::new() } else { format!("{pad}{line}") }).collect();
        let body = body.join("\n");
        let (open, close) = [("|\n", "\n"), (">\n", "\n"), ("'", "'\n"), ("\"", "\"\n"), ("\n", "\n")][style];
        let quoted = if style == 2 || style == 3 { body.trim_start().to_owned() } else { body };
        let text = format!("source: {{ stdin: {{}} }}\nsink: {{ stdout: {{}} }}\nsteps:\n  - map: {open}{quoted}{close}");
        let file = good(&text);
        let millstream_runtime::Written::Named { options, .. } = &file.spec().steps[0].component else { panic!() };
        let value = options.as_str().unwrap().to_owned();
        for number in 1..=words {
            let number = number.to_string();
            let word = lines.iter().flat_map(|line| line.split(' ')).find(|word| word.trim_start_matches(|c: char| !c.is_ascii_digit()) == number).unwrap();
            let (Some(at), Some(stands)) = (value.find(word), text.find(word)) else { panic!("{word} is not in {value:?}") };
            let error = Error::new(ErrorKind::Syntax, "x").span(at, at + word.len()).within("map").within("0").within("steps");
            let line = 1 + text[..stands].matches('\n').count();
            let column = 1 + text[..stands].rsplit('\n').next().unwrap().chars().count();
            let located = file.locate(error);
            prop_assert_eq!(located.place().unwrap().location.as_deref().unwrap(), format!("p.yaml:{line}:{column}"), "{}\n{}", text, value);
        }
    }
}

#[test]
fn every_reference_in_the_schema_leads_somewhere() {
    let schema = schema(&registry()).to_value();
    fn references(value: &serde_json::Value, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => map.iter().for_each(|(key, value)| match value.as_str() {
                Some(path) if key == "$ref" => found.push(path.to_owned()),
                _ => references(value, found),
            }),
            serde_json::Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(&schema, &mut found);
    assert!(found.len() > 50);
    for path in found {
        assert!(schema.pointer(path.trim_start_matches('#')).is_some(), "{path}");
    }
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["$defs"]["step"]["additionalProperties"], false);
    assert_eq!(schema["$defs"]["source"]["properties"].get("from"), None);
    if let Ok(path) = std::env::var("MILLSTREAM_SCHEMA_OUT") {
        std::fs::write(path, schema.to_string()).unwrap();
    }
}
