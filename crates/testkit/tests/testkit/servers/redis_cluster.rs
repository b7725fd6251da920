use std::time::Instant;

use millstream_testkit::{
    servers::{Redis, RedisCluster},
    started,
};

#[test]
fn a_slot_can_be_moved_while_it_is_used() {
    let cluster = started!(RedisCluster::start_with(Redis::setup().password("secret")));
    cluster.cli(&["SET", "{tag}1", "a"]);
    cluster.cli(&["SET", "{tag}2", "b"]);
    let slot = cluster.slot("{tag}");
    let from = cluster.master(slot);
    let to = (from + 1) % 3;
    let moving = cluster.start_move(slot, to);
    moving.move_key("{tag}1");
    // The one is asked for at the new master, the other is still at the old one.
    assert_eq!(cluster.cli(&["GET", "{tag}1"]), "a");
    assert_eq!(cluster.node(from).cli(&["GET", "{tag}2"]), "b");
    assert_eq!(cluster.master(slot), from);
    assert_eq!(moving.move_keys(10), 1);
    moving.finish();
    assert_eq!(cluster.master(slot), to);
    assert_eq!(cluster.node(to).cli(&["GET", "{tag}2"]), "b");
    cluster.move_slot(slot, from);
    assert_eq!(cluster.node(from).cli(&["GET", "{tag}1"]), "a");
    assert_eq!(cluster.url().matches("127.0.0.1").count(), 6);
}

#[test]
fn replicas_take_over() {
    let began = Instant::now();
    let cluster = started!(RedisCluster::start());
    println!("started after {:?}", began.elapsed());
    cluster.cli(&["SET", "key", "value"]);
    let slot = cluster.slot("key");
    let first = cluster.master(slot);
    let began = Instant::now();
    let second = cluster.fail_over(slot);
    println!("handed over after {:?}", began.elapsed());
    assert_eq!(cluster.replica(slot), first);
    assert_eq!(cluster.cli(&["GET", "key"]), "value");
    cluster.wait_until_ok();

    cluster.node(second).kill();
    let began = Instant::now();
    assert_eq!(cluster.wait_for_master_other_than(second, slot), first);
    println!("taken over after {:?}", began.elapsed());
    cluster.node(second).restart();
    cluster.wait_until_ok();
    assert_eq!(cluster.replica(slot), second);

    cluster.node(first).pause();
    assert_eq!(cluster.wait_for_master_other_than(first, slot), second);
    cluster.node(first).resume();
    cluster.wait_until_ok();
    assert_eq!(cluster.cli(&["GET", "key"]), "value");
}
