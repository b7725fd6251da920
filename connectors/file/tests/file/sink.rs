//! The sink `file`: what is in the file after which step, and after a crash at each.

use std::{fs, io::Read};

use millstream_core::{Delivery, ErrorKind, Form, Last, PlanContext, SinkCapabilities};
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn appending_adds_behind_what_is_there() {
    let dir = Dir::new();
    dir.write("a.txt", "before\n");
    let mut sink = sink(json!({ "path": dir.text("a.txt") }));
    sink.open(&[]).await.unwrap();
    let first = sink.write(batch(&["one", "two"])).await.unwrap();
    let second = sink.write(batch(&["three"])).await.unwrap();
    assert!(first < second);
    sink.flush().await.unwrap();
    assert_eq!(dir.read("a.txt"), "before\none\ntwo\nthree\n");
    let (_, token) = prepare(&mut *sink, 1, Last::Drained).await;
    sink.commit(&token).await.unwrap();
    sink.close().await.unwrap();
    assert_eq!(fs::read_dir(dir.0.path()).unwrap().count(), 1, "no lock or mark stays behind");
}

#[tokio::test]
async fn a_line_that_somebody_left_open_is_ended() {
    let dir = Dir::new();
    dir.write("a.txt", "before");
    let mut sink = sink(json!({ "path": dir.text("a.txt") }));
    sink.open(&[]).await.unwrap();
    assert_eq!(dir.read("a.txt"), "before", "nothing changes until something is written");
    put(&mut *sink, &["one"]).await;
    assert_eq!(dir.read("a.txt"), "before\none\n");
}

#[tokio::test]
async fn rejected_records_are_reported_and_the_others_written() {
    let dir = Dir::new();
    let mut sink = sink(json!({ "path": dir.text("a.txt") }));
    sink.open(&[]).await.unwrap();
    sink.write(batch(&["ok"])).await.unwrap();
    let id = sink.write(batch(&["one", "t\nwo", "three", "\n"])).await.unwrap();
    let outcomes = sink.flush().await.unwrap();
    let rejected: Vec<_> = outcomes.rejected.iter().map(|(write, row, error)| (*write, *row, error.kind())).collect();
    assert_eq!(rejected, [(id, 1, ErrorKind::Rejected), (id, 3, ErrorKind::Rejected)]);
    assert_eq!(dir.read("a.txt"), "ok\none\nthree\n");
    assert!(sink.flush().await.unwrap().rejected.is_empty());
}

