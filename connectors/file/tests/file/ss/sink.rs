//! Writing: sequences, streams, what is refused, what is kept.

use std::fs;

use millstream_codec::ss::{End, Header, SsWriter, find_end, verify};
use millstream_core::{ErrorKind, Form, Last, Way};
use serde_json::json;

use super::*;

#[tokio::test]
async fn receipts_have_the_sequences_that_readers_see() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let mut sink = writer(&path).await;
    let first = sink.write(batch(&[("a", 0, 1, "a1"), ("b", 0, 1, "b1"), ("a", 0, 1, "a2")])).await.unwrap();
    let second = sink.write(of(&["s1", "s2"])).await.unwrap();
    let outcomes = sink.flush().await.unwrap();
    assert_eq!(outcomes.sequences, [(first, vec![1, 1, 2]), (second, vec![1, 2])]);
    assert!(sink.flush().await.unwrap().sequences.is_empty());
    let got = all(&mut *reader(&path).await).await;
    let seen: Vec<(&str, u64)> = got.iter().map(|(stream, _, sequence, _)| (stream.as_str(), *sequence)).collect();
    assert_eq!(seen, [("a", 1), ("b", 1), ("a", 2), ("s", 1), ("s", 2)]);
    // After a restart they go on.
    sink.close().await.unwrap();
    let mut sink = writer(&path).await;
    let third = sink.write(batch(&[("b", 0, 1, "b2"), ("s", 0, 1, "s3"), ("s", 1, 1, "t1")])).await.unwrap();
    assert_eq!(sink.flush().await.unwrap().sequences, [(third, vec![2, 3, 1])]);
}

#[tokio::test]
async fn streams_of_other_systems_get_names_that_fit_and_control_messages_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let mut sink = writer(&path).await;
    let long = "n".repeat(250);
    let records = [("a", 0, 1, "1"), ("/var/log/x", 0, 1, "2"), ("", 0, 1, "3"), ("a", 0, 1, "4"), (&long, 0, 1, "5")];
    sink.write(batch(&records)).await.unwrap();
    sink.write(batch(&[("SEA_STREAMER_INTERNAL", 0, 1, "6")])).await.unwrap();
    let outcomes = sink.flush().await.unwrap();
    let rejected: Vec<_> = outcomes.rejected.iter().map(|(write, row, error)| (*write, *row, error.kind())).collect();
    let no = ErrorKind::Rejected;
    assert_eq!(rejected, [(1, 0, no)]);
    assert_eq!(outcomes.sequences, [(0, vec![1, 1, 1, 2, 1]), (1, vec![0])]);
    let streams: Vec<String> = all(&mut *reader(&path).await).await.into_iter().map(|(stream, ..)| stream).collect();
    assert_eq!(streams, ["a", "_var_log_x", "broadcast", "a", &"n".repeat(249)]);
    // A fixed stream takes all.
    drop(sink);
    let options = json!({"path": path, "stream": "fixed", "shard": 9});
    let mut sink = open_sink(&options, &PlanContext::default(), &[]).await.unwrap();
    epoch(&mut *sink, batch(&records), Last::No).await;
    let got = all(&mut *reader(&path).await).await;
    assert_eq!(got[5], ("fixed".into(), 9, 1, "1".into()));
    assert_eq!(got[9], ("fixed".into(), 9, 5, "5".into()));
}

#[tokio::test]
async fn what_cannot_be_kept_is_said_beforehand() {
    let plan = plan_sink(&json!({"path": "x.ss"}), &PlanContext::default()).unwrap();
    let can = plan.capabilities();
    assert_eq!(can.way, Way::Truncating);
    assert!(can.per_record && can.sequences && can.times && !can.keys && !can.headers && !can.tombstones);
    assert!(plan.warnings()[0].contains("no keys"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let mut builder = BatchBuilder::new();
    builder.push_value(&ShardKey::new("s", 0), 1, None, Form::Bytes, Some(b"key"), None);
    let mut sink = writer(&path).await;
    epoch(&mut *sink, builder.finish(), Last::No).await;
    sink.close().await.unwrap();
    assert_eq!(contents(&path).await, [""]);
}

#[tokio::test]
async fn a_second_writer_is_locked_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let mut sink = writer(&path).await;
    for options in [json!({"path": path}), json!({"path": path, "existing": "replace"})] {
        let error = open_sink(&options, &PlanContext::default(), &[]).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Locked, "{error:?}");
    }
    sink.close().await.unwrap();
    writer(&path).await.close().await.unwrap();
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["x.ss"]);
}

#[tokio::test]
async fn existing_files_are_appended_to_replaced_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    written(&path, &[("s", 0, 1, "old")]).await;
    let options = |existing: &str| json!({"path": path, "existing": existing});
    let refused = open_sink(&options("fail"), &PlanContext::default(), &[]).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Exists);
    // All sources end by themselves, so it is replaced, and only when all is written.
    let bounded = PlanContext { bounded: true, ..PlanContext::default() };
    let mut sink = open_sink(&json!({"path": path}), &bounded, &[]).await.unwrap();
    let token = epoch(&mut *sink, of(&["new 1"]), Last::No).await;
    assert_eq!(contents(&path).await, ["old"]);
    drop(sink);
    let mut sink = open_sink(&json!({"path": path}), &bounded, &[(1, token)]).await.unwrap();
    let token = prepared(&mut *sink, of(&["new 2"]), Last::Finished).await;
    assert_eq!(contents(&path).await, ["old"]);
    drop(sink);
    // Killed before the commit: the checkpoint says that it is done.
    let mut sink = open_sink(&json!({"path": path}), &bounded, &[(2, token.clone())]).await.unwrap();
    assert_eq!(contents(&path).await, ["new 1", "new 2"]);
    sink.commit(&token).await.unwrap();
    sink.close().await.unwrap();
    assert_eq!(contents(&path).await, ["new 1", "new 2"]);
    // Going on takes it up.
    let on = PlanContext { bounded: true, append: true, ..PlanContext::default() };
    let mut sink = open_sink(&json!({"path": path}), &on, &[(2, token)]).await.unwrap();
    epoch(&mut *sink, of(&["new 3"]), Last::Finished).await;
    assert_eq!(contents(&path).await, ["new 1", "new 2", "new 3"]);
    assert_eq!(plan_sink(&options("replace"), &on).unwrap_err().kind(), ErrorKind::Plan);
}

