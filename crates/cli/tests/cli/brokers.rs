//! The commands between real brokers, files and pipes.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead as _, BufReader},
    time::Duration,
};

use millstream_testkit::{
    budget,
    servers::{Kafka, Redis},
    started,
};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    crash::{Dice, Kept},
    support::{Folder, finish, signal, until},
};

/// A name that no other test of the shared servers uses.
pub(crate) fn fresh(what: &str) -> String {
    format!("{what}-{}-{:x}", std::process::id(), Dice::new().below(1 << 40))
}

/// Records with keys, headers, tombstones and bytes that are no text, as JSON lines.
fn shaped(count: u64) -> String {
    let mut lines = String::new();
    for i in 0..count {
        let value = match i % 100 {
            7 => "\"value\":null".to_owned(),
            8 => "\"value_base64\":\"AP8K\"".to_owned(),
            _ => format!("\"value\":\"record {i} ä\""),
        };
        let headers = format!("[[\"n\",\"{i}\"],[\"n\",\"again\"],[\"raw\",{{\"base64\":\"/w==\"}}]]");
        let _ = writeln!(lines, "{{{value},\"key\":\"k{}\",\"headers\":{headers}}}", i % 37);
    }
    lines
}

/// What a record says, without where it stands: the same in every system.
fn contents(lines: &str) -> Vec<(String, Value)> {
    let mut all: Vec<(String, Value)> = lines
        .lines()
        .map(|line| {
            let mut record: Value = serde_json::from_str(line).unwrap();
            let object = record.as_object_mut().unwrap();
            for place in ["stream", "shard", "sequence", "time"] {
                object.remove(place);
            }
            (record.to_string(), record["headers"][0][1].clone())
        })
        .collect();
    all.sort_by_key(|(_, number)| number.as_str().and_then(|number| number.parse::<u64>().ok()));
    all
}

#[test]
fn records_go_from_kafka_over_redis_to_kafka_and_stay_what_they_are() {
    let (kafka, redis) = (started!(Kafka::shared()), started!(Redis::shared()));
    let count = budget(20_000, 1_000_000);
    let (folder, from, to) = (Folder::new(), fresh("from"), fresh("to"));
    kafka.create_topic(&from, 3, &[]);
    kafka.create_topic(&to, 3, &[]);
    let (first, second) =
        (format!("kafka://{}/{from}", kafka.bootstrap()), format!("kafka://{}/{to}", kafka.bootstrap()));
    let middle = format!("{}/{}", redis.url(), fresh("middle"));
    let lines = shaped(count);
    folder.feed(&format!("produce {first} --format ndjson"), lines.as_bytes()).code(0);
    folder.run(&format!("relay {first} {middle}?ids=auto --until-end")).code(0);
    folder.run(&format!("relay {middle} {second} --until-end")).code(0);
    let read =
        |url: &str| folder.run(&format!("consume {url} --start beginning --until-end --format ndjson")).code(0).out;
    let (sent, got) = (contents(&read(&first)), contents(&read(&second)));
    assert_eq!(sent.len() as u64, count);
    assert!(sent == got, "{:?}", sent.iter().zip(&got).find(|(sent, got)| sent != got));
}

