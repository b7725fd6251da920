//! `kill -9` at any moment: the store holds exactly some decided epoch, and never one before the last that was answered.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use bytes::Bytes;
use millstream_core::{CHECKPOINT_VERSION, Change, Checkpoint, Epoch, Segment, Store, Timestamp, group};
use millstream_state::EmbeddedStore;

const CHILD: &str = "MILLSTREAM_KILL_DIR";

fn changes_of(epoch: Epoch) -> Vec<Change> {
    // Each epoch sets ten keys and removes what an earlier one set.
    let key = |number: u64| Bytes::from(format!("key {}", number % 200));
    let set = (0..10).map(|i| (key(epoch * 7 + i), Some(Bytes::from(format!("{epoch}")))));
    let removed = (0..3).map(|i| (key(epoch * 7 + 50 + i), None));
    set.chain(removed).map(|(key, value)| Change { group: group(&key), key, value }).collect()
}

fn model_of(epoch: Epoch) -> BTreeMap<Bytes, Bytes> {
    let mut model = BTreeMap::new();
    for change in (1..=epoch).flat_map(changes_of) {
        match change.value {
            Some(value) => drop(model.insert(change.key, value)),
            None => drop(model.remove(&change.key)),
        }
    }
    model
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

async fn started(dir: &Path) -> (EmbeddedStore, Epoch) {
    let mut store = EmbeddedStore::new(dir);
    store.fence().await.unwrap();
    let epoch = store.load().await.unwrap().map_or(0, |checkpoint| checkpoint.epoch);
    (store, epoch)
}

/// Runs epochs until it is killed, and says each one that is decided.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    runtime().block_on(async {
        let (mut store, mut epoch) = started(Path::new(&dir)).await;
        loop {
            epoch += 1;
            let stages = vec![("count".to_owned(), changes_of(epoch))];
            let hash = store.write(Segment { epoch, stages }).await.unwrap();
            let checkpoint = Checkpoint {
                version: CHECKPOINT_VERSION,
                store_id: store.id(),
                plan: String::new(),
                epoch,
                sources: BTreeMap::new(),
                sinks: BTreeMap::new(),
                segments: vec![(epoch, hash)],
                finished: false,
                drained: false,
                host: None,
                decided_at: Timestamp::now(),
            };
            store.decide(checkpoint, epoch - 1).await.unwrap();
            println!("decided {epoch}");
        }
    });
}

#[test]
fn a_kill_loses_nothing_that_was_decided() {
    let dir = tempfile::tempdir().unwrap();
    let rounds = std::env::var("MILLSTREAM_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(8);
    let mut before = 0;
    for round in 0u64..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (tell, hear) = std::sync::mpsc::channel();
        let told = std::thread::spawn(move || {
            let epochs = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("decided ")?.parse().ok());
            epochs
                .inspect(|epoch: &Epoch| {
                    // Nobody listens any more once the time has come.
                    let _ = tell.send(*epoch);
                })
                .last()
        });
        // Some epochs on, and then at any moment of one.
        hear.iter().nth((round * 7 % 60) as usize);
        std::thread::sleep(Duration::from_micros(round * 397 % 2_500));
        child.kill().unwrap();
        child.wait().unwrap();
        let told = told.join().unwrap().unwrap_or(before);
        runtime().block_on(async {
            let (mut store, epoch) = started(dir.path()).await;
            assert!(epoch == told || epoch == told + 1, "the store has {epoch}, and {told} was answered");
            let found: BTreeMap<Bytes, Bytes> =
                store.scan("count").await.unwrap().into_iter().map(|c| (c.key, c.value.unwrap())).collect();
            assert_eq!(found, model_of(epoch), "state of epoch {epoch}");
            println!("round {round}: epoch {epoch}");
            before = epoch;
            // Only sometimes in order.
            if round % 2 == 0 {
                store.close().await.unwrap();
            }
        });
    }
    assert!(before > 0);
}
