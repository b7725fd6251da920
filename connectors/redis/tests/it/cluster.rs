//! A cluster of three masters with replicas.

use std::{collections::BTreeMap, net::TcpListener, time::Duration};

use millstream_core::{Batch, ErrorKind, Record, Resume, Sink, Source};
use millstream_testkit::{
    servers::{Redis, RedisCluster},
    started,
};
use serde_json::{Value, json};

use crate::support::*;

fn options(cluster: &RedisCluster, mut more: Value) -> Value {
    more["url"] = cluster.url().into();
    more["timeout"] = "2s".into();
    more
}

async fn open_source(options: &Value, resume: Resume) -> Box<dyn Source> {
    let mut source = plan_source(options).unwrap().create().unwrap();
    source.open(&resume).await.unwrap();
    source
}

async fn open_sink(options: &Value) -> Box<dyn Sink> {
    let mut sink = plan_sink(options).unwrap().create().unwrap();
    sink.open(&[]).await.unwrap();
    sink
}

/// Numbered values, each with a key.
fn keyed(range: std::ops::Range<usize>) -> Batch {
    let record = |i: usize| Record { key: Some(format!("key{}", i % 50).into()), ..Record::new("in", format!("v{i}")) };
    batch(&range.map(record).collect::<Vec<_>>())
}

