//! `map`.

use millstream_core::{ErrorKind, Form, Record};
use proptest::prelude::*;

use crate::support::{Running, batch, context, mapped, plan, records, refused, run, run_records, time};

#[test]
fn the_example() {
    assert_eq!(mapped(".total = to_float!(.amount) * 1.5", r#"{"amount":"2"}"#), r#"{"amount":"2","total":3.0}"#);
}

#[test]
fn untouched_fields_keep_their_bytes_and_their_order() {
    let value = r#"{"z":1.10, "a" : [ 1,2 ],"m":{ "y":1e2,"x":"\u0041"},"b":2}"#;
    assert_eq!(mapped(".b = 3\n.m.x = true", value), r#"{"z":1.10,"a":[ 1,2 ],"m":{"y":1e2,"x":true},"b":3}"#);
    assert_eq!(mapped("del(.m.x)\ndel(.z)", value), r#"{"a":[ 1,2 ],"m":{"y":1e2},"b":2}"#);
    assert_eq!(mapped(".", value), value);
    assert_eq!(mapped("x = .z\nx = 1", value), value);
}

#[test]
fn new_fields_follow_in_order_of_assignment() {
    assert_eq!(
        mapped(".z = 1\n.c = 2\n.y.q = 3\n.y.b = 4\n.a = 5\n.c = 6", r#"{"m":0}"#),
        r#"{"m":0,"z":1,"c":6,"y":{"q":3,"b":4},"a":5}"#
    );
}

#[test]
fn an_object_that_is_spelled_out_has_the_order_in_which_it_is_written() {
    assert_eq!(
        mapped(r#". = {"z": .a, "b": {"y": 1, "x": 2}, "a": .b}"#, r#"{"a":1,"b":2}"#),
        r#"{"z":1,"b":{"y":1,"x":2},"a":2}"#
    );
    assert_eq!(mapped(".n = {\"z\": 1, \"a\": 2}\n.n.m = 3", r#"{"n":{"a":0}}"#), r#"{"n":{"z":1,"a":2,"m":3}}"#);
}

#[test]
fn what_a_merge_leaves_as_it_was_keeps_its_bytes() {
    let value = r#"{"z":1.10,"a":{"y":1.0,"x":2.50},"l":[1.0,{"b":1.0,"a":1}]}"#;
    assert_eq!(
        mapped(r#". = merge!(., {"n": 1, "z": 2})"#, value),
        r#"{"z":2,"a":{"y":1.0,"x":2.50},"l":[1.0,{"b":1.0,"a":1}],"n":1}"#
    );
    assert_eq!(
        mapped(r#". |= {"a": {"x": 3}}"#.replace(". |=", ". = object!(.)\n. |=").as_str(), value),
        r#"{"z":1.10,"a":{"x":3},"l":[1.0,{"b":1.0,"a":1}]}"#
    );
    assert_eq!(mapped(".l[1].a = 2", value), r#"{"z":1.10,"a":{"y":1.0,"x":2.50},"l":[1.0,{"b":1.0,"a":2}]}"#);
}

#[test]
fn a_name_that_stands_there_twice_is_assigned_once() {
    assert_eq!(mapped(".a = 3", r#"{"a":1,"b":0,"a":2}"#), r#"{"a":3,"b":0}"#);
    assert_eq!(mapped(".b = 3", r#"{"a":1,"b":0,"a":2}"#), r#"{"a":1,"b":3,"a":2}"#);
}

#[test]
fn integers_beyond_64_bits_are_exact_if_untouched() {
    let value = r#"{"big":123456789012345678901234567890,"small":1,"n":-9223372036854775809}"#;
    assert_eq!(mapped(".small = 2", value), value.replace(":1,", ":2,"));
    assert_eq!(
        mapped(".copy = .big\ndel(.big)\ndel(.n)\ndel(.small)", value),
        r#"{"copy":123456789012345678901234567890}"#
    );
}

#[test]
fn integers_beyond_64_bits_are_a_data_error_when_computed_with() {
    for program in [".x = .big + 1 ?? fail!()", ".x = int!(.big)", ".x = to_float!(.big)", ".x = round!(.big)"] {
        let program = program.replace(" ?? fail!()", "").replace(".big + 1", "int!(.big) + 1");
        let outcome = run("map", program, Form::Json, [r#"{"big":18446744073709551616}"#]);
        assert_eq!(outcome.failed[0].1.kind(), ErrorKind::Data);
        assert_eq!(outcome.errors(), ["`.big` is an integer beyond 64 bits: 18446744073709551616"]);
    }
}

#[test]
fn times_are_written_in_rfc_3339_utc() {
    assert_eq!(
        mapped(".t = parse_timestamp!(.t, \"%d.%m.%Y %H:%M:%S %z\")", r#"{"t":"01.02.2026 03:04:05 +0200"}"#),
        r#"{"t":"2026-02-01T01:04:05Z"}"#
    );
    assert_eq!(
        mapped(".t = parse_timestamp!(.t, \"%d.%m.%Y %H:%M\")", r#"{"t":"01.02.2026 03:04"}"#),
        r#"{"t":"2026-02-01T03:04:00Z"}"#
    );
}

#[test]
fn a_number_that_json_has_no_word_for_is_a_data_error() {
    let outcome = run("map", ".x = float!(.x) * 10.0", Form::Json, [r#"{"x":1e308}"#, r#"{"x":1.5}"#]);
    assert_eq!(outcome.values(0), [r#"{"x":15.0}"#]);
    assert_eq!(outcome.errors(), ["`.x` cannot be written as JSON: a number beyond all bounds"]);
    assert_eq!(outcome.failed[0].0.value.as_deref(), Some(&br#"{"x":1e308}"#[..]));
}

#[test]
fn a_run_time_error_or_abort_fails_the_record_and_leaves_the_value_as_it_was() {
    let program = ".a = 1\n.b.c = 2\ndel(.d)\nif .bad == true { abort \"no good\" }\n.n = to_int!(.n)";
    let values = [r#"{"d":0, "n":"1"}"#, r#"{"d":0, "bad":true}"#, r#"{"d":0, "n":"x"}"#];
    let outcome = run("map", program, Form::Json, values);
    assert_eq!(outcome.values(0), [r#"{"n":1,"a":1,"b":{"c":2}}"#]);
    let left: Vec<_> = outcome.failed.iter().map(|(record, _)| record.value.clone().unwrap()).collect();
    assert_eq!(left, values[1..]);
    assert_eq!(outcome.errors(), ["no good", "`.n` is text \"x\""]);
    assert!(outcome.failed.iter().all(|(_, error)| error.kind() == ErrorKind::Data));
}

#[test]
fn after_another_map_the_value_is_left_as_that_one_gave_it() {
    let first = plan("map", ".b = 2\n.c = {\"x\": 1}".into(), &context(Form::Json)).unwrap();
    let second = plan("map", ".b = 3\n.c.x = 4\ndel(.a)\n.n = int!(.n)".into(), &context(Form::Json)).unwrap();
    let given = Running::new(&*first).apply(batch(&records(Form::Json, [r#"{"a":1.0}"#]))).batches.remove(0).1;
    let outcome = Running::new(&*second).apply(given);
    assert_eq!(outcome.errors(), ["`.n` is missing"]);
    assert_eq!(outcome.failed[0].0.value.as_deref(), Some(&br#"{"a":1.0,"b":2,"c":{"x":1}}"#[..]));
    assert_eq!(outcome.failed[0].0.original.as_deref(), Some(&br#"{"a":1.0}"#[..]));
}

#[test]
fn vrl_keeps_its_strictness_and_the_hint_shows_the_mended_line() {
    let error = refused("map", ".a = 1\n.total = to_float(.amount) * 1.19", Form::Json);
    assert_eq!(error.kind(), ErrorKind::Syntax);
    assert_eq!(error.hint_text(), Some("write `.total = to_float!(.amount) * 1.19`"));
    let (start, end) = error.place().unwrap().span.unwrap();
    assert!(start >= 7 && end <= 45, "{start}..{end}");
    let error = refused("map", ".total = .amount * 1.19", Form::Json);
    assert_eq!(error.hint_text(), Some("write `.total = (.amount * 1.19) ?? null`"));
    let error = refused("map", ".x = upcase(.name)", Form::Json);
    assert_eq!(error.hint_text(), Some("write `.x = upcase!(.name)`"));
}

#[test]
fn a_program_that_cannot_be_read_is_an_error_at_its_place() {
    for (program, part) in [(".a = ", ""), (".a = upcas!(.b)", "upcas"), (".a = b", "b"), (".a == 1 ==", "")] {
        let error = refused("map", program, Form::Json);
        assert_eq!(error.kind(), ErrorKind::Syntax, "{program}");
        let (start, end) = error.place().unwrap().span.unwrap();
        assert!(start <= end && end <= program.len(), "{program}: {start}..{end}");
        assert!(part.is_empty() || &program[start..end] == part, "{program}: {}", &program[start..end]);
    }
}

#[test]
fn text_is_a_value_too() {
    let outcome = run("map", ". = upcase(.)", Form::Text, ["a", "é"]);
    assert_eq!(outcome.values(0), ["A", "É"]);
    assert!(outcome.out[0].iter().all(|record| record.form == Form::Text));
    let outcome = run("map", ". = {\"line\": .}", Form::Text, ["a\"b"]);
    assert_eq!(outcome.values(0), [r#"{"line":"a\"b"}"#]);
    assert_eq!(outcome.out[0][0].form, Form::Json);
}

#[test]
fn a_text_in_json_becomes_text_when_it_is_the_value() {
    let outcome = run("map", ". = .name", Form::Json, [r#"{"name":"a\"b"}"#, r#"{"name":7}"#, "{}"]);
    assert_eq!(outcome.values(0), ["a\"b", "7", "null"]);
    assert_eq!(
        outcome.out[0].iter().map(|record| record.form).collect::<Vec<_>>(),
        [Form::Text, Form::Json, Form::Json]
    );
    assert_eq!(mapped(".", r#""text""#), r#""text""#);
}

#[test]
fn bytes_that_are_no_text_pass_as_they_are_but_not_into_json() {
    let record = |bytes: &'static [u8]| Record { form: Form::Bytes, ..Record::new("x", bytes) };
    let outcome = run_records("map", ".", Form::Bytes, &[record(b"\xff\xfe")]);
    assert_eq!(outcome.out[0][0].value.as_deref(), Some(&b"\xff\xfe"[..]));
    let outcome = run_records("map", ". = {\"raw\": .}", Form::Bytes, &[record(b"\xff\xfe"), record(b"ok")]);
    assert_eq!(outcome.errors(), ["`.` cannot be written as JSON: bytes that are no UTF-8 text"]);
    assert_eq!(outcome.failed[0].0.value.as_deref(), Some(&b"\xff\xfe"[..]));
    assert_eq!(outcome.values(0), [r#"{"raw":"ok"}"#]);
}

#[test]
fn invalid_json_condemns_exactly_its_record() {
    let outcome = run("map", ".a = 1", Form::Json, ["{}", "{\"b\":", "{\"c\":1}", "", "{} x", "\u{7}", "01", "[1,]"]);
    assert_eq!(outcome.values(0), [r#"{"a":1}"#, r#"{"c":1,"a":1}"#]);
    assert_eq!(outcome.failed.len(), 6);
    assert!(outcome.failed.iter().all(|(_, error)| error.kind() == ErrorKind::Decode));
    assert_eq!(outcome.failed[0].1.message(), "the value is not JSON: expected a value at byte 5");
    assert_eq!(outcome.failed[0].0.value.as_deref(), Some(&b"{\"b\":"[..]));
}

#[test]
fn nesting_is_bounded() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let outcome = run("map", ".a = 1", Form::Json, [&*deep]);
    assert_eq!(outcome.failed[0].1.kind(), ErrorKind::Decode);
}

#[test]
fn tombstones_are_null_and_stay_absent_if_untouched() {
    let absent = Record { value: None, form: Form::Json, ..Record::new("orders", "") };
    let outcome = run_records("map", "x = .", Form::Json, std::slice::from_ref(&absent));
    assert_eq!(outcome.out[0][0].value, None);
    let outcome = run_records("map", ".gone = is_null(.)", Form::Json, &[absent]);
    assert_eq!(outcome.values(0), [r#"{"gone":true}"#]);
}

#[test]
fn metadata_can_be_read() {
    let record = Record {
        sequence: 7,
        key: Some("k".into()),
        time: Some(time("2026-01-02T03:04:05.678Z")),
        headers: vec![("h".into(), Some("1".into())), ("h".into(), None), ("g".into(), Some("2".into()))],
        form: Form::Json,
        ..Record::new("orders", "{}")
    };
    let program = ".k = %key\n.h = %headers\n.s = %stream\n.p = %shard\n.q = %sequence\n.t = %time\n.v = %vars.NAME";
    let outcome = run_records("map", program, Form::Json, &[record]);
    assert_eq!(
        outcome.values(0),
        [r#"{"k":"k","h":{"g":"2","h":["1",null]},"s":"orders","p":0,"q":7,"t":"2026-01-02T03:04:05.678Z","v":"x"}"#]
    );
    let large = Record { sequence: u128::from(u64::MAX) << 64, form: Form::Json, ..Record::new("orders", "{}") };
    let outcome = run_records("map", ".q = %sequence", Form::Json, &[large]);
    assert_eq!(outcome.values(0), [r#"{"q":340282366920938463444927863358058659840}"#]);
}

#[test]
fn key_headers_and_time_can_be_set() {
    let values = [r#"{"c":"a","t":"2026-01-01T00:00:00Z"}"#, r#"{"c":7,"t":null}"#, r#"{"c":[1,"x"],"t":"soon"}"#];
    let mut all = records(Form::Json, values);
    for record in &mut all {
        record.headers = vec![("old".into(), Some("1".into())), ("x".into(), None)];
        record.key = Some("before".into());
    }
    let program = "%key = .c\n%time = .t\n%headers.new = \"n\"\ndel(%headers.x)";
    let outcome = run_records("map", program, Form::Json, &all);
    let key = |at: usize| outcome.out[0][at].key.clone().unwrap();
    assert_eq!([key(0), key(1)], ["a", "7"]);
    assert_eq!(outcome.out[0][0].time, Some(time("2026-01-01T00:00:00Z")));
    assert_eq!(outcome.out[0][1].time, None);
    let headers = vec![("old".to_owned(), Some("1".into())), ("new".to_owned(), Some("n".into()))];
    assert_eq!(outcome.out[0][0].headers, headers);
    assert_eq!(outcome.values(0), values[..2]);
    // The third one's time is none: it keeps everything.
    assert_eq!(outcome.errors(), ["`%time` is text \"soon\", not a timestamp or RFC 3339 text"]);
    assert_eq!(outcome.failed[0].0.key.as_deref(), Some(&b"before"[..]));
    assert_eq!(outcome.failed[0].0.headers, all[2].headers);
}

#[test]
fn metadata_can_be_set_whatever_the_value_is() {
    let program = r#"
        %key = upcase(slice!(., 0, 1))
        %headers.first, fault = parse_int(.)
        if fault != null { %headers.fault = x = slice!(%key, 0) + "!" }
        if . == "2b" { %headers.b = "yes" }"#;
    for form in [Form::Text, Form::Bytes] {
        let outcome = run_records("map", program, form, &records(form, ["a1", "2b"]));
        assert_eq!((outcome.values(0), outcome.errors()), (vec!["a1".to_owned(), "2b".into()], Vec::new()));
        let keys: Vec<_> = outcome.out[0].iter().map(|record| record.key.clone().unwrap()).collect();
        assert_eq!(keys, ["A", "2"]);
        let header = |name: &str, value: &'static str| (name.to_owned(), Some(value.into()));
        assert_eq!(outcome.out[0][0].headers, [header("fault", "A!"), header("first", "0")]);
        assert_eq!(outcome.out[0][1].headers, [header("b", "yes"), header("fault", "2!"), header("first", "0")]);
        assert_eq!(outcome.out[0][0].form, Form::Text);
    }
    // An object of which all fields are known.
    let outcome =
        run_records("map", ". = {\"a\": .b}\n%headers.x = \"y\"", Form::Json, &records(Form::Json, [r#"{"b":1}"#]));
    assert_eq!((outcome.values(0), outcome.errors()), (vec![r#"{"a":1}"#.to_owned()], Vec::new()));
    assert_eq!(outcome.out[0][0].headers, [("x".to_owned(), Some("y".into()))]);
    // What VRL would refuse elsewhere is refused here.
    let error = refused("map", "%key = slice(., 0, 1)", Form::Text);
    assert!(error.kind() == ErrorKind::Syntax && error.message().contains("fallible"), "{error:?}");
}

#[test]
fn stream_shard_sequence_and_variables_cannot_be_set() {
    for program in ["%stream = \"x\"", "%shard = 1", "%sequence = 1", "%vars.NAME = \"y\""] {
        assert_eq!(refused("map", program, Form::Json).kind(), ErrorKind::Syntax, "{program}");
    }
}

#[test]
fn unknown_metadata_and_variables_are_errors_at_their_place() {
    let error = refused("map", ".a = 1\n.b = %kay", Form::Json);
    assert_eq!((error.message(), error.hint_text()), ("a record has no `%kay`", Some("did you mean `key`?")));
    assert_eq!(error.place().unwrap().span, Some((12, 16)));
    let error = refused("map", ".b = %vars.NAMES", Form::Json);
    assert_eq!((error.message(), error.hint_text()), ("there is no variable `NAMES`", Some("did you mean `NAME`?")));
}

#[test]
fn a_panic_condemns_exactly_its_record() {
    // VRL repeats a text as often as it is told, and panics where that is more than there can be.
    let values = [r#"{"n":1}"#, r#"{"n":9223372036854775807}"#, r#"{"n":2}"#];
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = run("map", ".a = 1\n.x = \"ab\" * int!(.n)", Form::Json, values);
    std::panic::set_hook(hook);
    assert_eq!(outcome.values(0), [r#"{"n":1,"a":1,"x":"ab"}"#, r#"{"n":2,"a":1,"x":"abab"}"#]);
    assert_eq!(outcome.failed[0].1.kind(), ErrorKind::Panic);
    assert_eq!(outcome.failed[0].0.value.as_deref(), Some(values[1].as_bytes()));
}

#[test]
fn steps_do_not_talk_to_the_network() {
    assert_eq!(refused("map", ".a = reverse_dns!(.ip)", Form::Json).kind(), ErrorKind::Syntax);
}

#[test]
fn what_changes_by_itself_is_not_deterministic() {
    let plan = |program: &str| plan("map", program.into(), &context(Form::Json)).unwrap();
    assert!(plan(".a = upcase!(.b)").deterministic());
    assert!(!plan(".a = now()").deterministic());
}

/// JSON text of any kind, with white space and escapes.
fn json(depth: u32) -> impl Strategy<Value = String> {
    let space = || prop_oneof![Just(""), Just(" "), Just("\n\t")];
    let text = "\"([a-z ]|\\\\[nrtbf/\"\\\\]|\\\\u00[0-7][0-9a-f]|[à-ü€]){0,6}\"";
    let number = "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,8})?([eE][+-]?[0-9]{1,2})?";
    let leaf = prop_oneof![Just("null".to_owned()), Just("true".to_owned()), Just("false".to_owned()), text, number];
    leaf.prop_recursive(depth, 32, 6, move |inner| {
        let spaced = (space(), inner.clone(), space()).prop_map(|(a, b, c)| format!("{a}{b}{c}"));
        let field = ("\"[a-e]{1,2}\"", space(), spaced.clone()).prop_map(|(k, s, v)| format!("{k}{s}:{v}"));
        prop_oneof![
            prop::collection::vec(spaced, 0..5).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec(field, 0..5).prop_map(|items| format!("{{{}}}", items.join(","))),
        ]
    })
}

proptest! {
    #[test]
    fn identity_is_byte_identical(values in prop::collection::vec(json(4), 1..5)) {
        let outcome = run("map", ".", Form::Json, values.iter().map(String::as_str));
        prop_assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
        prop_assert_eq!(outcome.values(0), values);
    }

    #[test]
    fn a_copy_is_the_same_value(value in json(4)) {
        let given = format!("{{\"v\":{value}}}");
        let copied = mapped(".copy = .v", &given);
        let kept = format!("{{\"v\":{},\"copy\":", value.trim());
        prop_assert!(copied.starts_with(&kept), "{copied}");
        prop_assert!(serde_json::from_str::<serde_json::Value>(&copied).is_ok(), "{copied}");
        prop_assert_eq!(run("filter", ".v == .copy", Form::Json, [&*copied]).values(0), [&*copied]);
        // Taken apart and put together again it is as it was.
        let again = mapped(". = {\"v\": .v}\n. = {\"w\": .v}\n.v = .w\ndel(.w)", &given);
        prop_assert_eq!(run("filter", "encode_json(.v) == encode_json(.w)", Form::Json,
            [&*format!("{{\"v\":{value},\"w\":{}}}", &again[5..again.len() - 1])]).values(0).len(), 1);
    }

    #[test]
    fn exactly_what_is_json_is_read(value in json(3), at in any::<prop::sample::Index>(), new in "[\\[\\]{},:\"\\\\0-9eE+.a-]{0,2}") {
        let mut changed: Vec<char> = value.chars().collect();
        let at = at.index(changed.len());
        changed.splice(at..=at, new.chars());
        let changed: String = changed.into_iter().collect();
        let valid = serde_json::from_str::<serde::de::IgnoredAny>(&changed).is_ok();
        let outcome = run("map", ".", Form::Json, [&*changed]);
        prop_assert_eq!(outcome.failed.is_empty(), valid, "{}: {:?}", changed, outcome.failed);
    }

    #[test]
    fn assignments_keep_the_order(fields in prop::collection::vec("[a-z]{1,3}", 1..8), pick in any::<prop::sample::Index>()) {
        let mut names: Vec<&String> = Vec::new();
        fields.iter().for_each(|name| if !names.contains(&name) { names.push(name) });
        let value = |set: Option<&str>| {
            let parts = names.iter().map(|name| {
                format!("\"{name}\":{}", if set == Some(name) { "true" } else { "1.50" })
            });
            format!("{{{}}}", parts.collect::<Vec<_>>().join(","))
        };
        let name = pick.get(&names).as_str();
        prop_assert_eq!(mapped(&format!(".\"{name}\" = true"), &value(None)), value(Some(name)));
        let new = mapped(".zzzz = 1\n.aaaa = 2", &value(None));
        prop_assert_eq!(new, value(None).replace('}', ",\"zzzz\":1,\"aaaa\":2}"));
    }
}
