//! What an epoch costs in an [`EmbeddedStore`], and what a thousand idle pipelines cost: `cargo run --release -p
//! millstream-state --example store_speed`.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use millstream_core::{CHECKPOINT_VERSION, Checkpoint, Epoch, Result, Segment, Store, Timestamp};
use millstream_state::{EmbeddedStore, KeyedTable};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let Ok(dir) = tempfile::tempdir() else { return Ok(()) };
    let before = memory();
    let mut stores = Vec::new();
    for i in 0..1000 {
        let mut store = EmbeddedStore::new(dir.path().join("idle").join(i.to_string()));
        store.fence().await?;
        store.load().await?;
        store.decide(checkpoint(&store, 1, vec![]), 0).await?;
        stores.push(store);
    }
    println!("{} idle stores without keyed state: {} KiB more", stores.len(), memory() - before);
    drop(stores);
    for keys in [0u64, 100, 10_000, 100_000, 1_000_000] {
        epochs(&dir.path().join(keys.to_string()), keys, if keys > 10_000 { 5 } else { 50 }).await?;
    }
    Ok(())
}

async fn epochs(dir: &Path, keys: u64, epochs: Epoch) -> Result<()> {
    let mut store = EmbeddedStore::new(dir);
    store.fence().await?;
    store.load().await?;
    let mut table = KeyedTable::<u64>::new();
    let (mut changes, mut write, mut decide, mut bytes) = Default::default();
    let before = memory();
    for epoch in 1..=epochs {
        (0..keys).for_each(|key| *table.entry(format!("key {key}").as_bytes()) += epoch);
        let changed = timed(&mut changes, async { table.changes() }).await?;
        bytes =
            changed.iter().map(|change| change.key.len() + change.value.as_ref().map_or(0, |v| v.len())).sum::<usize>();
        let stages = if keys == 0 { vec![] } else { vec![("count".to_owned(), changed)] };
        let hash = timed(&mut write, store.write(Segment { epoch, stages })).await?;
        let checkpoint = checkpoint(&store, epoch, vec![(epoch, hash)]);
        timed(&mut decide, store.decide(checkpoint, epoch - 1)).await?;
    }
    let began = Instant::now();
    store.close().await?;
    let closed = began.elapsed();
    let mut store = EmbeddedStore::new(dir);
    let began = Instant::now();
    store.fence().await?;
    store.load().await?;
    let loaded = began.elapsed();
    let began = Instant::now();
    let found = store.scan("count").await?.len();
    assert_eq!(found as u64, keys);
    let each = |total: Duration| format!("{:.2?}", total / epochs as u32);
    println!(
        "{keys:>8} keys changed ({bytes} bytes): changes {}, write (waits for the fill of the epoch before) {}, decide {}; \
         close {closed:.2?}, load {loaded:.2?}, scan {:.2?}; {} KiB more",
        each(changes),
        each(write),
        each(decide),
        began.elapsed(),
        memory().saturating_sub(before),
    );
    Ok(())
}

async fn timed<T>(total: &mut Duration, work: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let done = work.await;
    *total += began.elapsed();
    done
}

fn checkpoint(store: &EmbeddedStore, epoch: Epoch, segments: Vec<(Epoch, u64)>) -> Checkpoint {
    Checkpoint {
        version: CHECKPOINT_VERSION,
        store_id: store.id(),
        plan: "plan".into(),
        epoch,
        sources: BTreeMap::new(),
        sinks: BTreeMap::new(),
        segments,
        finished: false,
        drained: false,
        host: None,
        decided_at: Timestamp::now(),
    }
}

/// Resident memory in KiB, where the system tells it.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or_default()
}
