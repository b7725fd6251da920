//! What is wrong with a file is said at its place, all of it, with what to do.

use crate::fake::{good, read, shown};

/// Place, a part of the message, a part of the hint.
type Expected<'a> = (&'a str, &'a str, &'a str);

/// The file must have exactly these mistakes.
fn wrong(text: &str, expected: &[Expected<'_>]) {
    let found = read(text).err().unwrap_or_default();
    let matches = found.iter().zip(expected).all(|(found, (place, message, hint))| {
        let position = found.position().map(|(_, line, column)| format!("{line}:{column}")).unwrap_or_default();
        position == *place
            && found.error().message().contains(message)
            && found.error().hint_text().unwrap_or_default().contains(hint)
    });
    assert!(matches && found.len() == expected.len(), "{text}\nexpected {expected:#?}\nfound:\n{}", shown(&found));
}

/// Three good lines before the text.
fn steps(text: &str, expected: &[Expected<'_>]) {
    wrong(&format!("source: {{ stdin: {{}} }}\nsink: {{ stdout: {{}} }}\nsteps:\n{text}"), expected);
}

/// Two good lines before the text.
fn top(text: &str, expected: &[Expected<'_>]) {
    wrong(&format!("source: {{ stdin: {{}} }}\nsink: {{ stdout: {{}} }}\n{text}"), expected);
}

#[test]
fn what_is_no_pipeline_at_all() {
    wrong("", &[("1:1", "the file holds no pipeline", "begin with `source:`")]);
    wrong("# nothing\n", &[("1:1", "the file holds no pipeline", "")]);
    wrong("- a\n", &[("1:1", "a pipeline file must be a map, not a list", "begin with")]);
    wrong("a: [1, 2", &[("1:4", "cannot be read", "the closing bracket is missing")]);
    wrong("source: \"abc", &[("1:9", "cannot be read", "the closing quote is missing")]);
    wrong("a: *b", &[("1:4", "cannot be read", "put `&NAME` before the value")]);
    wrong("a: 1\nb: x\u{1}", &[("2:5", "the file holds the control character \\u{1}", "as an escape")]);
    top("---\na: 1", &[("3:1", "a pipeline file holds one document", "a file of its own")]);
}

#[test]
fn keys() {
    wrong("source: { stdin: {} }\nsnk: { stdout: {} }", &[("2:1", "unknown key `snk`", "did you mean `sink`?")]);
    wrong("source: { stdin: {} }", &[("1:1", "the pipeline has no sink", "add `sink: { stdout: {} }`")]);
    wrong(
        "name: a\nname: b\nsource: { stdin: {} }\nsink: { stdout: {}, stdout: {} }",
        &[
            ("2:1", "key `name` is given twice", "the first is at p.yaml:1:1"),
            ("4:21", "key `stdout` is given twice", "p.yaml:4:9"),
            ("4:21", "has `stdout` and `stdout`", ""),
        ],
    );
    top(
        "tests: []\ntables: {}",
        &[("3:1", "`tests`", "not in this version"), ("4:1", "`tables`", "not in this version")],
    );
    top(
        "steps:\n  - batch: {}\n    order: none\n    spool: {}",
        &[("5:5", "`order`", "not in this version"), ("6:5", "`spool`", "not in this version")],
    );
}

#[test]
fn kinds() {
    wrong(
        "source: { stdni: {} }\nsink: { stdout: {} }",
        &[("1:11", "there is no source `stdni`", "did you mean `stdin`?")],
    );
    wrong(
        "source: { stdout: {} }\nsink: { stdout: {} }",
        &[("1:11", "`stdout` is a sink, not a source", "move it to `sinks`")],
    );
    wrong(
        "source: { stdin: {}, file: { path: x } }\nsink: { stdout: {} }",
        &[("1:22", "one kind, and this one has `stdin` and `file`", "a source of its own")],
    );
    wrong(
        "source: { stdin: {}, codec: json }\nsink: { stdout: {}, form: x }",
        &[
            ("1:22", "unknown key `codec` beside `stdin`", "`stdin: { codec: ... }`"),
            ("2:21", "unknown key `form` beside `stdout`", "did you mean `from`?"),
        ],
    );
    wrong(
        "source: stdin\nsink: { stdout: }",
        &[("1:9", "must be a map, not a text", "write `stdin: {}`"), ("2:9", "has no options", "write `stdout: {}`")],
    );
    steps(
        "  - fliter: .a\n  - mpa: .b\n    name: x\n  - name: y\n",
        &[
            ("4:5", "there is no step `fliter`", "did you mean `filter`?"),
            ("5:5", "there is no step `mpa`", "did you mean `map`?"),
            ("7:5", "does not say what it is", "give it one of these keys: aggregate"),
        ],
    );
}

#[test]
fn names() {
    let name = |name: &str, place| {
        let text = format!("name: {name}\nsource: {{ stdin: {{}} }}\nsink: {{ stdout: {{}} }}");
        wrong(&text, &[(place, "cannot be the name of a pipeline", "letters, digits")]);
    };
    name("a/b", "1:7");
    name("..", "1:7");
    name("\"\"", "1:7");
    wrong(
        "sources: { a: { stdin: {} }, b: { stdin: {} } }\nsteps:\n  - { name: a, split: {} }\nsink: { name: x.y, stdout: {} }",
        &[
            ("3:13", "two stages have the name `a`", "the first is at p.yaml:1:12"),
            ("4:15", "`x.y` cannot be the name of a stage", "letters"),
        ],
    );
    wrong(
        "source: { stdin: {}, from: x }\nsinks: { a: { name: b, stdout: {} } }",
        &[("1:22", "a source has no `from`", ""), ("2:15", "has a name already", "remove this key")],
    );
    wrong(
        "sources: { a: { stdin: {} } }\nsource: { stdin: {} }\nsink: { stdout: {} }",
        &[("2:1", "both `source` and `sources`", "name them all in `sources`")],
    );
}

#[test]
fn edges() {
    steps("  - { from: [], split: {} }\n", &[("4:13", "reads from nothing", "leave `from` out")]);
    steps("  - { from: { a: b }, split: {} }\n", &[("4:13", "`from` must be a text, not a map", "")]);
    top("steps: split", &[("3:8", "`steps` must be a list or a map, not a text", "- filter:")]);
    top("steps: [split]", &[("3:9", "a step must be a map, not a text", "write `split: {}`")]);
}

#[test]
fn typed_parts() {
    top(
        "checkpoint: { evry: 1s }\nlimits: { memory: lots }\ndelivery: exactly_onec\nstate: { redis: {} }",
        &[
            ("3:15", "unknown option `evry`", "did you mean `every`?"),
            ("4:19", "`lots` is not a size", ""),
            ("5:11", "unknown option `exactly_onec`", "did you mean `exactly_once`?"),
            ("6:10", "unknown option `redis`", "known are: embedded, memory"),
        ],
    );
    top(
        "checkpoint: 5s\nerrors: {}",
        &[
            ("3:13", "`checkpoint` must be a map, not a text", ""),
            ("4:9", "`errors` must be a list, not a map", "then: drop"),
        ],
    );
    top(
        "errors:\n  - { match: { code: E_DECOD } }",
        &[("4:22", "no error code `E_DECOD`", "did you mean `E_DECODE`?")],
    );
    top("errors:\n  - match: { message: '[' }", &[("4:23", "regular expression cannot be read", "")]);
    top("errors:\n  - { then: explode }", &[("4:13", "unknown option `explode`", "dead_letter, drop, stop, restart")]);
    top("dead_letter: { fiel: {} }", &[("3:16", "there is no sink `fiel`", "did you mean `file`?")]);
    top("dead_letter: { stop_after: many, file: { path: x } }", &[("3:28", "many", "")]);
}

#[test]
fn expressions_without_quotes() {
    let hint = "quote this expression: `filter: '!is_null(.x)'`";
    steps("  - filter: !is_null(.x)\n", &[("4:13", "`!is_null(.x)` is a YAML tag", hint)]);
    let hint = "quote this expression: `filter: '!.done && .x == ''a'''`";
    steps("  - filter: !.done && .x == 'a'\n", &[("4:13", "`!.done` is a YAML tag", hint)]);
    let hint = "quote this expression: `key: 'merge(.a, .b, .c)'`";
    steps("  - aggregate: { key: merge(.a, .b, .c), count: 1 }\n", &[("4:37", "key `.c)` has no value", hint)]);
    let hint = "quote this expression: `filter: 'contains(.a, .b)'`";
    steps("  - { filter: contains(.a, .b) }\n", &[("4:28", "key `.b)` has no value", hint)]);
    steps("  - map: .a = \"x: y\"\n", &[("4:17", "cannot be read", "quote this expression: `map: '.a = \"x: y\"'`")]);
    steps("  - map: . = {\"a\": 1}\n", &[("4:18", "cannot be read", "quote this expression: `map: '. = {\"a\": 1}'`")]);
    steps("  - filter: %key == 1\n", &[("4:13", "cannot be read", "quote this expression: `filter: '%key == 1'`")]);
    steps("  - map: \"a\" + .b\n", &[("4:14", "cannot be read", "quote this expression: `map: '\"a\" + .b'`")]);
    let hint = "quote this expression: `big: '.a == \"x: y\"'`";
    steps("  - route: { to: { big: .a == \"x: y\", small: .b } }\n", &[("4:33", "cannot be read", hint)]);
    steps(
        "  - filter:\n  - filter: null\n  - filter: # .x\n  - filter: {.x}\n  - dedupe: { key: [.a, .b] }\n",
        &[
            ("4:5", "`filter` has no expression", "quote this expression: `filter: '...'`"),
            ("5:13", "an expression is missing", "quote this expression: `filter: 'null'`"),
            ("6:13", "an expression is missing", "quote this expression: `filter: '# .x'`"),
            ("7:13", "an expression must be a text, not a map", "quote this expression: `filter: '{.x}'`"),
            ("8:20", "an expression must be a text, not a list", "quote this expression: `key: '[.a, .b]'`"),
        ],
    );
    steps("  - foo(.x):\n", &[("4:5", "has no value", "quote this expression: `'foo(.x)'`")]);
    steps("  - filter: .x\n    exists(.y): 1\n", &[("5:5", "exists(.y)", "quote this expression: `'exists(.y)'`")]);
}

#[test]
fn fixes_mend_the_file() {
    let text = "source: { stdin: {} }\nsink: { stdout: {} }\nsteps:\n  - filter: !.a\n  - dedupe: { key: merge(.a, .b) }\n  - map: {.x}\n";
    let mended = millstream_config::apply_fixes(text, &read(text).unwrap_err());
    assert!(mended.contains("filter: '!.a'\n"), "{mended}");
    assert!(mended.contains("{ key: 'merge(.a, .b)' }\n"), "{mended}");
    good(&mended);
    let text = "source: { stdin: {} }\nsink: { stdout: {} }\nsteps:\n  - map: .a = {\"b\": 1}\n";
    good(&millstream_config::apply_fixes(text, &read(text).unwrap_err()));
}

#[test]
fn a_part_of_a_long_line_is_shown() {
    let many = "{ split: {} }, ".repeat(10_000);
    let found = read(&format!(
        "{{source: {{ stdin: {{}} }}, sink: {{ stdout: {{}} }}, steps: [{many}{{ splt: {{}} }}, {many}]}}"
    ));
    let found = shown(&found.unwrap_err());
    assert!(found.len() < 1000, "{found}");
    let mut lines = found.lines().skip(3);
    let (text, mark) = (lines.next().unwrap(), lines.next().unwrap());
    assert_eq!(text.get(mark.find('^').unwrap()..).and_then(|rest| rest.get(..4)), Some("splt"), "{found}");
}

#[test]
fn limits_on_size_and_depth() {
    let deep = format!("source: {}1{}", "[".repeat(5000), "]".repeat(5000));
    assert!(read(&deep).is_err());
    let deep: String = (0..5000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    assert!(read(&deep).is_err());
    let bomb: String =
        (1..30).map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(", "))).collect();
    let found = read(&format!("a0: &a0 [x, x]\n{bomb}")).unwrap_err();
    assert!(shown(&found).contains("aliases make the file too large"), "{}", shown(&found));
    let found = read("a: &a [*a]").unwrap_err();
    assert!(shown(&found).contains("an alias cannot stand inside what it repeats"), "{}", shown(&found));
}
