//! `millstream redis` and `millstream kafka`: what administrators see, and what they cannot break by accident.

use std::fmt::Write as _;

use millstream::core::{Event, PlanContext, Planner, Resume, Role, SeekTo, Url};
use millstream_testkit::{
    servers::{Kafka, Listener, PLAIN_USER, Redis, RedisCluster},
    started,
};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    brokers::fresh,
    crash::Kept,
    support::{DEADLINE, Done, Folder, repository, signal, until},
};

fn json_of(done: &Done) -> Value {
    serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {done:?}"))
}

/// The cells of a table, line by line, without its head.
fn cells(table: &str) -> Vec<Vec<&str>> {
    table.lines().skip(1).map(|line| line.split_whitespace().collect()).collect()
}

/// Entries `1-0`, `2-0`, ... with one field.
fn fill(redis: &Redis, key: &str, ids: std::ops::RangeInclusive<u64>) {
    let (first, last) = (ids.start().to_string(), ids.end().to_string());
    let script = "for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do \
        redis.call('XADD', KEYS[1], i .. '-0', 'msg', 'value ' .. i) end";
    redis.cli(&["EVAL", script, "1", key, &first, &last]);
}

#[test]
fn a_dump_shows_every_field_by_its_own_name_shard_by_shard() {
    let redis = started!(Redis::shared());
    let (folder, stream) = (Folder::new(), fresh("dump"));
    redis.cli(&["XADD", &format!("{stream}:0"), "1000-1", "msg", "hello", "colour", "light blue"]);
    redis.cli(&["XADD", &format!("{stream}:0"), "2000-0", "no value", "a\"b", "colour", "", "colour", "again"]);
    let raw = "redis.call('XADD', KEYS[1], '1500-0', 'raw', string.char(255, 27))";
    redis.cli(&["EVAL", raw, "1", &format!("{stream}:1")]);
    // None of our business.
    redis.cli(&["SET", &format!("{stream}:meta"), "x"]);
    let url = format!("{}/{stream}", redis.url());
    let lines = [
        format!("[1970-01-01T00:00:01.000Z | {stream}:0 | 1000-1] msg=\"hello\" colour=\"light blue\"\n"),
        format!(
            "[1970-01-01T00:00:02.000Z | {stream}:0 | 2000-0] \"no value\"=\"a\\\"b\" colour=\"\" colour=\"again\"\n"
        ),
        format!("[1970-01-01T00:00:01.500Z | {stream}:1 | 1500-0] raw=\"\\xff\\x1b\"\n"),
    ];
    let some = |which: &[usize]| which.iter().map(|at| lines[*at].as_str()).collect::<String>();
    let dump = format!("redis dump {url}");
    folder.run(&dump).code(0).silent().prints(&some(&[0, 1, 2]));
    folder.run(&format!("{dump} --count 2")).code(0).prints(&some(&[0, 1]));
    folder.run(&format!("{dump} --from 1000-2")).code(0).prints(&some(&[1, 2]));
    folder.run(&format!("{dump} --from 1500 --to 1999")).code(0).prints(&some(&[2]));
    folder.run(&format!("{dump} --to 1000")).code(0).prints(&some(&[0]));
    folder
        .run(&format!("{dump} --from 1970-01-01T00:00:01.2Z --to 1970-01-01T00:00:01.7Z"))
        .code(0)
        .prints(&some(&[2]));
    folder.run(&format!("{dump} --from 3000")).code(0).silent().prints("");

    let printed = folder.run(&format!("{dump} --format ndjson")).code(0).out;
    let objects: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let second = json!({
        "key": format!("{stream}:0"), "stream": stream, "shard": 0, "id": "2000-0", "sequence": 2000u64 << 16,
        "time": "1970-01-01T00:00:02.000Z", "fields": [["no value", "a\"b"], ["colour", ""], ["colour", "again"]],
    });
    assert_eq!(objects[1], second);
    assert_eq!(objects[2]["fields"], json!([["raw", {"base64": "/xs="}]]));
}

