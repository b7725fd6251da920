//! What is kept of a consumer's position, and where the next one goes on.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use futures::executor::block_on;
use millstream_client::{Ack, Backend, ConsumerOptions, ConsumerState, PositionFiles, Streamer};
use millstream_core::{
    ErrorKind, Owner, PlanContext, Result, SeekTo, ShardKey, SinkPlan, SourceCapabilities, SourcePlan,
};

use crate::support::{Chance, Memory, eventually, number, quick, text};

fn kept(folder: &Path) -> ConsumerOptions {
    ConsumerOptions {
        positions: Some(Arc::new(PositionFiles::within(folder))),
        commit_every: None,
        retry: quick(),
        ..ConsumerOptions::resumable("reader")
    }
}

/// Everything from where a new consumer goes on to the end.
async fn rest(memory: &Memory, options: ConsumerOptions) -> Vec<usize> {
    let mut consumer = memory.streamer().create_consumer(&["s"], options).unwrap();
    let mut all = Vec::new();
    while let Some(record) = consumer.next().await.unwrap() {
        all.push(number(&record));
    }
    all
}

fn memory(count: usize) -> Memory {
    let memory = Memory::new();
    memory.log.numbers(0..count);
    memory.log.end();
    memory
}

#[test]
fn a_commit_is_exact_to_the_record_also_within_a_batch() {
    block_on(async {
        let (memory, folder) = (memory(100), tempfile::tempdir().unwrap());
        for read in [5, 0, 16, 20] {
            let mut consumer = memory.streamer().create_consumer(&["s"], kept(folder.path())).unwrap();
            for _ in 0..read {
                consumer.next().await.unwrap().unwrap();
            }
            consumer.commit().await.unwrap();
            // Handed out, and not committed.
            consumer.next().await.unwrap().unwrap();
            std::mem::forget(consumer);
        }
        assert_eq!(rest(&memory, kept(folder.path())).await, (41..100).collect::<Vec<_>>());
    });
}

#[test]
fn closing_commits_what_was_handed_out_and_dropping_all_but_the_last() {
    block_on(async {
        let (memory, folder) = (memory(50), tempfile::tempdir().unwrap());
        let streamer = memory.streamer();
        let mut consumer = streamer.create_consumer(&["s"], kept(folder.path())).unwrap();
        for _ in 0..10 {
            consumer.next().await.unwrap();
        }
        consumer.close().await.unwrap();
        let mut consumer = streamer.create_consumer(&["s"], kept(folder.path())).unwrap();
        assert_eq!(number(&consumer.next().await.unwrap().unwrap()), 10);
        assert_eq!(number(&consumer.next().await.unwrap().unwrap()), 11);
        drop(consumer);
        // The next one of the name waits until this one is closed.
        let mut consumer = streamer.create_consumer(&["s"], kept(folder.path())).unwrap();
        assert_eq!(number(&consumer.next().await.unwrap().unwrap()), 11);
    });
}

#[test]
fn records_can_be_acknowledged_in_any_order_and_the_others_come_again() {
    block_on(async {
        let (memory, folder) = (memory(64), tempfile::tempdir().unwrap());
        let options = || ConsumerOptions { ack: Ack::Manual, ..kept(folder.path()) };
        let mut consumer = memory.streamer().create_consumer(&["s"], options()).unwrap();
        let mut records = Vec::new();
        for _ in 0..40 {
            records.push(consumer.next().await.unwrap().unwrap());
        }
        let mut chance = Chance(5);
        while !records.is_empty() {
            let at = chance.below(records.len() as u64) as usize;
            let record = records.swap_remove(at);
            if !number(&record).is_multiple_of(3) {
                consumer.ack(&record).unwrap();
                assert_eq!(consumer.ack(&record).unwrap_err().kind(), ErrorKind::NotFound);
            }
        }
        consumer.commit().await.unwrap();
        std::mem::forget(consumer);
        let expected: Vec<_> = (0..64).filter(|i| *i >= 40 || i % 3 == 0).collect();
        assert_eq!(rest(&memory, options()).await, expected);
        // Nobody has acknowledged those.
        assert_eq!(rest(&memory, options()).await, expected);
    });
}

