//! `${...}` in parsed texts, never in expressions, and where the values come from.

use std::path::Path;

use millstream_config::{PipelineFile, Variables, parse};
use millstream_runtime::Written;
use serde_json::{Value, json};

use crate::fake::{read_with, registry, shown};

fn variables(pairs: &[(&str, &str)]) -> Variables {
    let mut variables = Variables::default();
    pairs.iter().for_each(|(name, value)| variables.set(*name, *value));
    variables
}

fn options(file: &PipelineFile) -> Value {
    match &file.spec().sources[0].component {
        Written::Named { options, .. } => options.clone(),
        Written::Ready(_) => panic!("made by a program"),
    }
}

/// The option `x` of the source, written as `text`.
fn put(text: &str, pairs: &[(&str, &str)]) -> Value {
    put_as("x", text, pairs)
}

fn put_as(key: &str, text: &str, pairs: &[(&str, &str)]) -> Value {
    let text = format!("source: {{ kafka: {{ {key}: '{text}' }} }}\nsink: {{ stdout: {{}} }}");
    let file = read_with(&text, &variables(pairs)).unwrap_or_else(|wrong| panic!("{}", shown(&wrong)));
    options(&file)[key].clone()
}

#[test]
fn forms() {
    let pairs = [("A", "1"), ("EMPTY", ""), ("NASTY", "x\", y: {z: 1}\n- ${A}")];
    for (text, expected) in [
        ("${A}", "1"),
        ("a${A}b${A}", "a1b1"),
        ("${NOPE:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("${EMPTY}", ""),
        ("${A:-d}", "1"),
        ("${A:?needed}", "1"),
        ("${NOPE:-}", ""),
        ("${NOPE:-a${A}${ALSO:-x}b}", "a1xb"),
        ("$${A} $A $", "${A} $A $"),
        ("$$${A}", "$${A}"),
        ("${NASTY}", "x\", y: {z: 1}\n- ${A}"),
        ("${NOPE:-kafka://a:1/b}", "kafka://a:1/b"),
    ] {
        assert_eq!(put(text, &pairs), expected, "{text}");
    }
}

#[test]
fn in_a_url_the_value_is_encoded() {
    let pairs =
        [("P", "a/b?c=d#@:%"), ("HOSTS", "a:1,b:2"), ("BASE", "kafka://h:1/x"), ("EVIL", "h/p@q"), ("U", "me@x")];
    for (text, expected) in [
        ("k://h/${P}", "k://h/a%2Fb%3Fc%3Dd%23%40%3A%25"),
        (
            "k://${U}:${P}@${HOSTS}/s?o=${P}",
            "k://me%40x:a%2Fb%3Fc%3Dd%23%40%3A%25@a:1,b:2/s?o=a%2Fb%3Fc%3Dd%23%40%3A%25",
        ),
        ("k://${HOSTS}/s", "k://a:1,b:2/s"),
        ("k://${EVIL}/s", "k://h%2Fp%40q/s"),
        // What is the URL, or its beginning, has nothing to be encoded against.
        ("${BASE}", "kafka://h:1/x"),
        ("${BASE}/${U}", "kafka://h:1/x/me%40x"),
    ] {
        assert_eq!(put_as("url", text, &pairs), expected, "{text}");
    }
    let folder = put_as("url", "file://${dir}/x", &[]);
    let folder = folder.as_str().unwrap();
    assert!(folder.starts_with("file:///") && !folder.contains("%2F"), "{folder}");
}

#[test]
fn the_folder_and_the_text_of_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "hunter2\n").unwrap();
    let text = format!(
        "source: {{ kafka: {{ a: '${{dir}}/x', b: 'p=${{file:{}}}' }} }}\nsink: {{ stdout: {{}} }}",
        secret.display()
    );
    let file = parse(text.as_bytes(), &dir.path().join("p.yaml"), &registry(), &Variables::default()).unwrap();
    assert_eq!(options(&file), json!({"a": format!("{}/x", dir.path().display()), "b": "p=hunter2"}));
    let error = millstream_core::Error::new(millstream_core::ErrorKind::Option, "bad p=hunter2");
    assert_eq!(file.locate(error).message(), "bad p=***");
    let text = "source: { kafka: { a: '${file:/no/such/file}' } }\nsink: { stdout: {} }";
    let wrong = shown(&read_with(text, &Variables::default()).unwrap_err());
    assert!(wrong.contains("p.yaml:1:24") && wrong.contains("cannot read `/no/such/file`"), "{wrong}");
}

#[test]
fn never_in_expressions() {
    let text = "\
source: { stdin: {} }
steps:
  - map: '.a = \"${A}\" + %vars.A'
  - aggregate: { key: '${A}', fields: { n: '${A}' }, emit: '${A}', time: '${A}', count: '${A}' }
  - log: { message: '${A}', level: '${A}' }
sink: { file: { path: { expr: '\"${A}\"' }, codec: '${A}' } }
";
    let file = read_with(text, &variables(&[("A", "7")])).unwrap();
    let step = |i: usize| match &file.spec().steps[i].component {
        Written::Named { options, .. } => options.clone(),
        Written::Ready(_) => panic!("made by a program"),
    };
    assert_eq!(step(0), ".a = \"${A}\" + %vars.A");
    let kept = "${A}";
    assert_eq!(step(1), json!({"key": kept, "fields": {"n": kept}, "emit": "7", "time": kept, "count": "7"}));
    assert_eq!(step(2), json!({"message": kept, "level": "7"}));
    let Written::Named { options, .. } = &file.spec().sinks[0].component else { panic!() };
    assert_eq!(options, &json!({"path": {"expr": "\"${A}\""}, "codec": "7"}));
    assert_eq!(file.spec().vars["A"], "7");
}

