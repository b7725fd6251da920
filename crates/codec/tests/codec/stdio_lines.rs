//! The stdio line protocol: what `/docs` promises of reading and printing lines, sentence by sentence.

use bytes::Bytes;
use millstream_codec::{
    CodecOptions, LinesOptions, Newline,
    log::{Header, Headers, LogDecoder, LogOptions, stream_key},
    print::{Format, Printer, read_record},
};
use millstream_core::{BatchBuilder, Error, ErrorKind, Form, Record, ShardKey, Size, Timestamp};
use proptest::prelude::*;

type Line = Result<Record, (Error, Record)>;

fn read(options: &LogOptions, input: &[u8], sizes: &[usize]) -> Vec<Line> {
    let mut decoder = LogDecoder::new(options).unwrap();
    let (mut result, mut rest, mut at, mut turn) = (Vec::new(), Vec::new(), 0, 0);
    loop {
        let size = sizes[turn % sizes.len()].max(1).min(input.len() - at);
        turn += 1;
        rest.extend_from_slice(&input[at..at + size]);
        at += size;
        let end = at == input.len();
        let mut block = Bytes::from(std::mem::take(&mut rest));
        loop {
            let got = decoder.decode(&block, end);
            if got.taken == 0 && got.read.is_none() {
                break;
            }
            block = block.slice(got.taken..);
            let Some(read) = got.read else { continue };
            let mut failed = read.failed.into_iter().peekable();
            for (i, record) in read.batch.iter().enumerate() {
                result.push(match failed.next_if(|(row, _)| *row as usize == i) {
                    Some((_, error)) => Err((error, record.to_record())),
                    None => Ok(record.to_record()),
                });
            }
        }
        rest = block.to_vec();
        if end {
            assert!(rest.is_empty());
            return result;
        }
    }
}

fn lenient() -> LogOptions {
    LogOptions::default()
}

fn with(headers: Headers, streams: &[&str]) -> LogOptions {
    LogOptions { headers, streams: streams.iter().map(|name| (*name).to_owned()).collect(), ..LogOptions::default() }
}

/// Stream, shard, sequence, time, value.
fn show(lines: &[Line]) -> Vec<String> {
    lines
        .iter()
        .map(|line| {
            let record = line.as_ref().unwrap();
            let time = record.time.map(|time| format!(" {time}")).unwrap_or_default();
            format!("{}{time} {}", record.id(), String::from_utf8_lossy(record.value.as_ref().unwrap()))
        })
        .collect()
}

#[test]
fn every_valid_example_is_read_as_it_means() {
    let input = br#"a plain message
[2022-01-01T00:00:00] {"p":1}
[2022-01-01T00:00:00.123 | my_topic] "text"
[2022-01-01T00:00:00 | my-topic-2 | 123] ["a"]
[2022-01-01T00:00:00 | my-topic-2 | 123 | 4] {}
[my_topic] text
[my_topic | 123] {}
[my_topic | 123 | 4] {}
"#;
    let expected = [
        "broadcast/0@1 a plain message",
        "broadcast/0@2 2022-01-01T00:00:00.000Z {\"p\":1}",
        "my_topic/0@1 2022-01-01T00:00:00.123Z \"text\"",
        "my-topic-2/0@123 2022-01-01T00:00:00.000Z [\"a\"]",
        "my-topic-2/4@123 2022-01-01T00:00:00.000Z {}",
        "my_topic/0@2 text",
        "my_topic/0@123 {}",
        "my_topic/4@123 {}",
    ];
    for sizes in [&[1][..], &[10, 7], &[10_000]] {
        assert_eq!(show(&read(&with(Headers::Strict, &[]), input, sizes)), expected);
    }
}

#[test]
fn one_blank_behind_the_bracket_goes_and_the_rest_is_verbatim() {
    let got = read(&lenient(), b"[k|1]x\n[k | 2]  two \n[ k |3 ]\n[k | 4] [a] | b\n", &[100]);
    assert_eq!(show(&got), ["k/0@1 x", "k/0@2  two ", "k/0@3 ", "k/0@4 [a] | b"]);
}

#[test]
fn a_bracket_with_only_a_key_counts_if_the_stream_was_asked_for() {
    let input = b"[error] disk full\n";
    assert_eq!(show(&read(&lenient(), input, &[100])), ["broadcast/0@1 [error] disk full"]);
    assert_eq!(show(&read(&with(Headers::Lenient, &["other"]), input, &[100])), ["broadcast/0@1 [error] disk full"]);
    assert_eq!(show(&read(&with(Headers::Lenient, &["error"]), input, &[100])), ["error/0@1 disk full"]);
    assert_eq!(show(&read(&with(Headers::Strict, &[]), input, &[100])), ["error/0@1 disk full"]);
    let input = b"[2022-01-01T00:00:00 | k | 1] x\n";
    let off = show(&read(&with(Headers::Off, &["k"]), input, &[100]));
    assert_eq!(off, ["broadcast/0@1 [2022-01-01T00:00:00 | k | 1] x"]);
}

