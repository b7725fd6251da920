//! Members of a group under load: they join and leave, are killed, stand still, and lose their partitions without notice.
//!
//! Who owns the position (`delivery.md`), and which tests hold each row to it, all on real servers:
//!
//! | row | tests |
//! |---|---|
//! | Kafka by assignment: our checkpoint | `reading::a_source_resumes_behind_any_record`, `reading::a_source_begins_where_it_is_told`, `crash::a_killed_process_that_reads_by_position_is_exactly_once` |
//! | Kafka group: whose offset wins; set back by Kafka's own tool | `groups::the_table_of_owners_holds_for_a_group`, `groups::foreign_metadata_does_no_harm` |
//! | ... with keyed state: another store's offset is a mismatch, until it is begun anew | `exact::a_lost_store_with_keyed_state_is_a_mismatch_until_it_is_begun_anew`, `exact::begun_anew_keyed_state_agrees_with_its_group_also_after_a_restart` |
//! | ... with keyed state: all partitions or none | `groups::keyed_state_waits_for_all_partitions_and_stops_without_them`, `exact::keyed_state_stops_at_an_epoch_when_its_group_takes_a_partition` |
//! | ... at commit: in the hosting transaction | `hosting::group_offsets_count_with_the_transaction`, `hosting::a_member_of_an_old_generation_cannot_commit`, `crash::a_killed_process_that_reads_with_a_group_is_exactly_once` |
//! | ... a partition that is taken away is drained first, leaves our checkpoint, and comes back | `groups::a_cooperative_rebalance_repeats_nothing` and its sisters, the storms here, `a_partition_that_comes_back_begins_where_the_other_member_left_it` |
//! | ... one that is lost without notice | `a_member_that_loses_its_partitions_without_notice_commits_nothing_of_them`, `members_that_stand_still_or_are_killed_do_not_break_exactly_once` |
//! | ... one that is not drained in time | `groups::what_is_not_given_away_in_time_goes_as_it_is`, `hosting::a_member_that_has_lost_partitions_cannot_commit_them_before_it_knows`, `a_member_whose_sink_hangs_keeps_no_partition_from_the_others` |
//! | Redis by id: our checkpoint | in `connectors/redis/tests/it`: `source::reading_goes_on_behind_any_position`, `source::a_stream_that_went_back_is_found` |
//! | Redis group: the pending list | there: `group::what_is_committed_is_acknowledged_and_nothing_else`, `group::a_dead_members_records_are_taken_over_with_their_count`, `group::a_pipeline_that_is_started_again_goes_on_under_its_name` |
//! | ... exactly once on the same node, or in the same slot | there: `pipeline::a_group_and_a_sink_of_one_server_are_exactly_once_however_often_they_are_killed`, `pipeline::a_group_in_one_slot_of_a_cluster_is_exactly_once_also_beside_a_sink_over_several_slots` |

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_core::{Delivery, Event, Position, Resume, SinkPlan, Stamp};
use millstream_runtime::{Entry, Phase, PipelineSpec, Running};
use millstream_state::Memory;
use millstream_testkit::{
    FakeSink, budget,
    servers::{Kafka, Listener},
    started,
};
use serde_json::{Value, json};

use crate::{
    crash::Job,
    runs::{Feed, assert_once, at, repeats, run, shared, spec, wait_for},
    support::{LONG, event, name, source_plan, topic},
};

/// A member of a group: a pipeline that ends in memory.
fn member(brokers: &str, topic: &str, more: &Value, sink: &FakeSink) -> Running {
    run(&member_spec(brokers, topic, more, sink), &Memory::new())
}

fn member_spec(brokers: &str, topic: &str, more: &Value, sink: &FakeSink) -> PipelineSpec {
    let mut spec = spec(&name("member"), Delivery::AtLeastOnce, &at(brokers, topic, more.clone()), &[]);
    let mut entry = Entry::ready(Arc::new(sink.clone()) as Arc<dyn SinkPlan>);
    entry.from = vec!["custom".to_owned()];
    spec.sinks = vec![entry];
    spec
}

