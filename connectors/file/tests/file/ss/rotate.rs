//! Writing files that follow one another, and the limit of one that does not.

use std::{
    fs,
    path::{Path, PathBuf},
};

use millstream_codec::ss::{find_end, verify};
use millstream_core::{ErrorKind, Last, Role, Url};
use serde_json::json;

use super::*;

/// Names without those of hidden files, as numbers go.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.starts_with('.'));
    names.sort_by_key(|name| (name.len(), name.clone()));
    names
}

pub(crate) fn numbered(dir: &Path, size: u64) -> Value {
    json!({"path": dir.join("x.ss"), "beacon_interval": 1024, "rotate": {"size": size, "name": "{stem}-{n}{ext}"}})
}

/// All records of the rotated files, read one behind the other.
pub(crate) async fn series(dir: &Path) -> Vec<Got> {
    all(&mut *open_source(json!({"path": dir.join("x-*.ss")}), Resume::default()).await.unwrap()).await
}

fn texts(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("{n}")).collect()
}

fn refs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

#[tokio::test]
async fn files_rotate_by_size_between_records_and_sequences_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open_sink(&numbered(dir.path(), 3000), &PlanContext::default(), &[]).await.unwrap();
    let text = "t".repeat(90);
    let records: Vec<_> = (0..300).map(|n| (["a", "b.c", "d"][n % 3], n as u64 % 2, n as i64, text.as_str())).collect();
    let write = sink.write(batch(&records)).await.unwrap();
    let told = sink.flush().await.unwrap().sequences;
    assert_eq!((told[0].0, told[0].1.len(), *told[0].1.last().unwrap()), (write, 300, 50));
    let token = sink.prepare(1, Last::No).await.unwrap().unwrap();
    assert!(names(dir.path()).iter().all(|name| name.ends_with(".ss.part")), "named only when it counts");
    sink.commit(&token).await.unwrap();
    sink.commit(&token).await.unwrap();
    let found = names(dir.path());
    assert_eq!(found.iter().filter(|name| name.ends_with(".part")).collect::<Vec<_>>(), [found.last().unwrap()]);
    assert!(found.len() > 10, "{found:?}");
    for name in &found {
        let bytes = fs::read(dir.path().join(name)).unwrap();
        let report = verify(&bytes[..]).unwrap();
        assert!(bytes.len() <= 3000 && report.whole() && report.torn.is_none(), "{name}: {}", bytes.len());
        assert_eq!(find_end(&bytes[..]).unwrap().header.file_name(), name.trim_end_matches(".part"));
    }
    let got = series(dir.path()).await;
    assert_eq!(got.len(), 300);
    let mut last = std::collections::HashMap::new();
    for (stream, shard, sequence, _) in got {
        let last = last.entry((stream, shard)).or_insert(0);
        *last += 1;
        assert_eq!(sequence, *last);
    }
}

#[tokio::test]
async fn files_rotate_by_time_at_round_instants() {
    let dir = tempfile::tempdir().unwrap();
    let options = json!({"path": dir.path().join("x.ss"), "rotate": {"every": "1s"}});
    let mut sink = open_sink(&options, &PlanContext::default(), &[]).await.unwrap();
    epoch(&mut *sink, of(&["one"]), Last::No).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // No record comes, and the file is finished all the same.
    epoch(&mut *sink, of(&[]), Last::No).await;
    assert!(names(dir.path())[0].ends_with("Z-1.ss"), "{:?}", names(dir.path()));
    epoch(&mut *sink, of(&["two"]), Last::Finished).await;
    assert_eq!(names(dir.path()).len(), 2);
    let sequences: Vec<_> =
        series(dir.path()).await.into_iter().map(|(_, _, sequence, value)| (sequence, value)).collect();
    assert_eq!(sequences, [(1, "one".into()), (2, "two".into())]);
}

#[tokio::test]
async fn a_record_larger_than_a_file_gets_one_for_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open_sink(&numbered(dir.path(), 1500), &PlanContext::default(), &[]).await.unwrap();
    let big = "b".repeat(5000);
    epoch(&mut *sink, of(&["1", &big, "3"]), Last::Finished).await;
    assert_eq!(names(dir.path()), ["x-1.ss", "x-2.ss", "x-3.ss"]);
    assert_eq!(values(&series(dir.path()).await), ["1", &big, "3"]);
}