async fn write(sink: &mut dyn Sink, batch: Batch) {
    loop {
        match sink.write(batch.clone()).await {
            Ok(_) => break,
            Err(error) if error.facts().retry => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => panic!("{error:?}"),
        }
    }
    loop {
        match sink.flush().await {
            Ok(outcomes) => {
                assert!(outcomes.rejected.is_empty(), "{:?}", outcomes.rejected);
                break;
            }
            Err(error) if error.facts().retry => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Nodes that take connections and never answer, and their part of a URL.
fn silent(nodes: usize) -> (Vec<TcpListener>, String) {
    let all: Vec<TcpListener> = (0..nodes).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<String> = all.iter().map(|node| node.local_addr().unwrap().to_string()).collect();
    (all, addresses.join(","))
}

#[tokio::test]
async fn however_many_nodes_are_silent_somebody_says_so_soon() {
    let (_nodes, addresses) = silent(8);
    let mut source = plan_source(&json!({"url": format!("redis://{addresses}/k")})).unwrap().create().unwrap();
    let resume = Resume::default();
    let opening = tokio::time::timeout(Duration::from_secs(10), source.open(&resume)).await;
    let error = opening.expect("a word within 10 s").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
}

#[tokio::test]
async fn a_node_that_answers_does_not_wait_for_those_that_are_silent() {
    let cluster = started!(RedisCluster::shared());
    let (_nodes, addresses) = silent(3);
    let url = cluster.url();
    let (_, live) = url.split_once("//").unwrap();
    let mut source = plan_source(&json!({"url": format!("redis://{addresses},{live}/k")})).unwrap().create().unwrap();
    let resume = Resume::default();
    // One silent node alone would take the whole `timeout`.
    let opening = tokio::time::timeout(Duration::from_secs(5), source.open(&resume)).await;
    opening.expect("it opens in time").unwrap();
}

/// What was read, by key; the first copies must be in order.
#[derive(Default)]
struct Got {
    by_key: BTreeMap<Vec<u8>, Vec<usize>>,
    all: usize,
    copies: usize,
}

impl Got {
    fn add(&mut self, batch: &Batch) {
        for record in batch.iter() {
            let number = std::str::from_utf8(&record.value().unwrap()[1..]).unwrap().parse().unwrap();
            let of_key = self.by_key.entry(record.key().unwrap().to_vec()).or_default();
            if of_key.contains(&number) {
                self.copies += 1;
                continue;
            }
            assert!(of_key.last().is_none_or(|last| *last < number), "{number} came late");
            of_key.push(number);
            self.all += 1;
        }
    }
}

async fn read(source: &mut dyn Source, got: &mut Got, upto: usize) {
    while got.all < upto {
        got.add(&next_again(source).await.unwrap().batch);
    }
}

#[tokio::test]
async fn shards_all_over_a_cluster_are_written_and_read() {
    let cluster = started!(RedisCluster::shared());
    let k = key();
    let mut sink = open_sink(&options(cluster, json!({"stream": k, "shards": 7}))).await;
    for i in 0..10 {
        write(&mut *sink, keyed(i * 500..(i + 1) * 500)).await;
    }
    let mut source = open_source(&options(cluster, json!({"stream": k})), until_end()).await;
    let mut got = Got::default();
    read(&mut *source, &mut got, 5000).await;
    assert_eq!((got.all, got.copies, source.shards().len()), (5000, 0, 7));
    assert!(next_read(&mut *source).await.is_none());
    // One node of the URL is enough.
    let mut one = options(cluster, json!({"stream": k}));
    one["url"] = format!("redis://{}", cluster.addresses()[0]).into();
    let mut source = open_source(&one, until_end()).await;
    let mut got = Got::default();
    read(&mut *source, &mut got, 5000).await;
}

#[tokio::test]
async fn a_group_works_in_a_cluster() {
    let cluster = started!(RedisCluster::shared());
    let k = key();
    let mut sink = open_sink(&options(cluster, json!({"stream": k, "shards": 5}))).await;
    write(&mut *sink, keyed(0..2000)).await;
    let group = options(cluster, json!({"stream": k, "group": {"name": "g", "member": "m", "claim_idle": "300ms"}}));
    let mut dead = open_source(&group, Resume::default()).await;
    let mut got = Got::default();
    read(&mut *dead, &mut got, 2000).await;
    drop(dead);
    let mut heir = group.clone();
    heir["group"]["member"] = "heir".into();
    let mut heir = open_source(&heir, Resume::default()).await;
    let mut got = Got::default();
    read(&mut *heir, &mut got, 2000).await;
    heir.keep_alive().await.unwrap();
    let position = heir.position().unwrap();
    heir.commit(&position, None).await.unwrap();
    heir.close().await.unwrap();
    for shard in 0..5 {
        let pending = cluster.cli(&["XPENDING", &format!("{k}:{shard}"), "g"]);
        assert!(pending.starts_with('0'), "{pending}");
    }
}

#[tokio::test]
async fn slots_move_while_records_are_written_and_read() {
    let cluster = started!(RedisCluster::start());
    let k = "k";
    let mut sink = open_sink(&options(&cluster, json!({"stream": k, "shards": 4}))).await;
    write(&mut *sink, keyed(0..1000)).await;
    let mut by_id = open_source(&options(&cluster, json!({"stream": k})), Resume::default()).await;
    let group = json!({"stream": k, "group": {"name": "g", "member": "m"}});
    let mut grouped = open_source(&options(&cluster, group), Resume::default()).await;
    let (mut got, mut shared) = (Got::default(), Got::default());
    let mut written = 1000;
    for shard in 0..4 {
        let slot = cluster.slot(&format!("{k}:{shard}"));
        let to = (0..3).find(|node| *node != cluster.master(slot)).unwrap();
        let moving = cluster.start_move(slot, to);
        write(&mut *sink, keyed(written..written + 500)).await;
        while moving.move_keys(1) > 0 {}
        write(&mut *sink, keyed(written + 500..written + 1000)).await;
        read(&mut *by_id, &mut got, written + 1000).await;
        read(&mut *grouped, &mut shared, written + 1000).await;
        moving.finish();
        write(&mut *sink, keyed(written + 1000..written + 1500)).await;
        written += 1500;
        read(&mut *by_id, &mut got, written).await;
        read(&mut *grouped, &mut shared, written).await;
        let position = grouped.position().unwrap();
        grouped.commit(&position, None).await.unwrap();
    }
    assert_eq!((got.copies, shared.copies), (0, 0));
}

#[tokio::test]
async fn records_can_be_waited_for_until_replicas_have_them() {
    let cluster = started!(RedisCluster::shared());
    let mut sink = open_sink(&options(cluster, json!({"stream": key(), "wait": {"replicas": 1}}))).await;
    write(&mut *sink, keyed(0..100)).await;
    let all = json!({"stream": key(), "wait": {"replicas": 2, "timeout": "1s"}});
    let mut sink = open_sink(&options(cluster, all)).await;
    sink.write(keyed(0..100)).await.unwrap();
    let error = sink.flush().await.unwrap_err();
    assert!(error.message().contains("1 of 2 replicas"), "{error:?}");
}

#[tokio::test]
async fn a_master_that_dies_is_followed_by_its_replica() {
    let cluster = started!(RedisCluster::start());
    let k = "k";
    let mut sink = open_sink(&options(&cluster, json!({"stream": k, "shards": 6}))).await;
    let mut source = open_source(&options(&cluster, json!({"stream": k})), Resume::default()).await;
    let mut got = Got::default();
    write(&mut *sink, keyed(0..2000)).await;
    read(&mut *source, &mut got, 2000).await;
    let slot = cluster.slot("k:0");
    let master = cluster.master(slot);
    // The replicas have all of it.
    cluster.wait_until_ok();
    cluster.node(master).kill();
    write_in_pieces(&mut *sink, 2000..4000).await;
    read(&mut *source, &mut got, 4000).await;
    assert_ne!(cluster.wait_for_master_other_than(master, slot), master);
    restart_as_replica(cluster.node(master));
    let begun = std::time::Instant::now();
    write_in_pieces(&mut *sink, 4000..5000).await;
    read(&mut *source, &mut got, 5000).await;
    assert!(begun.elapsed() < PATIENCE);
    assert_eq!(got.all, 5000);
}

#[tokio::test]
async fn a_group_goes_on_with_the_replica_of_a_master_that_dies() {
    let cluster = started!(RedisCluster::start());
    let k = "k";
    let mut sink = open_sink(&options(&cluster, json!({"stream": k, "shards": 6}))).await;
    let group = json!({"stream": k, "group": {"name": "g", "member": "m", "claim_idle": "2s"}});
    let mut member = open_source(&options(&cluster, group.clone()), Resume::default()).await;
    let mut got = Got::default();
    write(&mut *sink, keyed(0..2000)).await;
    read(&mut *member, &mut got, 1000).await;
    let position = member.position().unwrap();
    member.commit(&position, None).await.unwrap();
    let slot = cluster.slot("k:0");
    let master = cluster.master(slot);
    // The replicas have all of it.
    cluster.wait_until_ok();
    cluster.node(master).kill();
    write_in_pieces(&mut *sink, 2000..3000).await;
    read(&mut *member, &mut got, 3000).await;
    assert_ne!(cluster.wait_for_master_other_than(master, slot), master);
    let position = member.position().unwrap();
    while let Err(error) = member.commit(&position, None).await {
        assert!(error.facts().retry, "{error:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    member.close().await.unwrap();
    // What was acknowledged stays so with the new master; nothing waits for a member.
    let mut next = open_source(&options(&cluster, group), until_end()).await;
    while let Some(read) = next_again(&mut *next).await {
        got.add(&read.batch);
    }
    for shard in 0..6 {
        let pending = cluster.cli(&["XPENDING", &format!("{k}:{shard}"), "g"]);
        assert!(pending.starts_with('0'), "{pending}");
    }
    assert_eq!(got.all, 3000);
}

async fn write_in_pieces(sink: &mut dyn Sink, range: std::ops::Range<usize>) {
    for start in range.clone().step_by(250) {
        write(sink, keyed(start..range.end.min(start + 250))).await;
    }
}

fn restart_as_replica(node: &Redis) {
    node.restart();
}
