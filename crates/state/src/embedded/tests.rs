use std::path::Path;

use proptest::prelude::*;

use super::{
    engine::LOG,
    keyed,
    ledger::{self, Ledger},
    *,
};
use crate::{
    Memory, MemoryStore,
    conformance::{self, Model, Place, Step, change, checkpoint},
    log::{Log, Purpose},
};

/// A directory, and how long a log may be before it is cut.
struct Dir(tempfile::TempDir, u64);

impl Dir {
    fn new(limit: u64) -> Self {
        Dir(tempfile::tempdir().unwrap(), limit)
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("orders")
    }
}

impl Place for Dir {
    type Store = EmbeddedStore;
    fn store(&self) -> EmbeddedStore {
        EmbeddedStore::new(self.path()).with_limit(self.1)
    }
}

impl Place for Memory {
    type Store = MemoryStore;
    fn store(&self) -> MemoryStore {
        MemoryStore::new(self.clone())
    }
}

#[tokio::test]
async fn the_embedded_store_conforms() {
    conformance::all(|| Dir::new(1 << 20)).await;
}

#[tokio::test]
async fn the_embedded_store_conforms_when_it_cuts_its_log_each_time() {
    conformance::all(|| Dir::new(0)).await;
}

#[tokio::test]
async fn the_memory_store_conforms() {
    conformance::all(Memory::new).await;
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let changes = || prop::collection::vec((0u8..3, 0u8..8, prop::option::weighted(0.7, any::<u8>())), 0..6);
    let step = prop_oneof![
        8 => changes().prop_map(Step::Epoch),
        4 => (changes(), any::<bool>()).prop_map(|(list, decided)| Step::Hosted(list, decided)),
        2 => (0u8..3).prop_map(Step::Empty),
        3 => (0u8..3, changes()).prop_map(|(ahead, list)| Step::Dies(ahead, list)),
        2 => Just(Step::Restart),
        1 => Just(Step::Reset),
    ];
    prop::collection::vec(step, 1..16)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// `MILLSTREAM_CASES` makes it longer.
fn cases(default: u32) -> ProptestConfig {
    let cases = std::env::var("MILLSTREAM_CASES").ok().and_then(|text| text.parse().ok());
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases.unwrap_or(default)) }
}

proptest! {
    #![proptest_config(cases(16))]
    #[test]
    fn any_steps_leave_the_state_of_the_model(steps in steps(), limit in prop_oneof![Just(0u64), 300u64..3000]) {
        runtime().block_on(conformance::agrees_with_the_model(&Dir::new(limit), &steps));
        runtime().block_on(conformance::agrees_with_the_model(&Memory::new(), &steps));
    }
}

/// What `epoch` changes, in a fixed way: some keys are set, some removed.
fn changes_of(epoch: Epoch) -> Vec<(String, Vec<Change>)> {
    let mut random = epoch.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        random >> 40
    };
    let mut keys = std::collections::BTreeMap::new();
    for _ in 0..next() % 6 {
        keys.insert(next() % 20, (next() % 4 > 0).then(|| format!("{epoch}:{}", next())));
    }
    let change =
        |(key, value): (u64, Option<String>)| change(key.to_string().as_bytes(), value.as_ref().map(String::as_bytes));
    vec![("count".to_owned(), keys.into_iter().map(change).collect())]
}

fn model_of(epoch: Epoch) -> Model {
    let mut model = Model::new();
    for (stage, changes) in (1..=epoch).flat_map(changes_of) {
        for change in changes {
            match change.value {
                Some(value) => drop(model.insert((stage.clone(), change.key), value)),
                None => drop(model.remove(&(stage.clone(), change.key))),
            }
        }
    }
    model
}

fn loaded(dir: &Path) -> Result<(Engine, Epoch)> {
    let mut engine = Engine::new(dir.to_owned());
    engine.fence()?;
    let epoch = engine.load()?.map_or(0, |checkpoint| checkpoint.epoch);
    Ok((engine, epoch))
}

