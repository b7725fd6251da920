//! `produce | relay | consume` through real pipes.

use proptest::prelude::*;

use crate::support::Folder;

const PIPELINE: &str =
    "millstream produce stdio: | millstream relay stdio: stdio: | millstream consume stdio: --format raw";

fn through_pipes(lines: &str) -> String {
    let folder = Folder::new();
    folder.write("in.txt", lines);
    let done = folder.shell(&format!("cat in.txt | {PIPELINE} > out.txt")).code(0).silent();
    assert_eq!(done.out, "");
    folder.read("out.txt")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn lines_come_out_as_they_went_in(lines in proptest::collection::vec("[^\n\r\u{0}]{0,60}", 0..200)) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        prop_assert_eq!(through_pipes(&text), text);
    }
}

#[test]
fn lines_that_look_like_headers_are_values() {
    let text = "[a] b\n[2022-01-01T00:00:00 | k | 1 | 2] x\n[1,2]\n[]\n\n]\n[\n \n  [a | 1]\n\u{feff}x\n\\n \\\n";
    assert_eq!(through_pipes(text), text);
}

#[test]
fn a_hundred_thousand_lines_keep_their_order() {
    let text: String = (0..100_000).map(|n| format!("line {n}\n")).collect();
    assert_eq!(through_pipes(&text), text);
}

#[test]
fn a_million_records_and_no_more() {
    Folder::new()
        .shell("yes | millstream relay stdio:///a drop: --count 1000000; exit ${PIPESTATUS[1]}")
        .code(0)
        .silent();
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    for command in ["relay stdio: stdio:", "consume stdio: --format raw", "produce stdio:"] {
        let script = format!("yes | millstream {command} | head -1; exit ${{PIPESTATUS[1]}}");
        let done = Folder::new().shell(&script).code(0).silent();
        assert!(done.out.ends_with("y\n") && done.out.lines().count() == 1, "{done:?}");
    }
    // Also while there is nothing more to write.
    let folder = Folder::new();
    folder.write("in.txt", "one\ntwo\n");
    for command in ["relay file:in.txt 'stdio:?format=raw'", "consume file:in.txt --format raw"] {
        let script = format!("millstream {command} | head -1; exit ${{PIPESTATUS[0]}}");
        assert_eq!(folder.shell(&script).code(0).silent().out, "one\n");
    }
    for command in ["schema", "list", "man", "completions bash", "--help"] {
        Folder::new().shell(&format!("millstream {command} | true; exit ${{PIPESTATUS[0]}}")).code(0);
    }
}

#[test]
fn nobody_reads_standard_error() {
    let folder = Folder::new();
    folder.write(
        "p.yaml",
        "source: { values: { values: [a, b] } }\nsteps: [ { map: '. = to_int!(.)' } ]\nsink: { drop: {} }\n",
    );
    folder.shell("millstream -vv run p.yaml 2>/dev/full").code(0);
    folder.shell("millstream run nope.yaml 2>&-").code(2);
}

#[test]
fn ndjson_is_what_the_page_says() {
    let folder = Folder::new();
    let input = b"[2026-01-02T03:04:05.678 | event | 1 | 0] {\"a\": 1}\n[2026-01-02T03:04:05 | event | 2 | 3] plain\n";
    let all = "{\"stream\":\"event\",\"shard\":0,\"sequence\":1,\"time\":\"2026-01-02T03:04:05.678Z\",\"key\":null,\"headers\":[],\"value\":\"{\\\"a\\\": 1}\"}\n\
        {\"stream\":\"event\",\"shard\":3,\"sequence\":2,\"time\":\"2026-01-02T03:04:05.000Z\",\"key\":null,\"headers\":[],\"value\":\"plain\"}\n";
    folder.feed("consume stdio: --format ndjson", input).code(0).silent().prints(all);
    let done = folder.feed("consume stdio: --format ndjson --decode json --count 1", input).code(0);
    assert!(done.out.contains("\"value\":{\"a\": 1}}"), "{done:?}");
}

#[test]
fn produce_reads_keys_headers_tombstones_and_whole_records() {
    let folder = Folder::new();
    let arguments = ["produce", "stdio:?format=ndjson", "--key-delimiter", "=", "--header", "colour=blue", "--null"];
    let done = folder.feed_all(&arguments, b"k=v=w\nplain\nk=\n").code(0).silent();
    let lines: Vec<serde_json::Value> = done.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["key"], &lines[0]["value"]), (&"k".into(), &"v=w".into()));
    assert_eq!((&lines[1]["key"], &lines[1]["value"]), (&serde_json::Value::Null, &"plain".into()));
    assert_eq!((&lines[2]["key"], &lines[2]["value"]), (&"k".into(), &serde_json::Value::Null));
    assert_eq!(lines[0]["headers"], serde_json::json!([["colour", "blue"]]));
    let whole = done.out.as_bytes();
    let again = folder.feed("produce stdio:?format=ndjson --format ndjson", whole).code(0).silent();
    let strip = |text: &str| text.replace("\"stream\":\"stdin\"", "");
    assert_eq!(strip(&again.out), strip(&done.out));
}

#[test]
fn filter_map_and_where() {
    let folder = Folder::new();
    let arguments =
        ["relay", "stdio:", "stdio:?format=raw", "--filter", "to_int!(.) > 1", "--map", ". = to_int!(.) * 2"];
    folder.feed_all(&arguments, b"1\n2\n3\n").code(0).silent().prints("4\n6\n");
    let arguments = ["consume", "stdio:", "--format", "raw", "--where", "contains(string!(.), \"x\")"];
    folder.feed_all(&arguments, b"ax\nb\nxc\n").code(0).silent().prints("ax\nxc\n");
}

#[test]
fn dead_letters_without_state_are_printed_and_fail() {
    let folder = Folder::new();
    let arguments = ["relay", "stdio:", "stdio:?format=raw", "--map", ". = to_int!(.)"];
    let done = folder.feed_all(&arguments, b"1\nx\n3\n").code(1).says("E_DATA").says("broadcast/0@2");
    assert_eq!(done.out, "1\n3\n");
    assert!(!folder.path(".millstream").exists(), "state was kept");
    folder.feed("relay stdio: drop:", b"good\nbad \xff\n").code(1).says("UTF-8");
}

#[test]
fn a_saved_relay_is_the_same_pipeline() {
    let folder = Folder::new();
    folder.write("in.txt", "1\n2\nit's\n");
    let map = ". = \"it's ${x} \" + string!(.)";
    let arguments = ["relay", "file:in.txt", "file:out.txt", "--until-end", "--map", map, "--save", "saved.yaml"];
    folder.feed_all(&arguments, b"").code(0);
    assert!(!folder.path("out.txt").exists(), "it ran");
    folder.run("check saved.yaml --deny-warnings").code(0);
    folder.run("run saved.yaml --until-end").code(0);
    assert_eq!(folder.read("out.txt"), "it's ${x} 1\nit's ${x} 2\nit's ${x} it's\n");
    folder.feed_all(&arguments, b"").code(1).says("cannot save the pipeline");
}