#[test]
fn too_much_that_is_not_acknowledged_stops_reading_until_some_is() {
    block_on(async {
        let (memory, folder) = (memory(1000), tempfile::tempdir().unwrap());
        let options = ConsumerOptions { ack: Ack::Manual, unacked_records_max: 32, ..kept(folder.path()) };
        let mut consumer = memory.streamer().create_consumer(&["s"], options).unwrap();
        let mut records = Vec::new();
        for _ in 0..32 {
            records.push(consumer.next().await.unwrap().unwrap());
        }
        eventually("it waits", || matches!(consumer.state(), ConsumerState::AwaitingAcks));
        assert_eq!(memory.log.handed(), 32);
        for i in 32..1000 {
            consumer.ack(&records[i - 32]).unwrap();
            if i < 48 {
                continue;
            }
            while records.len() < i - 15 {
                records.push(consumer.next().await.unwrap().unwrap());
            }
        }
        assert_eq!(number(&records[984 - 1]), 983);
    });
}

#[test]
fn what_is_done_is_committed_from_time_to_time() {
    block_on(async {
        let (memory, folder) = (memory(50), tempfile::tempdir().unwrap());
        let options = || ConsumerOptions { commit_every: Some(Duration::from_millis(5)), ..kept(folder.path()) };
        let mut consumer = memory.streamer().create_consumer(&["s"], options()).unwrap();
        for _ in 0..20 {
            consumer.next().await.unwrap();
        }
        let positions = PositionFiles::within(folder.path());
        eventually("19 are done", || {
            let text = std::fs::read_to_string(positions.path("reader")).unwrap_or_default();
            text.contains("[17,19]")
        });
        std::mem::forget(consumer);
        assert_eq!(rest(&memory, options()).await, (19..50).collect::<Vec<_>>());
    });
}

#[test]
fn a_consumer_that_began_at_the_end_goes_on_from_there() {
    block_on(async {
        let (memory, folder) = (Memory::new(), tempfile::tempdir().unwrap());
        memory.log.numbers(0..10);
        let options = || ConsumerOptions { start: Some(SeekTo::End), ..kept(folder.path()) };
        let mut consumer = memory.streamer().create_consumer(&["s"], options()).unwrap();
        consumer.commit().await.unwrap();
        std::mem::forget(consumer);
        memory.log.numbers(10..12);
        memory.log.end();
        assert_eq!(rest(&memory, options()).await, [10, 11]);
    });
}

#[test]
fn after_a_rewind_the_new_place_is_what_counts() {
    block_on(async {
        let (memory, folder) = (memory(50), tempfile::tempdir().unwrap());
        let mut consumer = memory.streamer().create_consumer(&["s"], kept(folder.path())).unwrap();
        for _ in 0..30 {
            consumer.next().await.unwrap();
        }
        consumer.commit().await.unwrap();
        consumer.rewind(SeekTo::At(11)).await.unwrap();
        assert_eq!(number(&consumer.next().await.unwrap().unwrap()), 10);
        consumer.commit().await.unwrap();
        std::mem::forget(consumer);
        assert_eq!(rest(&memory, kept(folder.path())).await, (11..50).collect::<Vec<_>>());
    });
}

