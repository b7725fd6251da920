//! Kills at every moment: the sink is dropped and opened again with the tokens that a checkpoint would hold.

use std::{fs, io::Write};

use millstream_core::{ErrorKind, Last, Token};
use serde_json::json;

use super::*;

#[tokio::test]
async fn the_file_is_cut_to_the_checkpoint_in_every_mode() {
    for context in [PlanContext::default(), exactly_once()] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.ss");
        let options = json!({"path": path, "beacon_interval": 1024});
        let mut sink = open_sink(&options, &context, &[]).await.unwrap();
        let mut tokens = vec![prepared(&mut *sink, of(&[]), Last::No).await];
        let text = "t".repeat(400);
        for n in 0..6 {
            tokens.push(prepared(&mut *sink, of(&[&format!("{n}"), &text]), Last::No).await);
        }
        sink.write(of(&["never flushed"])).await.unwrap();
        drop(sink);
        // Older and older checkpoints, each with something written behind.
        for (epoch, token) in tokens.iter().enumerate().rev() {
            let resume = [(epoch as u64, token.clone())];
            let mut sink = open_sink(&options, &context, &resume).await.unwrap();
            let got = contents(&path).await;
            assert_eq!(got.len(), 2 * epoch);
            let write = sink.write(of(&["a guess"])).await.unwrap();
            assert_eq!(sink.flush().await.unwrap().sequences, [(write, vec![2 * epoch as u128 + 1])]);
        }
    }
}

#[tokio::test]
async fn a_checkpoint_that_does_not_fit_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let mut sink = writer(&path).await;
    let token = epoch(&mut *sink, of(&["one", "two"]), Last::No).await;
    sink.close().await.unwrap();
    let bytes = fs::read(&path).unwrap();
    let fails = async |token: &Token| {
        let before = fs::read(&path).ok();
        let resume = [(1, token.clone())];
        let error = open_sink(&json!({"path": path}), &PlanContext::default(), &resume).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::StateMismatch, "{error:?}");
        assert_eq!(fs::read(&path).ok(), before, "it was changed");
    };
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    fails(&token).await;
    fs::remove_file(&path).unwrap();
    fails(&token).await;
    fs::write(&path, [&bytes[..bytes.len() - 5], b"other bytes behind"].concat()).unwrap();
    fails(&token).await;
    fs::write(&path, &bytes).unwrap();
    fails(&Token(json!({"length": 3}))).await;
    let resume = [(1, token)];
    open_sink(&json!({"path": path}), &PlanContext::default(), &resume).await.unwrap();
}

#[tokio::test]
async fn a_kill_before_the_first_checkpoint_leaves_nothing_that_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    written(&path, &[("s", 0, 1, "old")]).await;
    for _ in 0..3 {
        let mut sink = open_sink(&json!({"path": path}), &exactly_once(), &[]).await.unwrap();
        prepared(&mut *sink, of(&["lost"]), Last::No).await;
        assert_eq!(contents(&path).await, ["old"]);
    }
    let mut sink = open_sink(&json!({"path": path}), &exactly_once(), &[]).await.unwrap();
    epoch(&mut *sink, of(&["new"]), Last::Finished).await;
    assert_eq!(contents(&path).await, ["old", "new"]);
    sink.close().await.unwrap();
    // A pipeline that promises less takes the mark away, so that nobody stops at it.
    let mut sink = open_sink(&json!({"path": path}), &exactly_once(), &[]).await.unwrap();
    prepared(&mut *sink, of(&["lost"]), Last::No).await;
    drop(sink);
    let mut sink = writer(&path).await;
    epoch(&mut *sink, of(&["x"]), Last::No).await;
    assert_eq!(contents(&path).await, ["old", "new", "lost", "x"]);
}

#[tokio::test]
async fn a_torn_tail_is_cut_and_a_damaged_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    written(&path, &[("s", 0, 1, "one"), ("s", 0, 1, "two")]).await;
    let good = fs::read(&path).unwrap();
    let append = |bytes: &[u8]| {
        fs::write(&path, &good).unwrap();
        fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(bytes).unwrap();
    };
    for torn in [&good[128..150], &[0; 900], b"\x01"] {
        append(torn);
        written(&path, &[("s", 0, 1, "three")]).await;
        assert_eq!(contents(&path).await, ["one", "two", "three"]);
    }
    let damaged = [&good[128..140], b"garbage that no writer has written".repeat(40).as_slice()].concat();
    append(&damaged);
    let before = fs::read(&path).unwrap();
    let error = open_sink(&json!({"path": path}), &PlanContext::default(), &[]).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    assert!(error.hint_text().unwrap().contains("repair"));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_dropped_sink_does_not_write_into_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let big = "b".repeat(100_000);
    let mut sink = writer(&path).await;
    let token = prepared(&mut *sink, of(&["kept"]), Last::No).await;
    for _ in 0..20 {
        for _ in 0..8 {
            sink.write(of(&[big.as_str(); 8])).await.unwrap();
        }
        drop(sink);
        sink = open_sink(&json!({"path": path}), &PlanContext::default(), &[(1, token.clone())]).await.unwrap();
        assert_eq!(contents(&path).await, ["kept"]);
    }
}

#[tokio::test]
async fn opening_again_after_an_error_goes_back_to_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ss");
    let mut sink = writer(&path).await;
    let token = prepared(&mut *sink, of(&["1"]), Last::No).await;
    sink.write(of(&["2"])).await.unwrap();
    sink.open(&[(1, token)]).await.unwrap();
    epoch(&mut *sink, of(&["3"]), Last::No).await;
    assert_eq!(contents(&path).await, ["1", "3"]);
}
