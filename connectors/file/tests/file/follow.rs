//! The source `file`: following, rotation, truncation.

use std::{fs, time::Duration};

use millstream_core::{Event, SeekTo, ShardKey, Source};
use serde_json::json;

use crate::support::*;

fn follow(dir: &Dir, path: &str) -> Box<dyn Source> {
    source(json!({ "path": dir.text(path), "follow": true, "start": "beginning" }))
}

#[tokio::test]
async fn lines_come_as_they_are_written_and_half_a_line_waits() {
    let dir = Dir::new();
    dir.write("a.log", "one\ntw");
    let mut source = follow(&dir, "a.log");
    source.open(&fresh()).await.unwrap();
    assert_eq!(take(&mut *source, 1).await, ["one"]);
    quiet(&mut *source).await;
    dir.append("a.log", "o\nthree\n");
    assert_eq!(take(&mut *source, 2).await, ["two", "three"]);
    for i in 0..100 {
        dir.append("a.log", format!("line {i}\n"));
        let began = std::time::Instant::now();
        assert_eq!(take(&mut *source, 1).await, [format!("line {i}")]);
        assert!(began.elapsed() < Duration::from_secs(2), "told by the kernel, or looked at often");
    }
}

#[tokio::test]
async fn a_file_that_does_not_exist_yet_is_waited_for() {
    let dir = Dir::new();
    let mut source = follow(&dir, "a.log");
    source.open(&fresh()).await.unwrap();
    quiet(&mut *source).await;
    dir.write("a.log", "first\n");
    assert_eq!(take(&mut *source, 1).await, ["first"]);
    assert_eq!(source.shards(), [ShardKey::new(dir.text("a.log"), 0)]);
}

#[tokio::test]
async fn rotation_by_rename_loses_and_doubles_nothing() {
    let dir = Dir::new();
    dir.write("a.log", "");
    let mut source = follow(&dir, "a.log");
    source.open(&fresh()).await.unwrap();
    let (log, old) = (dir.path("a.log"), dir.path("a.log.1"));
    let (progress, read) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        let (mut at, mut seen) = (0, 0);
        for rotation in 0..20usize {
            let before = at;
            for _ in 0..50 {
                append(&log, format!("line {at}\n"));
                at += 1;
            }
            // What is renamed over is gone: nobody could read it any more.
            while seen < before {
                seen = read.recv().unwrap();
            }
            fs::rename(&log, &old).unwrap();
            // The writer still has the old file open when it has its new name.
            append(&old, format!("line {at}\n"));
            at += 1;
            if rotation % 2 == 0 {
                std::thread::sleep(Duration::from_millis(20));
            }
            fs::write(&log, "").unwrap();
            std::thread::sleep(Duration::from_millis(15));
        }
        at
    });
    let mut got = Vec::new();
    while got.len() < 20 * 51 {
        got.extend(next(&mut *source).await.unwrap());
        let _ = progress.send(got.len()); // The writer ends first.
    }
    assert_eq!(got, expected(0..writer.join().unwrap()));
    quiet(&mut *source).await;
}

#[tokio::test]
async fn a_rotated_file_that_still_grows_is_read_on() {
    let dir = Dir::new();
    dir.write("a.log", lines(0..3));
    let mut source = follow(&dir, "a.log");
    source.open(&fresh()).await.unwrap();
    assert_eq!(take(&mut *source, 3).await, expected(0..3));
    dir.rename("a.log", "a.log.1");
    dir.write("a.log", "new 1\n");
    assert_eq!(take(&mut *source, 1).await, ["new 1"]);
    dir.append("a.log.1", "late\n");
    assert_eq!(take(&mut *source, 1).await, ["late"]);
    // Both are in the position.
    let position = source.position().unwrap();
    dir.append("a.log.1", "later\n");
    dir.append("a.log", "new 2\n");
    source.open(&resume(Some(position), SeekTo::End)).await.unwrap();
    assert_eq!(take(&mut *source, 2).await, ["later", "new 2"]);
    quiet(&mut *source).await;
}

