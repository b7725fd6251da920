//! Reading entries that are large, and more of them than fit into one answer.

use millstream_core::Resume;
use millstream_testkit::{
    budget,
    servers::{Flow, Proxy, Redis},
    started,
};
use serde_json::json;

use crate::support::*;

/// A stream of so many entries, each with so many bytes.
fn fill_large(redis: &Redis, stream: &str, entries: usize, bytes: usize) {
    let add = "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'msg', string.rep('x', ARGV[2])) end";
    redis.cli(&["EVAL", add, "1", stream, &entries.to_string(), &bytes.to_string()]);
}

#[tokio::test]
async fn of_entries_of_unknown_size_few_are_asked_for() {
    let redis = started!(Redis::start());
    fill_large(&redis, "k", 100, 1 << 20);
    for more in [json!({}), json!({"group": "g"})] {
        let proxy = Proxy::start(&redis.address());
        let mut options = options(&redis, more);
        options["stream"] = "k".into();
        options["url"] = format!("redis://{}", proxy.address()).into();
        let mut source = plan_source(&options).unwrap().create().unwrap();
        source.open(&Resume::default()).await.unwrap();
        next_read(&mut *source).await.unwrap();
        assert!(proxy.passed(Flow::ToClient) < 16 << 20, "{} bytes", proxy.passed(Flow::ToClient));
    }
}

/// With MILLSTREAM_LONG: it takes some GiB.
#[tokio::test]
async fn an_answer_that_is_too_large_is_asked_for_in_pieces() {
    if budget(0, 1) == 0 {
        return;
    }
    let redis = started!(Redis::start());
    for more in [json!({}), json!({"group": "g"})] {
        redis.cli(&["DEL", "k"]);
        // So small that many are asked for, then so large that as many are more than any answer may have.
        fill_large(&redis, "k", 1000, 10);
        fill_large(&redis, "k", 60, 20 << 20);
        let mut options = options(&redis, more);
        options["stream"] = "k".into();
        let mut source = plan_source(&options).unwrap().create().unwrap();
        source.open(&until_end()).await.unwrap();
        let mut got = 0;
        while let Some(read) = next_again(&mut *source).await {
            assert!(read.failed.is_empty() && !read.alone);
            got += read.batch.len();
        }
        assert_eq!(got, 1060);
    }
}