#[test]
fn streams_that_were_not_asked_for_are_left_out_and_broadcast_is_not() {
    let input = b"[a | 1] x\n[b | 1] y\nplain\n[broadcast | 9] z\n";
    let got = show(&read(&with(Headers::Lenient, &["b"]), input, &[100]));
    assert_eq!(got, ["b/0@1 y", "broadcast/0@1 plain", "broadcast/0@9 z"]);
}

#[test]
fn a_bracket_that_is_no_header_is_plain_in_lenient_and_an_error_with_its_line_in_strict() {
    let lines = [
        "[Jan 1, 2022] x",
        "[1,2,3]",
        "[",
        "[]",
        "[ ]",
        "[a b] x",
        "[k|]",
        "[k|x]",
        "[k|-1]",
        "[k|1|2|3]",
        "[|1]",
        "[k|1|]",
        "[2022-01-01T00:00:00|1|2|3|4]",
        "[2022-01-01T00:00:00 | ä] x",
        "[2022-13-01T00:00:00]",
        "[2022-01-01T00:00:00Z] x",
        "[k | 1 | 99999999999999999999999999]",
        "[k | 340282366920938463463374607431768211455] x",
    ];
    for line in lines {
        let input = format!("first\n{line}\nlast\n");
        let got = read(&lenient(), input.as_bytes(), &[100]);
        assert_eq!(got[1].as_ref().unwrap().value.as_deref(), Some(line.as_bytes()), "{line}");
        let got = read(&with(Headers::Strict, &[]), input.as_bytes(), &[100]);
        let (error, record) = got[1].as_ref().unwrap_err();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Decode, "cannot read line 2"), "{line}");
        assert_eq!(record.value.as_deref(), Some(line.as_bytes()));
        assert!(got[0].is_ok() && got[2].is_ok() && got.len() == 3);
    }
    let long = format!("[{}] x", "a".repeat(250));
    assert!(read(&with(Headers::Strict, &[]), long.as_bytes(), &[100])[0].is_err());
}

#[test]
fn crlf_is_accepted_and_empty_lines_are_records() {
    let got = read(&lenient(), b"a\r\n\r\n\n[k | 5] b\r\nend", &[3]);
    assert_eq!(show(&got), ["broadcast/0@1 a", "broadcast/0@2 ", "broadcast/0@3 ", "k/0@5 b", "broadcast/0@4 end"]);
}

#[test]
fn bytes_that_are_no_utf8_are_an_error_with_the_line_or_pass() {
    let input = b"a\n[k | 7] \xff\nb\n";
    let got = read(&lenient(), input, &[100]);
    let (error, record) = got[1].as_ref().unwrap_err();
    assert_eq!((error.message(), record.id()), ("cannot read line 2", "k/0@7".to_owned()));
    assert_eq!(record.value.as_deref(), Some(&b"\xff"[..]));
    let pass = LogOptions { codec: CodecOptions::named("bytes").unwrap(), ..lenient() };
    assert_eq!(read(&pass, input, &[100])[1].as_ref().unwrap().value.as_deref(), Some(&b"\xff"[..]));
}

#[test]
fn a_line_that_is_too_long_fails_alone() {
    let codec = CodecOptions::Lines(LinesOptions { bytes_max: Size(20), ..LinesOptions::default() });
    let options = LogOptions { codec, ..lenient() };
    let input = b"a\n[k | 7] 0123456789012345678901234567890123456789\nb\n";
    for sizes in [&[1][..], &[30, 2], &[100]] {
        let got = read(&options, input, sizes);
        let (error, record) = got[1].as_ref().unwrap_err();
        assert!(error.chain().contains("line 2: a line of 48 bytes"), "{}", error.chain());
        assert_eq!((record.id(), got.len()), ("k/0@7".to_owned(), 3));
    }
}

#[test]
fn payloads_are_what_the_codec_says() {
    let options = LogOptions { codec: CodecOptions::named("ndjson").unwrap(), ..lenient() };
    let got = read(&options, b"[k | 1] {\"a\":1}\n\n[1,2]\n", &[100]);
    assert_eq!((got.len(), got[0].as_ref().unwrap().form), (2, Form::Json));
    let csv = LogOptions { codec: CodecOptions::named("csv").unwrap(), ..lenient() };
    assert_eq!(LogDecoder::new(&csv).err().unwrap().kind(), ErrorKind::Unsupported);
}