#[test]
fn a_resumed_relay_that_is_killed_loses_nothing() {
    let (kafka, redis) = (started!(Kafka::shared()), started!(Redis::shared()));
    let (folder, mut dice) = (Folder::new(), Dice::new());
    let topic = fresh("numbers");
    kafka.create_topic(&topic, 3, &[]);
    let url = format!("kafka://{}/{topic}", kafka.bootstrap());
    let copy = format!("{}/{}", redis.url(), fresh("copy"));
    let relay = format!("relay {url} {copy}?ids=auto --resume copy --start beginning");
    let (rounds, each) = (10, budget(500, 20_000));
    for round in 0..rounds {
        let numbers: String = (round * each..(round + 1) * each).map(|i| format!("{i}\n")).collect();
        let running = Kept::spawn(&mut folder.command(relay.split_whitespace()));
        folder.feed(&format!("produce {url}"), numbers.as_bytes()).code(0);
        std::thread::sleep(Duration::from_millis(dice.below(1_500)));
        signal(running.id(), Signal::KILL);
        finish(running.take());
    }
    let read = || {
        folder.run(&format!("{relay} --until-end")).code(0);
        let lines = folder.run(&format!("consume {copy} --start beginning --until-end --format raw")).code(0).out;
        let mut copies = BTreeMap::<u64, u64>::new();
        for line in lines.lines() {
            *copies.entry(line.parse().unwrap()).or_default() += 1;
        }
        copies
    };
    let copies = read();
    assert!(copies.keys().copied().eq(0..rounds * each), "{} of {} numbers", copies.len(), rounds * each);
    // What a run that was killed had not saved is copied by the next one: once in each run that may have seen it.
    for (&number, &times) in &copies {
        let runs = rounds - number / each + 1;
        assert!(times <= runs, "{number} was copied {times} times in {runs} runs");
    }
    assert_eq!(read(), copies, "a clean end repeats nothing");
}

#[test]
fn members_of_a_group_share_a_topic_and_hand_it_over() {
    let kafka = started!(Kafka::shared());
    let (folder, topic, group) = (Folder::new(), fresh("shared"), fresh("group"));
    kafka.create_topic(&topic, 2, &[]);
    let url = format!("kafka://{}/{topic}", kafka.bootstrap());
    let numbers: String = (0..200).map(|i| format!("{i}\n")).collect();
    folder.feed(&format!("produce {url}"), numbers.as_bytes()).code(0);
    let consume = format!("consume {url} --group {group} --format raw");
    let first = folder.run(&format!("{consume} --count 120 --start beginning")).code(0).out;
    let rest = folder.run(&format!("{consume} --count 80")).code(0).out;
    let mut all: Vec<u64> = first.lines().chain(rest.lines()).map(|line| line.parse().unwrap()).collect();
    all.sort_unstable();
    assert_eq!(all, (0..200).collect::<Vec<_>>());
}

#[test]
fn a_member_that_stops_after_a_count_leaves_the_rest_to_others() {
    let redis = started!(Redis::shared());
    let (folder, stream) = (Folder::new(), fresh("counted"));
    let url = format!("{}/{stream}", redis.url());
    let numbers: String = (0..100).map(|i| format!("{i}\n")).collect();
    folder.feed(&format!("produce {url}"), numbers.as_bytes()).code(0);
    let consume = format!("consume {url}?group.claim_idle=30s --group g --start beginning --format raw");
    let mut all = Vec::new();
    // More often than a record may be handed out: what nobody has seen is not given up.
    for _ in 0..7 {
        let five = folder.run(&format!("{consume} --count 5")).code(0).out;
        all.extend(five.lines().map(|line| line.parse::<u64>().unwrap()));
    }
    assert_eq!(all.len(), 35);
    let rest = folder.run(&format!("{consume} --until-end")).code(0).out;
    all.extend(rest.lines().map(|line| line.parse::<u64>().unwrap()));
    all.sort_unstable();
    assert_eq!(all, (0..100).collect::<Vec<_>>());
    assert!(redis.cli(&["XPENDING", &stream, "g"]).starts_with('0'));
    assert_eq!(redis.cli(&["XINFO", "CONSUMERS", &stream, "g"]), "", "no member stays behind");
}

#[test]
fn a_group_that_cannot_be_moved_by_its_pipeline_goes_on_when_that_is_taken_back() {
    let redis = started!(Redis::shared());
    let folder = Folder::new();
    let url = format!("{}/{}", redis.url(), fresh("moved"));
    let source = format!("{{ redis_stream: {{ url: \"{url}\", group: g }} }}");
    folder.write("p.yaml", format!("source: {source}\nsink: {{ stdout: {{}} }}\n"));
    folder.feed(&format!("produce {url}"), b"a\nb\n").code(0);
    folder.run("run p.yaml --until-end").code(0).prints("a\nb\n");
    folder.run("state seek p --to beginning").code(0);
    folder.feed(&format!("produce {url}"), b"c\n").code(0);
    folder.run("run p.yaml --until-end").code(2).says("cannot seek").says("XGROUP SETID").says("`committed`");
    folder.run("state seek p --to committed").code(0);
    folder.run("run p.yaml --until-end").code(0).prints("c\n");
}