fn assert_holds(engine: &mut Engine, epoch: Epoch) {
    let found = engine.scan("count").unwrap().into_iter();
    let found: Model = found.map(|change| (("count".to_owned(), change.key), change.value.unwrap())).collect();
    assert_eq!(found, model_of(epoch), "state of epoch {epoch}");
}

fn write(engine: &mut Engine, epoch: Epoch) -> Checkpoint {
    let hash = engine.write(&Segment { epoch, stages: changes_of(epoch) }).unwrap();
    checkpoint(engine.fence_id(), epoch, vec![(epoch, hash)])
}

/// Copies a directory as a kill leaves it; of fjall's file that is made with 64 MiB of nothing only what is something.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &target);
        } else {
            let bytes = std::fs::read(&entry).unwrap();
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
            std::fs::write(&target, &bytes[..used]).unwrap();
            std::fs::File::options().write(true).open(&target).unwrap().set_len(bytes.len() as u64).unwrap();
        }
    }
}

/// Kills at every step of an epoch, and at every byte of the log between two syncs.
#[test]
fn a_kill_anywhere_leaves_a_decided_epoch() {
    let place = tempfile::tempdir().unwrap();
    let (dir, killed) = (place.path().join("a"), place.path().join("killed"));
    let (mut engine, _) = loaded(&dir).unwrap();
    engine.limits = (2000, 2000);
    let path = dir.join(LOG);
    for epoch in 1..=25 {
        let before = std::fs::read(&path).unwrap();
        let checkpoint = write(&mut engine, epoch);
        copy(&dir, &killed);
        engine.decide(checkpoint, epoch - 1).unwrap();
        let after = std::fs::read(&path).unwrap();
        // Killed within the write or the sync: any length, and the mark as it was.
        for length in before.len()..=after.len() {
            let cut = place.path().join("cut.log");
            std::fs::write(&cut, &after[..length]).unwrap();
            let mut log = Log::open(&cut, Purpose::Checkpoints).unwrap().unwrap();
            let mut found = Ledger::default();
            log.recover(|entry| found.replay(entry, &engine.fence_id(), &cut)).unwrap();
            assert_eq!(found.epoch(), if length == after.len() { epoch } else { epoch - 1 }, "{length} bytes");
        }
        // The same with keyed state, which is at the epoch before.
        for length in [before.len(), before.len() + 5, after.len() - 1, after.len()] {
            let crashed = place.path().join("crashed");
            copy(&killed, &crashed);
            std::fs::write(crashed.join(LOG), &after[..length]).unwrap();
            let (mut other, found) = loaded(&crashed).unwrap();
            assert_eq!(found, if length == after.len() { epoch } else { epoch - 1 });
            assert_holds(&mut other, found);
            drop(other);
            std::fs::remove_dir_all(&crashed).unwrap();
        }
        std::fs::remove_dir_all(&killed).unwrap();
        engine.settle();
        copy(&dir, &killed);
        let (mut other, found) = loaded(&killed).unwrap();
        assert_eq!(found, epoch);
        assert_holds(&mut other, epoch);
        drop(other);
        std::fs::remove_dir_all(&killed).unwrap();
    }
}

