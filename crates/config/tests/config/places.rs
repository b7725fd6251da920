//! Errors of components find their place in the file, and are shown there.

use millstream_config::Variables;
use millstream_core::{Error, ErrorKind, parse_options};
use serde::Deserialize;

use crate::fake::{good, read, read_with};

fn place(text: &str, path: &[&str], message: &str, span: Option<(usize, usize)>) -> String {
    let error = Error::new(ErrorKind::Option, message);
    let error = span.into_iter().fold(error, |error, (start, end)| error.span(start, end));
    let error = path.iter().rev().fold(error, |error, key| error.within(*key));
    let located = good(text).locate(error);
    located.place().unwrap().location.clone().unwrap()
}

const FILE: &str = "\
source:
  file:
    path: ä.txt
    codec: { csv: { header: yes } }
steps:
  - map: '.a = 1'
  - name: m
    map: |
      .a = 1

      .b = ö + .missing
  - map: >-
      .a = 1 +
      2

      .c = 3
  - filter: \"a \\u00e9 \\\"q\\\" \\
      b\"
  - filter: 'it''s
      so'
  - filter: .a ==
      .b
sink: { stdout: {} }
";

#[test]
fn keys_for_unknown_options_and_values_for_wrong_ones() {
    let at = |path: &[&str], message: &str| place(FILE, path, message, None);
    assert_eq!(at(&["source", "file", "path"], "no such file"), "p.yaml:3:11");
    assert_eq!(at(&["source", "file", "path"], "unknown option `path`"), "p.yaml:3:5");
    assert_eq!(at(&["source", "file", "codec", "csv", "header"], "invalid"), "p.yaml:4:29");
    assert_eq!(at(&["source", "file", "codec", "csv"], "option `x` is missing"), "p.yaml:4:14");
    // An option that is not there is missing from what is.
    assert_eq!(at(&["source", "file", "nope", "deeper"], "is missing"), "p.yaml:2:3");
    assert_eq!(at(&["steps", "1"], "this step is wrong"), "p.yaml:7:5");
    assert_eq!(at(&["steps", "1", "from"], "unknown stage"), "p.yaml:7:5");
    assert_eq!(at(&[], "the pipeline is wrong"), "p.yaml:1:1");
    // A name that serde adds for a wrong variant is the value.
    assert_eq!(at(&["steps", "0", "map", "variant"], "unknown option `variant`"), "p.yaml:6:10");
}

#[test]
fn bytes_inside_texts() {
    let at = |step: &str, kind: &str, text: &str, needle: &str| {
        let start = text.find(needle).unwrap();
        place(FILE, &["steps", step, kind], "bad", Some((start, start + needle.len())))
    };
    assert_eq!(at("0", "map", ".a = 1", "1"), "p.yaml:6:16");
    let literal = ".a = 1\n\n.b = ö + .missing\n";
    assert_eq!(at("1", "map", literal, ".a"), "p.yaml:9:7");
    assert_eq!(at("1", "map", literal, ".b"), "p.yaml:11:7");
    assert_eq!(at("1", "map", literal, ".missing"), "p.yaml:11:16");
    let folded = ".a = 1 + 2\n.c = 3";
    assert_eq!(at("2", "map", folded, "+"), "p.yaml:13:14");
    assert_eq!(at("2", "map", folded, "2"), "p.yaml:14:7");
    assert_eq!(at("2", "map", folded, "3"), "p.yaml:16:12");
    let double = "a é \"q\" b";
    assert_eq!(at("3", "filter", double, "é"), "p.yaml:17:16");
    assert_eq!(at("3", "filter", double, "q"), "p.yaml:17:25");
    assert_eq!(at("3", "filter", double, "b"), "p.yaml:18:7");
    let single = "it's so";
    assert_eq!(at("4", "filter", single, "s"), "p.yaml:19:18");
    assert_eq!(at("4", "filter", single, "so"), "p.yaml:20:7");
    assert_eq!(at("5", "filter", ".a == .b", ".b"), "p.yaml:22:7");
    // A span that does not fit points at the text.
    assert_eq!(place(FILE, &["steps", "0", "map"], "bad", Some((100, 200))), "p.yaml:6:10");
}

