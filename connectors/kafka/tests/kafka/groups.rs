use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use millstream_core::{ErrorKind, Event, Position, Record, Resume, Source, Stamp};
use serde_json::{Value, json};

use crate::support::{LONG, event, kafka, name, opened, read, source, texts, topic, values, write_all};

fn stamp(epoch: u64) -> Stamp {
    Stamp { pipeline: "a pipeline".into(), store_id: "store".into(), epoch }
}

fn resume(epoch: u64, position: Option<Position>, keyed: bool) -> Resume {
    Resume { stamp: Some(stamp(epoch)), position, keyed, ..Resume::default() }
}

/// Does as the runtime does: what is to leave is committed and released, at once.
async fn member(source: &mut dyn Source, epoch: u64, seen: &mut Vec<Record>) -> bool {
    match tokio::time::timeout(Duration::from_millis(50), source.next()).await {
        Err(_) => false,
        Ok(event) => {
            match event.unwrap() {
                Event::Batch(read) => seen.extend(read.batch.iter().map(|record| record.to_record())),
                Event::Leaving(shards) => {
                    let position = source.position().unwrap();
                    source.commit(&position, Some(&stamp(epoch))).await.unwrap();
                    source.release(&shards).await.unwrap();
                    assert!(shards.iter().all(|shard| !source.position().unwrap().0.contains_key(shard)));
                }
                Event::Lost(shards) => panic!("lost {shards:?}"),
                Event::Added(_) | Event::End => {}
            }
            true
        }
    }
}