#[tokio::test]
async fn rotation_while_we_are_down_is_caught_up_with_in_order() {
    let dir = Dir::new();
    dir.write("a.log.1", "long ago\n");
    std::thread::sleep(Duration::from_millis(20));
    dir.write("a.log", lines(0..10));
    let mut source = follow(&dir, "a.log");
    source.open(&fresh()).await.unwrap();
    assert_eq!(take(&mut *source, 10).await, expected(0..10));
    let position = source.position().unwrap();
    source.close().await.unwrap();
    // Three rotations: what was half read is now the third oldest.
    dir.append("a.log", lines(10..15));
    for (from, to) in [(15, 20), (20, 22), (22, 30)] {
        std::thread::sleep(Duration::from_millis(20));
        for (old, new) in [("a.log.3", "a.log.4"), ("a.log.2", "a.log.3"), ("a.log.1", "a.log.2"), ("a.log", "a.log.1")]
        {
            let _ = fs::rename(dir.path(old), dir.path(new));
        }
        dir.write("a.log", lines(from..to));
    }
    let mut source = follow(&dir, "a.log");
    source.open(&resume(Some(position.clone()), SeekTo::End)).await.unwrap();
    assert_eq!(take(&mut *source, 20).await, expected(10..30));
    quiet(&mut *source).await;
    // The same for a bounded read.
    let mut once = crate::support::source(json!({ "path": dir.text("a.log") }));
    once.open(&resume(Some(position), SeekTo::Beginning)).await.unwrap();
    assert_eq!(all(&mut *once).await, expected(10..30));
}

#[tokio::test]
async fn sequences_go_on_across_rotation() {
    let dir = Dir::new();
    dir.write("a.log", lines(0..3));
    let mut source = follow(&dir, "a.log");
    source.open(&fresh()).await.unwrap();
    take(&mut *source, 3).await;
    dir.rename("a.log", "a.log.1");
    dir.write("a.log", "new\n");
    loop {
        if let Event::Batch(read) = source.next().await.unwrap() {
            assert_eq!(read.batch.get(0).sequence(), 4);
            break;
        }
    }
}

#[tokio::test]
async fn truncation_begins_anew() {
    let dir = Dir::new();
    dir.write("a.log", lines(0..100));
    let mut source = follow(&dir, "a.log");
    source.open(&fresh()).await.unwrap();
    take(&mut *source, 100).await;
    // copytruncate
    fs::copy(dir.path("a.log"), dir.path("a.log.1")).unwrap();
    fs::OpenOptions::new().write(true).open(dir.path("a.log")).unwrap().set_len(0).unwrap();
    quiet(&mut *source).await;
    dir.append("a.log", "after\n");
    assert_eq!(take(&mut *source, 1).await, ["after"]);
    // Cut and grown past where we stood, between two looks.
    let more: String = (0..50).map(|i| format!("other {i}\n")).collect();
    dir.write("a.log", &more);
    assert_eq!(take(&mut *source, 50).await.len(), 50);
    quiet(&mut *source).await;
}

#[tokio::test]
async fn truncation_while_we_are_down_begins_anew() {
    let dir = Dir::new();
    dir.write("a.log", lines(0..100));
    let mut source = follow(&dir, "a.log");
    source.open(&fresh()).await.unwrap();
    take(&mut *source, 100).await;
    let position = source.position().unwrap();
    for text in ["short\n".to_owned(), (0..200).map(|i| format!("longer {i}\n")).collect()] {
        dir.write("a.log", &text);
        source.open(&resume(Some(position.clone()), SeekTo::End)).await.unwrap();
        let want: Vec<&str> = text.lines().collect();
        assert_eq!(take(&mut *source, want.len()).await, want);
        quiet(&mut *source).await;
    }
}

#[tokio::test]
async fn a_deleted_file_ends_and_its_successor_is_read() {
    let dir = Dir::new();
    dir.write("a.log", "one\n");
    let mut source = follow(&dir, "a.log");
    source.open(&fresh()).await.unwrap();
    take(&mut *source, 1).await;
    for i in 0..5 {
        fs::remove_file(dir.path("a.log")).unwrap();
        quiet(&mut *source).await;
        // Often the inode is given anew.
        dir.write("a.log", format!("again {i}\n"));
        assert_eq!(take(&mut *source, 1).await, [format!("again {i}")]);
    }
}

