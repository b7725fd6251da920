//! Reading: streams, seeking, damage, what a position is.

use std::{fs, path::Path};

use millstream_codec::ss::{Header, SsWriter};
use millstream_core::{ErrorKind, Event, Form, Resume, SeekTo, ShardKey};
use serde_json::json;

use super::*;

/// Two streams, one with two shards; sequence n of each has time 1000 * n, and some way between them.
const MIXED: &[(&str, u64, i64, &str)] = &[
    ("a", 0, 1_000, "a1"),
    ("b", 0, 1_000, "b1"),
    ("a", 0, 2_000, "a2"),
    ("a", 7, 1_000, "a7-1"),
    ("a", 0, 3_000, "a3"),
    ("b", 0, 2_000, "b2"),
    ("b", 0, 3_000, "b3"),
    ("a", 0, 4_000, "a4"),
];

#[tokio::test]
async fn a_foreign_file_is_read_to_its_end_of_stream() {
    // It stays outside of the project.
    let path = &Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/sample-1.ss");
    if !path.exists() {
        println!("skipped: no fixture at {}", path.display());
        return;
    }
    let mut source = reader(path).await;
    assert!(source.shards().contains(&ShardKey::new("event", 0)));
    assert!(all(&mut *source).await.len() >= 22);
    let events = |start: &str| json!({"path": path, "stream": "event", "follow": true, "start": start});
    let mut source = open_source(events("beginning"), Resume::default()).await.unwrap();
    let got = all(&mut *source).await;
    let sequences: Vec<u64> = got.iter().map(|(.., sequence, _)| *sequence).collect();
    assert_eq!(sequences, (1..=22).collect::<Vec<_>>());
    // A reader that follows it ends too, wherever it begins.
    let mut source = open_source(events("20"), Resume::default()).await.unwrap();
    assert_eq!(all(&mut *source).await.len(), 3);
    assert!(all(&mut *follower(path, "end").await).await.is_empty());
}

#[tokio::test]
async fn streams_are_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    written(&path, MIXED).await;
    assert_eq!(all(&mut *reader(&path).await).await.len(), 8);
    for streams in [json!(["b"]), json!("b"), json!("b,nobody")] {
        let mut source = open_source(json!({"path": path, "streams": streams}), Resume::default()).await.unwrap();
        assert_eq!(source.shards(), [ShardKey::new("b", 0)]);
        assert_eq!(values(&all(&mut *source).await), ["b1", "b2", "b3"]);
    }
    let mut source = open_source(json!({"path": path, "stream": "nobody"}), Resume::default()).await.unwrap();
    assert!(all(&mut *source).await.is_empty());
}

#[tokio::test]
async fn times_sequences_and_forms_come_with_records() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    written(&path, &[("a", 3, 1_234, "{}")]).await;
    let options = json!({"path": path, "value": "json"});
    assert_eq!(plan_source(&options).unwrap().form(), Form::Json);
    let mut source = open_source(options, Resume::default()).await.unwrap();
    let Event::Batch(read) = source.next().await.unwrap() else { panic!("no batch") };
    let record = read.batch.get(0);
    assert_eq!((record.id().as_str(), record.form()), ("a/3@1", Form::Json));
    assert_eq!(record.time(), Some(Timestamp::from_millis(1_234)));
}

#[tokio::test]
async fn text_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let mut bytes = Vec::new();
    let mut writer = SsWriter::new(&Header::new("x", 0, 1024).unwrap(), &mut bytes);
    for value in [&b"good"[..], b"\xff\xfe", b"good"] {
        writer.append("s", 0, None, 1, value, &mut bytes).unwrap();
    }
    fs::write(&path, &bytes).unwrap();
    let mut source = open_source(json!({"path": path, "value": "text"}), Resume::default()).await.unwrap();
    let (rows, failed) = next(&mut *source).await.unwrap();
    assert_eq!((rows.len(), failed.len(), failed[0].0), (3, 1, 1));
    assert_eq!(failed[0].1.kind(), ErrorKind::Decode);
}

