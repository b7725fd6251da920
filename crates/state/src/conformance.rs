//! The suite that every store must pass.
//!
//! ```ignore
//! #[tokio::test]
//! async fn conforms() {
//!     millstream_state::conformance::all(|| MyPlace::new()).await;
//! }
//! ```
//!
//! Each function panics where the store breaks the contract; so it belongs into tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "assertions of tests")]

use std::collections::BTreeMap;

use bytes::Bytes;
use millstream_core::{
    CHECKPOINT_VERSION, Change, Checkpoint, Epoch, ErrorKind, Position, Segment, ShardKey, SourceCheckpoint, Store,
    Timestamp, group,
};

/// Where stores keep things: all stores of one place see the same.
pub trait Place {
    /// The store.
    type Store: Store;
    /// One more store over this place, as a restarted runner makes it.
    fn store(&self) -> Self::Store;
}

/// State as a plain map: by stage and key.
pub type Model = BTreeMap<(String, Bytes), Bytes>;

/// What a runner does, or what is done to it.
#[derive(Clone, Debug)]
pub enum Step {
    /// Writes the changes of the next epoch and decides it.
    Epoch(Vec<(u8, u8, Option<u8>)>),
    /// Writes the changes of the next epoch, which a host decides, or aborts; dies before it is told.
    Hosted(Vec<(u8, u8, Option<u8>)>, bool),
    /// Decides an epoch without changes of state; the number is how many epochs are left out before it.
    Empty(u8),
    /// Writes the changes of an epoch further on, and dies.
    Dies(u8, Vec<(u8, u8, Option<u8>)>),
    /// Stops in order, and starts again.
    Restart,
    /// Begins anew.
    Reset,
}

/// Runs all parts of the suite, each in a fresh place.
pub async fn all<P: Place>(mut fresh: impl FnMut() -> P) {
    starts_empty(&fresh()).await;
    an_epoch_counts_when_it_is_decided(&fresh()).await;
    a_wrong_expectation_is_fenced(&fresh()).await;
    only_one_of_two_owners_can_decide(&fresh()).await;
    a_missing_segment_is_a_mismatch(&fresh()).await;
    several_epochs_are_in_flight(&fresh()).await;
    what_a_dead_runner_wrote_is_not_taken_over(&fresh()).await;
    reset_begins_anew(&fresh()).await;
    a_host_s_checkpoint_is_adopted_with_its_segment(&fresh()).await;
    what_no_host_has_decided_is_thrown_away(&fresh()).await;
    a_host_s_checkpoint_whose_segment_is_lost_is_a_mismatch(&fresh()).await;
    an_empty_store_takes_the_identity_of_a_checkpoint_without_state(&fresh()).await;
    keys_of_all_kinds_come_back(&fresh()).await;
    nothing_works_before_fence(&fresh()).await;
}

/// A checkpoint of `epoch`.
pub fn checkpoint(store_id: String, epoch: Epoch, segments: Vec<(Epoch, u64)>) -> Checkpoint {
    let mut position = Position::default();
    position.set(ShardKey::new("in", 0), &epoch).unwrap();
    Checkpoint {
        version: CHECKPOINT_VERSION,
        store_id,
        plan: "plan".into(),
        epoch,
        sources: BTreeMap::from([("in".into(), SourceCheckpoint { position, ..Default::default() })]),
        sinks: BTreeMap::new(),
        segments,
        finished: false,
        drained: false,
        host: None,
        decided_at: Timestamp::now(),
    }
}

/// One changed key.
pub fn change(key: &[u8], value: Option<&[u8]>) -> Change {
    Change { group: group(key), key: Bytes::copy_from_slice(key), value: value.map(Bytes::copy_from_slice) }
}

/// Fences and loads.
pub async fn started<P: Place>(place: &P) -> (P::Store, Option<Checkpoint>) {
    let mut store = place.store();
    store.fence().await.unwrap();
    let checkpoint = store.load().await.unwrap();
    (store, checkpoint)
}

/// Writes and decides an epoch, behind `expected`.
pub async fn commit(store: &mut impl Store, epoch: Epoch, expected: Epoch, stages: Vec<(String, Vec<Change>)>) {
    let hash = store.write(Segment { epoch, stages }).await.unwrap();
    store.decide(checkpoint(store.id(), epoch, vec![(epoch, hash)]), expected).await.unwrap();
}

