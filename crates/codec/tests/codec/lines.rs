//! `lines`, `ndjson`, `json`, `text`, `bytes`: any bytes, in any blocks.

use bytes::Bytes;
use millstream_core::{Column, ErrorKind, Extent, Form, Frames};
use proptest::prelude::*;
use serde_json::json;

use crate::support::{codec, decode, encode, texts, values};

#[test]
fn empty_lines_crlf_and_a_last_line_without_end_are_records() {
    let lines = codec(json!("lines"));
    assert_eq!(texts(decode(&*lines, b"a\r\n\n\r\nb\rc\n\xc3\xa4", &[100])), ["a", "", "", "b\rc", "ä"]);
    assert!(decode(&*lines, b"", &[1]).is_empty());
    assert_eq!(texts(decode(&*lines, b"\n", &[1])), [""]);
}

#[test]
fn a_line_that_is_not_utf8_fails_alone_or_passes() {
    let got = decode(&*codec(json!("lines")), b"a\n\xff\xfe\nb\n\xc3\nc", &[100]);
    let kinds: Vec<_> = got.iter().map(|r| r.as_ref().map_err(|(e, v)| (e.kind(), v.clone()))).collect();
    assert_eq!(kinds[1], Err((ErrorKind::Decode, vec![0xff, 0xfe])));
    assert_eq!(kinds[3], Err((ErrorKind::Decode, vec![0xc3])));
    assert!(kinds[0].is_ok() && kinds[2].is_ok() && kinds[4].is_ok() && kinds.len() == 5);

    let pass = codec(json!({"lines": {"invalid": "pass"}}));
    assert_eq!(pass.form(), Form::Bytes);
    assert_eq!(decode(&*pass, b"\xff\nb", &[1])[0].as_ref().unwrap(), b"\xff");
}

#[test]
fn a_line_that_is_too_long_fails_alone_and_in_bounded_memory() {
    let lines = codec(json!({"lines": {"bytes_max": "100KiB"}}));
    let mut input = b"before\n".to_vec();
    input.extend(std::iter::repeat_n(b'x', 300 << 10));
    input.extend(b"\nafter\n");
    for sizes in [&[1000][..], &[1 << 20], &[64 << 10, 3]] {
        let got = decode(&*lines, &input, sizes);
        assert_eq!(got.len(), 3);
        let (error, kept) = got[1].as_ref().unwrap_err();
        assert_eq!((error.kind(), kept.len()), (ErrorKind::TooLarge, 64 << 10));
        assert_eq!((got[0].as_deref().unwrap(), got[2].as_deref().unwrap()), (&b"before"[..], &b"after"[..]));
    }
    // What is skipped is not asked for again, and counts as unfinished.
    let (mut decoder, mut frames) = (lines.decoder(), Frames::default());
    let block = Bytes::from(vec![b'x'; 101 << 10]);
    assert_eq!(decoder.decode(&block, false, &mut frames), block.len());
    assert_eq!((decoder.unfinished(), frames.len()), (101 << 10, 0));
}

#[test]
fn lines_refuse_escape_or_pass_line_breaks() {
    let batch = values(&[(b"a\r\nb", Form::Text), (b"{\"a\":\n \"x \\\"y\"}", Form::Json), (b"c", Form::Bytes)]);
    let (out, rejected) = encode(&*codec(json!("lines")), &batch);
    assert_eq!(out, b"{\"a\":\"x \\\"y\"}\nc\n");
    assert_eq!((rejected[0].0, rejected[0].1.kind()), (0, ErrorKind::Rejected));
    let (out, _) = encode(&*codec(json!({"lines": {"newline": "escape"}})), &batch);
    assert_eq!(out, b"a\\r\\nb\n{\"a\":\"x \\\"y\"}\nc\n");
    let (out, _) = encode(&*codec(json!({"lines": {"newline": "pass"}})), &batch);
    assert_eq!(out, b"a\r\nb\n{\"a\":\"x \\\"y\"}\nc\n");
}

#[test]
fn values_that_touch_but_hold_line_feeds_are_not_copied_in_one_piece() {
    let data = Bytes::from_static(b"a\nb\nc\n");
    let extents = vec![Extent { start: 0, end: 3 }, Extent { start: 4, end: 5 }];
    let body = millstream_core::Body::Bytes(Column::new(data, extents), millstream_core::Forms::Same(Form::Text));
    let (out, rejected) = encode(&*codec(json!("lines")), &crate::support::batch(body));
    assert_eq!((&out[..], rejected.len()), (&b"c\n"[..], 1));
}

#[test]
fn ndjson_skips_blank_lines_and_looks_only_if_asked() {
    let input = b"{\"a\":1}\r\n\n  \n nonsense\n2";
    assert_eq!(texts(decode(&*codec(json!("ndjson")), input, &[3])), ["{\"a\":1}", " nonsense", "2"]);
    let got = decode(&*codec(json!({"ndjson": {"validate": true}})), input, &[100]);
    assert!(got[0].is_ok() && got[1].is_err() && got[2].is_ok());
}

#[test]
fn ndjson_writes_each_form_as_json() {
    let batch = values(&[
        (b"say \"hi\"\n", Form::Text),
        (b"{\n \"n\": 1.0}", Form::Json),
        (b"12", Form::Bytes),
        (b"plain", Form::Bytes),
        (b"\xff", Form::Bytes),
    ]);
    let (out, rejected) = encode(&*codec(json!("ndjson")), &batch);
    assert_eq!(String::from_utf8(out).unwrap(), "\"say \\\"hi\\\"\\n\"\n{\"n\":1.0}\n12\n\"plain\"\n");
    assert_eq!(rejected[0].0, 4);
}