#[tokio::test]
async fn a_seek_is_inclusive_and_looks_only_at_what_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    written(&path, MIXED).await;
    let mut source = open_source(json!({"path": path, "streams": ["b"]}), Resume::default()).await.unwrap();
    for (to, want) in [
        (at(2), &["b2", "b3"][..]),
        (at(1), &["b1", "b2", "b3"]),
        (at(0), &["b1", "b2", "b3"]),
        (ms(2_000), &["b2", "b3"]),
        (ms(1_001), &["b2", "b3"]),
        (ms(-5), &["b1", "b2", "b3"]),
        (SeekTo::Time(Timestamp(2_000_000_001)), &["b3"]),
        (SeekTo::Beginning, &["b1", "b2", "b3"]),
        (SeekTo::End, &[]),
    ] {
        source.seek(&to, None).await.unwrap();
        assert_eq!(values(&all(&mut *source).await), want, "{to}");
    }
    // Of all streams each begins at its own.
    let mut source = reader(&path).await;
    source.seek(&at(3), None).await.unwrap();
    assert_eq!(values(&all(&mut *source).await), ["a3", "b3", "a4"]);
    source.seek(&ms(3_000), None).await.unwrap();
    assert_eq!(values(&all(&mut *source).await), ["a3", "b3", "a4"]);
}

#[tokio::test]
async fn a_failed_seek_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    written(&path, MIXED).await;
    let mut source = reader(&path).await;
    source.seek(&at(3), None).await.unwrap();
    let before = source.position().unwrap();
    for (to, kind) in
        [(at(5), ErrorKind::NotFound), (ms(4_001), ErrorKind::NotFound), (SeekTo::Committed, ErrorKind::Unsupported)]
    {
        assert_eq!(source.seek(&to, None).await.unwrap_err().kind(), kind, "{to}");
    }
    assert_eq!(source.seek(&at(1), Some(&[ShardKey::new("c", 0)])).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(source.position().unwrap(), before);
    assert_eq!(values(&all(&mut *source).await), ["a3", "b3", "a4"]);
}

#[tokio::test]
async fn a_seek_of_some_shards_leaves_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    written(&path, MIXED).await;
    let (a, b) = (ShardKey::new("a", 0), ShardKey::new("b", 0));
    let mut source = reader(&path).await;
    // Back for one, while all have been read.
    assert_eq!(some(&mut *source, 8).await.len(), 8);
    source.seek(&at(2), Some(std::slice::from_ref(&b))).await.unwrap();
    let saved = source.position().unwrap();
    assert_eq!(values(&all(&mut *source).await), ["b2", "b3"]);
    // The gates are part of the position.
    let resume = Resume { position: Some(saved), ..Resume::default() };
    assert_eq!(values(&all(&mut *open_source(json!({"path": path}), resume).await.unwrap()).await), ["b2", "b3"]);
    // Forward for one, while nothing has been read.
    let mut source = reader(&path).await;
    source.seek(&SeekTo::End, Some(std::slice::from_ref(&a))).await.unwrap();
    assert_eq!(values(&all(&mut *source).await), ["b1", "a7-1", "b2", "b3"]);
    source.seek(&SeekTo::Beginning, Some(&[b])).await.unwrap();
    source.seek(&ms(4_000), Some(&[a])).await.unwrap();
    assert_eq!(values(&all(&mut *source).await), ["b1", "b2", "b3", "a4"]);
}

#[tokio::test]
async fn a_dropped_seek_is_made_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    written(&path, MIXED).await;
    let mut source = reader(&path).await;
    for _ in 0..20 {
        let to = at(4);
        let seek = source.seek(&to, None);
        let _ = tokio::time::timeout(std::time::Duration::ZERO, seek).await;
    }
    let got = all(&mut *source).await;
    assert!(got.len() == 8 || values(&got) == ["a4"], "{got:?}");
}

