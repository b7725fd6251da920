//! Live readers.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    time::Duration,
};

use millstream_core::{ErrorKind, Event, Resume, ShardKey};
use serde_json::json;

use super::*;

#[tokio::test]
async fn live_and_live_replay() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let mut sink = writer(&path).await;
    epoch(&mut *sink, of(&["1"]), Last::No).await;
    let (mut live, mut replay) = (follower(&path, "end").await, follower(&path, "beginning").await);
    assert_eq!(values(&some(&mut *replay, 1).await), ["1"]);
    quiet(&mut *live).await;
    epoch(&mut *sink, of(&["2", "3"]), Last::No).await;
    assert_eq!(values(&some(&mut *live, 2).await), ["2", "3"]);
    assert_eq!(values(&some(&mut *replay, 2).await), ["2", "3"]);
    quiet(&mut *replay).await;
    drop(sink);
    let mut sink =
        open_sink(&json!({"path": path, "end_of_stream": true}), &PlanContext::default(), &[]).await.unwrap();
    epoch(&mut *sink, of(&["4"]), Last::Finished).await;
    assert_eq!(values(&all(&mut *live).await), ["4"]);
    assert_eq!(values(&all(&mut *replay).await), ["4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_all_that_a_writer_writes_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let mut sink = writer(&path).await;
    let mut source = follower(&path, "beginning").await;
    let written = tokio::spawn(async move {
        let mut count = 0;
        for round in 0..200 {
            let texts: Vec<String> = (0..1 + round * 7 % 500).map(|n| format!("{}", count + n)).collect();
            count += texts.len();
            sink.write(of(&texts.iter().map(String::as_str).collect::<Vec<_>>())).await.unwrap();
            if round % 3 == 0 {
                sink.flush().await.unwrap();
            }
        }
        sink.flush().await.unwrap();
        sink.prepare(1, Last::Drained).await.unwrap();
        sink.close().await.unwrap();
        count
    });
    let mut got = some(&mut *source, 10).await;
    let count = written.await.unwrap();
    got.extend(some(&mut *source, count - got.len()).await);
    for (at, (_, _, sequence, value)) in got.iter().enumerate() {
        assert_eq!((*sequence, value.as_str()), (at as u64 + 1, at.to_string().as_str()));
    }
    assert_eq!(got.len(), count);
}

#[tokio::test]
async fn a_torn_tail_is_waited_for_and_never_data() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    written(&path, &[("s", 0, 1, "one"), ("s", 0, 2, "a second record")]).await;
    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[..good.len() - 9]).unwrap();
    let mut source = follower(&path, "beginning").await;
    assert_eq!(values(&some(&mut *source, 1).await), ["one"]);
    quiet(&mut *source).await;
    // The rest comes in pieces.
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(&good[good.len() - 9..good.len() - 4]).unwrap();
    quiet(&mut *source).await;
    file.write_all(&good[good.len() - 4..]).unwrap();
    assert_eq!(values(&some(&mut *source, 1).await), ["a second record"]);
    // A torn record that its writer cuts and writes anew.
    file.write_all(&good[128..160]).unwrap();
    quiet(&mut *source).await;
    written(&path, &[("s", 0, 3, "three")]).await;
    assert_eq!(values(&some(&mut *source, 1).await), ["three"]);
}

#[tokio::test]
async fn a_file_that_comes_later_is_read_from_its_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let mut source = follower(&path, "end").await;
    quiet(&mut *source).await;
    let position = source.position().unwrap();
    fs::write(&path, b"Ss\x01").unwrap();
    quiet(&mut *source).await;
    written(&path, &[("s", 0, 1, "one")]).await;
    assert_eq!(values(&some(&mut *source, 1).await), ["one"]);
    // Also after a restart in between.
    let resume = Resume { position: Some(position), ..Resume::default() };
    assert_eq!(values(&all(&mut *open_source(json!({"path": path}), resume).await.unwrap()).await), ["one"]);
}

#[tokio::test]
async fn removal_ends_a_reader_after_the_last_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    written(&path, &[("s", 0, 1, "one"), ("s", 0, 1, "two")]).await;
    let (mut replay, mut live) = (follower(&path, "beginning").await, follower(&path, "end").await);
    quiet(&mut *live).await;
    fs::remove_file(&path).unwrap();
    assert_eq!(values(&all(&mut *replay).await), ["one", "two"]);
    assert!(all(&mut *live).await.is_empty());
}

#[tokio::test]
async fn a_file_that_is_cut_below_what_was_read_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    written(&path, &[("s", 0, 1, "one"), ("s", 0, 1, "two")]).await;
    let mut source = follower(&path, "beginning").await;
    some(&mut *source, 2).await;
    OpenOptions::new().write(true).open(&path).unwrap().set_len(150).unwrap();
    let error = tokio::time::timeout(Duration::from_secs(20), source.next()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StateMismatch);
}

#[tokio::test]
async fn new_shards_are_announced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    written(&path, &[("a", 0, 1, "a")]).await;
    let mut source = follower(&path, "end").await;
    assert_eq!(source.shards(), [ShardKey::new("a", 0)]);
    written(&path, &[("a", 0, 1, "a"), ("b", 4, 1, "b")]).await;
    let event = tokio::time::timeout(Duration::from_secs(20), source.next()).await.unwrap().unwrap();
    let Event::Added(added) = event else { panic!("{event:?}") };
    assert_eq!(added, [ShardKey::new("b", 4)]);
    assert_eq!(source.shards().len(), 2);
    assert_eq!(values(&some(&mut *source, 2).await), ["a", "b"]);
}

#[tokio::test]
async fn readers_stop_at_the_committed_length() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let options = json!({"path": path});
    let mut sink = open_sink(&options, &exactly_once(), &[]).await.unwrap();
    let mut live = follower(&path, "beginning").await;
    let token = prepared(&mut *sink, of(&["1"]), Last::No).await;
    quiet(&mut *live).await;
    assert!(contents(&path).await.is_empty());
    let since = std::time::Instant::now();
    sink.commit(&token).await.unwrap();
    assert_eq!(values(&some(&mut *live, 1).await), ["1"]);
    assert!(since.elapsed() < Duration::from_secs(3), "the mark woke nobody: {:?}", since.elapsed());
    prepared(&mut *sink, of(&["2"]), Last::No).await;
    quiet(&mut *live).await;
    drop(sink);
    // Recovery cuts what nobody of ours has seen.
    let mut sink = open_sink(&options, &exactly_once(), &[(1, token)]).await.unwrap();
    epoch(&mut *sink, of(&["3"]), Last::Finished).await;
    assert_eq!(values(&some(&mut *live, 1).await), ["3"]);
    assert_eq!(contents(&path).await, ["1", "3"]);
}