#[test]
fn tombstones_are_null_in_ndjson_and_refused_in_lines() {
    let mut builder = millstream_core::BatchBuilder::new();
    builder.push_value(&millstream_core::ShardKey::new("t", 0), 0, None, Form::Text, None, None);
    let batch = builder.finish();
    assert_eq!(encode(&*codec(json!("ndjson")), &batch).0, b"null\n");
    assert_eq!(encode(&*codec(json!("lines")), &batch).1.len(), 1);
}

#[test]
fn whole_values_are_one_record() {
    for name in ["json", "text", "bytes"] {
        assert_eq!(texts(decode(&*codec(json!(name)), b"{\n}\n", &[1])), ["{\n}\n"]);
        assert!(decode(&*codec(json!(name)), b"", &[1]).is_empty());
    }
    assert!(decode(&*codec(json!("text")), b"\xff", &[1])[0].is_err());
    assert!(decode(&*codec(json!({"json": {"validate": true}})), b"{", &[1])[0].is_err());
    let small = codec(json!({"bytes": {"bytes_max": 10}}));
    for sizes in [&[1][..], &[5, 20], &[100]] {
        let got = decode(&*small, b"0123456789abcdef", sizes);
        assert_eq!(got.len(), 1);
        assert_eq!(got[0].as_ref().unwrap_err().1[..10], *b"0123456789");
    }
}

#[test]
fn options_are_a_name_or_a_name_with_options() {
    use millstream_codec::CodecOptions;
    let parse = |value| millstream_core::parse_options::<CodecOptions>(&value);
    assert_eq!(parse(json!("csv")).unwrap().name(), "csv");
    assert_eq!(parse(json!({"csv": null})).unwrap().name(), "csv");
    assert_eq!(parse(json!("cvs")).unwrap_err().hint_text(), Some("did you mean `csv`?"));
    let error = parse(json!({"csv": {"headr": true}})).unwrap_err();
    assert_eq!(
        (error.place().unwrap().path.join("."), error.hint_text()),
        ("csv.headr".into(), Some("did you mean `header`?"))
    );
    assert!(parse(json!({"csv": {}, "header": true})).is_err());
    for (name, _) in CodecOptions::ALL {
        let options = CodecOptions::named(name).unwrap();
        assert_eq!(parse(serde_json::to_value(&options).unwrap()).unwrap(), options);
    }
    for (path, name) in
        [("a.jsonl.gz", "ndjson"), ("a.JSON", "json"), ("x.csv.zst", "csv"), ("x.gz", "lines"), ("x", "lines")]
    {
        assert_eq!(millstream_codec::default_for_path(path.as_ref()).name(), name);
    }
}

#[test]
fn messages_keep_their_bytes() {
    let options = |name| millstream_codec::CodecOptions::named(name).unwrap();
    let json = options("json").message().unwrap();
    let mut out = Vec::new();
    json.encode(b"a\"b", Form::Text, &mut out).unwrap();
    assert_eq!((json.form(), &out[..]), (Form::Json, &b"\"a\\\"b\""[..]));
    assert!(options("text").message().unwrap().check(b"\xff").is_err());
    assert_eq!(options("csv").message().unwrap_err().kind(), ErrorKind::Unsupported);
}

proptest! {
    #[test]
    fn any_lines_come_out_identical_in_any_blocks(
        lines in prop::collection::vec("[^\r\n]{0,20}", 0..50),
        sizes in prop::collection::vec(1usize..40, 1..5),
    ) {
        let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let codec = codec(json!("lines"));
        let got = texts(decode(&*codec, input.as_bytes(), &sizes));
        prop_assert_eq!(&got, &lines);
        let batch = values(&lines.iter().map(|line| (line.as_bytes(), Form::Text)).collect::<Vec<_>>());
        prop_assert_eq!(encode(&*codec, &batch).0, input.as_bytes());
    }

    #[test]
    fn random_bytes_never_panic_and_blocks_do_not_matter(
        input in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'"'), Just(b','), any::<u8>()], 0..200),
        sizes in prop::collection::vec(1usize..20, 1..4),
        codec_options in prop_oneof![
            Just(json!("lines")), Just(json!({"lines": {"bytes_max": 8}})), Just(json!({"ndjson": {"bytes_max": 8}})),
            Just(json!("csv")), Just(json!({"csv": {"header": false, "bytes_max": 16}})), Just(json!({"text": {"bytes_max": 50}})),
            Just(json!({"tsv": {"quotes": false, "types": {"a": "int"}}})),
        ],
    ) {
        let codec = codec(codec_options);
        let seen = |sizes: &[usize]| -> Vec<_> {
            decode(&*codec, &input, sizes).into_iter().map(|r| r.map_err(|(error, kept)| (error.kind(), kept))).collect()
        };
        prop_assert_eq!(seen(&sizes), seen(&[1000]));
    }

    #[test]
    fn a_block_of_lines_is_written_as_it_was_read(lines in prop::collection::vec("[^\r\n]{0,20}", 1..50), crlf: bool) {
        let end = if crlf { "\r\n" } else { "\n" };
        let input = Bytes::from(lines.iter().map(|line| format!("{line}{end}")).collect::<String>());
        let codec = codec(json!("lines"));
        let mut frames = Frames::default();
        let done = codec.decoder().decode(&input, true, &mut frames);
        let (body, _) = frames.take(&input.slice(..done), Form::Text);
        let whole = crate::support::batch(body);
        for part in [whole.clone(), whole.slice(lines.len() / 2, lines.len()), whole.select(vec![0])] {
            let expected: Vec<u8> = part.iter().flat_map(|record| [record.value().unwrap(), b"\n"].concat()).collect();
            prop_assert_eq!(encode(&*codec, &part).0, expected);
        }
    }
}