/// A power failure may take all that fjall has not synced; the log has it. What was cut from the log it may not take.
#[test]
fn keyed_state_may_be_as_old_as_the_last_cut() {
    let place = tempfile::tempdir().unwrap();
    let (dir, old) = (place.path().join("a"), place.path().join("old"));
    let (mut engine, _) = loaded(&dir).unwrap();
    engine.limits = (u64::MAX, u64::MAX);
    let run = |engine: &mut Engine, epochs: std::ops::RangeInclusive<Epoch>| {
        for epoch in epochs {
            let checkpoint = write(engine, epoch);
            engine.decide(checkpoint, epoch - 1).unwrap();
            engine.settle();
        }
    };
    run(&mut engine, 1..=5);
    copy(&dir.join(keyed::DIR), &old);
    run(&mut engine, 6..=20);
    drop(engine);
    let replace = || {
        std::fs::remove_dir_all(dir.join(keyed::DIR)).unwrap();
        copy(&old, &dir.join(keyed::DIR));
    };
    replace();
    let (mut engine, epoch) = loaded(&dir).unwrap();
    assert_eq!(epoch, 20);
    assert_holds(&mut engine, 20);
    engine.limits = (0, 0);
    run(&mut engine, 21..=21);
    engine.close().unwrap();
    loaded(&dir).unwrap();
    replace();
    let error = loaded(&dir).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StateMismatch);
    std::fs::remove_dir_all(dir.join(keyed::DIR)).unwrap();
    assert_eq!(loaded(&dir).unwrap_err().kind(), ErrorKind::StateMismatch);
}

#[test]
fn a_lost_log_beside_keyed_state_is_no_fresh_start() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("a");
    let (mut engine, _) = loaded(&dir).unwrap();
    for epoch in 1..=5 {
        let checkpoint = write(&mut engine, epoch);
        engine.decide(checkpoint, epoch - 1).unwrap();
        engine.settle();
    }
    engine.close().unwrap();
    let log = std::fs::read(dir.join(LOG)).unwrap();
    std::fs::remove_file(dir.join(LOG)).unwrap();
    assert_eq!(loaded(&dir).unwrap_err().kind(), ErrorKind::StateMismatch);
    // A log of earlier days: keyed state is newer than it.
    std::fs::write(dir.join(LOG), &log[..64]).unwrap();
    assert_eq!(loaded(&dir).unwrap_err().kind(), ErrorKind::Corrupt);
    // Somebody else's directory beside our log.
    let (mut other, _) = loaded(&place.path().join("b")).unwrap();
    let checkpoint = checkpoint(other.fence_id(), 1, vec![]);
    other.decide(checkpoint, 0).unwrap();
    other.close().unwrap();
    std::fs::copy(place.path().join("b").join(LOG), dir.join(LOG)).unwrap();
    assert_eq!(loaded(&dir).unwrap_err().kind(), ErrorKind::StateMismatch);
}

/// Every bit of the log, flipped: an error, or all that was decided. Never less.
#[test]
fn a_flipped_bit_never_loses_an_epoch() {
    let place = tempfile::tempdir().unwrap();
    let (dir, cut) = (place.path().join("a"), place.path().join("cut.log"));
    let (mut engine, _) = loaded(&dir).unwrap();
    for epoch in 1..=4 {
        let checkpoint = checkpoint(engine.fence_id(), epoch, vec![]);
        engine.decide(checkpoint, epoch - 1).unwrap();
        engine.settle();
    }
    let (id, bytes) = (engine.fence_id(), std::fs::read(dir.join(LOG)).unwrap());
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            std::fs::write(&cut, &flipped).unwrap();
            let mut found = Ledger::default();
            let result = Log::open(&cut, Purpose::Checkpoints)
                .and_then(|log| log.unwrap().recover(|entry| found.replay(entry, &id, &cut)));
            match result {
                Ok(_) => assert_eq!(found.epoch(), 4, "byte {at} bit {bit}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt),
            }
        }
    }
}