#[test]
fn a_stream_that_is_not_there_is_named_and_waited_for() {
    let redis = started!(Redis::shared());
    let (folder, stream) = (Folder::new(), fresh("late"));
    let url = format!("{}/{stream}", redis.url());
    let ends = folder.run(&format!("consume {url} --until-end")).code(1);
    assert!(ends.err.contains(&stream) && ends.err.contains("no such stream"), "{ends:?}");
    let consume = ["consume", &url, "--start", "beginning", "--count", "1", "--format", "raw"];
    let mut waiting = Kept::spawn(&mut folder.command(consume));
    let mut told = BufReader::new(waiting.stderr.take().unwrap()).lines();
    let first = told.next().unwrap().unwrap();
    assert!(first.contains(&stream) && first.contains("no such stream"), "{first}");
    folder.feed(&format!("produce {url}"), b"a\n").code(0);
    finish(waiting.take()).code(0).prints("a\n");
}

#[test]
fn a_clock_ticks_into_redis_and_a_live_reader_sees_it() {
    let redis = started!(Redis::shared());
    let (folder, stream) = (Folder::new(), format!("{}/{}", redis.url(), fresh("clock")));
    let clock = Kept::spawn(&mut folder.command(["clock", &stream, "--interval", "50ms"]));
    let seen = folder.run(&format!("consume {stream} --start beginning --count 5")).code(0).out;
    assert_eq!(seen.lines().count(), 5, "{seen}");
    let mut clock = clock.take();
    signal(clock.id(), Signal::INT);
    until("the clock stops", || clock.try_wait().unwrap().is_some());
}

#[test]
fn what_brokers_refuse_is_told_with_the_address_and_without_the_secret() {
    let redis = started!(Redis::setup().password("right").start());
    let folder = Folder::new();
    let wrong = format!("redis://:wr0ng@{}/s", redis.address());
    let told = folder.run(&format!("consume {wrong} --until-end")).code(1);
    assert!(told.err.contains(&redis.address()) && !told.err.contains("wr0ng"), "{told:?}");
    // Nobody there may change: it is waited for, and told.
    let mut waiting = Kept::spawn(&mut folder.command(["consume", "kafka://127.0.0.1:1/topic"]));
    let first = BufReader::new(waiting.stderr.take().unwrap()).lines().next().unwrap().unwrap();
    assert!(first.contains("127.0.0.1:1/topic") && first.contains("refused"), "{first}");
}

#[test]
fn a_position_in_kafka_is_moved_on_purpose_with_a_group_and_without() {
    let kafka = started!(Kafka::shared());
    for group in [String::new(), format!(", group: {}", fresh("sought"))] {
        let (folder, topic) = (Folder::new(), fresh("sought"));
        kafka.create_topic(&topic, 1, &[]);
        let url = format!("kafka://{}/{topic}", kafka.bootstrap());
        folder.feed(&format!("produce {url}"), b"a\nb\nc\nd\n").code(0);
        folder.write("p.yaml", format!("source: {{ kafka: {{ url: \"{url}\"{group} }} }}\nsink: {{ stdout: {{}} }}\n"));
        folder.run("run p.yaml --until-end").code(0).prints("a\nb\nc\nd\n");
        folder.run("state seek p --to 2").code(0).says("the next run goes on at `2`");
        folder.run("run p.yaml --until-end").code(0).prints("c\nd\n");
        folder.run("run p.yaml --until-end").code(0).prints("");
        folder.run("state seek p --to beginning").code(0);
        folder.run("run p.yaml --until-end").code(0).prints("a\nb\nc\nd\n");
    }
}