#[test]
fn many_streams_are_told_apart_in_bounded_memory() {
    let input: String = (0..20_000).map(|i| format!("[s{i} | {i} | 1] {i}\n")).collect();
    let got = read(&lenient(), input.as_bytes(), &[64 << 10]);
    assert_eq!(got.len(), 20_000);
    for (i, line) in got.iter().enumerate() {
        let record = line.as_ref().unwrap();
        assert_eq!(record.id(), format!("s{i}/1@{i}"));
        assert_eq!(record.value.as_deref(), Some(i.to_string().as_bytes()));
    }
}

#[test]
fn sequences_that_are_far_apart_stay_exact() {
    let input = b"[k | 1] a\n[k | 100000000000000000000000] b\n[k] c\n[k | 2] d\nplain\n";
    let got = show(&read(&with(Headers::Lenient, &["k"]), input, &[1000]));
    assert_eq!(
        got,
        [
            "k/0@1 a",
            "k/0@100000000000000000000000 b",
            "k/0@100000000000000000000001 c",
            "k/0@2 d",
            "broadcast/0@1 plain"
        ]
    );
}

fn record(value: &[u8], form: Form) -> Record {
    Record {
        origin: ShardKey::new("my_topic", 4),
        sequence: 123,
        time: Some(Timestamp::parse("2022-01-01T00:00:00.120Z").unwrap()),
        form,
        ..Record::new("", value.to_vec())
    }
}

fn print(printer: Printer, record: &Record) -> Result<String, Error> {
    let mut builder = BatchBuilder::new();
    builder.push(record);
    let mut out = Vec::new();
    printer.print(&builder.finish().get(0), &mut out).map(|()| String::from_utf8(out).unwrap())
}

#[test]
fn records_are_printed_with_their_header_or_raw() {
    let text = record(b"[x] y", Form::Text);
    assert_eq!(print(Printer::default(), &text).unwrap(), "[2022-01-01T00:00:00.120 | my_topic | 123 | 4] [x] y\n");
    assert_eq!(print(Printer { format: Format::Raw, ..Printer::default() }, &text).unwrap(), "[x] y\n");
    let untimed = Record { time: None, ..text };
    assert_eq!(print(Printer::default(), &untimed).unwrap(), "[my_topic | 123 | 4] [x] y\n");
    assert_eq!((&*stream_key("/data/ä b.txt"), &*stream_key("")), ("_data___b.txt", "broadcast"));
}

#[test]
fn a_payload_with_a_line_break_is_escaped_or_refused_never_two_records() {
    for format in [Format::Log, Format::Raw] {
        let printer = Printer { format, ..Printer::default() };
        let error = print(printer, &record(b"a\nb", Form::Text)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Rejected);
        let escaped = print(Printer { newline: Newline::Escape, ..printer }, &record(b"a\nb", Form::Text)).unwrap();
        assert!(escaped.ends_with("a\\nb\n"));
        assert!(print(printer, &record(b"{\n \"a\": 1}", Form::Json)).unwrap().ends_with("{\"a\":1}\n"));
    }
}

#[test]
fn ndjson_tells_everything_and_reads_back() {
    let printer = Printer { format: Format::Ndjson, ..Printer::default() };
    let mut full = record(b"{\"a\": 1}", Form::Text);
    full.key = Some(Bytes::from_static(b"\xff"));
    full.headers = vec![
        ("colour".into(), Some("blue".into())),
        ("none".into(), None),
        ("raw".into(), Some(Bytes::from_static(b"\xfe"))),
    ];
    let line = print(printer, &full).unwrap();
    assert_eq!(
        line,
        "{\"stream\":\"my_topic\",\"shard\":4,\"sequence\":123,\"time\":\"2022-01-01T00:00:00.120Z\",\"key_base64\":\"/w==\",\
         \"headers\":[[\"colour\",\"blue\"],[\"none\",null],[\"raw\",{\"base64\":\"/g==\"}]],\"value\":\"{\\\"a\\\": 1}\"}\n"
    );
    assert_eq!(read_record(line.as_bytes(), "x").unwrap(), full);
    let decoded = print(Printer { decode_json: true, ..printer }, &full).unwrap();
    assert!(decoded.ends_with("\"value\":{\"a\": 1}}\n"));
    assert_eq!(read_record(decoded.as_bytes(), "x").unwrap(), Record { form: Form::Json, ..full.clone() });
    let tombstone = Record { value: None, ..full.clone() };
    let line = print(printer, &tombstone).unwrap();
    assert!(line.ends_with("\"value\":null}\n"));
    assert_eq!(read_record(line.as_bytes(), "x").unwrap(), tombstone);
    let binary = record(b"\x00\xff", Form::Bytes);
    let line = print(printer, &binary).unwrap();
    assert!(line.ends_with("\"key\":null,\"headers\":[],\"value_base64\":\"AP8=\"}\n"), "{line}");
    assert_eq!(read_record(line.as_bytes(), "x").unwrap(), binary);
    assert_eq!(read_record(b"{\"value\":\"v\"}", "x").unwrap().origin.to_string(), "x/0");
    for wrong in
        ["{}", "[]", "", "{\"value\":1,\"valu\":2}", "{\"value\":1,\"value_base64\":\"\"}", "{\"value_base64\":\"?\"}"]
    {
        assert_eq!(read_record(wrong.as_bytes(), "x").unwrap_err().kind(), ErrorKind::Decode, "{wrong}");
    }
}

