//! No input makes a parser panic, and what it says of an input is consistent.

use std::path::Path;

use bytes::Bytes;
use millstream_codec::{
    log::{Headers, LogDecoder, LogOptions},
    ss,
};
use millstream_core::{Registry, Role, Url};
use millstream_testkit::fuzz;

#[test]
fn stream_files() {
    let mut example = Vec::new();
    let header = ss::Header::with_any_interval("x.ss", 1_700_000_000_000, 128).unwrap();
    let mut writer = ss::SsWriter::new(&header, &mut example);
    for i in 0..20u64 {
        writer
            .append("event", i % 2, None, 1_700_000_000_000 + i, &vec![b'x'; (i * 13) as usize], &mut example)
            .unwrap();
    }
    writer.end(1_700_000_000_100, &mut example).unwrap();
    let inputs = fuzz(&[&example, &example[..128], b"SS"], |bytes| {
        let report = ss::verify(bytes);
        if let Ok(end) = ss::find_end(bytes) {
            assert!(end.offset <= bytes.len() as u64);
            // What is found to be the end can be appended to, and what is there then is as whole as before.
            let mut whole = bytes[..end.offset as usize].to_vec();
            if let Ok(mut writer) = ss::SsWriter::resume(&end, &mut whole) {
                let _ = writer.append("more", 0, None, 1, b"x", &mut whole);
            }
        }
        if let (Ok(report), Ok(header)) = (report, ss::read_header(bytes)) {
            let mut mended = Vec::new();
            ss::repair(bytes, &header, &mut mended).unwrap();
            assert!(ss::verify(&mended[..]).unwrap().whole(), "{report:?}");
        }
    });
    println!("{inputs} stream files");
}

#[test]
fn stdio_lines() {
    let lines: &[&[u8]] = &[
        b"a plain message\n",
        b"[2022-01-01T00:00:00] {\"p\":1}\n[my_topic | 123 | 4] {}\n",
        b"[2022-01-01T00:00:00.123456789 | my-topic-2 | 123 | 4] x\r\n\r\n[\n",
        b"[Jan 1, 2022] x\n[error] y",
    ];
    let inputs = fuzz(lines, |bytes| {
        for headers in [Headers::Off, Headers::Lenient, Headers::Strict] {
            let mut decoder = LogDecoder::new(&LogOptions { headers, ..LogOptions::default() }).unwrap();
            let block = Bytes::copy_from_slice(bytes);
            let (mut at, mut records) = (0, 0);
            while at < block.len() {
                let read = decoder.decode(&block.slice(at..), true);
                assert!(read.taken > 0, "no progress at {at}");
                at += read.taken;
                records += read.read.map_or(0, |read| read.batch.len());
            }
            let lines = bytes.split_inclusive(|byte| *byte == b'\n').count();
            assert_eq!(records, lines, "every line is a record");
        }
    });
    println!("{inputs} stdio inputs");
}

#[test]
fn urls() {
    let urls: &[&[u8]] = &[
        b"kafka://me:s%40crt@a:9092,b:9093/x%20y,z?group=g&batch.count=10",
        b"file:///data/my%20file,1.ss/key",
        b"stdio:///a,b?headers=off",
        b"rediss://[::1]:6379/s?db=2",
    ];
    let registry = millstream_bundle::registry();
    let inputs = fuzz(urls, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        if let Ok(url) = Url::parse(text) {
            // What is shown reads as the same URL, but for the secrets.
            let shown = url.to_string();
            assert_eq!(Url::parse(&shown).map(|url| url.to_string()).unwrap(), shown);
            let _ = (registry.by_url(Role::Source, &url), registry.by_url(Role::Sink, &url));
        }
    });
    println!("{inputs} URLs");
}

#[test]
fn pipeline_files() {
    let files: &[&[u8]] = &[
        b"name: a\nsource:\n  file: { path: \"${BOOK:-book.txt}\", codec: lines }\nsteps:\n  - map: '. = 1'\n  - filter: '. != \"\"'\nsink:\n  stdout: {}\n",
        b"vars: { T: { type: text, default: x } }\nsources:\n  a: { stdin: {} }\n  b: { file: { path: x } }\nsteps:\n  - name: r\n    from: [a, b]\n    route: { to: { big: '.t > 1' } }\nsinks:\n  s: { from: [r.big, r.rest], drop: {} }\nerrors:\n  - { match: { class: timeout }, retry: { attempts: 5 }, then: drop }\n",
        b"{\"source\": {\"values\": {\"values\": [1]}}, \"sink\": {\"drop\": {}}}",
    ];
    let registry: Registry = millstream_bundle::registry();
    let variables = millstream_config::Variables::default();
    let inputs =
        fuzz(files, |bytes| match millstream_config::parse(bytes, Path::new("p.yaml"), &registry, &variables) {
            Ok(file) => {
                if let Err(errors) = millstream_runtime::Plan::new(file.spec(), &registry, Default::default()) {
                    assert!(!errors.is_empty());
                    errors.into_iter().for_each(|error| drop(file.diagnostic(error).render(false)));
                }
            }
            Err(diagnostics) => {
                assert!(!diagnostics.is_empty());
                diagnostics.iter().for_each(|diagnostic| drop((diagnostic.render(true), diagnostic.to_json())));
            }
        });
    println!("{inputs} pipeline files");
}