/// Holds the state of `stages` against `model`.
pub async fn assert_state(store: &mut impl Store, stages: &[&str], model: &Model) {
    let mut found = Model::new();
    for stage in stages {
        for change in store.scan(stage).await.unwrap() {
            assert_eq!(change.group, group(&change.key));
            let before = found.insert((stage.to_string(), change.key), change.value.expect("a scan tells no removals"));
            assert!(before.is_none(), "a key is told once");
        }
    }
    assert_eq!(&found, model);
}

fn one(key: &str, value: &str) -> Vec<(String, Vec<Change>)> {
    vec![("a".into(), vec![change(key.as_bytes(), Some(value.as_bytes()))])]
}

fn model(entries: &[(&str, &str)]) -> Model {
    let own = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    entries.iter().map(|(key, value)| (("a".to_owned(), own(key)), own(value))).collect()
}

/// A fresh place has an identity that stays, no checkpoint and no state.
pub async fn starts_empty(place: &impl Place) {
    let (mut store, checkpoint) = started(place).await;
    let id = store.id();
    assert!(!id.is_empty() && !store.was_reset());
    assert_eq!(checkpoint, None);
    assert_state(&mut store, &["a"], &Model::new()).await;
    store.close().await.unwrap();
    let (mut store, checkpoint) = started(place).await;
    assert_eq!((store.id(), checkpoint), (id, None));
    store.close().await.unwrap();
}

/// Before the deciding write nothing of an epoch is to be seen, after it all of it; also after a crash.
pub async fn an_epoch_counts_when_it_is_decided(place: &impl Place) {
    let (mut store, _) = started(place).await;
    let id = store.id();
    commit(&mut store, 1, 0, one("k", "1")).await;
    let hash = store.write(Segment { epoch: 2, stages: one("k", "2") }).await.unwrap();
    assert_state(&mut store, &["a"], &model(&[("k", "1")])).await;
    drop(store);
    let (mut store, found) = started(place).await;
    let found = found.unwrap();
    assert_eq!((found.epoch, store.id()), (1, id.clone()));
    assert_state(&mut store, &["a"], &model(&[("k", "1")])).await;
    assert_eq!(
        store.write(Segment { epoch: 2, stages: one("k", "2") }).await.unwrap(),
        hash,
        "a hash is of the content"
    );
    let second = checkpoint(id, 2, vec![(2, hash)]);
    store.decide(second.clone(), 1).await.unwrap();
    assert_state(&mut store, &["a"], &model(&[("k", "2")])).await;
    drop(store);
    let (mut store, found) = started(place).await;
    assert_eq!(found, Some(second));
    assert_state(&mut store, &["a"], &model(&[("k", "2")])).await;
    store.close().await.unwrap();
}

/// The compare in compare-and-set.
pub async fn a_wrong_expectation_is_fenced(place: &impl Place) {
    let (mut store, _) = started(place).await;
    for expected in [1, 7] {
        let error = store.decide(checkpoint(store.id(), 1, vec![]), expected).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced);
    }
    commit(&mut store, 1, 0, vec![]).await;
    commit(&mut store, 2, 1, vec![]).await;
    for expected in [0, 1, 3] {
        let error = store.decide(checkpoint(store.id(), 3, vec![]), expected).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced);
    }
    drop(store);
    let (mut store, found) = started(place).await;
    assert_eq!(found.unwrap().epoch, 2);
    store.decide(checkpoint(store.id(), 3, vec![]), 2).await.unwrap();
    store.close().await.unwrap();
}

/// A second runner started on purpose: either it does not start, or the first one cannot decide any more.
pub async fn only_one_of_two_owners_can_decide(place: &impl Place) {
    let (mut first, _) = started(place).await;
    commit(&mut first, 1, 0, one("k", "1")).await;
    let mut second = place.store();
    match second.fence().await {
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Locked);
            commit(&mut first, 2, 1, one("k", "first")).await;
            drop(first);
            second.fence().await.unwrap();
            assert_eq!(second.load().await.unwrap().unwrap().epoch, 2);
        }
        Ok(()) => {
            assert_eq!(second.load().await.unwrap().unwrap().epoch, 1);
            let error = first.decide(checkpoint(first.id(), 2, vec![]), 1).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Fenced);
            commit(&mut second, 2, 1, one("k", "second")).await;
            let error = first.decide(checkpoint(first.id(), 3, vec![]), 2).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Fenced);
        }
    }
    second.close().await.unwrap();
}

