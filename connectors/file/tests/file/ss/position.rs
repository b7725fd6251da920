//! Saved positions.

use std::fs;

use millstream_core::{ErrorKind, Position, Resume};
use serde_json::json;

use super::*;

fn resume(position: Position) -> Resume {
    Resume { position: Some(position), ..Resume::default() }
}

#[tokio::test]
async fn reading_goes_on_behind_every_batch() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let text = "t".repeat(100);
    let records: Vec<_> =
        (0..30_000).map(|n| (["a", "b", "c"][n % 3], n as u64 % 2, n as i64, text.as_str())).collect();
    written(&path, &records).await;
    let whole = all(&mut *reader(&path).await).await;
    assert_eq!(whole.len(), 30_000);
    let mut source = reader(&path).await;
    let mut got = Vec::new();
    while let Some((rows, _)) = next(&mut *source).await {
        got.extend(rows);
        let position: Position =
            serde_json::from_str(&serde_json::to_string(&source.position().unwrap()).unwrap()).unwrap();
        source = open_source(json!({"path": path}), resume(position)).await.unwrap();
    }
    assert_eq!(got, whole);
}

#[tokio::test]
async fn a_file_that_is_not_the_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    written(&path, &[("s", 0, 1, "one"), ("s", 0, 2, "two")]).await;
    let mut source = reader(&path).await;
    some(&mut *source, 2).await;
    let position = source.position().unwrap();
    let fails = async |position: &Position| {
        let options = json!({"path": path, "follow": true});
        let error = open_source(options, resume(position.clone())).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::StateMismatch, "{error:?}");
    };
    // A copy is as good as the file.
    let bytes = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    fails(&position).await;
    fs::write(&path, &bytes).unwrap();
    assert!(all(&mut *open_source(json!({"path": path}), resume(position.clone())).await.unwrap()).await.is_empty());
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    fails(&position).await;
    fs::write(&path, "").unwrap();
    fails(&position).await;
    fs::remove_file(&path).unwrap();
    written(&path, &[("s", 0, 1, "one"), ("s", 0, 3, "two")]).await;
    fails(&position).await;
    // One of another path.
    let other = dir.path().join("y.ss");
    written(&other, &[("s", 0, 1, "one")]).await;
    let position = reader(&other).await.position().unwrap();
    fails(&position).await;
}

#[tokio::test]
async fn a_start_at_a_sequence_to_come_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    written(&path, &[("s", 0, 1, "1"), ("s", 0, 2, "2")]).await;
    let source = follower(&path, "4").await;
    let position = source.position().unwrap();
    drop(source);
    written(&path, &[("s", 0, 3, "3"), ("s", 0, 4, "4"), ("t", 0, 5, "t1"), ("s", 0, 5, "5")]).await;
    let got = all(&mut *open_source(json!({"path": path}), resume(position)).await.unwrap()).await;
    assert_eq!(values(&got), ["4", "5"]);
}

#[tokio::test]
async fn positions_are_kept_beside_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    written(&path, &[("s", 0, 1, "1"), ("s", 0, 2, "2")]).await;
    let saved = millstream_file::ss::saved_position(&path, "a/b c");
    assert_eq!(saved.load().unwrap(), None);
    let mut source = reader(&path).await;
    some(&mut *source, 2).await;
    saved.save(&source.position().unwrap()).unwrap();
    saved.save(&source.position().unwrap()).unwrap();
    assert_eq!(saved.load().unwrap(), Some(source.position().unwrap()));
    assert_eq!(millstream_file::ss::saved_position(&path, "other").load().unwrap(), None);
    fs::write(saved.path(), "{").unwrap();
    assert_eq!(saved.load().unwrap_err().kind(), ErrorKind::Corrupt);
    saved.remove().unwrap();
    saved.remove().unwrap();
    assert_eq!(saved.load().unwrap(), None);
}

#[tokio::test]
async fn until_end_means_the_end_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let mut sink = writer(&path).await;
    epoch(&mut *sink, of(&["1", "2"]), Last::No).await;
    let until = Resume { until_end: true, ..Resume::default() };
    let mut source = open_source(json!({"path": path, "follow": true, "start": "beginning"}), until).await.unwrap();
    epoch(&mut *sink, of(&["3"]), Last::No).await;
    assert_eq!(values(&all(&mut *source).await), ["1", "2"]);
    // The next run takes what is new.
    let resumed = Resume { until_end: true, position: Some(source.position().unwrap()), ..Resume::default() };
    let mut source = open_source(json!({"path": path, "follow": true}), resumed).await.unwrap();
    assert_eq!(values(&all(&mut *source).await), ["3"]);
}
