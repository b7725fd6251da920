//! `csv` and `tsv`.

use millstream_core::{ErrorKind, Form};
use proptest::prelude::*;
use serde_json::json;

use crate::support::{codec, decode, encode, texts, values};

#[test]
fn rows_become_objects_in_column_order() {
    let codec = codec(json!({"csv": {
        "delimiter": ";", "types": {"qty": "int", "price": "float", "at": "time(%d.%m.%Y)"}, "null": ["", "NULL"],
    }}));
    let input = b"\xef\xbb\xbfid;qty;price;at\r\n\"a;\"\"b\"\"\n\";3;1.50;02.01.2026\r\n\nz;;NULL;\n";
    for sizes in [&[1][..], &[7, 2], &[1000]] {
        assert_eq!(
            texts(decode(&*codec, input, sizes)),
            [
                r#"{"id":"a;\"b\"\n","qty":3,"price":1.50,"at":"2026-01-02T00:00:00.000Z"}"#,
                r#"{"id":"z","qty":null,"price":null,"at":null}"#,
            ]
        );
    }
}

#[test]
fn a_row_at_fault_fails_alone_and_keeps_its_bytes() {
    let codec = codec(json!({"csv": {"types": {"n": "int"}}}));
    let got = decode(&*codec, b"a,n\nx,1\ny\nz,ten\n\xff,1\nw,2", &[100]);
    let kept: Vec<_> = got.iter().filter_map(|r| r.as_ref().err()).map(|(e, kept)| (e.kind(), &kept[..])).collect();
    assert_eq!(kept, [(ErrorKind::Decode, &b"y"[..]), (ErrorKind::Decode, b"z,ten"), (ErrorKind::Decode, b"\xff,1")]);
    assert_eq!(got[4].as_deref().unwrap(), br#"{"a":"w","n":2}"#);
    let (error, _) = got[2].as_ref().unwrap_err();
    assert_eq!(error.chain(), "column `n`: `ten` is no int");
}

#[test]
fn a_row_that_never_ends_is_cut_off() {
    let codec = codec(json!({"csv": {"bytes_max": 100, "header": false}}));
    let mut input = b"1,2\n\"".to_vec();
    input.extend(std::iter::repeat_n(b'x', 1000));
    input.extend(b"\"\n3,4\n");
    for sizes in [&[1][..], &[300], &[9999]] {
        let got = decode(&*codec, &input, sizes);
        assert_eq!(got[1].as_ref().unwrap_err().0.kind(), ErrorKind::TooLarge);
        assert_eq!(got[2].as_deref().unwrap(), br#"{"column_1":"3","column_2":"4"}"#);
    }
}

#[test]
fn names_come_from_the_header_from_columns_or_are_counted() {
    let names = |options, input: &[u8]| texts(decode(&*codec(options), input, &[5]));
    assert_eq!(names(json!({"csv": {"header": false}}), b"1,2\n"), [r#"{"column_1":"1","column_2":"2"}"#]);
    assert_eq!(names(json!({"csv": {"header": false, "columns": ["a", "b"]}}), b"1,2\n"), [r#"{"a":"1","b":"2"}"#]);
    assert_eq!(names(json!({"csv": {"columns": ["a", "b"]}}), b"x,y\n1,2\n"), [r#"{"a":"1","b":"2"}"#]);
    assert_eq!(names(json!("csv"), b"a,a\n1,2\n"), [r#"{"a":"1","a_2":"2"}"#]);
    assert_eq!(names(json!("tsv"), b"a\tb\n1\t2\n"), [r#"{"a":"1","b":"2"}"#]);
}

#[test]
fn a_stream_read_from_its_middle_knows_the_header() {
    let codec = codec(json!("csv"));
    let mut decoder = codec.decoder();
    assert!(!decoder.preamble(b"a,", false));
    assert!(decoder.preamble(b"a,b\n1,2\n", false));
    let mut frames = millstream_core::Frames::default();
    let block = bytes::Bytes::from_static(b"3,4\n");
    assert_eq!(decoder.decode(&block, true, &mut frames), 4);
    let (body, failed) = frames.take(&block, Form::Json);
    assert!(failed.is_empty());
    assert_eq!(crate::support::batch(body).get(0).value().unwrap(), br#"{"a":"3","b":"4"}"#);
}

#[test]
fn objects_become_rows() {
    let batch = values(&[
        (br#"{"a":"x,\"y\"","b":1.50,"c":null}"#, Form::Json),
        (br#"{"b":true,"a":"two\nlines"}"#, Form::Json),
        (br#"{"a":[1, 2],"b":"","d":1}"#, Form::Json),
        (b"text", Form::Text),
        (br#"["p",2,null]"#, Form::Json),
    ]);
    let (out, rejected) = encode(&*codec(json!("csv")), &batch);
    assert_eq!(String::from_utf8(out).unwrap(), "a,b,c\n\"x,\"\"y\"\"\",1.50,\n\"two\nlines\",true,\np,2,\n");
    assert_eq!(rejected.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [2, 3]);
    let chosen = codec(json!({"csv": {"columns": ["a"], "header": false, "delimiter": ";"}}));
    assert_eq!(encode(&*chosen, &batch.slice(2, 3)).0, b"[1, 2]\n");
}

#[test]
fn wrong_options_are_named() {
    let plan = |options| millstream_core::parse_options::<millstream_codec::CodecOptions>(&options).unwrap().plan();
    let place = |options| plan(options).unwrap_err().place().unwrap().path.join(".");
    assert_eq!(place(json!({"csv": {"delimiter": "--"}})), "csv.delimiter");
    assert_eq!(place(json!({"csv": {"types": {"a": "number"}}})), "csv.types.a");
    assert_eq!(place(json!({"csv": {"columns": ["b"], "types": {"a": "int"}}})), "csv.types.a");
}

proptest! {
    #[test]
    fn what_is_written_reads_back(
        rows in prop::collection::vec(prop::collection::vec(".*|[,;\"\r\n a]{0,8}", 2), 1..10),
        sizes in prop::collection::vec(1usize..50, 1..4),
    ) {
        let json: Vec<String> =
            rows.iter().map(|row| json!({"a": row[0], "b": row[1]}).to_string()).collect();
        let batch = values(&json.iter().map(|row| (row.as_bytes(), Form::Json)).collect::<Vec<_>>());
        let codec = codec(json!("csv"));
        let (out, rejected) = encode(&*codec, &batch);
        prop_assert!(rejected.is_empty());
        prop_assert_eq!(texts(decode(&*codec, &out, &sizes)), json);
        let mut peer = csv::Reader::from_reader(&out[..]);
        let read: Vec<Vec<String>> = peer.deserialize().map(|row| row.unwrap()).collect();
        prop_assert_eq!(read, rows);
    }
}