#[test]
fn a_shard_that_is_put_aside_keeps_its_place() {
    block_on(async {
        let (memory, folder) = (Memory::new(), tempfile::tempdir().unwrap());
        for i in 0..200 {
            memory.log.push("s", i % 2, i.to_string());
        }
        memory.log.end();
        let mut consumer = memory.streamer().create_consumer(&["s"], kept(folder.path())).unwrap();
        let mut got = Vec::new();
        for _ in 0..21 {
            got.push(number(&consumer.next().await.unwrap().unwrap()));
        }
        consumer.unassign(&[ShardKey::new("s", 1)]).await.unwrap();
        while let Some(record) = consumer.next().await.unwrap() {
            got.push(number(&record));
        }
        consumer.commit().await.unwrap();
        std::mem::forget(consumer);
        got.extend(rest(&memory, kept(folder.path())).await);
        got.sort_unstable();
        got.dedup();
        assert_eq!(got, (0..200).collect::<Vec<_>>());
    });
}

#[test]
fn a_shard_that_is_taken_up_again_is_not_committed_beyond_what_was_read_of_it() {
    block_on(async {
        let (memory, folder) = (Memory::new(), tempfile::tempdir().unwrap());
        (0..200).for_each(|i| memory.log.push("s", i % 2, i.to_string()));
        memory.log.end();
        let aside = [ShardKey::new("s", 1)];
        let mut consumer = memory.streamer().create_consumer(&["s"], kept(folder.path())).unwrap();
        let mut got = Vec::new();
        for _ in 0..21 {
            got.push(number(&consumer.next().await.unwrap().unwrap()));
        }
        consumer.unassign(&aside).await.unwrap();
        while let Some(record) = consumer.next().await.unwrap() {
            got.push(number(&record));
        }
        consumer.assign(&aside).await.unwrap();
        consumer.commit().await.unwrap();
        for _ in 0..30 {
            got.push(number(&consumer.next().await.unwrap().unwrap()));
        }
        consumer.commit().await.unwrap();
        std::mem::forget(consumer);
        let count = got.len();
        let rest = rest(&memory, kept(folder.path())).await;
        assert_eq!(count + rest.len(), 200, "nothing is repeated either: {rest:?}");
        got.extend(rest);
        got.sort_unstable();
        got.dedup();
        assert_eq!(got, (0..200).collect::<Vec<_>>());
    });
}