#[tokio::test]
async fn an_end_of_stream_is_written_and_removed_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let options = json!({"path": path, "end_of_stream": true});
    let mut sink = open_sink(&options, &PlanContext::default(), &[]).await.unwrap();
    epoch(&mut *sink, of(&["1"]), Last::Drained).await;
    let info = || millstream_file::ss::info(&path).unwrap();
    assert!(!info().end_of_stream);
    let token = epoch(&mut *sink, of(&["2"]), Last::Finished).await;
    assert!(info().end_of_stream);
    sink.close().await.unwrap();
    let mut sink = open_sink(&options, &PlanContext::default(), &[(1, token)]).await.unwrap();
    epoch(&mut *sink, of(&["3"]), Last::No).await;
    assert!(!info().end_of_stream);
    let got = all(&mut *reader(&path).await).await;
    assert_eq!(got.iter().map(|(.., sequence, _)| *sequence).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(verify(&fs::read(&path).unwrap()[..]).unwrap().whole());
}

/// The bytes are those of one writer that was never interrupted.
#[tokio::test]
async fn interruptions_leave_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let text = "v".repeat(90);
    let records: Vec<_> = (0..400).map(|n| (["a", "b", "c"][n % 3], 0, n as i64, text.as_str())).collect();
    for part in records.chunks(37) {
        written(&path, part).await;
    }
    let bytes = fs::read(&path).unwrap();
    let created_at = Header::decode(&bytes).unwrap().created_at_ms();
    let mut want = Vec::new();
    let mut writer = SsWriter::new(&Header::new("x.ss", created_at, 1024).unwrap(), &mut want);
    for (stream, shard, ms, value) in records {
        writer.append(stream, shard, None, ms as u64, value.as_bytes(), &mut want).unwrap();
    }
    assert!(bytes == want, "{} and {} bytes", bytes.len(), want.len());
    let End { offset, .. } = find_end(&bytes[..]).unwrap();
    assert_eq!(offset, bytes.len() as u64);
}

#[tokio::test]
async fn what_is_no_stream_file_is_not_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    for (bytes, kind) in [(&b"hello"[..], ErrorKind::Corrupt), (&[b'x'; 400], ErrorKind::Corrupt)] {
        fs::write(&path, bytes).unwrap();
        let error = open_sink(&json!({"path": path}), &PlanContext::default(), &[]).await.err().unwrap();
        assert_eq!(error.kind(), kind);
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    // A header that a crash has cut short is no data.
    for bytes in [&b"Ss\x01\x04x.s"[..], &[0; 60], b""] {
        fs::write(&path, bytes).unwrap();
        written(&path, &[("s", 0, 1, "v")]).await;
        assert_eq!(contents(&path).await, ["v"]);
    }
    let missing = dir.path().join("no/x.ss");
    let error = open_sink(&json!({"path": missing}), &PlanContext::default(), &[]).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn options_are_checked() {
    let place = |options: serde_json::Value| {
        let error = plan_sink(&options, &PlanContext::default()).unwrap_err();
        error.place().map_or(String::new(), |place| place.path.join("."))
    };
    assert_eq!(place(json!({"path": "x.ss", "stream": "a b"})), "stream");
    assert_eq!(place(json!({"path": "x.ss", "beacon_interval": "1000"})), "beacon_interval");
    assert_eq!(place(json!({"path": "x.ss", "beacon_interval": "0KiB"})), "beacon_interval");
    let rotate = |rotate: serde_json::Value| place(json!({"path": "x.ss", "rotate": rotate}));
    assert_eq!(rotate(json!({"keep": 3})), "rotate.every");
    assert_eq!(rotate(json!({"size": "1MiB", "name": "{n}-{start}.ss"})), "rotate.name");
    assert_eq!(place(json!({"path": "x.ss", "rotate": {"every": "1h"}, "existing": "replace"})), "existing");
    assert_eq!(place(json!({"path": "x.ss", "rotate": {"every": "1h"}, "size_max": "1GiB"})), "size_max");
    assert_eq!(place(json!({"path": "x.ss", "size_max": "128B"})), "size_max");
    assert_eq!(place(json!({"path": "", "codec": "ss"})), "path");
    let never = json!({"path": "x.ss", "fsync": "never"});
    assert_eq!(plan_sink(&never, &exactly_once()).unwrap_err().kind(), ErrorKind::Plan);
    assert_eq!(plan_sink(&never, &PlanContext::default()).unwrap().warnings().len(), 2);
}

#[tokio::test]
async fn a_full_disk_is_survived() {
    // A file system of its own would need rights; `/dev/full` is no regular file, and refused as such.
    let error =
        open_sink(&json!({"path": "/dev/full", "codec": "ss"}), &PlanContext::default(), &[]).await.err().unwrap();
    assert!(matches!(error.kind(), ErrorKind::Option | ErrorKind::Permission), "{error:?}");
}
