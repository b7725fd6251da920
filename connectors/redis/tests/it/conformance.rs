//! The conformance suite, on one server and on a cluster.

use std::{sync::Arc, time::Duration};

use millstream_testkit::{
    conformance::{Able, Making, Setting},
    servers::{Proxy, Redis, RedisCluster},
};

fn able() -> Able {
    Able {
        keeps: true,
        shards: false,
        binary: true,
        empty: true,
        value_bytes: 4 << 20,
        time_step: 1_000_000,
        ends: false,
        fails_over: Some(Duration::from_secs(5)),
    }
}

/// Makes an empty stream: a group makes it, and goes.
fn empty(cli: impl Fn(&[&str]) -> String, stream: &str) {
    cli(&["XGROUP", "CREATE", stream, "once", "$", "MKSTREAM"]);
    cli(&["XGROUP", "DESTROY", stream, "once"]);
}

/// Connections go through a proxy that can cut them.
async fn one() -> Result<Setting, String> {
    let redis = Redis::shared().map_err(|missing| missing.to_string())?;
    let proxy = Arc::new(Proxy::start(&redis.address()));
    let mut setting = Setting::new(&format!("redis://{}", proxy.address()), millstream_redis::components(), able());
    setting.make_stream =
        Arc::new(move |stream: String, _| Box::pin(async move { empty(|words| redis.cli(words), &stream) }) as Making);
    setting.cut = Some(Arc::new(move || proxy.cut()));
    Ok(setting)
}

async fn many() -> Result<Setting, String> {
    let cluster = RedisCluster::shared().map_err(|missing| missing.to_string())?;
    let mut setting = Setting::new(&cluster.url(), millstream_redis::components(), able());
    setting.make_stream = Arc::new(move |stream: String, _| {
        Box::pin(async move { empty(|words| cluster.cli(words), &stream) }) as Making
    });
    Ok(setting)
}

mod server {
    millstream_testkit::conformance!(super::one());
}

mod cluster {
    millstream_testkit::conformance!(super::many());
}