#[tokio::test]
async fn old_files_go_when_newer_ones_count_and_their_sequences_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = numbered(dir.path(), 1000);
    options["rotate"]["keep"] = 2.into();
    fs::write(dir.path().join("x-other.ss"), "not ours").unwrap();
    let mut sink = open_sink(&options, &PlanContext::default(), &[]).await.unwrap();
    let text = "t".repeat(400);
    epoch(&mut *sink, batch(&[("rare", 0, 1, "r1"), ("rare", 0, 1, "r2")]), Last::No).await;
    let mut token = None;
    for _ in 0..6 {
        let prepared = prepared(&mut *sink, of(&[&text, &text]), Last::No).await;
        let before = names(dir.path());
        sink.commit(&prepared).await.unwrap();
        assert!(before.len() <= 6, "what does not count yet deletes nothing: {before:?}");
        token = Some(prepared);
    }
    let found = names(dir.path());
    assert!(found.contains(&"x-other.ss".to_owned()) && found.len() == 4, "{found:?}");
    assert_eq!(found.iter().filter(|name| name.ends_with(".part")).count(), 1);
    // The stream is in none of the files any more.
    drop(sink);
    let mut sink = open_sink(&options, &PlanContext::default(), &[(1, token.unwrap())]).await.unwrap();
    let write = sink.write(batch(&[("rare", 0, 1, "r3"), ("s", 0, 1, "s13")])).await.unwrap();
    assert_eq!(sink.flush().await.unwrap().sequences, [(write, vec![3, 13])]);
}

#[tokio::test]
async fn rotated_files_survive_a_kill_at_each_age_of_the_token() {
    for context in [PlanContext::default(), exactly_once()] {
        for killed_after in 0..=4 {
            let dir = tempfile::tempdir().unwrap();
            let options = numbered(dir.path(), 1100);
            let mut sink = open_sink(&options, &context, &[]).await.unwrap();
            let (mut tokens, mut text) = (vec![prepared(&mut *sink, of(&[]), Last::No).await], "t".repeat(300));
            for n in 0..3 {
                text.push_str(&n.to_string());
                tokens.push(prepared(&mut *sink, of(&[text.as_str(); 4]), Last::No).await);
            }
            sink.write(of(&[text.as_str(); 9])).await.unwrap();
            sink.flush().await.unwrap();
            if killed_after == 4 {
                // In the middle of the commit: some have their names.
                let file = names(dir.path()).remove(0);
                fs::rename(dir.path().join(&file), dir.path().join(file.trim_end_matches(".part"))).unwrap();
            }
            drop(sink);
            let resume: Vec<_> = tokens.iter().cloned().enumerate().map(|(at, token)| (at as u64, token)).collect();
            let resume = &resume[..killed_after.min(3) + 1];
            // Twice is as good as once.
            drop(open_sink(&options, &context, resume).await.unwrap());
            let mut sink = open_sink(&options, &context, resume).await.unwrap();
            let count = 4 * killed_after.min(3);
            let write = sink.write(of(&["next"])).await.unwrap();
            assert_eq!(sink.flush().await.unwrap().sequences, [(write, vec![count as u128 + 1])]);
            let token = sink.prepare(9, Last::Finished).await.unwrap().unwrap();
            sink.commit(&token).await.unwrap();
            sink.close().await.unwrap();
            let got = series(dir.path()).await;
            assert_eq!((got.len(), got.last().unwrap().3.as_str()), (count + 1, "next"), "{killed_after}");
            assert!(got.iter().enumerate().all(|(at, (_, _, sequence, _))| *sequence == at as u64 + 1));
            assert!(names(dir.path()).iter().all(|name| name.ends_with(".ss")), "{:?}", names(dir.path()));
            let hidden = fs::read_dir(dir.path()).unwrap().count() - names(dir.path()).len();
            assert_eq!(hidden, 0, "locks and lengths are taken away");
        }
    }
}

#[tokio::test]
async fn a_checkpoint_whose_file_is_gone_or_shorter_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let options = numbered(dir.path(), 1100);
    let mut sink = open_sink(&options, &PlanContext::default(), &[]).await.unwrap();
    let text = "t".repeat(300);
    let token = prepared(&mut *sink, of(&[text.as_str(); 4]), Last::No).await;
    drop(sink);
    for name in names(dir.path()) {
        let path = dir.path().join(&name);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let error = open_sink(&options, &PlanContext::default(), &[(1, token.clone())]).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::StateMismatch, "{name}: {error:?}");
        assert_eq!(fs::read(&path).unwrap().len(), bytes.len() - 1, "it was changed");
        fs::write(&path, &bytes).unwrap();
    }
    open_sink(&options, &PlanContext::default(), &[(1, token)]).await.unwrap();
}

#[tokio::test]
async fn an_open_file_of_an_unknown_past_is_kept_and_gone_on_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut sink = open_sink(&numbered(dir.path(), 3000), &PlanContext::default(), &[]).await.unwrap();
    prepared(&mut *sink, of(&["1", "2"]), Last::No).await;
    drop(sink);
    let mut sink = open_sink(&numbered(dir.path(), 3000), &PlanContext::default(), &[]).await.unwrap();
    assert_eq!(names(dir.path()), ["x-1.ss"]);
    epoch(&mut *sink, of(&["3"]), Last::No).await;
    assert_eq!(names(dir.path()), ["x-1.ss", "x-2.ss.part"]);
    let got = series(dir.path()).await;
    assert_eq!(got.iter().map(|(_, _, sequence, _)| *sequence).collect::<Vec<_>>(), [1, 2, 3]);
}