#[test]
fn newer_entries_and_checkpoints_are_a_version_error() {
    let place = tempfile::tempdir().unwrap();
    for (kind, body) in
        [(ledger::CHECKPOINT, &br#"{"version":2,"other":true}"#[..]), (ledger::SEGMENT, b"\x02rest"), (9, b"")]
    {
        let (mut engine, _) = loaded(place.path()).unwrap();
        engine.reset().unwrap();
        engine.log_file().append(kind, body).unwrap();
        engine.close().unwrap();
        assert_eq!(loaded(place.path()).unwrap_err().kind(), ErrorKind::Version);
        let mut engine = Engine::new(place.path().to_owned());
        engine.lock().unwrap();
        engine.reset().unwrap();
    }
}

#[test]
fn a_full_disk_decides_nothing_and_breaks_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (mut engine, _) = loaded(place.path()).unwrap();
    for epoch in 1..=3 {
        let segment = Segment { epoch, stages: vec![("count".into(), vec![change(b"k", Some(&[7; 100]))])] };
        engine.log_file().faults.room = Some(50);
        assert_eq!(engine.write(&segment).unwrap_err().kind(), ErrorKind::Unavailable);
        engine.log_file().faults.room = None;
        let hash = engine.write(&segment).unwrap();
        let checkpoint = checkpoint(engine.fence_id(), epoch, vec![(epoch, hash)]);
        engine.log_file().faults.room = Some(50);
        assert_eq!(engine.decide(checkpoint.clone(), epoch - 1).unwrap_err().kind(), ErrorKind::Unavailable);
        engine.log_file().faults.room = None;
        engine.decide(checkpoint, epoch - 1).unwrap();
        engine.settle();
    }
    drop(engine);
    assert_eq!(loaded(place.path()).unwrap().1, 3);
}

#[test]
fn a_log_that_somebody_else_wrote_to_fences() {
    let place = tempfile::tempdir().unwrap();
    let (mut engine, _) = loaded(place.path()).unwrap();
    let first = checkpoint(engine.fence_id(), 1, vec![]);
    // Another process that was given the directory by removing the lock.
    std::fs::remove_file(place.path().join("lock")).unwrap();
    let (mut other, _) = loaded(place.path()).unwrap();
    other.decide(first.clone(), 0).unwrap();
    assert_eq!(engine.decide(first, 0).unwrap_err().kind(), ErrorKind::Fenced);
}

#[tokio::test]
async fn without_keyed_state_there_is_one_small_log_and_no_fjall() {
    let place = Dir::new(10_000);
    let (mut store, _) = conformance::started(&place).await;
    for epoch in 1..=200 {
        conformance::commit(&mut store, epoch, epoch - 1, vec![("a".into(), vec![])]).await;
    }
    store.close().await.unwrap();
    assert!(!Keyed::exists(&place.path()));
    assert!(std::fs::metadata(place.path().join(LOG)).unwrap().len() < 11_000);
    let (mut store, found) = conformance::started(&place).await;
    assert_eq!(found.unwrap().epoch, 200);
    store.close().await.unwrap();
}

#[tokio::test]
async fn a_dropped_decision_has_its_effect() {
    let place = Dir::new(1 << 20);
    let (mut store, _) = conformance::started(&place).await;
    let next = checkpoint(store.id(), 1, vec![]);
    {
        let mut decide = Box::pin(store.decide(next, 0));
        let _ = std::future::poll_fn(|context| std::task::Poll::Ready(decide.as_mut().poll(context))).await;
    }
    drop(store);
    let (_, found) = conformance::started(&place).await;
    assert_eq!(found.unwrap().epoch, 1);
}

/// A host may have decided what is pending: looking at the store throws nothing away.
#[tokio::test]
async fn what_is_pending_outlives_a_look_at_the_store() {
    let place = Dir::new(1 << 20);
    let (mut store, _) = conformance::started(&place).await;
    conformance::commit(&mut store, 1, 0, changes_of(1)).await;
    let hash = store.write(Segment { epoch: 2, stages: changes_of(2) }).await.unwrap();
    store.sync().await.unwrap();
    drop(store);
    let (mut store, _) = conformance::started(&place).await;
    store.close().await.unwrap();
    crate::inspect::show(&place.path(), None, 10, |_| None).unwrap();
    let (mut store, _) = conformance::started(&place).await;
    store.adopt(checkpoint(store.id(), 2, vec![(2, hash)])).await.unwrap();
    conformance::assert_state(&mut store, &["count"], &model_of(2)).await;
}