proptest! {
    #[test]
    fn printed_records_read_back(
        records in prop::collection::vec(
            ("[A-Za-z0-9._-]{1,8}", any::<u64>(), any::<u64>(), prop::option::of(any::<i64>()), "[^\r\n]{0,12}"), 1..20,
        ),
        sizes in prop::collection::vec(1usize..80, 1..4),
    ) {
        let mut builder = BatchBuilder::new();
        for (stream, shard, sequence, time, value) in &records {
            builder.push_value(&ShardKey::new(stream.as_str(), *shard), (*sequence).into(), time.map(Timestamp), Form::Text, None, Some(value.as_bytes()));
        }
        let batch = builder.finish();
        let (mut out, mut rejected) = (Vec::new(), Vec::new());
        Printer::default().print_batch(&batch, &mut out, &mut rejected);
        prop_assert!(rejected.is_empty());
        let got: Vec<Record> = read(&lenient(), &out, &sizes).into_iter().map(Result::unwrap).collect();
        let expected: Vec<Record> = batch.iter().map(|record| record.to_record()).collect();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn what_is_remembered_of_a_line_changes_nothing_in_the_next(
        lines in prop::collection::vec(
            "\\[(2022-01-01T00:00:0[01](\\.[05])? ?\\| )?[ab]{1,2} ?\\|? ?[0-9]{0,21} ?(\\| ?[0-9x]{0,3})? ?\\|?\\]?.?x", 0..20,
        ),
    ) {
        let alone: Vec<_> = lines.iter().flat_map(|line| read(&lenient(), line.as_bytes(), &[1000])).collect();
        let together = read(&lenient(), lines.join("\n").as_bytes(), &[1000]);
        let seen = |lines: &[Line]| -> Vec<_> {
            lines.iter().map(|line| {
                let record = line.as_ref().unwrap();
                // A number that the line does not give depends on those before it.
                (record.origin.clone(), record.time, record.value.clone())
            }).collect()
        };
        prop_assert_eq!(seen(&together), seen(&alone));
        for (line, record) in lines.iter().zip(&together) {
            if let Some((Header { sequence: Some(sequence), .. }, _)) = Header::parse(line.as_bytes()) {
                prop_assert_eq!(record.as_ref().unwrap().sequence, sequence);
            }
        }
    }

    #[test]
    fn random_bytes_never_panic_and_blocks_do_not_matter(
        input in prop::collection::vec(prop_oneof![4 => prop::sample::select(b"[]| \n\r0k9".to_vec()), 1 => any::<u8>()], 0..300),
        sizes in prop::collection::vec(1usize..30, 1..4),
        headers in prop::sample::select(vec![Headers::Off, Headers::Lenient, Headers::Strict]),
        bytes_max in 1u64..40,
    ) {
        let codec = CodecOptions::Lines(LinesOptions { bytes_max: Size(bytes_max), ..LinesOptions::default() });
        let options = LogOptions { headers, codec, streams: vec!["k".into()], ..LogOptions::default() };
        let seen = |sizes: &[usize]| -> Vec<_> {
            read(&options, &input, sizes).into_iter().map(|r| r.map_err(|(error, record)| (error.chain(), record))).collect()
        };
        prop_assert_eq!(seen(&sizes), seen(&[1000]));
    }

    #[test]
    fn random_records_are_read_or_refused(line in ".*|\\{\"value\":.*\\}") {
        let _ = read_record(line.as_bytes(), "x");
    }
}