#[tokio::test]
async fn next_can_be_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let value = "v".repeat(300);
    written(&path, &vec![("s", 0, 1, value.as_str()); 20_000]).await;
    let mut source = reader(&path).await;
    let (mut got, mut position) = (0, source.position().unwrap());
    loop {
        match tokio::time::timeout(std::time::Duration::ZERO, source.next()).await {
            Err(_) => assert_eq!(source.position().unwrap(), position),
            Ok(Ok(Event::Batch(read))) => {
                for (row, record) in read.batch.iter().enumerate() {
                    assert_eq!(record.sequence(), (got + row + 1) as u128);
                }
                got += read.batch.len();
                position = source.position().unwrap();
            }
            Ok(Ok(Event::End)) => break,
            Ok(other) => panic!("{other:?}"),
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(got, 20_000);
}

/// Every checksum is verified: a damaged record is reported and the others come.
#[tokio::test]
async fn damage_is_reported_and_passed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let records: Vec<_> = (0..200).map(|n| ("s", 0, n, "the value of a record")).collect();
    written(&path, &records).await;
    let good = fs::read(&path).unwrap();
    let info = millstream_file::ss::info(&path).unwrap();
    assert_eq!(info.streams[0].sequence, 200);
    let mut reported = 0;
    for at in (128..good.len()).step_by(37) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x20;
        fs::write(&path, &bytes).unwrap();
        let mut source = reader(&path).await;
        let (mut whole, mut failed) = (0, 0);
        while let Some((rows, faults)) = next(&mut *source).await {
            whole += rows.len() - faults.len();
            failed += faults.len();
            assert!(faults.iter().all(|(_, error)| error.kind() == ErrorKind::Corrupt));
            let bad: Vec<usize> = faults.iter().map(|(row, _)| *row as usize).collect();
            for (row, (_, _, _, value)) in rows.iter().enumerate() {
                assert!(bad.contains(&row) || value == "the value of a record");
            }
        }
        // Headers and beacon items have no checksum of their own; what is lost is one beacon interval at most.
        assert!(whole >= 200 - 2 * 1024 / 50, "{whole} at {at}");
        assert!(whole == 200 || failed > 0, "{} records are missing without a word at {at}", 200 - whole);
        reported += failed;
    }
    assert!(reported > 50, "{reported}");
}

#[tokio::test]
async fn damage_in_a_stream_that_is_not_asked_for_is_not_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    written(&path, &[("a", 0, 1, "good"), ("b", 0, 1, "bad!"), ("a", 0, 2, "good")]).await;
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(4).position(|window| window == b"bad!").unwrap();
    bytes[at] = b'B';
    fs::write(&path, &bytes).unwrap();
    let mut source = open_source(json!({"path": path, "stream": "a"}), Resume::default()).await.unwrap();
    assert_eq!(values(&all(&mut *source).await), ["good", "good"]);
    let (rows, failed) = next(&mut *reader(&path).await).await.unwrap();
    assert_eq!((rows[1].clone(), failed[0].0), (("b".into(), 0, 1, "Bad!".into()), 1));
}

#[tokio::test]
async fn what_is_no_stream_file_is_said_to_be_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let fails = async |kind: ErrorKind| {
        let error = open_source(json!({"path": path}), Resume::default()).await.err().unwrap();
        assert_eq!(error.kind(), kind, "{error:?}");
    };
    fails(ErrorKind::NotFound).await;
    fs::write(&path, "").unwrap();
    fails(ErrorKind::Corrupt).await;
    fs::write(&path, "Ss").unwrap();
    fails(ErrorKind::Corrupt).await;
    fs::write(&path, vec![b'x'; 500]).unwrap();
    fails(ErrorKind::Corrupt).await;
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    fails(ErrorKind::Option).await;
}

#[tokio::test]
async fn huge_and_empty_values_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let huge = "h".repeat(5_000_000);
    written(&path, &[("s", 0, 1, ""), ("s", 0, 1, &huge), ("s", 0, 1, "x"), ("s", 0, 1, &huge), ("s", 0, 1, "")]).await;
    let got = all(&mut *reader(&path).await).await;
    let lengths: Vec<usize> = got.iter().map(|(.., value)| value.len()).collect();
    assert_eq!(lengths, [0, 5_000_000, 1, 5_000_000, 0]);
    assert!(got.iter().all(|(.., value)| value == "x" || value.bytes().all(|byte| byte == b'h')));
}

#[tokio::test]
async fn a_torn_tail_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    written(&path, MIXED).await;
    let good = fs::read(&path).unwrap();
    for len in 128..good.len() {
        fs::write(&path, &good[..len]).unwrap();
        let got = all(&mut *reader(&path).await).await;
        assert_eq!(values(&got), MIXED.iter().map(|(.., value)| *value).take(got.len()).collect::<Vec<_>>());
    }
    // What a power failure has left unwritten.
    let mut blank = good.clone();
    blank.extend([0; 700]);
    fs::write(&path, &blank).unwrap();
    assert_eq!(all(&mut *reader(&path).await).await.len(), 8);
}
