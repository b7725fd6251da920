//! The source `file`: reading once.

use std::io::Write;

use millstream_core::{ErrorKind, Event, Position, Resume, SeekTo, Sequences, Shards};
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn a_file_is_read_once_and_a_last_line_without_line_feed_is_a_record() {
    let dir = Dir::new();
    dir.write("a.txt", "one\r\ntwo\n\nlast");
    let mut source = source(json!({ "path": dir.text("a.txt") }));
    source.open(&fresh()).await.unwrap();
    assert_eq!(source.size().unwrap().bytes, Some(14));
    assert_eq!(all(&mut *source).await, ["one", "two", "", "last"]);
    assert!(matches!(source.next().await.unwrap(), Event::End));
    assert_eq!(source.lag().unwrap().bytes, Some(0));
    source.close().await.unwrap();
}

#[tokio::test]
async fn big_files_come_in_slices_with_runs_of_sequences() {
    let dir = Dir::new();
    dir.write("a.txt", lines(0..100_000));
    let mut source = source(json!({ "path": dir.text("a.txt") }));
    source.open(&fresh()).await.unwrap();
    let (mut next, mut batches) = (1u128, 0);
    while let Event::Batch(read) = source.next().await.unwrap() {
        let (envelope, _) = read.batch.envelope();
        assert!(
            matches!(&envelope.shards, Shards::Same(shard) if *shard.stream == *dir.text("a.txt") && shard.shard == 0)
        );
        assert!(matches!(envelope.sequences, Sequences::Run(base) if base == next));
        for record in read.batch.iter() {
            assert_eq!(record.value().unwrap(), format!("line {}", next - 1).as_bytes());
            next += 1;
        }
        batches += 1;
        assert!(read.batch.len() <= millstream_core::BATCH_RECORDS_MAX);
    }
    assert_eq!(next, 100_001);
    assert!(batches < 60, "{batches} batches");
}

#[tokio::test]
async fn many_small_files_fill_one_batch_in_sorted_order() {
    let dir = Dir::new();
    for i in 0..1000 {
        dir.write(&format!("{i:04}.log"), format!("a{i}\nb{i}\n"));
    }
    let mut source = source(json!({ "path": dir.text("*.log") }));
    source.open(&fresh()).await.unwrap();
    assert_eq!(source.shards().len(), 1000);
    let Event::Batch(read) = source.next().await.unwrap() else { panic!() };
    assert_eq!(read.batch.len(), 2000);
    assert_eq!(values(&read.batch)[..4], ["a0", "b0", "a1", "b1"]);
    let last = read.batch.get(1999);
    assert_eq!((last.sequence(), &*last.origin().stream), (2, &*dir.text("0999.log")));
    assert!(all(&mut *source).await.is_empty());
    assert_eq!(source.position().unwrap().0.len(), 1000);
}

#[tokio::test]
async fn the_position_stands_behind_what_was_handed_over_and_never_inside_of_a_record() {
    let dir = Dir::new();
    dir.write("a.txt", lines(0..30_000));
    let options = json!({ "path": dir.text("a.txt") });
    let mut first = source(options.clone());
    first.open(&fresh()).await.unwrap();
    let mut got = Vec::new();
    loop {
        let position = first.position().unwrap();
        // As it would be read back from a checkpoint.
        let position: Position = serde_json::from_str(&serde_json::to_string(&position).unwrap()).unwrap();
        let mut second = source(options.clone());
        second.open(&resume(Some(position), SeekTo::Beginning)).await.unwrap();
        assert_eq!(all(&mut *second).await, expected(got.len()..30_000));
        match next(&mut *first).await {
            Some(more) => got.extend(more),
            None => break,
        }
    }
    assert_eq!(got, expected(0..30_000));
}

#[tokio::test]
async fn a_dropped_call_of_next_loses_nothing() {
    let dir = Dir::new();
    dir.write("a.txt", lines(0..50_000));
    let mut source = source(json!({ "path": dir.text("a.txt") }));
    source.open(&fresh()).await.unwrap();
    let mut got = Vec::new();
    for round in 0.. {
        let event = tokio::select! {
            biased;
            () = tokio::task::yield_now(), if round % 3 != 0 => continue,
            event = source.next() => event.unwrap(),
        };
        match event {
            Event::Batch(read) => got.extend(values(&read.batch)),
            Event::End => break,
            _ => {}
        }
    }
    assert_eq!(got, expected(0..50_000));
}