async fn share_out(topic: &str, more: Value) {
    write_all(topic, json!({"partition": "round_robin"}), &values(0, 400)).await;
    let (mut first, mut second) = (source(topic, more.clone()), source(topic, more.clone()));
    let mut seen = Vec::new();
    first.open(&resume(0, None, false)).await.unwrap();
    while seen.len() < 400 {
        member(&mut *first, 1, &mut seen).await;
    }
    assert_eq!(first.shards().len(), 4);
    // As a restart inside the process does: what the checkpoint says counts until the partitions have moved on.
    let position = first.position().unwrap();
    first.commit(&position, Some(&stamp(1))).await.unwrap();
    first.open(&resume(1, Some(position), false)).await.unwrap();
    second
        .open(&Resume { stamp: Some(Stamp { store_id: "other".into(), ..stamp(0) }), ..Resume::default() })
        .await
        .unwrap();
    let shared = tokio::time::timeout(LONG, async {
        while first.shards().len() != 2 || second.shards().len() != 2 {
            member(&mut *first, 2, &mut seen).await;
            member(&mut *second, 2, &mut seen).await;
        }
    });
    shared.await.expect("the second member has its share");
    write_all(topic, json!({"partition": "round_robin"}), &values(400, 800)).await;
    while seen.len() < 800 {
        member(&mut *first, 3, &mut seen).await;
        member(&mut *second, 3, &mut seen).await;
    }
    let position = first.position().unwrap();
    first.commit(&position, Some(&stamp(3))).await.unwrap();
    // The second one leaves as a runtime does: its last epoch, then close. The first one gets everything back.
    let position = second.position().unwrap();
    second.commit(&position, Some(&stamp(3))).await.unwrap();
    second.close().await.unwrap();
    let alone = tokio::time::timeout(LONG, async {
        while first.shards().len() != 4 {
            member(&mut *first, 4, &mut seen).await;
        }
    });
    alone.await.expect("all partitions come back");
    write_all(topic, json!({"partition": "round_robin"}), &values(800, 1000)).await;
    while seen.len() < 1000 {
        member(&mut *first, 5, &mut seen).await;
    }
    let ids: BTreeSet<_> = seen.iter().map(Record::id).collect();
    assert_eq!((seen.len(), ids.len()), (1000, 1000), "nothing twice: {more}");
    let position = first.position().unwrap();
    first.commit(&position, Some(&stamp(5))).await.unwrap();
    first.close().await.unwrap();
    // And nobody has anything to do.
    let mut last = opened(topic, more, &resume(5, None, false)).await;
    assert!(
        tokio::time::timeout(Duration::from_secs(3), async {
            loop {
                if let Event::Batch(_) = last.next().await.unwrap() {
                    return;
                }
            }
        })
        .await
        .is_err()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cooperative_rebalance_repeats_nothing() {
    share_out(&topic(4), json!({"group": name("group")})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eager_rebalance_repeats_nothing() {
    share_out(&topic(4), json!({"group": name("group"), "membership": {"assignor": "range"}})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebalance_by_the_broker_repeats_nothing() {
    share_out(&topic(4), json!({"group": name("group"), "membership": {"protocol": "consumer"}})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_of_owners_holds_for_a_group() {
    let (topic, group) = (topic(1), name("group"));
    let more = json!({"group": group});
    write_all(&topic, json!({}), &values(0, 100)).await;
    let mut first = opened(&topic, more.clone(), &resume(0, None, false)).await;
    read(&mut *first, 100).await;
    let shard = first.shards()[0].clone();
    let mut position = Position::default();
    position.set(shard.clone(), &30i64).unwrap();
    first.commit(&position, Some(&stamp(1))).await.unwrap();
    first.close().await.unwrap();

    // Ours and explained: the checkpoint, which may be further.
    let mut at_50 = Position::default();
    at_50.set(shard.clone(), &50i64).unwrap();
    let mut source = opened(&topic, more.clone(), &resume(2, Some(at_50.clone()), true)).await;
    assert_eq!(source.position().unwrap(), at_50, "kept until the group gives the partition");
    assert_eq!(read(&mut *source, 50).await[0].sequence, 50);
    source.close().await.unwrap();
    // Ours, without a checkpoint that knows the partition: it was given away, and came back.
    let mut source = opened(&topic, more.clone(), &resume(2, None, true)).await;
    assert_eq!(read(&mut *source, 70).await[0].sequence, 30);
    source.close().await.unwrap();
    // Of an epoch that our checkpoint does not know: the group's; with keyed state an error.
    let mut source = opened(&topic, more.clone(), &resume(0, Some(at_50.clone()), false)).await;
    assert_eq!(read(&mut *source, 70).await[0].sequence, 30);
    source.close().await.unwrap();
    let mut source = opened(&topic, more.clone(), &resume(0, Some(at_50.clone()), true)).await;
    let error = tokio::time::timeout(LONG, async {
        loop {
            match source.next().await {
                Err(error) if !error.facts().retry => return error,
                _ => {}
            }
        }
    });
    let error = error.await.unwrap();
    assert_eq!(error.kind(), ErrorKind::StateMismatch);
    assert!(error.hint_text().is_some());
    source.close().await.unwrap();
    // Set back by Kafka's own tool: the group's, whatever the checkpoint says.
    kafka().tool(
        "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
        &[
            "--bootstrap-server",
            &kafka().bootstrap(),
            "--group",
            &group,
            "--topic",
            &topic,
            "--reset-offsets",
            "--to-offset",
            "10",
            "--execute",
        ],
    );
    let mut source = opened(&topic, more.clone(), &resume(2, Some(at_50), true)).await;
    assert_eq!(read(&mut *source, 90).await[0].sequence, 10);
    source.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_dies_loses_only_what_it_had_not_committed() {
    let (topic, group) = (topic(2), name("group"));
    write_all(&topic, json!({"partition": "round_robin"}), &values(0, 100)).await;
    let more = json!({"group": group});
    let mut dying = opened(&topic, more.clone(), &resume(0, None, false)).await;
    let mut seen = Vec::new();
    while seen.len() < 100 {
        member(&mut *dying, 1, &mut seen).await;
    }
    let mut half = Position::default();
    dying.shards().iter().for_each(|shard| half.set(shard.clone(), &25i64).unwrap());
    dying.commit(&half, Some(&stamp(1))).await.unwrap();
    drop(dying);
    let mut next = opened(&topic, more, &Resume::default()).await;
    let again = read(&mut *next, 50).await;
    assert!(again.iter().all(|record| record.sequence >= 25));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_member_comes_back_to_its_partitions_without_a_rebalance() {
    for membership in [json!({"session_timeout": "20s"}), json!({"protocol": "consumer"})] {
        comes_back(membership).await;
    }
}

async fn comes_back(membership: Value) {
    let (topic, group) = (topic(4), name("group"));
    let of = |instance: &str| {
        let mut membership = membership.clone();
        membership["instance"] = instance.into();
        json!({"group": group, "membership": membership})
    };
    let (mut first, mut second) = (source(&topic, of("one")), source(&topic, of("two")));
    let mut seen = Vec::new();
    first.open(&resume(0, None, false)).await.unwrap();
    second.open(&resume(0, None, false)).await.unwrap();
    let shared = tokio::time::timeout(LONG, async {
        while first.shards().len() != 2 || second.shards().len() != 2 {
            member(&mut *first, 1, &mut seen).await;
            member(&mut *second, 1, &mut seen).await;
        }
    });
    shared.await.expect("both have their share");
    let before = second.shards();
    second.close().await.unwrap();
    let mut again = opened(&topic, of("two"), &resume(1, None, false)).await;
    let back = tokio::time::timeout(LONG, async {
        while again.shards() != before {
            assert_eq!(first.shards().len(), 2);
            member(&mut *first, 1, &mut seen).await;
            member(&mut *again, 1, &mut seen).await;
        }
    });
    back.await.expect("the same partitions");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_metadata_does_no_harm() {
    use rdkafka::{
        ClientConfig, Offset, TopicPartitionList,
        consumer::{BaseConsumer, CommitMode, Consumer as _},
    };
    let (topic, group) = (topic(1), name("group"));
    write_all(&topic, json!({}), &values(0, 10)).await;
    let (to, of) = (topic.clone(), group.clone());
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", kafka().bootstrap()).set("group.id", of).create().unwrap();
        let mut list = TopicPartitionList::new();
        let mut element = list.add_partition(&to, 0);
        element.set_offset(Offset::Offset(4)).unwrap();
        element.set_metadata("millstream1 is not all of it");
        consumer.commit(&list, CommitMode::Sync).unwrap();
    })
    .await
    .unwrap();
    let mut source = opened(&topic, json!({"group": group}), &resume(0, None, true)).await;
    assert_eq!(texts(&read(&mut *source, 6).await), ["4", "5", "6", "7", "8", "9"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyed_state_waits_for_all_partitions_and_stops_without_them() {
    let (topic, group) = (topic(2), name("group"));
    write_all(&topic, json!({"partition": "round_robin"}), &values(0, 10)).await;
    let more = json!({"group": group});
    let mut other = opened(&topic, more.clone(), &Resume::default()).await;
    let mut seen = Vec::new();
    while seen.len() < 10 {
        member(&mut *other, 1, &mut seen).await;
    }
    let mut keyed = opened(&topic, more, &resume(9, None, true)).await;
    let waits = tokio::time::timeout(LONG, async {
        loop {
            member(&mut *other, 1, &mut seen).await;
            if let Ok(Err(error)) = tokio::time::timeout(Duration::from_millis(50), keyed.next()).await {
                return error;
            }
        }
    });
    let error = waits.await.expect("it says that it waits");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains('2'), "{error:?}");
    write_all(&topic, json!({"partition": "round_robin"}), &values(10, 20)).await;
    other.close().await.unwrap();
    let mut got = BTreeMap::new();
    while got.len() < 10 {
        if let Ok(Event::Batch(read)) = event(&mut *keyed).await {
            got.extend(read.batch.iter().map(|record| (record.id(), ())));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_opened_again_stays_one_and_goes_back_to_what_is_committed() {
    let (topic, group) = (topic(2), name("group"));
    write_all(&topic, json!({"partition": "round_robin"}), &values(0, 100)).await;
    let mut member = opened(&topic, json!({"group": group}), &resume(0, None, false)).await;
    read(&mut *member, 100).await;
    let mut half = Position::default();
    member.shards().iter().for_each(|shard| half.set(shard.clone(), &30i64).unwrap());
    member.commit(&half, Some(&stamp(1))).await.unwrap();
    let shards = member.shards();
    member.open(&resume(1, Some(half.clone()), false)).await.unwrap();
    assert_eq!((member.shards(), member.position().unwrap()), (shards, half), "without a rebalance");
    assert!(read(&mut *member, 40).await.iter().all(|record| record.sequence >= 30));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_takes_no_records_still_gives_partitions_away() {
    let (topic, group) = (topic(2), name("group"));
    write_all(&topic, json!({"partition": "round_robin"}), &values(0, 20_000)).await;
    let mut first = opened(&topic, json!({"group": group}), &resume(0, None, false)).await;
    while first.shards().len() < 2 {
        event(&mut *first).await.unwrap();
    }
    let mut second = opened(&topic, json!({"group": group}), &Resume::default()).await;
    let leaving = tokio::time::timeout(LONG, async {
        loop {
            if let Event::Leaving(shards) = first.news().await {
                return shards;
            }
        }
    });
    let shards = leaving.await.expect("news");
    let position = first.position().unwrap();
    first.commit(&position, Some(&stamp(1))).await.unwrap();
    first.release(&shards).await.unwrap();
    let given = tokio::time::timeout(LONG, async {
        while second.shards() != shards {
            second.next().await.unwrap();
        }
    });
    given.await.expect("its share");
    // What waited of them is nobody's but the new owner's.
    let Event::Batch(read) = event(&mut *first).await.unwrap() else { panic!() };
    assert!(read.batch.iter().all(|record| !shards.contains(record.origin())));
}

/// The event that says that all is lost, or the error that ends it.
async fn shut_out(source: &mut dyn Source) -> Result<usize, ErrorKind> {
    loop {
        match event(source).await {
            Ok(Event::Lost(shards)) => return Ok(shards.len()),
            Ok(_) => {}
            Err(error) if error.facts().retry => {}
            Err(error) => return Err(error.kind()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_member_that_is_shut_out_joins_anew_once_and_then_ends() {
    let topic = topic(2);
    let more = json!({
        "group": name("group"), "membership": {"instance": "one"}, "property": {"heartbeat.interval.ms": "300"},
    });
    write_all(&topic, json!({"partition": "round_robin"}), &values(0, 20)).await;
    let (mut first, mut second) = (source(&topic, more.clone()), source(&topic, more.clone()));
    first.open(&resume(0, None, false)).await.unwrap();
    read(&mut *first, 20).await;
    second.open(&resume(0, None, false)).await.unwrap();
    assert_eq!(shut_out(&mut *first).await, Ok(2), "it may be its own request that came late");
    read(&mut *second, 20).await;
    first.open(&resume(0, None, false)).await.unwrap();
    assert_eq!(shut_out(&mut *second).await, Ok(2));
    read(&mut *first, 20).await;
    second.open(&resume(0, None, false)).await.unwrap();
    assert_eq!(shut_out(&mut *first).await, Err(ErrorKind::Fenced), "that was another runner");
    first.close().await.unwrap();
    // A program that reads without a pipeline is told at once: nobody opens it again.
    let mut program = opened(&topic, more, &Resume::default()).await;
    read(&mut *program, 20).await;
    second.open(&resume(0, None, false)).await.unwrap();
    assert_eq!(shut_out(&mut *program).await, Err(ErrorKind::Fenced));
    second.close().await.unwrap();
    program.close().await.unwrap();
}

/// The broker keeps the name for the member that has it: another one of that name waits until it has gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_broker_shares_out_a_static_members_name_is_its_own_as_long_as_it_lives() {
    let topic = topic(2);
    let more = json!({"group": name("group"), "membership": {"protocol": "consumer", "instance": "one"}});
    write_all(&topic, json!({"partition": "round_robin"}), &values(0, 20)).await;
    let (mut first, mut second) = (source(&topic, more.clone()), source(&topic, more));
    first.open(&resume(0, None, false)).await.unwrap();
    read(&mut *first, 20).await;
    for _ in 0..3 {
        second.open(&resume(0, None, false)).await.unwrap();
        assert_eq!(shut_out(&mut *second).await, Ok(0), "it has nothing, and joins anew");
    }
    write_all(&topic, json!({"partition": "round_robin"}), &values(20, 40)).await;
    read(&mut *first, 20).await;
    let position = first.position().unwrap();
    first.commit(&position, Some(&stamp(1))).await.unwrap();
    first.close().await.unwrap();
    write_all(&topic, json!({"partition": "round_robin"}), &values(40, 60)).await;
    second.open(&resume(0, None, false)).await.unwrap();
    let mut rest = texts(&read(&mut *second, 20).await);
    rest.sort();
    assert_eq!(rest, texts(&values(40, 60)));
    second.close().await.unwrap();
}

/// Who holds up the others for too long is left behind, with what it has not committed.
async fn goes_as_it_is(membership: Value) {
    let topic = topic(2);
    let more = json!({"group": name("group"), "membership": membership});
    write_all(&topic, json!({"partition": "round_robin"}), &values(0, 20)).await;
    let mut first = opened(&topic, more.clone(), &resume(0, None, false)).await;
    read(&mut *first, 20).await;
    let all = first.position().unwrap();
    let mut second = opened(&topic, more, &resume(0, None, false)).await;
    // It hears that they are to leave, and does nothing about it.
    let lost = tokio::time::timeout(LONG, async {
        loop {
            if let Event::Lost(shards) = first.next().await.unwrap() {
                return shards;
            }
        }
    });
    let lost = lost.await.expect("it is told that they are lost");
    assert!(lost.iter().all(|shard| !first.shards().contains(shard)));
    // What it had read of them counts for nothing any more.
    let _ = first.commit(&all, Some(&stamp(1))).await;
    let taken = tokio::time::timeout(LONG, async {
        loop {
            tokio::select! {
                event = first.next() => drop(event.unwrap()),
                event = second.next() => if let Event::Batch(read) = event.unwrap() {
                    return read.batch.get(0).to_record();
                },
            }
        }
    });
    let record = taken.await.expect("the other member reads them");
    assert_eq!((record.sequence, lost.contains(&record.origin)), (0, true), "{membership}: from where the group knows");
    first.close().await.unwrap();
    second.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_given_away_in_time_goes_as_it_is() {
    tokio::join!(
        goes_as_it_is(json!({"session_timeout": "6s", "rebalance_timeout": "6s"})),
        goes_as_it_is(json!({"session_timeout": "6s", "rebalance_timeout": "6s", "assignor": "range"})),
        goes_as_it_is(json!({"protocol": "consumer", "rebalance_timeout": "6s"})),
    );
}
