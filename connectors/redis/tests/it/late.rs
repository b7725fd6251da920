//! `ids: time`, and records that come once more when the stream has newer entries.

use millstream_core::{ErrorKind, Outcomes, Record, Stamp, Timestamp};
use millstream_testkit::{
    servers::{Flow, Proxy, Redis},
    started,
};
use serde_json::json;

use crate::support::*;

/// A record of this time.
fn at(ms: i64) -> Record {
    Record { time: Some(Timestamp::from_millis(ms)), ..Record::new("in", format!("v{ms}")) }
}

fn rejected(outcomes: &Outcomes) -> Vec<(u32, ErrorKind)> {
    outcomes.rejected.iter().map(|(_, row, error)| (*row, error.kind())).collect()
}

/// Ids and values.
fn entries(redis: &Redis, stream: &str) -> Vec<String> {
    redis.cli(&["XRANGE", stream, "-", "+"]).lines().map(str::to_owned).filter(|line| line != "msg").collect()
}

#[tokio::test]
async fn records_whose_answers_were_lost_are_written_once_more_and_not_refused() {
    let redis = started!(Redis::shared());
    let proxy = Proxy::start(&redis.address());
    for more in [json!({}), json!({"trim": {"count": 1000}})] {
        let mut options = more;
        options["stream"] = key().into();
        options["url"] = format!("redis://{}", proxy.address()).into();
        let stream = options["stream"].as_str().unwrap();
        let mut sink = plan_sink(&options).unwrap().create().unwrap();
        sink.open(&[]).await.unwrap();
        put(&mut *sink, &[at(1)]).await;
        proxy.cut_after(Flow::ToClient, 0);
        let write = sink.write(batch(&[at(2), at(3), at(4)])).await.unwrap();
        let outcomes = sink.flush().await.unwrap();
        assert_eq!(rejected(&outcomes), []);
        assert_eq!(outcomes.repeated, [(write, 0), (write, 1), (write, 2)]);
        let expected = ["1-0", "v1", "2-0", "v2", "3-0", "v3", "4-0", "v4", "4-1", "v4", "4-2", "v2", "4-3", "v3"];
        assert_eq!(entries(redis, stream), expected);
        // Times go on from there, and what is late for another reason is refused.
        assert_eq!(rejected(&put(&mut *sink, &[at(5), at(3)]).await), [(1, ErrorKind::Rejected)]);
    }
}

#[tokio::test]
async fn records_that_come_again_after_a_crash_are_not_refused() {
    let redis = started!(Redis::shared());
    let open = async |options: &serde_json::Value, epoch| {
        let mut sink = plan_sink(options).unwrap().create().unwrap();
        sink.introduce("out", &Stamp { epoch, ..stamp("s") });
        sink.open(&[]).await.unwrap();
        sink
    };
    for more in [json!({}), json!({"shards": 2}), json!({"ids": "nanoseconds"})] {
        let mut more = more;
        more["stream"] = key().into();
        let options = options(redis, more);
        let all: Vec<Record> = (1..=10).map(at).collect();
        let mut sink = open(&options, 0).await;
        assert_eq!(rejected(&put(&mut *sink, &all).await), []);
        drop(sink);
        let mut sink = open(&options, 7).await;
        assert_eq!(rejected(&put(&mut *sink, &all[3..]).await), []);
        // Nothing of this was there before.
        put(&mut *sink, &[at(20), at(20)]).await;
        assert_eq!(rejected(&put(&mut *sink, &[at(15), at(15)]).await).len(), 2);
        drop(sink);
        // A run that begins anew repeats nothing.
        let mut sink = open(&options, 0).await;
        assert_eq!(rejected(&put(&mut *sink, &all).await).len(), 10);
    }
}

#[tokio::test]
async fn a_record_that_was_refused_for_now_is_taken_behind_newer_ones() {
    let redis = started!(Redis::start());
    let mut sink = sink(&redis, json!({"stream": "k"})).await;
    put(&mut *sink, &[at(1)]).await;
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(rejected(&put(&mut *sink, &[at(2)]).await), [(0, ErrorKind::Unavailable)]);
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(rejected(&put(&mut *sink, &[at(4), at(2), at(3)]).await), [(2, ErrorKind::Rejected)]);
    assert_eq!(entries(&redis, "k"), ["1-0", "v1", "4-0", "v4", "4-1", "v2"]);
}

/// Who may not look for the newest entry lets the server choose.
#[tokio::test]
async fn a_user_who_may_only_write_repeats_records_too() {
    let redis = started!(Redis::setup().acl("user dumb on >pw ~* +xadd +ping").start());
    let proxy = Proxy::start(&redis.address());
    let auth = json!({"user": "dumb", "password": "pw"});
    let url = format!("redis://{}", proxy.address());
    let mut sink = plan_sink(&json!({"url": url, "stream": "k", "auth": auth})).unwrap().create().unwrap();
    sink.open(&[]).await.unwrap();
    put(&mut *sink, &[at(1)]).await;
    proxy.cut_after(Flow::ToClient, 0);
    sink.write(batch(&[at(2), at(3)])).await.unwrap();
    assert_eq!(rejected(&sink.flush().await.unwrap()), []);
    let got = entries(&redis, "k");
    let values: Vec<&str> = got.iter().skip(1).step_by(2).map(String::as_str).collect();
    assert_eq!(values, ["v1", "v2", "v3", "v3", "v2"]);
}