#[tokio::test]
async fn new_files_of_a_glob_are_found_and_renamed_ones_are_not_new() {
    let dir = Dir::new();
    dir.write("a.log", "a1\n");
    let mut source = source(json!({ "path": dir.text("*.log*"), "follow": true, "start": "end" }));
    source.open(&resume(None, SeekTo::End)).await.unwrap();
    quiet(&mut *source).await;
    dir.write("b.log", "b1\n");
    let added = loop {
        match source.next().await.unwrap() {
            Event::Added(shards) => break shards,
            Event::Batch(_) => panic!("records before their shard"),
            _ => {}
        }
    };
    assert_eq!(added, [ShardKey::new(dir.text("b.log"), 0)]);
    assert_eq!(take(&mut *source, 1).await, ["b1"]);
    dir.append("a.log", "a2\n");
    assert_eq!(take(&mut *source, 1).await, ["a2"]);
    dir.rename("a.log", "a.log.1");
    dir.write("a.log", "a3\n");
    assert_eq!(take(&mut *source, 1).await, ["a3"]);
    dir.append("a.log.1", "late\n");
    assert_eq!(take(&mut *source, 1).await, ["late"]);
    let position = source.position().unwrap();
    assert_eq!(position.0.len(), 3);
    // Rotated again while we are down.
    dir.rename("a.log.1", "a.log.2");
    dir.rename("a.log", "a.log.1");
    dir.write("a.log", "a4\n");
    dir.write("c.log", "c1\n");
    source.open(&resume(Some(position), SeekTo::End)).await.unwrap();
    let mut got = take(&mut *source, 2).await;
    got.sort();
    assert_eq!(got, ["a4", "c1"]);
    quiet(&mut *source).await;
}

#[tokio::test]
async fn a_thousand_slow_files_fill_batches() {
    let dir = Dir::new();
    (0..1000).for_each(|i| dir.write(&format!("{i}.log"), ""));
    let mut source = follow(&dir, "*.log");
    source.open(&fresh()).await.unwrap();
    quiet(&mut *source).await;
    (0..1000).for_each(|i| dir.append(&format!("{i}.log"), format!("x{i}\n")));
    let (mut records, mut batches) = (0, 0);
    while records < 1000 {
        records += next(&mut *source).await.unwrap().len();
        batches += 1;
    }
    assert_eq!(records, 1000);
    assert!(batches < 100, "{batches} batches");
}

#[tokio::test]
async fn idle_sources_cost_almost_nothing() {
    let dir = Dir::new();
    let mut sources = Vec::new();
    for i in 0..300 {
        dir.write(&format!("{i}/a.log"), "x\n");
        let mut source = follow(&dir, &format!("{i}/a.log"));
        source.open(&fresh()).await.unwrap();
        take(&mut *source, 1).await;
        sources.push(source);
    }
    let mut tasks = tokio::task::JoinSet::new();
    for mut source in sources {
        tasks.spawn(async move { drop(source.next().await) });
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let used = || {
        let usage = fs::read_to_string("/proc/self/stat").unwrap();
        let fields: Vec<&str> = usage.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    // Other tests run in this process too, so this is only a bound that a polling source would break by far.
    let before = used();
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("{} ticks of 10 ms in 2 s for 300 idle sources and the other tests", used() - before);
}

#[tokio::test]
async fn a_folder_that_is_made_anew_is_followed_on() {
    let dir = Dir::new();
    dir.write("sub/a.log", "one\n");
    let mut source = follow(&dir, "sub/a.log");
    source.open(&fresh()).await.unwrap();
    assert_eq!(take(&mut *source, 1).await, ["one"]);
    fs::remove_dir_all(dir.path("sub")).unwrap();
    quiet(&mut *source).await;
    dir.write("sub/a.log", "two\n");
    assert_eq!(take(&mut *source, 1).await, ["two"]);
    quiet(&mut *source).await;
    dir.append("sub/a.log", "three\n");
    let began = std::time::Instant::now();
    assert_eq!(take(&mut *source, 1).await, ["three"]);
    assert!(began.elapsed() < Duration::from_secs(3));
}

/// Needs patience and memory, so only on request: `cargo test -- --ignored`.
#[tokio::test]
#[ignore = "300 MB of disk"]
async fn how_fast_lines_are_read() {
    let dir = Dir::new();
    let line = format!("{}\n", "x".repeat(99));
    dir.write("a.log", line.repeat(3_000_000));
    let mut source = source(json!({ "path": dir.text("a.log") }));
    let began = std::time::Instant::now();
    source.open(&fresh()).await.unwrap();
    let mut records = 0;
    while let Event::Batch(read) = source.next().await.unwrap() {
        records += read.batch.len();
    }
    println!("{:.1} M records/s", records as f64 / began.elapsed().as_secs_f64() / 1e6);
}
