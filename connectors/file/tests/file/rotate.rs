//! The sink `file`: files that follow one another.

use std::{fs, io::Read};

use millstream_core::{Delivery, Form, Last};
use serde_json::json;

use crate::support::*;

#[tokio::test]
async fn files_rotate_by_size_between_records_with_a_header_in_each() {
    let dir = Dir::new();
    let mut sink = sink(json!({ "path": dir.text("a.csv"), "rotate": { "size": "50B" } }));
    sink.open(&[]).await.unwrap();
    let rows: Vec<String> = (0..20).map(|i| format!("{{\"id\":{i},\"name\":\"n{i}\"}}")).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    sink.write(form_batch(&rows, Form::Json)).await.unwrap();
    sink.flush().await.unwrap();
    assert!(
        dir.names().iter().all(|name| name.starts_with("a-2") && name.ends_with("Z-1.csv.part") || name.contains("Z-"))
    );
    assert!(dir.names().iter().all(|name| name.ends_with(".part")), "renamed only when it counts");
    let (_, token) = prepare(&mut *sink, 1, Last::No).await;
    assert!(dir.names().iter().all(|name| name.ends_with(".part")));
    sink.commit(&token).await.unwrap();
    sink.commit(&token).await.unwrap();
    assert_eq!(dir.names().iter().filter(|name| name.ends_with(".part")).count(), 1);
    let (_, token) = prepare(&mut *sink, 2, Last::Finished).await;
    sink.commit(&token).await.unwrap();
    let mut ids = Vec::new();
    let mut names = dir.names();
    names.sort_by_key(|name| name.rsplit('-').next().unwrap().trim_end_matches(".csv").parse::<u32>().unwrap());
    assert_eq!(names.len(), 3);
    for name in names {
        let text = dir.read(&name);
        assert!(text.len() <= 50, "{text}");
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("id,name"));
        ids.extend(lines.map(|line| line.split(',').next().unwrap().parse::<usize>().unwrap()));
    }
    assert_eq!(ids, (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn old_files_go_when_newer_ones_count() {
    let dir = Dir::new();
    let options =
        json!({ "path": dir.text("a.log"), "rotate": { "size": "10B", "keep": 2, "name": "{stem}.{n}{ext}" } });
    let mut sink = sink(options);
    dir.write("a.other.log", "not ours\n");
    sink.open(&[]).await.unwrap();
    for epoch in 1..=6u64 {
        put(&mut *sink, &[&format!("record {epoch}")]).await;
        let (_, token) = prepare(&mut *sink, epoch, Last::No).await;
        sink.commit(&token).await.unwrap();
    }
    assert_eq!(dir.names(), ["a.4.log", "a.5.log", "a.6.log.part", "a.other.log"]);
    assert_eq!(dir.read("a.5.log"), "record 5\n");
}

#[tokio::test]
async fn files_rotate_by_time_at_round_instants() {
    let dir = Dir::new();
    let mut sink = sink(json!({ "path": dir.text("a.log"), "rotate": { "every": "1s" } }));
    sink.open(&[]).await.unwrap();
    put(&mut *sink, &["one"]).await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    put(&mut *sink, &["two"]).await;
    let (_, token) = prepare(&mut *sink, 1, Last::Finished).await;
    sink.commit(&token).await.unwrap();
    let names = dir.names();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!((&*dir.read(&names[0]), &*dir.read(&names[1])), ("one\n", "two\n"));
}

#[tokio::test]
async fn rotated_files_survive_a_kill_at_each_age_of_the_token() {
    for (killed_after, want) in [(0, vec![]), (1, vec!["r1", "r2", "r3"]), (2, vec!["r1", "r2", "r3", "r4", "r5"])] {
        let dir = Dir::new();
        let make = || {
            sink_with(
                json!({ "path": dir.text("a.log"), "rotate": { "size": "6B", "name": "{stem}.{n}{ext}" } }),
                &context(Delivery::ExactlyOnce, false),
            )
            .unwrap()
        };
        let mut sink = make();
        sink.open(&[]).await.unwrap();
        put(&mut *sink, &["r1", "r2", "r3"]).await;
        let first = prepare(&mut *sink, 1, Last::No).await;
        put(&mut *sink, &["r4", "r5"]).await;
        let second = prepare(&mut *sink, 2, Last::No).await;
        put(&mut *sink, &["r6", "r7", "r8"]).await;
        drop(sink);
        let tokens = [first, second];
        let mut sink = make();
        sink.open(&tokens[..killed_after]).await.unwrap();
        // Twice is as good as once.
        sink.open(&tokens[..killed_after]).await.unwrap();
        let last = prepare(&mut *sink, 3, Last::Finished).await;
        sink.commit(&last.1).await.unwrap();
        let text: String = dir.names().iter().map(|name| dir.read(name)).collect();
        assert_eq!(text.lines().collect::<Vec<_>>(), want, "{:?}", dir.names());
        assert!(dir.names().iter().all(|name| !name.ends_with(".part")));
    }
}

#[tokio::test]
async fn an_open_file_of_an_unknown_past_is_kept() {
    let dir = Dir::new();
    dir.write("a-20260101T000000Z-1.log.part", "valuable\n");
    let mut sink = sink(json!({ "path": dir.text("a.log"), "rotate": { "every": "1h" } }));
    sink.open(&[]).await.unwrap();
    assert_eq!(dir.names(), ["a-20260101T000000Z-1.log"]);
}

#[tokio::test]
async fn compressed_files_rotate_as_whole_members() {
    let dir = Dir::new();
    let mut sink =
        sink(json!({ "path": dir.text("a.log.gz"), "rotate": { "size": "1KiB", "name": "{stem}.{n}{ext}" } }));
    sink.open(&[]).await.unwrap();
    let mut all = String::new();
    for epoch in 0..20u64 {
        // Hard to compress.
        let value = format!(
            "{:x}",
            (0..40u64)
                .fold(epoch as u128 + 1, |x, i| x.wrapping_mul(0x2545_f491_4f6c_dd1d_9e37).wrapping_add(i as u128))
        )
        .repeat(1);
        let value = format!(
            "{value}{}",
            (0..30).map(|i| format!("{:x}", (epoch * 31 + i) * 0x9e37_79b9_7f4a)).collect::<String>()
        );
        put(&mut *sink, &[&value]).await;
        all.push_str(&value);
        all.push('\n');
    }
    let (_, token) = prepare(&mut *sink, 1, Last::Finished).await;
    sink.commit(&token).await.unwrap();
    let mut names = dir.names();
    names.sort_by_key(|name| name.split('.').nth(1).unwrap().parse::<u32>().unwrap());
    assert!(names.len() > 2, "{names:?}");
    let mut text = String::new();
    for name in names {
        flate2::read::MultiGzDecoder::new(&fs::read(dir.path(&name)).unwrap()[..]).read_to_string(&mut text).unwrap();
    }
    assert_eq!(text, all);
}