#[tokio::test]
async fn it_begins_at_a_record_number_inclusive() {
    let dir = Dir::new();
    dir.write("a.txt", lines(0..20_000));
    for (start, from) in [(0u128, 0), (1, 0), (5, 4), (15_000, 14_999), (20_000, 19_999), (20_001, 20_000)] {
        let mut source = source(json!({ "path": dir.text("a.txt") }));
        source.open(&resume(None, SeekTo::At(start))).await.unwrap();
        let mut got = Vec::new();
        while let Event::Batch(read) = source.next().await.unwrap() {
            if got.is_empty() {
                assert_eq!(read.batch.get(0).sequence(), start.max(1));
            }
            got.extend(values(&read.batch));
        }
        assert_eq!(got, expected(from..20_000), "start {start}");
    }
}

#[tokio::test]
async fn it_seeks_and_stands_where_it_stood_after_an_error() {
    let dir = Dir::new();
    dir.write("a.txt", lines(0..10_000));
    let mut source = source(json!({ "path": dir.text("a.txt") }));
    source.open(&fresh()).await.unwrap();
    let first = next(&mut *source).await.unwrap();
    let before = source.position().unwrap();
    let error = source.seek(&SeekTo::Time(millstream_core::Timestamp(0)), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(source.seek(&SeekTo::Committed, None).await.is_err());
    assert_eq!(source.position().unwrap(), before);
    let mut rest = first;
    rest.extend(all(&mut *source).await);
    assert_eq!(rest, expected(0..10_000));
    source.seek(&SeekTo::Beginning, None).await.unwrap();
    assert_eq!(all(&mut *source).await, expected(0..10_000));
    source.seek(&SeekTo::At(9_999), Some(&source.shards())).await.unwrap();
    assert_eq!(all(&mut *source).await, expected(9_998..10_000));
    source.seek(&SeekTo::End, None).await.unwrap();
    assert!(all(&mut *source).await.is_empty());
}

#[tokio::test]
async fn the_end_is_behind_the_last_complete_line() {
    let dir = Dir::new();
    dir.write("a.txt", "one\ntwo\nhal");
    let mut source = source(json!({ "path": dir.text("a.txt"), "follow": true }));
    source.open(&resume(None, SeekTo::End)).await.unwrap();
    quiet(&mut *source).await;
    dir.append("a.txt", "f\nnext\n");
    assert_eq!(take(&mut *source, 2).await, ["half", "next"]);
}

#[tokio::test]
async fn errors_name_the_path_and_say_what_to_do() {
    let dir = Dir::new();
    dir.write("sub/x.log", "x\n");
    let open = async |path: &str| {
        let error = source(json!({ "path": path })).open(&fresh()).await.unwrap_err();
        assert!(error.message().contains(path), "{error:?}");
        assert!(error.hint_text().is_some(), "{error:?}");
        error.kind()
    };
    assert_eq!(open(&dir.text("missing.txt")).await, ErrorKind::NotFound);
    assert_eq!(open(&dir.text("missing/*.txt")).await, ErrorKind::NotFound);
    assert_eq!(open(&dir.text("sub")).await, ErrorKind::Option);
    assert_eq!(open("/dev/null").await, ErrorKind::Option);
    let plan = |options| plan_source(options).unwrap_err();
    assert_eq!(plan(json!({ "path": "x", "start": "2026-01-01T00:00:00Z" })).place().unwrap().path, ["start"]);
    assert_eq!(plan(json!({ "path": "" })).place().unwrap().path, ["path"]);
    assert_eq!(plan(json!({ "path": "x", "folow": true })).hint_text(), Some("did you mean `follow`?"));
    assert_eq!(
        plan(json!({ "path": "x", "multiline": { "start": "(" } })).place().unwrap().path,
        ["multiline", "start"]
    );
    assert_eq!(plan(json!({ "path": "x", "codec": "bytes", "follow": true })).kind(), ErrorKind::Option);
    let follow = source(json!({ "path": dir.text("nowhere/x"), "follow": true })).open(&fresh()).await;
    assert_eq!(follow.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_file_that_may_not_be_read_is_a_permission_error() {
    use std::os::unix::fs::PermissionsExt;
    let dir = Dir::new();
    dir.write("secret", "x\n");
    std::fs::set_permissions(dir.path("secret"), std::fs::Permissions::from_mode(0o000)).unwrap();
    match source(json!({ "path": dir.text("secret") })).open(&fresh()).await {
        Err(error) => assert_eq!(error.kind(), ErrorKind::Permission),
        Ok(()) => println!("skipped: root may read everything"),
    }
}

#[tokio::test]
async fn binary_junk_and_a_line_of_100_mib_are_failed_records_among_good_ones() {
    let dir = Dir::new();
    let mut bytes = b"good\n\xff\xfe\x00\n".to_vec();
    bytes.resize(bytes.len() + (100 << 20), b'x');
    bytes.extend_from_slice(b"\nbetter\n");
    dir.write("a.txt", &bytes);
    let mut source = source(json!({ "path": dir.text("a.txt") }));
    source.open(&fresh()).await.unwrap();
    let (mut good, mut failed) = (Vec::new(), Vec::new());
    while let Event::Batch(read) = source.next().await.unwrap() {
        for (i, record) in read.batch.iter().enumerate() {
            match read.failed.iter().find(|(at, _)| *at as usize == i) {
                Some((_, error)) => failed.push((record.sequence(), error.kind())),
                None => good.push(String::from_utf8(record.value().unwrap().to_vec()).unwrap()),
            }
        }
    }
    assert_eq!(good, ["good", "better"]);
    assert_eq!(failed, [(2, ErrorKind::Decode), (3, ErrorKind::TooLarge)]);
}

fn gzip(parts: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    for part in parts {
        let mut encoder = flate2::write::GzEncoder::new(&mut out, flate2::Compression::default());
        encoder.write_all(part.as_bytes()).unwrap();
        encoder.finish().unwrap();
    }
    out
}

#[tokio::test]
async fn compressed_files_are_read_and_resumed_by_their_plain_bytes() {
    let dir = Dir::new();
    let parts = [lines(0..30_000), lines(30_000..30_001), lines(30_001..60_000)];
    dir.write("a.log.gz", gzip(&parts));
    dir.write("a.log.zst", zstd::encode_all(parts.concat().as_bytes(), 1).unwrap());
    for name in ["a.log.gz", "a.log.zst"] {
        let options = json!({ "path": dir.text(name) });
        let mut first = source(options.clone());
        first.open(&fresh()).await.unwrap();
        let mut got = next(&mut *first).await.unwrap();
        got.extend(next(&mut *first).await.unwrap());
        let mut second = source(options);
        second.open(&resume(Some(first.position().unwrap()), SeekTo::Beginning)).await.unwrap();
        got.extend(all(&mut *second).await);
        assert_eq!(got, expected(0..60_000), "{name}");
    }
}

#[tokio::test]
async fn a_compressed_file_that_is_cut_short_is_an_error() {
    let dir = Dir::new();
    let whole = gzip(&[lines(0..50_000)]);
    dir.write("a.gz", &whole[..whole.len() - 5]);
    let mut source = source(json!({ "path": dir.text("a.gz") }));
    source.open(&fresh()).await.unwrap();
    let error = loop {
        match source.next().await {
            Ok(Event::End) => panic!("it ended well"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_csv_file_is_resumed_behind_its_header() {
    let dir = Dir::new();
    let rows: String = (0..20_000).map(|i| format!("{i},\"x\ny{i}\"\n")).collect();
    dir.write("a.csv", format!("id,name\n{rows}"));
    let options = json!({ "path": dir.text("a.csv") });
    let mut first = source(options.clone());
    first.open(&fresh()).await.unwrap();
    let mut got = next(&mut *first).await.unwrap();
    assert!(got[0].contains("\"id\""), "{}", got[0]);
    let mut second = source(options);
    second.open(&resume(Some(first.position().unwrap()), SeekTo::Beginning)).await.unwrap();
    got.extend(all(&mut *second).await);
    assert_eq!(got.len(), 20_000);
    for (i, row) in got.iter().enumerate() {
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        assert_eq!(row["id"], json!(i.to_string()));
    }
}

#[tokio::test]
async fn a_compression_that_is_given_counts_and_not_the_name() {
    let dir = Dir::new();
    let mut sink = sink(json!({ "path": dir.text("a.txt"), "compression": "gzip" }));
    sink.open(&[]).await.unwrap();
    put(&mut *sink, &["one", "two"]).await;
    sink.close().await.unwrap();
    assert!(std::fs::read(dir.text("a.txt")).unwrap().starts_with(&[0x1f, 0x8b]));
    dir.write("plain.gz", "three\n");
    for (name, compression, expected) in [("a.txt", "gzip", &["one", "two"][..]), ("plain.gz", "none", &["three"])] {
        let mut source = source(json!({ "path": dir.text(name), "compression": compression }));
        source.open(&fresh()).await.unwrap();
        assert_eq!(all(&mut *source).await, expected);
    }
}

#[tokio::test]
async fn lines_are_joined_and_the_last_record_waits_for_quiet() {
    let dir = Dir::new();
    dir.write("a.log", "2026-1 first\n  at x\n  at y\n2026-2 second\n");
    let options = json!({ "path": dir.text("a.log"), "follow": true, "start": "beginning",
        "multiline": { "start": "^[0-9]{4}-", "wait": "300ms" } });
    let mut source = source(options);
    source.open(&fresh()).await.unwrap();
    assert_eq!(take(&mut *source, 1).await, ["2026-1 first\n  at x\n  at y"]);
    let began = std::time::Instant::now();
    assert_eq!(take(&mut *source, 1).await, ["2026-2 second"]);
    assert!(began.elapsed().as_millis() >= 200);
    dir.append("a.log", "2026-3 third\n at z\n2026-4\n");
    assert_eq!(take(&mut *source, 2).await, ["2026-3 third\n at z", "2026-4"]);
}

#[tokio::test]
async fn until_end_stops_at_the_size_at_open_also_when_following() {
    let dir = Dir::new();
    dir.write("a.txt", lines(0..10));
    let mut source = source(json!({ "path": dir.text("a.txt"), "follow": true, "start": "beginning" }));
    source.open(&Resume { until_end: true, ..fresh() }).await.unwrap();
    dir.append("a.txt", lines(10..20));
    assert_eq!(all(&mut *source).await, expected(0..10));
    let position = source.position().unwrap();
    source.open(&Resume { until_end: true, position: Some(position), ..fresh() }).await.unwrap();
    assert_eq!(all(&mut *source).await, expected(10..20));
}

#[tokio::test]
async fn a_file_that_is_not_the_one_that_was_read_is_state_mismatch() {
    let dir = Dir::new();
    dir.write("a.txt", lines(0..20_000));
    let mut first = source(json!({ "path": dir.text("a.txt") }));
    first.open(&fresh()).await.unwrap();
    next(&mut *first).await.unwrap();
    let position = first.position().unwrap();
    dir.write("b.txt", lines(5..30_000));
    dir.rename("b.txt", "a.txt");
    let error = first.open(&resume(Some(position), SeekTo::Beginning)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StateMismatch);
    assert!(error.hint_text().is_some());
}

#[tokio::test]
async fn readers_stop_at_the_committed_length() {
    use std::os::unix::fs::MetadataExt;
    let dir = Dir::new();
    dir.write("a.txt", lines(0..10));
    let metadata = std::fs::metadata(dir.path("a.txt")).unwrap();
    let publish = |length: usize| {
        let text = json!({ "dev": metadata.dev(), "ino": metadata.ino(), "length": length, "readers": true });
        dir.write(".a.txt.committed", text.to_string());
    };
    publish(lines(0..4).len());
    let mut once = source(json!({ "path": dir.text("a.txt") }));
    once.open(&fresh()).await.unwrap();
    assert_eq!(all(&mut *once).await, expected(0..4));
    let mut follow = source(json!({ "path": dir.text("a.txt"), "follow": true }));
    follow.open(&fresh()).await.unwrap();
    assert_eq!(take(&mut *follow, 4).await, expected(0..4));
    quiet(&mut *follow).await;
    publish(lines(0..7).len());
    assert_eq!(take(&mut *follow, 3).await, expected(4..7));
    std::fs::remove_file(dir.path(".a.txt.committed")).unwrap();
    assert_eq!(take(&mut *follow, 3).await, expected(7..10));
}