#[tokio::test]
async fn existing_is_append_replace_or_fail() {
    let dir = Dir::new();
    dir.write("a.txt", "old\n");
    let path = dir.text("a.txt");
    let mut fail = sink(json!({ "path": path, "existing": "fail" }));
    let error = fail.open(&[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists);
    assert!(error.hint_text().is_some());
    assert_eq!(dir.read("a.txt"), "old\n");
    // A bounded run replaces; `--continue` appends, and refuses to replace.
    let mut bounded = context(Delivery::AtLeastOnce, true);
    let mut replace = sink_with(json!({ "path": path }), &bounded).unwrap();
    replace.open(&[]).await.unwrap();
    put(&mut *replace, &["new"]).await;
    assert_eq!(dir.read("a.txt"), "old\n", "the old file stands until all is written");
    let (_, token) = prepare(&mut *replace, 1, Last::Finished).await;
    assert_eq!(dir.read("a.txt"), "old\n");
    replace.commit(&token).await.unwrap();
    assert_eq!(dir.read("a.txt"), "new\n");
    replace.commit(&token).await.unwrap();
    replace.close().await.unwrap();
    bounded.append = true;
    let mut append = sink_with(json!({ "path": path }), &bounded).unwrap();
    append.open(&[]).await.unwrap();
    put(&mut *append, &["more"]).await;
    assert_eq!(dir.read("a.txt"), "new\nmore\n");
    let error = sink_with(json!({ "path": path, "existing": "replace" }), &bounded).err().unwrap();
    assert_eq!((error.kind(), &*error.place().unwrap().path), (ErrorKind::Plan, &["existing".to_owned()][..]));
    assert_eq!(dir.names(), ["a.txt"]);
}

#[tokio::test]
async fn an_empty_finished_run_replaces_by_an_empty_file() {
    let dir = Dir::new();
    dir.write("a.txt", "old\n");
    let mut sink = sink_with(json!({ "path": dir.text("a.txt") }), &context(Delivery::AtLeastOnce, true)).unwrap();
    sink.open(&[]).await.unwrap();
    let (_, token) = prepare(&mut *sink, 1, Last::Finished).await;
    sink.commit(&token).await.unwrap();
    assert_eq!(dir.read("a.txt"), "");
}

#[tokio::test]
async fn a_kill_between_any_two_steps_leaves_what_the_checkpoint_counts() {
    for existing in ["append", "replace"] {
        for killed_at in 0..6 {
            let dir = Dir::new();
            dir.write("a.txt", "old\n");
            let make = || {
                sink_with(
                    json!({ "path": dir.text("a.txt"), "existing": existing }),
                    &context(Delivery::ExactlyOnce, true),
                )
                .unwrap()
            };
            let mut sink = make();
            let mut checkpoint = Vec::new();
            sink.open(&[]).await.unwrap();
            put(&mut *sink, &["one"]).await;
            let mut want = if killed_at < 1 { "" } else { "one\n" };
            for step in 0..killed_at {
                match step {
                    0 => checkpoint = vec![prepare(&mut *sink, 1, Last::No).await],
                    1 => sink.commit(&checkpoint[0].1.clone()).await.unwrap(),
                    2 => put(&mut *sink, &["two"]).await,
                    3 => {
                        checkpoint.push(prepare(&mut *sink, 2, Last::No).await);
                        want = "one\ntwo\n";
                    }
                    _ => sink.write(batch(&["three"])).await.map(drop).unwrap(),
                }
            }
            drop(sink);
            let mut sink = make();
            sink.open(&checkpoint).await.unwrap();
            put(&mut *sink, &["again"]).await;
            let token = prepare(&mut *sink, 3, Last::Finished).await;
            // Killed before commit: recovery does it.
            drop(sink);
            let mut sink = make();
            sink.open(&[checkpoint, vec![token]].concat()).await.unwrap();
            let old = if existing == "append" { "old\n" } else { "" };
            assert_eq!(dir.read("a.txt"), format!("{old}{want}again\n"), "{existing}, killed at {killed_at}");
        }
    }
}

#[tokio::test]
async fn what_was_never_committed_is_cut_in_exactly_once() {
    let dir = Dir::new();
    dir.write("a.txt", "old\n");
    for _ in 0..3 {
        let mut sink = sink_with(json!({ "path": dir.text("a.txt") }), &context(Delivery::ExactlyOnce, false)).unwrap();
        sink.open(&[]).await.unwrap();
        put(&mut *sink, &["never counted"]).await;
        assert_eq!(dir.read("a.txt"), "old\nnever counted\n");
    }
}

#[tokio::test]
async fn a_file_that_is_missing_shorter_or_other_is_state_mismatch() {
    let dir = Dir::new();
    let options = json!({ "path": dir.text("a.txt") });
    let mut first = sink(options.clone());
    first.open(&[]).await.unwrap();
    put(&mut *first, &["one", "two"]).await;
    let token = prepare(&mut *first, 1, Last::No).await;
    drop(first);
    let text = dir.read("a.txt");
    for bytes in [None, Some("one\n"), Some("another text altogether\n")] {
        match bytes {
            Some(bytes) => dir.write("a.txt", bytes),
            None => fs::remove_file(dir.path("a.txt")).unwrap(),
        }
        let error = sink(options.clone()).open(std::slice::from_ref(&token)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StateMismatch, "{bytes:?}");
        assert!(error.hint_text().unwrap().contains("state reset"));
        assert_eq!(fs::read_to_string(dir.path("a.txt")).ok().as_deref(), bytes, "nothing is changed");
    }
    dir.write("a.txt", text + "uncounted");
    sink(options).open(&[token]).await.unwrap();
    assert_eq!(dir.read("a.txt"), "one\ntwo\n");
}

#[tokio::test]
async fn a_finished_file_may_be_taken_away_or_changed() {
    for change in [None, Some("edited by hand\n")] {
        let dir = Dir::new();
        let make = || sink_with(json!({ "path": dir.text("a.txt") }), &context(Delivery::AtLeastOnce, true)).unwrap();
        let mut first = make();
        first.open(&[]).await.unwrap();
        put(&mut *first, &["one"]).await;
        let token = prepare(&mut *first, 1, Last::Finished).await;
        first.commit(&token.1).await.unwrap();
        first.close().await.unwrap();
        match change {
            Some(text) => dir.write("a.txt", text),
            None => fs::remove_file(dir.path("a.txt")).unwrap(),
        }
        let mut again = make();
        again.open(&[token]).await.unwrap();
        again.open(&[]).await.unwrap();
        put(&mut *again, &["two"]).await;
        let token = prepare(&mut *again, 1, Last::Finished).await;
        again.commit(&token.1).await.unwrap();
        assert_eq!(dir.read("a.txt"), "two\n");
    }
}

#[tokio::test]
async fn only_one_writer_starts() {
    let dir = Dir::new();
    let options = json!({ "path": dir.text("a.txt") });
    let mut first = sink(options.clone());
    first.open(&[]).await.unwrap();
    let mut second = sink(options.clone());
    let error = second.open(&[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked);
    first.open(&[]).await.unwrap();
    drop(first);
    second.open(&[]).await.unwrap();
    second.close().await.unwrap();
    sink(options).open(&[]).await.unwrap();
}

#[tokio::test]
async fn the_committed_length_is_published_and_our_reader_stops_there() {
    let dir = Dir::new();
    let mut sink = sink_with(json!({ "path": dir.text("a.txt") }), &context(Delivery::ExactlyOnce, false)).unwrap();
    sink.open(&[]).await.unwrap();
    let mut reader = source(json!({ "path": dir.text("a.txt"), "follow": true, "start": "beginning" }));
    reader.open(&fresh()).await.unwrap();
    put(&mut *sink, &["one"]).await;
    quiet(&mut *reader).await;
    let (_, token) = prepare(&mut *sink, 1, Last::No).await;
    quiet(&mut *reader).await;
    sink.commit(&token).await.unwrap();
    assert_eq!(take(&mut *reader, 1).await, ["one"]);
    put(&mut *sink, &["two"]).await;
    quiet(&mut *reader).await;
    // A writer that died: what it did not commit is still not read, and recovery is no truncation to the reader.
    drop(sink);
    quiet(&mut *reader).await;
    let mut sink = sink_with(json!({ "path": dir.text("a.txt") }), &context(Delivery::ExactlyOnce, false)).unwrap();
    sink.open(&[(1, token)]).await.unwrap();
    put(&mut *sink, &["three"]).await;
    let (_, token) = prepare(&mut *sink, 2, Last::Drained).await;
    sink.commit(&token).await.unwrap();
    assert_eq!(take(&mut *reader, 1).await, ["three"]);
    sink.close().await.unwrap();
    assert!(!dir.hidden(".a.txt.committed"));
}

#[tokio::test]
async fn each_barrier_closes_a_compressed_member_and_the_rest_is_cut() {
    for name in ["a.log.gz", "a.log.zst"] {
        let dir = Dir::new();
        let mut first = sink(json!({ "path": dir.text(name) }));
        first.open(&[]).await.unwrap();
        put(&mut *first, &["one"]).await;
        let token = prepare(&mut *first, 1, Last::No).await;
        let counted = fs::metadata(dir.path(name)).unwrap().len();
        put(&mut *first, &["two"]).await;
        drop(first);
        let mut second = sink(json!({ "path": dir.text(name) }));
        second.open(&[token]).await.unwrap();
        assert_eq!(fs::metadata(dir.path(name)).unwrap().len(), counted);
        put(&mut *second, &["three"]).await;
        let bytes = fs::read(dir.path(name)).unwrap();
        let mut text = String::new();
        if name.ends_with("gz") {
            flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
        } else {
            text = String::from_utf8(zstd::decode_all(&bytes[..]).unwrap()).unwrap();
        }
        assert_eq!(text, "one\nthree\n");
        let mut reader = source(json!({ "path": dir.text(name) }));
        reader.open(&fresh()).await.unwrap();
        assert_eq!(all(&mut *reader).await, ["one", "three"]);
    }
}

#[tokio::test]
async fn a_header_that_differs_is_not_appended_to() {
    let dir = Dir::new();
    dir.write("a.csv", "id,name\n1,x\n");
    let mut good = sink(json!({ "path": dir.text("a.csv") }));
    good.open(&[]).await.unwrap();
    good.write(form_batch(&[r#"{"id":2,"name":"y"}"#], Form::Json)).await.unwrap();
    good.flush().await.unwrap();
    good.close().await.unwrap();
    assert_eq!(dir.read("a.csv"), "id,name\n1,x\n2,y\n");
    let mut bad = sink(json!({ "path": dir.text("a.csv") }));
    bad.open(&[]).await.unwrap();
    let error = bad.write(form_batch(&[r#"{"other":2}"#], Form::Json)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Option);
    assert!(error.hint_text().unwrap().contains("columns"));
}

#[tokio::test]
async fn folders_are_made_for_relative_paths_only() {
    let dir = Dir::new();
    let error = sink(json!({ "path": dir.text("no/such/a.txt") })).open(&[]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.hint_text().is_some());
    for path in [dir.0.path().to_str().unwrap(), "/dev/null"] {
        let error = sink(json!({ "path": path })).open(&[]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Option, "{path}");
    }
    let relative = format!("target-test-{}/x/a.txt", std::process::id());
    let mut sink = sink(json!({ "path": relative }));
    sink.open(&[]).await.unwrap();
    put(&mut *sink, &["one"]).await;
    sink.close().await.unwrap();
    assert_eq!(fs::read_to_string(&relative).unwrap(), "one\n");
    fs::remove_dir_all(relative.split('/').next().unwrap()).unwrap();
}

#[tokio::test]
async fn options_are_checked() {
    for (options, place) in [
        (json!({ "path": "x", "rotate": {} }), "rotate.every"),
        (json!({ "path": "x", "rotate": { "every": "1ms" } }), "rotate.every"),
        (json!({ "path": "x", "rotate": { "size": "0B" } }), "rotate.size"),
        (json!({ "path": "x", "rotate": { "size": "1MiB", "keep": 0 } }), "rotate.keep"),
        (json!({ "path": "x", "rotate": { "size": "1MiB", "name": "{start}" } }), "rotate.name"),
        (json!({ "path": "x", "rotate": { "size": "1MiB", "name": "../{n}" } }), "rotate.name"),
        (json!({ "path": "x", "rotate": { "size": "1MiB" }, "existing": "replace" }), "existing"),
        (json!({ "path": "x/" }), "path"),
    ] {
        let error = sink_with(options, &PlanContext::default()).err().unwrap();
        assert_eq!(error.place().unwrap().path.join("."), place);
        assert!(error.hint_text().is_some() || place == "path", "{error:?}");
    }
}

#[tokio::test]
async fn a_full_disk_leaves_nothing_half_written() {
    let dir = Dir::new();
    let mount = dir.path("small");
    fs::create_dir(&mount).unwrap();
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(&mount).output();
    match mounted {
        Ok(output) if output.status.success() => {}
        other => return println!("skipped: cannot mount a tmpfs: {other:?}"),
    }
    for name in ["a.txt", "a.txt.gz"] {
        let mut sink = sink(json!({ "path": mount.join(name).to_str().unwrap() }));
        sink.open(&[]).await.unwrap();
        let mut seed = 1u64;
        let mut noise = move || {
            let mut hex = String::new();
            for _ in 0..64 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                hex.push_str(&format!("{:08x}", seed >> 32));
            }
            hex
        };
        let (mut accepted, mut failures) = (Vec::new(), 0);
        while failures < 3 {
            let values: Vec<String> = (0..100).map(|_| noise()).collect();
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            match sink.write(batch(&values)).await {
                Ok(_) => accepted.extend(values.iter().map(|value| (*value).to_owned())),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                    failures += 1;
                    let there = fs::read(mount.join(name)).unwrap();
                    if name == "a.txt" {
                        assert!(there.is_empty() || there.ends_with(b"\n"), "cut between records");
                    }
                }
            }
        }
        let error = sink.flush().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        // Room again: what was accepted gets there, once.
        std::process::Command::new("mount").args(["-o", "remount,size=8m"]).arg(&mount).output().unwrap();
        sink.flush().await.unwrap();
        let mut reader = source(json!({ "path": mount.join(name).to_str().unwrap() }));
        reader.open(&fresh()).await.unwrap();
        assert_eq!(all(&mut *reader).await, accepted, "{name}");
        sink.close().await.unwrap();
        fs::remove_file(mount.join(name)).unwrap();
        std::process::Command::new("mount").args(["-o", "remount,size=256k"]).arg(&mount).output().unwrap();
    }
    std::process::Command::new("umount").arg(&mount).output().unwrap();
}

#[test]
fn it_truncates() {
    for component in millstream_file::components() {
        if let millstream_core::Planner::Sink(plan) = component.planner {
            let plan = plan(&json!({ "path": "x" }), &PlanContext::default()).unwrap();
            let SinkCapabilities { way, per_record, .. } = plan.capabilities();
            assert_eq!((way, per_record), (millstream_core::Way::Truncating, true));
            assert_eq!(plan.describe(), "appending to x");
        }
    }
}