/// A checkpoint that names what is not there is refused, and nothing has happened.
pub async fn a_missing_segment_is_a_mismatch(place: &impl Place) {
    let (mut store, _) = started(place).await;
    let hash = store.write(Segment { epoch: 1, stages: one("k", "1") }).await.unwrap();
    for segments in [vec![(1, hash ^ 1)], vec![(1, hash), (2, 5)]] {
        let error = store.decide(checkpoint(store.id(), 1, segments), 0).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StateMismatch);
    }
    let error = store.decide(checkpoint("somebody else".into(), 1, vec![]), 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StateMismatch);
    store.decide(checkpoint(store.id(), 1, vec![(1, hash)]), 0).await.unwrap();
    assert_state(&mut store, &["a"], &model(&[("k", "1")])).await;
    store.close().await.unwrap();
}

/// Segments of later epochs may be written before an earlier one is decided.
pub async fn several_epochs_are_in_flight(place: &impl Place) {
    let (mut store, _) = started(place).await;
    let mut hashes = Vec::new();
    for epoch in 1..=4 {
        hashes.push(store.write(Segment { epoch, stages: one("k", &epoch.to_string()) }).await.unwrap());
    }
    for epoch in 1..=2 {
        let named = vec![(epoch, hashes[epoch as usize - 1])];
        store.decide(checkpoint(store.id(), epoch, named), epoch - 1).await.unwrap();
        assert_state(&mut store, &["a"], &model(&[("k", &epoch.to_string())])).await;
    }
    // One checkpoint may decide what several epochs wrote.
    store.decide(checkpoint(store.id(), 4, vec![(3, hashes[2]), (4, hashes[3])]), 2).await.unwrap();
    assert_state(&mut store, &["a"], &model(&[("k", "4")])).await;
    drop(store);
    let (mut store, _) = started(place).await;
    assert_state(&mut store, &["a"], &model(&[("k", "4")])).await;
    store.close().await.unwrap();
}

/// A segment that was pending when a runner died never counts, whatever the next one decides.
pub async fn what_a_dead_runner_wrote_is_not_taken_over(place: &impl Place) {
    let (mut store, _) = started(place).await;
    store.write(Segment { epoch: 2, stages: one("ghost", "2") }).await.unwrap();
    commit(&mut store, 1, 0, one("k", "1")).await;
    store.write(Segment { epoch: 3, stages: one("ghost", "3") }).await.unwrap();
    drop(store);
    let (mut store, _) = started(place).await;
    store.decide(checkpoint(store.id(), 2, vec![]), 1).await.unwrap();
    store.decide(checkpoint(store.id(), 3, vec![]), 2).await.unwrap();
    assert_state(&mut store, &["a"], &model(&[("k", "1")])).await;
    drop(store);
    let (mut store, found) = started(place).await;
    assert_eq!(found.unwrap().epoch, 3);
    assert_state(&mut store, &["a"], &model(&[("k", "1")])).await;
    store.close().await.unwrap();
}

/// After `reset` there is nothing, under another identity.
pub async fn reset_begins_anew(place: &impl Place) {
    let (mut store, _) = started(place).await;
    commit(&mut store, 1, 0, one("k", "1")).await;
    let id = store.id();
    store.reset().await.unwrap();
    assert_ne!(store.id(), id);
    let id = store.id();
    assert_eq!((store.load().await.unwrap(), store.was_reset()), (None, true));
    assert_state(&mut store, &["a"], &Model::new()).await;
    drop(store);
    let (mut store, _) = started(place).await;
    assert!(store.was_reset(), "until something is decided");
    commit(&mut store, 1, 0, one("other", "1")).await;
    drop(store);
    let (mut store, found) = started(place).await;
    assert_eq!((found.unwrap().epoch, store.id(), store.was_reset()), (1, id, false));
    assert_state(&mut store, &["a"], &model(&[("other", "1")])).await;
    store.close().await.unwrap();
}

/// A checkpoint that a host has decided.
fn hosted(store_id: String, epoch: Epoch, segments: Vec<(Epoch, u64)>) -> Checkpoint {
    Checkpoint { host: Some("fake://host".into()), ..checkpoint(store_id, epoch, segments) }
}