#[test]
fn a_dump_of_many_entries_is_read_in_pages_and_loses_none() {
    let redis = started!(Redis::shared());
    let (folder, stream) = (Folder::new(), fresh("pages"));
    fill(redis, &stream, 1..=2500);
    // One that is larger than a page.
    let large = "redis.call('XADD', KEYS[1], '2501-0', 'msg', string.rep('x', 3000000))";
    redis.cli(&["EVAL", large, "1", &stream]);
    fill(redis, &stream, 2502..=2510);
    let dump = folder.run(&format!("redis dump {}/{stream}", redis.url())).code(0).out;
    let ids: Vec<u64> = dump
        .lines()
        .map(|line| line.split(" | ").nth(2).unwrap().split('-').next().unwrap().parse().unwrap())
        .collect();
    assert_eq!(ids, (1..=2510).collect::<Vec<_>>());
    let piped = folder.shell(&format!("millstream redis dump {}/{stream} | head -n 1", redis.url()));
    assert_eq!(piped.code(0).out.lines().count(), 1);
}

#[test]
fn a_trim_keeps_what_it_says_and_tells_what_is_gone() {
    let redis = started!(Redis::shared());
    let (folder, stream) = (Folder::new(), fresh("trim"));
    let (first, second) = (format!("{stream}:0"), format!("{stream}:1"));
    fill(redis, &first, 1..=1000);
    fill(redis, &second, 1..=10);
    let trim = format!("redis trim {}/{stream}", redis.url());
    let removed = |arguments: &str| {
        let out = folder.run(&format!("{trim} {arguments}")).code(0).silent().out;
        cells(&out).iter().map(|row| row[1].replace(',', "").parse::<u64>().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(removed("--maxlen 900"), [100, 0]);
    assert_eq!(removed("--minid 200"), [99, 10]);
    assert_eq!(removed("--before 1970-01-01T00:00:00.301Z"), [101, 0]);
    assert_eq!(redis.cli(&["XRANGE", &first, "-", "+", "COUNT", "1"]).lines().next(), Some("301-0"));
    // Whole nodes of 100 entries only: some more stay.
    let approximately = removed("--maxlen 450 --approximate")[0];
    assert!(approximately < 250 && approximately % 100 == 0, "{approximately}");
    let left: u64 = redis.cli(&["XLEN", &first]).parse().unwrap();
    assert_eq!(left, 700 - approximately);
    let object = json_of(&folder.run(&format!("{trim} --maxlen 0 --json")).code(0));
    assert_eq!(object[0], json!({"key": first, "stream": stream, "shard": 0, "removed": left}));
    assert_eq!(redis.cli(&["XLEN", &first]), "0");

    folder.run(&trim).code(2).says("--maxlen");
    folder.run(&format!("{trim} --maxlen 1 --minid 1")).code(2);
    folder.run(&format!("{trim} --minid x")).code(2).says("is no id of an entry");
    folder.run(&format!("{trim} --before x")).code(2);
}

#[test]
fn a_trim_takes_nothing_that_a_group_has_not_done_with_unless_forced() {
    let redis = started!(Redis::shared());
    let (folder, stream) = (Folder::new(), fresh("needed"));
    let (first, second) = (format!("{stream}:0"), format!("{stream}:1"));
    fill(redis, &first, 1..=20);
    fill(redis, &second, 1..=20);
    redis.cli(&["XGROUP", "CREATE", &second, "billing", "0"]);
    let trim = format!("redis trim {}/{stream}", redis.url());
    let refused = |arguments: &str, why: &str| {
        folder.run(&format!("{trim} {arguments}")).code(1).says(why).says("--force").says(&second).prints("");
        // Not even in the shard that has no group.
        assert_eq!(redis.cli(&["XLEN", &first]), "20");
        assert_eq!(redis.cli(&["XLEN", &second]), "20");
    };
    for cut in
        ["--maxlen 15", "--maxlen 0", "--minid 6", "--before 1970-01-01T00:00:00.006Z", "--maxlen 15 --approximate"]
    {
        refused(cut, "the group `billing` has not read 1-0");
    }
    // Four are read, two of them done with.
    redis.cli(&["XREADGROUP", "GROUP", "billing", "alice", "COUNT", "4", "STREAMS", &second, ">"]);
    redis.cli(&["XACK", &second, "billing", "1-0", "2-0"]);
    for cut in ["--maxlen 17", "--minid 4"] {
        refused(cut, "the group `billing` has not acknowledged 3-0");
    }
    refused("--maxlen 3", "the group `billing` has not read 5-0");
    // What is done with goes; counting from either end comes to the same.
    folder.run(&format!("{trim} --maxlen 19")).code(0);
    assert_eq!(redis.cli(&["XLEN", &second]), "19");
    folder.run(&format!("{trim} --minid 3")).code(0);
    assert_eq!(redis.cli(&["XLEN", &second]), "18");
    // A pending entry that is gone anyway holds nothing up.
    redis.cli(&["XDEL", &second, "3-0"]);
    redis.cli(&["XACK", &second, "billing", "4-0"]);
    folder.run(&format!("{trim} --minid 5")).code(0);
    assert_eq!(redis.cli(&["XRANGE", &second, "-", "+", "COUNT", "1"]).lines().next(), Some("5-0"));
    folder.run(&format!("{trim} --maxlen 2 --force")).code(0);
    assert_eq!(redis.cli(&["XLEN", &second]), "2");
}

#[test]
fn groups_are_shown_with_what_they_hold_and_what_is_left() {
    let redis = started!(Redis::shared());
    let (folder, stream) = (Folder::new(), fresh("groups"));
    fill(redis, &stream, 1..=10);
    let url = format!("{}/{stream}", redis.url());
    assert!(cells(&folder.run(&format!("redis groups {url}")).code(0).silent().out).is_empty());
    redis.cli(&["XGROUP", "CREATE", &stream, "billing", "0"]);
    redis.cli(&["XGROUP", "CREATE", &stream, "audit", "$"]);
    redis.cli(&["XREADGROUP", "GROUP", "billing", "alice", "COUNT", "4", "STREAMS", &stream, ">"]);
    redis.cli(&["XREADGROUP", "GROUP", "billing", "bob", "COUNT", "2", "STREAMS", &stream, ">"]);
    redis.cli(&["XACK", &stream, "billing", "1-0"]);
    let shown = folder.run(&format!("redis groups {url}")).code(0).silent().out;
    let rows = cells(&shown);
    assert_eq!(rows[0], [&stream, "audit", "0", "0", "0", "-", "10-0"], "{shown}");
    assert_eq!([&rows[1][..5], &rows[1][6..]].concat(), [&stream, "billing", "2", "5", "4", "6-0"], "{shown}");
    let members = folder.run(&format!("redis groups {url} --members")).code(0).out;
    let members: Vec<_> = cells(&members).into_iter().map(|row| row[1..4].to_vec()).collect();
    assert_eq!(members, [["billing", "alice", "3"], ["billing", "bob", "2"]]);
    let objects = json_of(&folder.run(&format!("redis groups {url} --json")).code(0));
    assert_eq!(objects[1]["pending"], 5);
    assert_eq!(objects[1]["members"][0]["name"], "alice");
    assert!(objects[1]["idle_ms"].is_u64() && objects[0]["idle_ms"].is_null(), "{objects}");
}

#[test]
fn shards_on_several_nodes_of_a_cluster_are_one_stream() {
    let cluster = started!(RedisCluster::shared());
    let (folder, stream) = (Folder::new(), fresh("spread"));
    let keys: Vec<String> = (0..6).map(|shard| format!("{stream}:{shard}")).collect();
    let nodes: std::collections::BTreeSet<usize> = keys.iter().map(|key| cluster.master(cluster.slot(key))).collect();
    assert!(nodes.len() > 1, "the test needs keys on several nodes");
    for key in &keys {
        (1..=10).for_each(|i| drop(cluster.cli(&["XADD", key, &format!("{i}-0"), "msg", key])));
    }
    cluster.cli(&["XGROUP", "CREATE", &keys[5], "billing", "4-0"]);
    // One node is enough to find the others.
    for url in [cluster.url(), cluster.node(0).url()] {
        let url = format!("{url}/{stream}");
        assert_eq!(folder.run(&format!("redis dump {url} --to 2")).code(0).out.lines().count(), 12);
        let groups = folder.run(&format!("redis groups {url}")).code(0).out;
        assert_eq!(cells(&groups)[0][..2], [keys[5].as_str(), "billing"]);
        folder.run(&format!("redis trim {url} --maxlen 5")).code(1).says("billing").says(&keys[5]);
    }
    let trimmed = folder.run(&format!("redis trim {}/{stream} --maxlen 6", cluster.url())).code(0).out;
    assert!(cells(&trimmed).iter().zip(&keys).all(|(row, key)| *row == [key.as_str(), "4"]), "{trimmed}");
}

#[test]
fn what_cannot_be_asked_is_told_with_the_address_a_hint_and_no_secret() {
    let redis = started!(Redis::setup().password("right").start());
    let folder = Folder::new();
    let with = |password: &str| format!("redis://:{password}@{}/orders", redis.address());
    for command in ["dump", "groups", "trim --maxlen 1"] {
        let told =
            folder.run(&format!("redis {command} {}", with("wr0ng"))).code(1).says("hint").says(&redis.address());
        assert!(!told.err.contains("wr0ng"), "{told:?}");
        let told = folder.run(&format!("redis {command} {}", with("right"))).code(1);
        let told = told.says("there is no stream `orders`").says("hint");
        assert!(!told.err.contains("right@"), "{told:?}");
        folder.run(&format!("redis {command} redis://127.0.0.1:1/orders")).code(1).says("127.0.0.1:1").says("hint");
        folder.run(&format!("redis {command} kafka://127.0.0.1:1/orders")).code(2).says("redis://");
        folder.run(&format!("redis {command} redis://127.0.0.1:1")).code(2).says("no stream is named");
    }
    redis.cli(&["SET", "orders", "text"]);
    folder.run(&format!("redis dump {}", with("right"))).code(2).says("not a stream");
}

#[test]
fn topics_are_shown_with_their_partitions_and_what_is_in_them() {
    let kafka = started!(Kafka::shared());
    let (folder, topic) = (Folder::new(), fresh("shown"));
    kafka.create_topic(&topic, 2, &[]);
    let url = format!("kafka://{}", kafka.bootstrap());
    folder.feed(&format!("produce {url}/{topic}?partition=1"), b"a\nb\nc\n").code(0);
    let all = folder.run(&format!("kafka topics {url}")).code(0).silent().out;
    assert!(cells(&all).contains(&vec![topic.as_str(), "2", "1", "1", "3"]), "{all}");
    assert!(!all.contains("__consumer_offsets"), "{all}");
    let named = folder.run(&format!("kafka topics {url} {topic}")).code(0).out;
    let expected = [
        vec![topic.as_str(), "0", "1", "1", "1", "0", "0", "0"],
        vec![topic.as_str(), "1", "1", "1", "1", "0", "3", "3"],
    ];
    assert_eq!(cells(&named), expected);
    folder.run(&format!("kafka topics {url}/{topic}")).code(0).prints(&named);
    let object = json_of(&folder.run(&format!("kafka topics {url}/{topic} --json")).code(0));
    assert_eq!(
        object[0]["partitions"][1],
        json!({
            "partition": 1, "leader": 1, "replicas": [1], "in_sync": [1], "low": 0, "high": 3, "records": 3,
        })
    );
    // A name that is nearly right.
    let wrong = topic.replace("shown", "shwon");
    folder.run(&format!("kafka topics {url} {wrong}")).code(1).says(&wrong).says(&format!("`{topic}`"));
}

/// A topic of two partitions with ten records each, and a group that has read them; `url` with the topic.
fn with_group(kafka: &Kafka, folder: &Folder, what: &str, group: &str) -> (String, String) {
    let topic = fresh(what);
    kafka.create_topic(&topic, 2, &[]);
    let url = format!("kafka://{}/{topic}", kafka.bootstrap());
    let lines = |partition: u64| {
        (0..10).fold(String::new(), |mut lines, i| {
            let _ = writeln!(lines, "{{\"value\":\"{i}\",\"time\":\"2026-01-02T03:04:{:02}Z\"}}", i + 10 * partition);
            lines
        })
    };
    for partition in 0..2 {
        let produce = format!("produce {url}?partition={partition} --format ndjson");
        folder.feed(&produce, lines(partition).as_bytes()).code(0);
    }
    let read = folder.run(&format!("consume {url} --group {group} --start beginning --until-end --format raw")).code(0);
    assert_eq!(read.out.lines().count(), 20, "{read:?}");
    (topic, url)
}

#[test]
fn a_group_is_set_elsewhere_only_when_told_so_twice_and_goes_on_there() {
    let kafka = started!(Kafka::shared());
    let (folder, group) = (Folder::new(), fresh("set"));
    let (topic, url) = with_group(kafka, &folder, "reset", &group);
    let cluster = format!("kafka://{}", kafka.bootstrap());
    let lag = || {
        let shown = folder.run(&format!("kafka lag {cluster} --group {group}")).code(0);
        let lags: Vec<String> = cells(&shown.out).iter().map(|row| row[1..].join(" ")).collect();
        lags.join(", ")
    };
    assert_eq!(lag(), "0 10 10 0, 1 10 10 0");
    let reset = format!("kafka reset {cluster} --group {group}");
    let plan = folder.run(&format!("{reset} --to beginning")).code(0).says("--yes").out;
    assert_eq!(
        cells(&plan),
        [[topic.as_str(), "0", "10", "0", "0", "10"], [topic.as_str(), "1", "10", "0", "0", "10"]]
    );
    assert_eq!(lag(), "0 10 10 0, 1 10 10 0");
    folder.run(&format!("{reset} --to beginning --yes")).code(0);
    assert_eq!(lag(), "0 0 10 10, 1 0 10 10");
    folder.run(&format!("{reset} --to 4 --partition 1 --topic {topic} --yes")).code(0);
    assert_eq!(lag(), "0 0 10 10, 1 4 10 6");
    // Behind the end, at a time, and at the end.
    folder.run(&format!("{reset} --to 99 --yes")).code(0).says("has no offset 99");
    assert_eq!(lag(), "0 10 10 0, 1 10 10 0");
    folder.run(&format!("kafka reset {url} --group {group} --to 2026-01-02T03:04:07.5Z --yes")).code(0);
    assert_eq!(lag(), "0 8 10 2, 1 0 10 10");
    let theirs = kafka.tool("kafka-consumer-groups", &["--describe", "--group", &group]);
    let theirs: Vec<Vec<&str>> = theirs.lines().map(|line| line.split_whitespace().skip(1).take(5).collect()).collect();
    assert!(theirs.contains(&vec![topic.as_str(), "0", "8", "10", "2"]), "{theirs:?}");
    let read = folder.run(&format!("consume {url} --group {group} --until-end --format raw")).code(0).out;
    assert_eq!(read.lines().count(), 12, "{read}");

    let none = fresh("none");
    folder.run(&format!("kafka lag {cluster} --group {none}")).code(1).says("there is no group").says("hint");
    folder.run(&format!("kafka reset {cluster} --group {none} --to end --yes")).code(1).says("there is no group");
    folder.run(&format!("{reset} --to committed")).code(2);
    folder.run(&format!("{reset} --to end --partition 7")).code(1).says("partition 7");
    folder.run(&format!("{reset} --to end --topic {none}")).code(1).says("there is no topic");
    // With a topic it is made, so that its first member begins there.
    folder.run(&format!("kafka reset {url} --group {none} --to 9 --yes")).code(0);
    let read = folder.run(&format!("consume {url} --group {none} --until-end --format raw")).code(0).out;
    assert_eq!(read, "9\n9\n");
}

#[test]
fn a_group_with_live_members_is_shown_and_not_reset_in_both_protocols() {
    let kafka = started!(Kafka::shared());
    let folder = Folder::new();
    for protocol in ["classic", "consumer"] {
        let group = fresh(protocol);
        let (_, url) = with_group(kafka, &folder, "live", &group);
        let consume = ["consume", &url, "--group", &group, "-o", &format!("membership.protocol={protocol}")];
        let member = Kept::spawn(&mut folder.command(consume));
        let shown = || folder.run(&format!("kafka groups {url}")).code(0).out;
        let row = |shown: &str| -> Vec<String> {
            let rows = cells(shown).into_iter().filter(|row| row[0] == group);
            rows.flatten().map(str::to_owned).collect()
        };
        until("the member has joined", || row(&shown()).get(1..4).is_some_and(|row| row == ["Stable", "1", protocol]));
        let members = folder.run(&format!("kafka groups {url} --members")).code(0).out;
        assert!(cells(&members).iter().any(|row| row[0] == group && row[2] == "millstream"), "{members}");
        let reset = format!("kafka reset {url} --group {group} --to beginning --yes");
        folder.run(&reset).code(1).says("1 live member").says("stop its members");
        let lag = json_of(&folder.run(&format!("kafka lag {url} --group {group} --json")).code(0));
        for part in lag.as_array().unwrap() {
            assert!(part["committed"] == 10 && part["lag"] == 0 && part["member"]["client"] == "millstream", "{lag}");
        }
        let mut member = member.take();
        signal(member.id(), Signal::INT);
        until("the member has left", || member.try_wait().unwrap().is_some());
        until("the group is empty", || row(&shown()).get(1..3).is_some_and(|row| row == ["Empty", "0"]));
        folder.run(&reset).code(0);
    }
}

#[test]
fn a_cluster_that_refuses_or_does_not_answer_is_named_without_the_secret() {
    let kafka = started!(Kafka::shared());
    let folder = Folder::new();
    let sasl = kafka.bootstrap_of(Listener::Sasl);
    let (user, password) = PLAIN_USER;
    folder.run(&format!("kafka topics kafka://{user}:{password}@{sasl}")).code(0);
    for command in ["topics", "groups", "lag --group g", "reset --group g --to end"] {
        let told = folder.run(&format!("kafka {command} kafka://{user}:wr0ng@{sasl}")).code(1).says("hint").says(&sasl);
        assert!(!told.err.contains("wr0ng"), "{told:?}");
        folder.run(&format!("kafka {command} kafka://127.0.0.1:1?timeout=1s")).code(1).says("127.0.0.1:1").says("hint");
        folder.run(&format!("kafka {command} redis://127.0.0.1:1/k")).code(2).says("kafka://");
    }
}

#[test]
fn checking_a_group_source_connects_and_leaves_no_group_behind() {
    let (kafka, redis) = (started!(Kafka::shared()), started!(Redis::shared()));
    let folder = Folder::new();
    let (topic, stream, group) = (fresh("checked"), fresh("checked"), fresh("untouched"));
    kafka.create_topic(&topic, 1, &[]);
    fill(redis, &stream, 1..=3);
    let file = |name: &str, source: Value| {
        let pipeline = json!({ "name": name, "source": source, "sink": { "drop": {} } });
        folder.write(&format!("{name}.json"), pipeline.to_string())
    };
    let address = kafka.bootstrap();
    file("from-kafka", json!({ "kafka": { "url": format!("kafka://{address}/{topic}"), "group": group } }));
    file(
        "from-redis",
        json!({
            "redis_stream": { "url": format!("{}/{stream}", redis.url()), "group": { "name": group, "mkstream": true } }
        }),
    );
    for name in ["from-kafka", "from-redis"] {
        folder.run(&format!("check {name}.json --connect")).code(0);
    }
    assert_eq!(redis.cli(&["XINFO", "GROUPS", &stream]), "");
    let groups = folder.run(&format!("kafka groups kafka://{address}")).code(0).out;
    assert!(!groups.contains(&group), "{groups}");
    // What is wrong is found all the same.
    file("no-topic", json!({ "kafka": { "url": format!("kafka://{address}/{}", fresh("no")), "group": group } }));
    folder.run("check no-topic.json --connect").code(1).says("there is no topic");
    file("nobody", json!({ "redis_stream": { "url": "redis://127.0.0.1:1/k", "group": group } }));
    folder.run("check nobody.json --connect").code(1).says("127.0.0.1:1");
}

/// Opens the observer of the source that a URL names, and reads it to its end.
fn observe(url: &str) {
    let registry = millstream::registry();
    let (component, options) = registry.by_url(Role::Source, &Url::parse(url).unwrap()).unwrap();
    let Planner::Source(plan) = component.planner else { panic!("no source: {url}") };
    let plan = plan(&options, &PlanContext::default()).unwrap();
    assert!(plan.capabilities().groups, "{url}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut source = plan.observer().unwrap();
        let resume = Resume { start: SeekTo::Beginning, until_end: true, ..Resume::default() };
        source.open(&resume).await.unwrap();
        let read = async { while !matches!(source.next().await.unwrap(), Event::End) {} };
        tokio::time::timeout(DEADLINE, read).await.unwrap();
        source.close().await.unwrap();
    });
}

#[test]
fn the_observer_of_a_group_source_reads_without_joining() {
    let (kafka, redis) = (started!(Kafka::shared()), started!(Redis::shared()));
    let (folder, name, group) = (Folder::new(), fresh("observed"), fresh("unjoined"));
    kafka.create_topic(&name, 1, &[]);
    fill(redis, &name, 1..=3);
    observe(&format!("kafka://{}/{name}?group={group}", kafka.bootstrap()));
    observe(&format!("{}/{name}?group={group}", redis.url()));
    assert_eq!(redis.cli(&["XINFO", "GROUPS", &name]), "");
    let groups = folder.run(&format!("kafka groups kafka://{}", kafka.bootstrap())).code(0).out;
    assert!(!groups.contains(&group), "{groups}");
}

/// The lines of all blocks of a document that are marked `console`.
fn console(document: &str) -> Vec<String> {
    let text = std::fs::read_to_string(repository().join(document)).unwrap();
    let blocks = text.split("```console\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default());
    let lines: Vec<String> = blocks.flat_map(str::lines).map(str::to_owned).collect();
    assert!(!lines.is_empty(), "{document}");
    lines
}

/// Runs the commands of a document, one after the other, against servers of ours.
fn follow(document: &str, kafka: &Kafka, redis: &Redis) {
    let (folder, name, group) = (Folder::new(), fresh("orders"), fresh("billing"));
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_millstream"), folder.path("millstream")).unwrap();
    kafka.create_topic(&name, 1, &[]);
    fill(redis, &name, 1..=3);
    for line in console(document) {
        // What follows a stream ends in good order when it is told to.
        let follows = ["relay", "consume"].iter().any(|command| line.contains(command))
            && !["--until-end", "--count"].iter().any(|bound| line.contains(bound));
        let line = line.replace("orders", &name).replace("billing", &group);
        let line = line.replace("localhost:9092", &kafka.bootstrap()).replace("redis://localhost", &redis.url());
        folder.write("line.sh", format!("set -eo pipefail\n{line}\n"));
        let seconds = if follows { 3 } else { 60 };
        let done = folder.shell(&format!("PATH=$PWD:$PATH timeout --preserve-status -s INT {seconds} bash line.sh"));
        assert_eq!(done.code, Some(0), "{document}: {line}\n{done:?}");
    }
}

#[test]
fn what_documents_show_with_brokers_works_as_written() {
    let (kafka, redis) = (started!(Kafka::shared()), started!(Redis::shared()));
    std::thread::scope(|scope| {
        for document in ["README.md", "docs/kafka.md", "docs/redis.md"] {
            scope.spawn(move || follow(document, kafka, redis));
        }
    });
}