async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < LONG, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One member stays; each second another one joins and the oldest of the others leaves, for a while.
async fn storm(more: Value) {
    let _kafka = started!(Kafka::shared());
    let (brokers, from) = (shared().bootstrap(), topic(6));
    // All write into it, so what it holds is the order in which records were delivered.
    let sink = FakeSink::plain();
    let feed = Feed::start(&brokers, &from, 6, (20, Duration::from_millis(50)));
    let mut first = member(&brokers, &from, &more, &sink);
    let mut others = VecDeque::new();
    let (mut joined, mut shared_out) = (0, 0);
    let seconds = budget(10, 30);
    for second in 0..seconds + 3 {
        if second < seconds {
            others.push_back(member(&brokers, &from, &more, &sink));
            joined += 1;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        if second >= 2
            && let Some(mut oldest) = others.pop_front()
        {
            let drained = tokio::time::timeout(LONG, oldest.drain(Duration::from_secs(20))).await;
            shared_out += u64::from(drained.expect("an end").unwrap().stages["kafka"].records_in > 0);
        }
    }
    let each = feed.end().await;
    let deadline = Instant::now() + LONG;
    while sink.records().len() < each * 6 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    first.drain(Duration::from_secs(20)).await.unwrap();
    assert!(others.is_empty());
    let again = repeats(&sink.records(), 6, each, "what the members delivered");
    println!(
        "{more}: {joined} joined and left, {shared_out} of them got records; {} records, {again} repeated",
        each * 6
    );
    assert!(shared_out > 0, "nobody got a share");
    assert_eq!(again, 0, "a clean rebalance repeats nothing: {more}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_cooperative_rebalances_loses_and_repeats_nothing() {
    storm(json!({"group": name("group"), "property": {"heartbeat.interval.ms": "300"}})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_eager_rebalances_loses_and_repeats_nothing() {
    let property = json!({"heartbeat.interval.ms": "300"});
    storm(json!({"group": name("group"), "membership": {"assignor": "range"}, "property": property})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_rebalances_by_the_broker_loses_and_repeats_nothing() {
    storm(json!({"group": name("group"), "membership": {"protocol": "consumer"}})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_comes_back_begins_where_the_other_member_left_it() {
    let _kafka = started!(Kafka::shared());
    let (brokers, from) = (shared().bootstrap(), topic(2));
    let more = json!({"group": name("group"), "property": {"heartbeat.interval.ms": "300"}});
    let feed = Feed::start(&brokers, &from, 2, (10, Duration::from_millis(20)));
    let (here, there) = (FakeSink::plain(), FakeSink::plain());
    let spec = member_spec(&brokers, &from, &more, &here);
    // It dies without its last epoch, so that what it has saved of the partition is old.
    let memory = Memory::new();
    let mut first = run(&spec, &memory);
    until("the first one reads", || here.records().len() > 100).await;
    let mut second = member(&brokers, &from, &more, &there);
    until("the second one reads", || there.records().len() > 100).await;
    let deadline = tokio::time::timeout(LONG, second.drain(Duration::from_secs(20)));
    deadline.await.expect("an end").unwrap();
    let moved = there.records().last().unwrap().origin.clone();
    let last = there.records().iter().filter(|record| record.origin == moved).map(|record| record.sequence).max();
    let of_moved = || here.records().iter().filter(|record| record.origin == moved).map(|record| record.sequence).max();
    until("it comes back", || of_moved() > last).await;
    first.handle().stop();
    first.wait().await.unwrap();
    let mut again = run(&spec, &memory);
    let each = feed.end().await;
    let all = || {
        let mut found: Vec<_> = here.records();
        found.extend(there.records());
        found.sort_by_key(|record| (record.origin.clone(), record.sequence));
        found.dedup_by_key(|record| (record.origin.clone(), record.sequence));
        found
    };
    until("the rest", || all().len() >= each * 2).await;
    assert_once(&all(), 2, each, "all that both have read");
    let seen: BTreeSet<_> = there.records().iter().map(|record| record.id()).collect();
    assert!(here.records().iter().all(|record| !seen.contains(&record.id())), "the other's records are not read again");
    again.drain(Duration::from_secs(20)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_stand_still_or_are_killed_do_not_break_exactly_once() {
    let _kafka = started!(Kafka::shared());
    let (brokers, from, to, log) = (shared().bootstrap(), topic(4), topic(4), name("log"));
    let source = json!({"group": name("group"), "membership": {"session_timeout": "3s"}});
    // Two members, each a pipeline of its own, into one topic.
    let jobs = [0, 1].map(|_| Job::of(&name("member"), &log, &from, source.clone(), &[&to]));
    let feed = Feed::start(&brokers, &from, 4, (10, Duration::from_millis(20)));
    let mut processes = jobs.each_ref().map(|job| job.start(None));
    tokio::time::sleep(Duration::from_secs(3)).await;
    for round in 0..budget(1, 5) {
        // Long enough to lose its place in the group, with a transaction open and records in hand.
        processes[round % 2].signal("-STOP");
        tokio::time::sleep(Duration::from_secs(6)).await;
        processes[round % 2].signal("-CONT");
        tokio::time::sleep(Duration::from_secs(2)).await;
        processes[(round + 1) % 2].kill();
        tokio::time::sleep(Duration::from_secs(5)).await;
        processes[(round + 1) % 2] = jobs[(round + 1) % 2].start(None);
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let each = feed.end().await;
    let found = wait_for(&brokers, &to, each * 4).await;
    assert_once(&found, 4, each, "what two members wrote");
    processes.iter_mut().for_each(|process| process.kill());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_loses_its_partitions_without_notice_commits_nothing_of_them() {
    let kafka = started!(Kafka::setup().patient().proxied().start());
    kafka.create_topic("numbers", 2, &[]);
    let group = json!({"group": "shared", "membership": {"session_timeout": "2s"}});
    let (near, far) = (kafka.bootstrap(), kafka.bootstrap_of(Listener::Proxied));
    let each = Feed::start(&near, "numbers", 2, (1000, Duration::ZERO)).end().await;
    let stamp = |epoch| Stamp { pipeline: "p".into(), store_id: "s".into(), epoch };
    let open = async |brokers: &str| {
        let mut source = source_plan(&at(brokers, "numbers", group.clone())).unwrap().create().unwrap();
        source.open(&Resume { stamp: Some(stamp(0)), ..Resume::default() }).await.unwrap();
        source
    };
    let mut first = open(&far).await;
    let mut held = 0;
    while held < each * 2 {
        if let Event::Batch(read) = event(&mut *first).await.unwrap() {
            held += read.batch.len();
        }
    }
    let (shards, all) = (first.shards(), first.position().unwrap());
    let mut tenth = Position::default();
    shards.iter().for_each(|shard| tenth.set(shard.clone(), &10i64).unwrap());
    first.commit(&tenth, Some(&stamp(1))).await.unwrap();
    // Its session ends, while it holds all records but ten of each partition.
    tokio::task::block_in_place(|| kafka.proxy(1).stall());
    let mut second = open(&near).await;
    let mut seen = BTreeSet::new();
    while seen.len() < (each - 10) * 2 {
        if let Event::Batch(read) = event(&mut *second).await.unwrap() {
            seen.extend(read.batch.iter().map(|record| record.id()));
        }
    }
    let mut half = Position::default();
    shards.iter().for_each(|shard| half.set(shard.clone(), &20i64).unwrap());
    second.commit(&half, Some(&stamp(2))).await.unwrap();
    tokio::task::block_in_place(|| kafka.proxy(1).resume());
    let lost = tokio::time::timeout(LONG, async {
        loop {
            match first.next().await {
                Ok(Event::Lost(shards)) => return shards,
                Ok(Event::Leaving(shards)) => panic!("{shards:?} were lost, and cannot be drained"),
                Ok(_) => {}
                Err(error) => assert!(error.facts().retry, "{error:?}"),
            }
        }
    });
    let mut lost = lost.await.expect("it is told");
    lost.sort();
    assert_eq!(lost, shards);
    // What it held counts for nothing any more.
    let _ = first.commit(&all, Some(&stamp(3))).await;
    first.close().await.unwrap();
    second.close().await.unwrap();
    let mut third = open(&near).await;
    let mut rest = 0;
    while rest < (each - 20) * 2 {
        if let Event::Batch(read) = event(&mut *third).await.unwrap() {
            assert!(read.batch.iter().all(|record| record.sequence() >= 20), "the other's commit is what counts");
            rest += read.batch.len();
        }
    }
}

/// A sink that hangs holds up what is its own, and no longer than agreed what the others wait for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_sink_hangs_keeps_no_partition_from_the_others() {
    let _kafka = started!(Kafka::shared());
    let (brokers, from) = (shared().bootstrap(), topic(2));
    let more = json!({"group": name("group"), "membership": {"session_timeout": "6s", "rebalance_timeout": "6s"}});
    let (hanging, healthy) = (FakeSink::plain(), FakeSink::plain());
    hanging.stall(true);
    let feed = Feed::start(&brokers, &from, 2, (20, Duration::from_millis(50)));
    let mut first = member(&brokers, &from, &more, &hanging);
    let handle = first.handle();
    until("the first one reads", || handle.status().stages["kafka"].records_in > 0).await;
    let mut second = member(&brokers, &from, &more, &healthy);
    until("the second one delivers", || !healthy.values().is_empty()).await;
    let each = feed.end().await;
    hanging.stall(false);
    let all = || {
        let seen: BTreeSet<String> = hanging.values().into_iter().chain(healthy.values()).collect();
        seen.len() == each * 2
    };
    until("nothing is lost", all).await;
    let own: BTreeSet<String> = healthy.values().into_iter().collect();
    assert_eq!(own.len(), healthy.values().len(), "nothing twice where nothing was wrong");
    for running in [&mut first, &mut second] {
        tokio::time::timeout(LONG, running.drain(Duration::from_secs(20))).await.expect("an end").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_name_is_taken_waits_until_it_is_free() {
    let _kafka = started!(Kafka::shared());
    let (brokers, from) = (shared().bootstrap(), topic(2));
    let more = json!({"group": name("group"), "membership": {"protocol": "consumer", "instance": "one"}});
    let (sink, other) = (FakeSink::plain(), FakeSink::plain());
    let feed = Feed::start(&brokers, &from, 2, (20, Duration::from_millis(50)));
    let mut first = member(&brokers, &from, &more, &sink);
    until("the first one delivers", || !sink.values().is_empty()).await;
    let mut second = member(&brokers, &from, &more, &other);
    let handle = second.handle();
    let waits = || {
        let status = handle.status();
        let says_why = matches!(&status.phase, Phase::Restarting(cause) if cause.contains("no place in the group"));
        status.restarts >= 3 && says_why
    };
    until("the second one waits, and says why", waits).await;
    assert!(other.values().is_empty());
    tokio::time::timeout(LONG, first.drain(Duration::from_secs(20))).await.expect("an end").unwrap();
    until("the second one delivers", || !other.values().is_empty()).await;
    let each = feed.end().await;
    let all = || sink.values().len() + other.values().len() >= each * 2;
    until("all is delivered", all).await;
    tokio::time::timeout(LONG, second.drain(Duration::from_secs(20))).await.expect("an end").unwrap();
    let found: Vec<_> = sink.records().into_iter().chain(other.records()).collect();
    assert_once(&found, 2, each, "what both delivered");
}
