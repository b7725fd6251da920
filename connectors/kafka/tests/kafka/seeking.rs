//! Places that are sought in a group, before it has given partitions and after.

use std::time::Duration;

use millstream_core::{Event, Resume, SeekTo, Source, Stamp};
use serde_json::json;

use crate::support::*;

fn by(store_id: &str) -> Resume {
    let stamp = Stamp { pipeline: "p".into(), store_id: store_id.into(), epoch: 1 };
    Resume { stamp: Some(stamp), ..Resume::default() }
}

async fn commit(source: &mut dyn Source, store_id: &str) {
    let position = source.position().unwrap();
    source.commit(&position, by(store_id).stamp.as_ref()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sought_before_a_group_gives_partitions_holds_when_it_does() {
    let _kafka = kafka();
    let (topic, group) = (topic(2), json!({"group": name("group")}));
    write_all(&topic, json!({"partition": "round_robin"}), &values(0, 20)).await;
    let mut source = opened(&topic, group.clone(), &by("store")).await;
    assert!(source.shards().is_empty());
    source.seek(&SeekTo::At(7), None).await.unwrap();
    // A checkpoint that is made now names the place: it outlives a crash.
    let saved = source.position().unwrap();
    assert_eq!(saved.0.values().map(ToString::to_string).collect::<Vec<_>>(), ["7", "7"]);
    assert!(read(&mut *source, 6).await.iter().all(|record| record.sequence >= 7));
    commit(&mut *source, "store").await;
    // The group has committed the end meanwhile, and by us: again, and behind the end.
    source.close().await.unwrap();
    let mut source = opened(&topic, group.clone(), &by("store")).await;
    source.seek(&SeekTo::Beginning, None).await.unwrap();
    assert_eq!(read(&mut *source, 20).await.len(), 20);
    source.seek(&SeekTo::At(9), None).await.unwrap();
    assert_eq!(read(&mut *source, 2).await.len(), 2);
    commit(&mut *source, "store").await;
    source.close().await.unwrap();
    let mut source = opened(&topic, group.clone(), &by("store")).await;
    source.seek(&SeekTo::At(12), None).await.unwrap();
    write_all(&topic, json!({"partition": 0}), &values(0, 4)).await;
    let later = read(&mut *source, 2).await;
    assert_eq!(later.iter().map(|record| record.sequence).collect::<Vec<_>>(), [12, 13]);
    source.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_commits_after_it_was_sought_has_gone_on() {
    let _kafka = kafka();
    let (topic, group) = (topic(1), json!({"group": name("group"), "membership": {"protocol": "classic"}}));
    write_all(&topic, json!({}), &values(0, 10)).await;
    let mut first = opened(&topic, group.clone(), &by("first")).await;
    assert_eq!(read(&mut *first, 10).await.len(), 10);
    // The second one waits for the partition of the first.
    let mut second = opened(&topic, group, &by("second")).await;
    second.seek(&SeekTo::Beginning, None).await.unwrap();
    commit(&mut *first, "first").await;
    let closing = tokio::spawn(async move { first.close().await });
    write_all(&topic, json!({}), &values(10, 12)).await;
    assert_eq!(read(&mut *second, 2).await[0].sequence, 10);
    closing.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_stands_at_its_end_has_not_ended_when_it_goes_back() {
    let _kafka = kafka();
    let topic = topic(1);
    write_all(&topic, json!({}), &values(0, 4)).await;
    let end = Resume { start: SeekTo::End, until_end: true, ..Resume::default() };
    let mut source = opened(&topic, json!({}), &end).await;
    // By now it has found that there is nothing to read.
    tokio::time::sleep(Duration::from_millis(300)).await;
    source.seek(&SeekTo::At(2), None).await.unwrap();
    assert_eq!(texts(&read(&mut *source, 2).await), ["2", "3"]);
    assert!(matches!(event(&mut *source).await.unwrap(), Event::End));
}