#[test]
fn options_of_a_component() {
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Options {
        path: String,
        #[serde(default)]
        limit: u64,
    }
    let file = good("source: { stdin: {} }\nsink: { file: { path: x, limt: 3 } }");
    let millstream_runtime::Written::Named { options, .. } = &file.spec().sinks[0].component else { panic!() };
    let error = parse_options::<Options>(options).unwrap_err();
    let error = file.spec().sinks[0].place.iter().rev().fold(error, |error, key| error.within(key));
    let shown = file.diagnostic(error).to_string();
    let expected = "\
error[E_OPTION]: unknown option `limt`, expected `path` or `limit`
  --> p.yaml:2:26
   |
 2 | sink: { file: { path: x, limt: 3 } }
   |                          ^^^^
   = hint: did you mean `limit`?";
    assert_eq!(shown, expected);
}

#[test]
fn shown_for_people_and_tools() {
    let file = good(FILE);
    let cause = Error::new(ErrorKind::Syntax, "syntax");
    let error = Error::new(ErrorKind::Syntax, "cannot compile")
        .caused_by(cause)
        .span(0, 2)
        .within("map")
        .within("1")
        .within("steps");
    let diagnostic = file.diagnostic(error.hint("try"));
    let json = serde_json::json!({"code": "E_SYNTAX", "message": "cannot compile", "file": "p.yaml", "line": 9, "column": 7,
        "hint": "try", "causes": ["syntax"]});
    assert_eq!(diagnostic.to_json(), json);
    let plain = diagnostic.render(false);
    assert!(plain.contains(" 9 |       .a = 1\n   |       ^^\n   = cause: syntax\n   = hint: try"), "{plain}");
    let coloured = diagnostic.render(true);
    assert!(coloured.starts_with("\u{1b}[1;31merror[E_SYNTAX]\u{1b}[0m"), "{coloured}");
    let elsewhere: millstream_config::Diagnostic = Error::new(ErrorKind::Option, "x").located("a:b.yaml:3:4").into();
    assert_eq!(elsewhere.position(), Some(("a:b.yaml", 3, 4)));
    assert!(elsewhere.to_string().ends_with("--> a:b.yaml:3:4"));
}

#[test]
fn windows_line_ends_and_a_byte_order_mark() {
    let text = format!("\u{feff}{}", FILE.replace('\n', "\r\n"));
    assert_eq!(place(&text, &["steps", "1", "map"], "bad", Some((8, 10))), "p.yaml:11:7");
    assert_eq!(place(&text, &["source"], "bad", None), "p.yaml:1:1");
}

#[test]
fn secrets_are_never_shown() {
    let mut variables = Variables::default();
    variables.set("DB_PASSWORD", "hunter2/x");
    variables.set("PIN", "4711");
    let text = "vars: { PIN: { secret: true } }\nsource: { kafka: { url: 'k://u:${DB_PASSWORD}@h/s', limit: '${PIN}' } }\nsink: { stdout: {} }";
    let file = read_with(text, &variables).unwrap();
    let cause = Error::new(ErrorKind::Option, "invalid value hunter2%2Fx");
    let error = Error::new(ErrorKind::Option, "invalid type: string \"4711\"")
        .caused_by(cause)
        .hint("not hunter2/x")
        .within("source");
    let shown = format!("{:?} {}", file.locate(error.clone()), file.diagnostic(error));
    assert!(!shown.contains("4711") && !shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("invalid value ***"), "{shown}");
    assert!(!format!("{variables:?} {file:?}").contains("4711"));

    let text = "source: { kafka: { url: 'k://u:hunter2@h/s', password: hunter2, apiToken: 'hunter2', stdni: {} }, stdni: {} }\nsink: { stdout: {} }";
    let wrong = crate::fake::shown(&read(text).unwrap_err());
    assert!(wrong.contains("k://u:*******@h/s") && !wrong.contains("hunter2"), "{wrong}");
}
