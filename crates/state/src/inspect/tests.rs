use bytes::Bytes;
use millstream_core::{Change, Epoch, Segment, Store, group};
use serde_json::json;

use super::*;
use crate::{EmbeddedStore, conformance::checkpoint};

async fn run(dir: &Path, epoch: Epoch, keys: &[(&'static [u8], &[u8])]) -> EmbeddedStore {
    let mut store = EmbeddedStore::new(dir);
    store.fence().await.unwrap();
    store.load().await.unwrap();
    let change = |(key, value): &(&'static [u8], &[u8])| Change {
        group: group(key),
        key: Bytes::from_static(key),
        value: Some(Bytes::copy_from_slice(value)),
    };
    let stages = vec![("count".to_owned(), keys.iter().map(change).collect())];
    let hash = store.write(Segment { epoch, stages }).await.unwrap();
    store.decide(checkpoint(store.id(), epoch, vec![(epoch, hash)]), epoch - 1).await.unwrap();
    store
}

#[tokio::test]
async fn pipelines_are_listed_shown_edited_and_reset() {
    let state = tempfile::tempdir().unwrap();
    let (orders, clicks) = (state.path().join("orders"), state.path().join("clicks"));
    let number = rmp_serde::to_vec_named(&7u64).unwrap();
    let mut running = run(&orders, 1, &[(b"whale", &number), (b"\xff", b"\xc1")]).await;
    run(&clicks, 1, &[]).await.close().await.unwrap();
    std::fs::create_dir(state.path().join("unrelated")).unwrap();

    let listed = list(state.path()).unwrap();
    assert_eq!(listed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["clicks", "orders"]);
    let [clicks_now, orders_now] = [0, 1].map(|at| listed[at].1.clone().unwrap());
    assert!(!clicks_now.running && !clicks_now.keyed);
    assert!(orders_now.running);
    assert_eq!(orders_now.pid, Some(std::process::id()));
    assert_eq!(orders_now.store_id, running.id());
    assert_eq!(orders_now.checkpoint.unwrap().epoch, 1);

    assert_eq!(show(&orders, None, 10, |_| None).unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(reset(&orders).unwrap_err().kind(), ErrorKind::Locked);
    let view = running.view();
    let shown = view.show(Some("count"), 10, |_| None).unwrap();
    assert_eq!((shown.summary.pid, shown.stages[0].keys.len()), (Some(std::process::id()), 2), "seen while it runs");
    running.close().await.unwrap();
    assert_eq!(view.show(None, 10, |_| None).unwrap_err().kind(), ErrorKind::Closed);
    let shown = show(&orders, None, 10, |_| None).unwrap();
    let mut keys: Vec<_> = shown.stages[0].keys.iter().map(|key| (key.key.clone(), key.value.clone())).collect();
    keys.sort_by_key(|(key, _)| key.to_string());
    assert_eq!(keys, [(json!("whale"), json!(7)), (json!({ "hex": "ff" }), json!({ "hex": "c1" }))]);
    let few = show(&orders, Some("count"), 1, |_| None).unwrap();
    assert!(few.stages[0].keys.len() == 1 && few.stages[0].more);
    assert!(show(&orders, Some("no such stage"), 1, |_| None).unwrap().stages[0].keys.is_empty());

    let epoch = edit(&orders, |checkpoint| {
        checkpoint.sources.clear();
        Ok(())
    });
    assert_eq!(epoch.unwrap(), 2);
    let shown = show(&orders, None, 10, |_| None).unwrap();
    let after = shown.summary.checkpoint.unwrap();
    assert!(after.epoch == 2 && after.sources.is_empty());
    assert_eq!(shown.stages[0].keys.len(), 2);

    let before = summary(&orders).unwrap().store_id;
    assert_ne!(reset(&orders).unwrap(), before);
    assert_eq!(summary(&orders).unwrap().checkpoint, None);
    assert!(show(&orders, None, 10, |_| None).unwrap().stages.is_empty());
    for error in [show(state.path(), None, 1, |_| None).unwrap_err(), reset(state.path()).unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn a_view_keeps_no_store_and_so_no_lock() {
    let state = tempfile::tempdir().unwrap();
    let dir = state.path().join("orders");
    let running = run(&dir, 1, &[(b"whale", b"\x07")]).await;
    let view = running.view();
    drop(running);
    // The thread of its last write may let go of it a moment later.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while view.show(None, 10, |_| None).is_ok() {
        assert!(std::time::Instant::now() < deadline, "the view keeps the store");
        tokio::task::yield_now().await;
    }
    assert_eq!(view.show(None, 10, |_| None).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(show(&dir, None, 10, |_| None).unwrap().stages[0].keys.len(), 1);
}

#[tokio::test]
async fn damage_is_listed_and_can_be_reset() {
    let state = tempfile::tempdir().unwrap();
    let dir = state.path().join("orders");
    run(&dir, 1, &[]).await.close().await.unwrap();
    let mut bytes = std::fs::read(dir.join(LOG)).unwrap();
    bytes[70] ^= 1;
    std::fs::write(dir.join(LOG), bytes).unwrap();
    let listed = list(state.path()).unwrap();
    assert_eq!(listed[0].1.as_ref().unwrap_err().kind(), ErrorKind::Corrupt);
    reset(&dir).unwrap();
    assert_eq!(summary(&dir).unwrap().checkpoint, None);
}

#[tokio::test]
async fn a_checkpoint_that_a_host_decided_is_edited_only_after_a_drain() {
    let state = tempfile::tempdir().unwrap();
    let dir = state.path().join("orders");
    let mut store = EmbeddedStore::new(&dir);
    store.fence().await.unwrap();
    store.load().await.unwrap();
    let hosted = |epoch, drained| Checkpoint {
        host: Some("kafka://b1".into()),
        drained,
        ..checkpoint(store.id(), epoch, vec![])
    };
    let (open, drained) = (hosted(1, false), hosted(2, true));
    store.decide(open, 0).await.unwrap();
    store.close().await.unwrap();
    let error = edit(&dir, |_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StateMismatch);
    assert!(error.hint_text().unwrap().contains("drain"), "{error:?}");
    store.fence().await.unwrap();
    store.load().await.unwrap();
    store.decide(drained, 1).await.unwrap();
    store.close().await.unwrap();
    assert_eq!(edit(&dir, |_| Ok(())).unwrap(), 3);
    assert_eq!(summary(&dir).unwrap().checkpoint.unwrap().host, None, "it is decided here");
}