#[tokio::test]
async fn names_go_on_when_finished_files_are_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let options = numbered(dir.path(), 1000);
    let mut sink = open_sink(&options, &PlanContext::default(), &[]).await.unwrap();
    let token = epoch(&mut *sink, of(&["1"]), Last::Finished).await;
    sink.close().await.unwrap();
    fs::remove_file(dir.path().join("x-1.ss")).unwrap();
    let mut sink = open_sink(&options, &PlanContext::default(), &[(1, token)]).await.unwrap();
    epoch(&mut *sink, of(&["2"]), Last::Finished).await;
    assert_eq!(names(dir.path()), ["x-2.ss"]);
    assert_eq!(series(dir.path()).await, [("s".into(), 0, 2, "2".into())]);
}

#[tokio::test]
async fn a_sink_that_begins_to_rotate_finishes_its_file_and_goes_on_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let single = json!({"path": dir.path().join("x.ss")});
    let mut sink = open_sink(&single, &exactly_once(), &[]).await.unwrap();
    let token = epoch(&mut *sink, of(&["1", "2"]), Last::No).await;
    drop(sink);
    let mut sink = open_sink(&numbered(dir.path(), 3000), &exactly_once(), &[(1, token)]).await.unwrap();
    let token = epoch(&mut *sink, of(&["3"]), Last::No).await;
    assert_eq!(names(dir.path()), ["x.ss", "x-1.ss.part"]);
    assert_eq!(contents(&dir.path().join("x.ss")).await, ["1", "2"]);
    assert_eq!(series(dir.path()).await, [("s".into(), 0, 3, "3".into())]);
    drop(sink);
    let mut sink = open_sink(&single, &exactly_once(), &[(2, token)]).await.unwrap();
    let write = sink.write(of(&["4"])).await.unwrap();
    assert_eq!(sink.flush().await.unwrap().sequences, [(write, vec![4])]);
    let token = sink.prepare(3, Last::No).await.unwrap().unwrap();
    sink.commit(&token).await.unwrap();
    assert_eq!(names(dir.path()), ["x.ss", "x-1.ss"]);
}

#[tokio::test]
async fn a_full_file_says_so_and_keeps_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("x.ss");
    let options = |size: u64| json!({"path": path, "size_max": size, "end_of_stream": true, "beacon_interval": 1024});
    let mut sink = open_sink(&options(1000), &PlanContext::default(), &[]).await.unwrap();
    let text = texts(0..40);
    let write = sink.write(of(&refs(&text))).await.unwrap();
    let outcomes = sink.flush().await.unwrap();
    let (_, first, error) = outcomes.rejected.first().unwrap();
    assert_eq!((error.kind(), outcomes.rejected.len()), (ErrorKind::Option, 40 - *first as usize), "{error:?}");
    assert!(error.message().contains("x.ss` is full") && error.hint_text().unwrap().contains("size_max"));
    assert!(*first > 10 && outcomes.sequences[0].0 == write);
    let token = sink.prepare(1, Last::Finished).await.unwrap().unwrap();
    sink.commit(&token).await.unwrap();
    sink.close().await.unwrap();
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.len() <= 1000 && verify(&bytes[..]).unwrap().end_of_stream.is_some(), "{}", bytes.len());
    assert_eq!(contents(&path).await, text[..*first as usize]);
    // A larger limit lets it go on.
    let mut sink = open_sink(&options(2000), &PlanContext::default(), &[(1, token)]).await.unwrap();
    epoch(&mut *sink, of(&refs(&text[*first as usize..])), Last::Finished).await;
    assert_eq!(contents(&path).await, text);
}

#[test]
fn urls_can_say_it_all() {
    let options = |role: Role, url: &str| component(role).from_url.unwrap()(&Url::parse(url).unwrap()).unwrap();
    let sink = options(Role::Sink, "file:///d/x.ss/s?rotate.size=1MiB&rotate.every=1h&rotate.keep=3");
    assert_eq!(sink["rotate"], json!({"size": "1MiB", "every": "1h", "keep": "3"}));
    assert_eq!(
        plan_sink(&sink, &PlanContext::default()).unwrap().describe(),
        "writing rotated files of /d/x.ss as stream s"
    );
    plan_sink(&options(Role::Sink, "file:///d/x.ss?size_max=1GiB"), &PlanContext::default()).unwrap();
    let source = options(Role::Source, "file:///d/x-*.ss/s?follow");
    assert_eq!(plan_source(&source).unwrap().describe(), "following s of /d/x-*.ss");
}