/// The runner dies between the host's decision and ours: the segment is there, and the host's checkpoint names it.
pub async fn a_host_s_checkpoint_is_adopted_with_its_segment(place: &impl Place) {
    let (mut store, _) = started(place).await;
    commit(&mut store, 1, 0, one("k", "1")).await;
    let hash = store.write(Segment { epoch: 2, stages: one("k", "2") }).await.unwrap();
    store.sync().await.unwrap();
    let second = hosted(store.id(), 2, vec![(2, hash)]);
    drop(store);
    let (mut store, found) = started(place).await;
    assert_eq!(found.unwrap().epoch, 1);
    store.adopt(second.clone()).await.unwrap();
    assert_state(&mut store, &["a"], &model(&[("k", "2")])).await;
    // An epoch that changes no state names the same segment.
    store.decide(hosted(store.id(), 3, vec![(2, hash)]), 2).await.unwrap();
    store.adopt(hosted(store.id(), 5, vec![(2, hash)])).await.unwrap();
    drop(store);
    let (mut store, found) = started(place).await;
    assert_eq!(found.unwrap().epoch, 5);
    assert_state(&mut store, &["a"], &model(&[("k", "2")])).await;
    store.adopt(hosted(store.id(), 4, vec![])).await.expect_err("it is older");
    store.close().await.unwrap();
}

/// The host has aborted: its checkpoint does not name what is pending.
pub async fn what_no_host_has_decided_is_thrown_away(place: &impl Place) {
    let (mut store, _) = started(place).await;
    commit(&mut store, 1, 0, one("k", "1")).await;
    let two = store.write(Segment { epoch: 2, stages: one("k", "2") }).await.unwrap();
    store.write(Segment { epoch: 3, stages: one("ghost", "3") }).await.unwrap();
    store.write(Segment { epoch: 4, stages: one("ghost", "4") }).await.unwrap();
    store.sync().await.unwrap();
    drop(store);
    let (mut store, _) = started(place).await;
    store.adopt(hosted(store.id(), 3, vec![(2, two)])).await.unwrap();
    assert_state(&mut store, &["a"], &model(&[("k", "2")])).await;
    store.decide(hosted(store.id(), 4, vec![(2, two)]), 3).await.unwrap();
    drop(store);
    let (mut store, found) = started(place).await;
    assert_eq!(found.unwrap().epoch, 4);
    assert_state(&mut store, &["a"], &model(&[("k", "2")])).await;
    store.close().await.unwrap();
}

/// A volume that is lost, or was put back from a copy.
pub async fn a_host_s_checkpoint_whose_segment_is_lost_is_a_mismatch(place: &impl Place) {
    let (mut store, _) = started(place).await;
    let refused = |error: millstream_core::Error| assert_eq!(error.kind(), ErrorKind::StateMismatch);
    refused(store.adopt(hosted(store.id(), 7, vec![(5, 99)])).await.unwrap_err());
    let other = "0123456789abcdef0123456789abcdef".to_owned();
    refused(store.adopt(hosted(other.clone(), 7, vec![(5, 99)])).await.unwrap_err());
    commit(&mut store, 1, 0, one("k", "1")).await;
    refused(store.adopt(hosted(other, 7, vec![])).await.unwrap_err());
    let hash = store.write(Segment { epoch: 2, stages: one("k", "2") }).await.unwrap();
    refused(store.adopt(hosted(store.id(), 2, vec![(2, !hash)])).await.unwrap_err());
    store.close().await.unwrap();
    let (mut store, found) = started(place).await;
    assert_eq!(found.unwrap().epoch, 1);
    assert_state(&mut store, &["a"], &model(&[("k", "1")])).await;
    store.close().await.unwrap();
}

/// A pipeline without state needs no volume.
pub async fn an_empty_store_takes_the_identity_of_a_checkpoint_without_state(place: &impl Place) {
    let (mut store, _) = started(place).await;
    let id = "0123456789abcdef0123456789abcdef".to_owned();
    store.adopt(hosted(id.clone(), 7, vec![])).await.unwrap();
    assert_eq!(store.id(), id);
    commit(&mut store, 8, 7, one("k", "8")).await;
    drop(store);
    let (mut store, found) = started(place).await;
    assert_eq!((found.unwrap().epoch, store.id()), (8, id));
    assert_state(&mut store, &["a"], &model(&[("k", "8")])).await;
    store.close().await.unwrap();
}