#[test]
fn a_name_is_open_once_in_a_streamer() {
    let (memory, folder) = (memory(1), tempfile::tempdir().unwrap());
    let streamer = memory.streamer();
    let consumer = streamer.create_consumer(&["s"], kept(folder.path())).unwrap();
    let error = streamer.create_consumer(&["s"], kept(folder.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exists);
    drop(consumer);
    streamer.create_consumer(&["s"], kept(folder.path())).unwrap();
}

#[test]
fn what_cannot_be_kept_is_refused_with_a_hint() {
    let folder = tempfile::tempdir().unwrap();
    let mut forgetful = memory(1);
    forgetful.log.capabilities = SourceCapabilities { owner: Owner::Nobody, ..SourceCapabilities::ONCE };
    let error = forgetful.streamer().create_consumer(&["s"], kept(folder.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let error = memory(1).streamer().create_consumer(&["s"], ConsumerOptions::resumable("x")).unwrap_err();
    assert!(error.hint_text().unwrap().contains("positions"));
}

#[test]
fn a_damaged_or_newer_position_is_an_error_and_never_a_guess() {
    block_on(async {
        let (memory, folder) = (memory(3), tempfile::tempdir().unwrap());
        let path = PositionFiles::within(folder.path()).path("reader");
        for (text, kind) in [
            ("", ErrorKind::Corrupt),
            ("{\"version\":1}", ErrorKind::Corrupt),
            ("junk", ErrorKind::Corrupt),
            ("{\"version\":9,\"position\":{}}", ErrorKind::Version),
        ] {
            std::fs::write(&path, text).unwrap();
            let mut consumer = memory.streamer().create_consumer(&["s"], kept(folder.path())).unwrap();
            let error = consumer.next().await.unwrap_err();
            assert_eq!(error.kind(), kind, "{text}");
            assert!(error.hint_text().is_some());
        }
    });
}

#[test]
fn a_position_that_cannot_be_saved_is_an_error_of_the_commit_and_reading_goes_on() {
    block_on(async {
        let (memory, folder) = (memory(20), tempfile::tempdir().unwrap());
        let inner = folder.path().join("positions");
        let mut consumer = memory.streamer().create_consumer(&["s"], kept(&inner)).unwrap();
        consumer.next().await.unwrap();
        std::fs::write(&inner, "in the way").unwrap();
        assert!(consumer.commit().await.is_err());
        assert_eq!(number(&consumer.next().await.unwrap().unwrap()), 1);
        std::fs::remove_file(&inner).unwrap();
        consumer.commit().await.unwrap();
        std::mem::forget(consumer);
        assert_eq!(rest(&memory, kept(&inner)).await, (2..20).collect::<Vec<_>>());
    });
}

#[test]
fn names_of_any_kind_become_files_in_the_folder() {
    let positions = PositionFiles::within("/p");
    assert_eq!(positions.path("../a b"), PathBuf::from("/p/..%2Fa%20b.position"));
    let beside = PositionFiles::beside("/data/x.ss");
    assert_eq!(beside.path("me"), PathBuf::from("/data/.x.ss.me.position"));
}

#[derive(Debug)]
struct Besides(Memory, PathBuf);

impl Backend for Besides {
    fn source(&self, streams: &[&str], group: Option<&str>) -> Result<Box<dyn SourcePlan>> {
        self.0.source(streams, group)
    }

    fn sink(&self, stream: &str, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
        self.0.sink(stream, context)
    }

    fn beside(&self) -> Option<PathBuf> {
        Some(self.1.clone())
    }

    fn describe(&self) -> String {
        "beside".to_owned()
    }
}

#[test]
fn positions_are_kept_beside_a_file_by_default() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.ss");
        let streamer = Streamer::of(Besides(memory(3), file));
        let mut consumer = streamer.create_consumer(&["s"], ConsumerOptions::resumable("me")).unwrap();
        consumer.next().await.unwrap();
        consumer.commit().await.unwrap();

        assert!(folder.path().join(".x.ss.me.position").exists());
    });
}

const CHILD: &str = "MILLSTREAM_CLIENT_TEST_CHILD";

/// Not a test of its own: what the next one starts and kills.
#[test]
fn child_that_reads_slowly_until_it_is_killed() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let folder = PathBuf::from(folder);
    block_on(async {
        let memory = memory(2000);
        let options =
            ConsumerOptions { commit_every: Some(Duration::from_millis(1)), ..kept(&folder.join("positions")) };
        let mut consumer = memory.streamer().create_consumer(&["s"], options).unwrap();
        let mut out = std::fs::OpenOptions::new().append(true).create(true).open(folder.join("out")).unwrap();
        while let Some(record) = consumer.next().await.unwrap() {
            use std::io::Write;
            // In one piece, so that a kill leaves whole lines.
            out.write_all(format!("{}\n", text(&record)).as_bytes()).unwrap();
            std::thread::sleep(Duration::from_micros(300));
        }
        consumer.close().await.unwrap();
    });
}

#[test]
fn a_killed_consumer_goes_on_where_it_committed() {
    let folder = tempfile::tempdir().unwrap();
    let mut chance = Chance(11);
    let mut kills = 0;
    loop {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "resume::child_that_reads_slowly_until_it_is_killed"])
            .env(CHILD, folder.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(30 + chance.below(150)));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        assert!(kills < 200, "it makes no progress");
    }
    let out = std::fs::read_to_string(folder.path().join("out")).unwrap();
    let lines: Vec<usize> = out.lines().filter_map(|line| line.parse().ok()).collect();
    let all: std::collections::BTreeSet<usize> = lines.iter().copied().collect();
    assert_eq!(all.len(), 2000, "nothing is lost over {kills} kills");
    assert!(lines.len() < 2000 + 300 * (kills + 1), "{} lines after {kills} kills", lines.len());
    assert!(kills > 0);
}