#[test]
fn values_come_from_the_first_that_has_one() {
    let dir = tempfile::tempdir().unwrap();
    let env_file = dir.path().join("env");
    std::fs::write(&env_file, "# a comment\nA=file\nB='quoted file'\nexport C=\"c\"\n\nD=file\n").unwrap();
    let mut variables = Variables::default();
    variables.read_env_file(&env_file).unwrap();
    variables.set_environment("A", "environment");
    variables.set_environment("D", "environment");
    variables.set_pair("A=set=1").unwrap();
    let text = "\
vars:
  A: { default: default }
  B: {}
  E: { type: int, default: 5, description: five }
  V: { default: 1.10 }
  UNSET: { secret: true }
source: { kafka: { x: '${A} ${B} ${C} ${D} ${E} ${V}' } }
sink: { stdout: {} }
";
    let file = read_with(text, &variables).unwrap();
    assert_eq!(options(&file)["x"], "set=1 quoted file c environment 5 1.10");
    let vars: Vec<_> = file.spec().vars.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(vars, ["A=set=1", "B=quoted file", "E=5", "V=1.10"]);
    assert_eq!(file.variables_used().collect::<String>(), "ABCDEV");
    assert!(variables.set_pair("1x=2").is_err());
    std::fs::write(&env_file, "A=1\nnonsense secret\n").unwrap();
    let error = variables.read_env_file(&env_file).unwrap_err();
    assert!(error.place().unwrap().location.as_ref().unwrap().ends_with("env:2:1"));
    assert!(!format!("{error:?}").contains("nonsense"));
}

#[test]
fn what_cannot_be_put_in() {
    let wrong = |text: &str, expected: &[(&str, &str, &str)]| {
        let found = read_with(text, &variables(&[("TOPIC", "x"), ("N", "abc"), ("S", "geheim")])).unwrap_err();
        let matches = found.iter().zip(expected).all(|(found, (place, message, hint))| {
            let position = found.position().map(|(_, line, column)| format!("{line}:{column}")).unwrap_or_default();
            position == *place
                && found.error().message().contains(message)
                && found.error().hint_text().unwrap_or_default().contains(hint)
        });
        assert!(matches && found.len() == expected.len(), "{text}\n{}", shown(&found));
    };
    wrong(
        "source:\n  kafka:\n    topic: \"\\u00e4${TOPCI}b\"\n    text: |\n      a\n      b ${NOPE}\nsink: { stdout: {} }",
        &[
            ("3:19", "variable `TOPCI` is not set", "did you mean `TOPIC`?"),
            ("6:9", "variable `NOPE` is not set", "--set NOPE="),
        ],
    );
    wrong(
        "source: { kafka: { a: '${X:?say who}', b: '${', c: '${Y Z}', d: '${}' } }\nsink: { stdout: {} }",
        &[
            ("1:24", "variable `X`: say who", "--set X="),
            ("1:44", "`${` has no closing `}`", "`$${`"),
            ("1:53", "cannot read `${Y Z}`", "${NAME:-default}"),
            ("1:66", "cannot read `${}`", ""),
        ],
    );
    wrong(
        "vars:\n  N: { type: int }\n  S: { type: bool, secret: true }\n  2x: {}\n  M: { defualt: 1 }\n  D: { default: '${X}' }\nsource: { stdin: {} }\nsink: { stdout: {} }",
        &[
            ("2:3", "variable `N`: `abc` is not a whole number", ""),
            ("3:3", "variable `S`: its value is not `true` or `false`", ""),
            ("4:3", "`2x` cannot be the name of a variable", ""),
            ("5:8", "unknown option `defualt`", "did you mean `default`?"),
            ("6:17", "nothing is put into the default", ""),
        ],
    );
    wrong(
        "source: { stdin: {} }\nsteps:\n  - filter: '.a == %vars.LIMIT'\nsink: { stdout: {} }",
        &[("3:20", "variable `LIMIT` is not set", "")],
    );
}

#[test]
fn a_whole_text_takes_its_options_type() {
    #[derive(serde::Deserialize)]
    struct Options {
        count: u64,
        follow: bool,
    }
    let text = "source: { kafka: { count: '${N}', follow: '${F:-true}' } }\nsink: { stdout: {} }";
    let file = read_with(text, &variables(&[("N", "12")])).unwrap();
    let parsed: Options = millstream_core::parse_options(&options(&file)).unwrap();
    assert!(parsed.count == 12 && parsed.follow);
    assert_eq!(file.path(), Path::new("p.yaml"));
}
