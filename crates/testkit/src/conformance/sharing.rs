//! Groups: sharing, joining, leaving, failing over.

use std::{collections::BTreeSet, time::Duration};

use millstream_client::{Ack, Consumer, ConsumerOptions};
use millstream_core::{ErrorKind, SeekTo};

use super::{
    Setting,
    scene::{SOON, Scene, fresh, from_beginning, number, take},
};

fn member(group: &str) -> ConsumerOptions {
    from_beginning(ConsumerOptions::load_balanced(group))
}

/// A record that any of the members gets, and which one.
async fn of_any(members: &mut [Consumer]) -> (usize, u64) {
    let waiting = members
        .iter_mut()
        .enumerate()
        .map(|(nth, member)| Box::pin(async move { (nth, member.next().await.unwrap().unwrap()) }));
    let first = tokio::time::timeout(SOON, futures::future::select_all(waiting)).await;
    let Ok(((nth, record), ..)) = first else { panic!("no member has got a record within {SOON:?}") };
    (nth, number(&record))
}

/// Each record goes to one member, and both get some.
pub async fn members_of_a_group_share_the_records(setting: &Setting) {
    let scene = Scene::with_shards(setting, 4).await;
    let group = fresh("group");
    let mut members = vec![scene.consumer(member(&group)).await, scene.consumer(member(&group)).await];
    settle(&scene, &mut members).await;
    let mut got = [BTreeSet::new(), BTreeSet::new()];
    // Where records go to whoever asks, a member may be given a whole burst; not ten of them.
    for burst in 0..10 {
        write_keyed(&scene, burst * 2_000..(burst + 1) * 2_000).await;
        while got[0].len() + got[1].len() < (burst as usize + 1) * 2_000 {
            let (nth, value) = of_any(&mut members).await;
            assert!(got[nth].insert(value), "{value} came twice");
        }
        if got.iter().all(|share| share.len() >= 200) {
            break;
        }
    }
    assert!(got[0].is_disjoint(&got[1]));
    assert!(got.iter().all(|share| share.len() >= 200), "shares of {} and {}", got[0].len(), got[1].len());
}

/// Writes records with many keys, so that all shards get some.
async fn write_keyed(scene: &Scene<'_>, values: std::ops::Range<u64>) {
    let producer = scene.producer();
    let keys = scene.setting.sink(&scene.stream).keys;
    for value in values {
        let mut record = super::scene::record(value.to_string());
        record.key = keys.then(|| value.to_string().into());
        drop(producer.send(record).await.unwrap());
    }
    producer.flush().await.unwrap();
}

/// Waits until all members take part: each has got a record. Where records are dealt out one by one, they do at once.
async fn settle(scene: &Scene<'_>, members: &mut [Consumer]) {
    const MARK: u64 = 1_000_000;
    let mut seen = vec![false; members.len()];
    let (mut sent, mut got) = (MARK, 0);
    while !seen.iter().all(|seen| *seen) {
        write_keyed(scene, sent..sent + 64).await;
        sent += 64;
        while got < sent - MARK {
            let (nth, value) = of_any(members).await;
            assert!(value >= MARK);
            seen[nth] = true;
            got += 1;
        }
    }
}

/// A clean leave: what the member has handed out and acknowledged comes to nobody else, and the rest to those that stay.
pub async fn a_member_that_leaves_repeats_nothing(setting: &Setting) {
    let scene = Scene::with_shards(setting, 2).await;
    let group = fresh("group");
    let mut members = vec![scene.consumer(member(&group)).await, scene.consumer(member(&group)).await];
    settle(&scene, &mut members).await;
    write_keyed(&scene, 0..500).await;
    let mut got = BTreeSet::new();
    while got.len() < 200 {
        let (_, value) = of_any(&mut members).await;
        assert!(got.insert(value), "{value} came twice");
    }
    members.remove(0).close().await.unwrap();
    while got.len() < 500 {
        let (_, value) = of_any(&mut members).await;
        assert!(got.insert(value), "{value} came twice");
    }
}

/// A member that comes later takes part, and nothing is repeated for that.
pub async fn a_member_that_joins_gets_its_share(setting: &Setting) {
    let scene = Scene::with_shards(setting, 2).await;
    let group = fresh("group");
    let mut members = vec![scene.consumer(member(&group)).await];
    write_keyed(&scene, 0..100).await;
    let mut got = BTreeSet::new();
    for _ in 0..100 {
        let (_, value) = of_any(&mut members).await;
        assert!(got.insert(value), "{value} came twice");
    }
    members.push(scene.consumer(member(&group)).await);
    let (mut sent, mut second) = (100, 0);
    while second == 0 {
        write_keyed(&scene, sent..sent + 64).await;
        sent += 64;
        while got.len() < sent as usize {
            let (nth, value) = of_any(&mut members).await;
            assert!(got.insert(value), "{value} came twice");
            second += usize::from(nth == 1);
        }
    }
}

/// What a member had taken and not acknowledged when it went comes to another one.
pub async fn what_a_member_held_when_it_left_comes_to_another(setting: &Setting) {
    let Some(within) = setting.able.fails_over else { return };
    let scene = Scene::new(setting).await;
    let group = fresh("group");
    let by_hand = ConsumerOptions { ack: Ack::Manual, ..member(&group) };
    let mut first = scene.consumer(by_hand.clone()).await;
    scene.write(0..20).await;
    let held = take(&mut first, 10).await;
    assert_eq!(held.len(), 10);
    drop(first);
    let mut second = scene.consumer(by_hand).await;
    let mut got = BTreeSet::new();
    let all = async {
        while got.len() < 20 {
            let record = second.next().await.unwrap().unwrap();
            second.ack(&record).unwrap();
            got.insert(number(&record));
        }
    };
    assert!(
        tokio::time::timeout(within + Duration::from_secs(5), all).await.is_ok(),
        "only {got:?} came within {within:?} and 5 s"
    );
}

/// Moving the position of a group is nothing that one member may do.
pub async fn a_group_cannot_be_moved_by_one_member(setting: &Setting) {
    let scene = Scene::new(setting).await;
    let mut consumer = scene.consumer(member(&fresh("group"))).await;
    assert_eq!(consumer.rewind(SeekTo::Beginning).await.unwrap_err().kind(), ErrorKind::Unsupported);
}

/// Groups do not know of each other.
pub async fn two_groups_read_everything_each(setting: &Setting) {
    let scene = Scene::new(setting).await;
    if !setting.able.keeps {
        return;
    }
    scene.write(0..100).await;
    for group in [fresh("group"), fresh("group")] {
        let mut consumer = scene.consumer(member(&group)).await;
        let got: BTreeSet<u64> = take(&mut consumer, 100).await.iter().map(number).collect();
        assert_eq!(got.len(), 100);
    }
}