/// Empty, binary and long keys and values; stages whose names begin alike; removals.
pub async fn keys_of_all_kinds_come_back(place: &impl Place) {
    let (mut store, _) = started(place).await;
    let keys: Vec<Vec<u8>> = vec![vec![], vec![0], vec![0, 0], vec![255; 300], vec![7; 70_000], b"a/b\n".to_vec()];
    let long = vec![9; 1 << 20];
    let all = |value: Option<&[u8]>| keys.iter().map(|key| change(key, value)).collect::<Vec<_>>();
    let stages =
        vec![("a".to_owned(), all(Some(&long))), ("ab".to_owned(), all(Some(b""))), ("b".to_owned(), all(None))];
    commit(&mut store, 1, 0, stages).await;
    let mut model = Model::new();
    for key in &keys {
        model.insert(("a".into(), Bytes::copy_from_slice(key)), long.clone().into());
        model.insert(("ab".into(), Bytes::copy_from_slice(key)), Bytes::new());
    }
    assert_state(&mut store, &["a", "ab", "b"], &model).await;
    commit(&mut store, 2, 1, vec![("a".to_owned(), all(None))]).await;
    model.retain(|(stage, _), _| stage == "ab");
    drop(store);
    let (mut store, _) = started(place).await;
    assert_state(&mut store, &["a", "ab", "b"], &model).await;
    store.close().await.unwrap();
}

/// Calls out of order are errors.
pub async fn nothing_works_before_fence(place: &impl Place) {
    let mut store = place.store();
    assert!(store.load().await.is_err());
    assert!(store.scan("a").await.is_err());
    assert!(store.write(Segment { epoch: 1, stages: vec![] }).await.is_err());
    assert!(store.decide(checkpoint(String::new(), 1, vec![]), 0).await.is_err());
    assert!(store.reset().await.is_err());
    store.close().await.unwrap();
}

fn apply(model: &mut Model, stages: &[(String, Vec<Change>)]) {
    for (stage, change) in stages.iter().flat_map(|(stage, list)| list.iter().map(move |change| (stage, change))) {
        let key = (stage.clone(), change.key.clone());
        match &change.value {
            Some(value) => drop(model.insert(key, value.clone())),
            None => drop(model.remove(&key)),
        }
    }
}

/// Holds a store against a plain map, through any steps.
pub async fn agrees_with_the_model(place: &impl Place, steps: &[Step]) {
    let stages = ["s0", "s1", "s2"];
    let changes = |list: &[(u8, u8, Option<u8>)]| {
        let mut by_stage: BTreeMap<String, BTreeMap<u8, Option<u8>>> = BTreeMap::new();
        for (stage, key, value) in list {
            by_stage.entry(format!("s{}", stage % 3)).or_default().insert(*key, *value);
        }
        let change = |(key, value): (u8, Option<u8>)| change(&[key], value.as_ref().map(std::slice::from_ref));
        by_stage.into_iter().map(|(stage, keys)| (stage, keys.into_iter().map(change).collect())).collect::<Vec<_>>()
    };
    let (mut store, mut epoch, mut model) = (started(place).await.0, 0, Model::new());
    for step in steps {
        match step {
            Step::Epoch(list) => {
                let stages: Vec<(String, Vec<Change>)> = changes(list);
                apply(&mut model, &stages);
                commit(&mut store, epoch + 1, epoch, stages).await;
                epoch += 1;
            }
            Step::Hosted(list, decided) => {
                let stages: Vec<(String, Vec<Change>)> = changes(list);
                let hash = store.write(Segment { epoch: epoch + 1, stages: stages.clone() }).await.unwrap();
                store.sync().await.unwrap();
                drop(store);
                store = started(place).await.0;
                if *decided {
                    apply(&mut model, &stages);
                    store.adopt(hosted(store.id(), epoch + 1, vec![(epoch + 1, hash)])).await.unwrap();
                    epoch += 1;
                }
            }
            Step::Empty(left_out) => {
                let next = epoch + 1 + u64::from(*left_out);
                store.decide(checkpoint(store.id(), next, vec![]), epoch).await.unwrap();
                epoch = next;
            }
            Step::Dies(ahead, list) => {
                let segment = Segment { epoch: epoch + 1 + u64::from(*ahead), stages: changes(list) };
                store.write(segment).await.unwrap();
                drop(store);
                store = started(place).await.0;
            }
            Step::Restart => {
                store.close().await.unwrap();
                let (next, found) = started(place).await;
                assert_eq!(found.map_or(0, |checkpoint| checkpoint.epoch), epoch);
                store = next;
            }
            Step::Reset => {
                store.reset().await.unwrap();
                (epoch, model) = (0, Model::new());
            }
        }
        assert_state(&mut store, &stages, &model).await;
    }
    drop(store);
    let (mut store, found) = started(place).await;
    assert_eq!(found.map_or(0, |checkpoint| checkpoint.epoch), epoch);
    assert_state(&mut store, &stages, &model).await;
    store.close().await.unwrap();
}
