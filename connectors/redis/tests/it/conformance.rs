//! The conformance suite, on one server and on a cluster, where each stream is one key; and on one server in shards.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use millstream_core::{Backend, PlanContext, Result, SinkPlan, SourcePlan};
use millstream_testkit::{
    conformance::{Able, Making, Setting},
    servers::{Proxy, Redis, RedisCluster},
};

fn able() -> Able {
    Able {
        keeps: true,
        // Each stream is one key.
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
async fn one() -> std::result::Result<Setting, String> {
    let redis = Redis::shared().map_err(|missing| missing.to_string())?;
    let proxy = Arc::new(Proxy::start(&redis.address()));
    let mut setting = Setting::new(&format!("redis://{}", proxy.address()), millstream_redis::components(), able());
    setting.make_stream =
        Arc::new(move |stream: String, _| Box::pin(async move { empty(|words| redis.cli(words), &stream) }) as Making);
    setting.cut = Some(Arc::new(move || proxy.cut()));
    Ok(setting)
}

async fn many() -> std::result::Result<Setting, String> {
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

/// Streams of as many shards as each behaviour asks for.
#[derive(Debug)]
struct Sharded {
    /// One for each number of shards, from 1.
    by_count: Vec<Arc<dyn Backend>>,
    made: Arc<Mutex<HashMap<String, u64>>>,
}

impl Sharded {
    const SHARDS_MAX: u64 = 4;

    fn of(&self, stream: &str) -> &dyn Backend {
        let count = self.made.lock().unwrap().get(stream).copied().unwrap_or(1);
        &*self.by_count[usize::try_from(count - 1).unwrap()]
    }
}

impl Backend for Sharded {
    fn source(&self, streams: &[&str], group: Option<&str>) -> Result<Box<dyn SourcePlan>> {
        self.by_count[0].source(streams, group)
    }

    fn sink(&self, stream: &str, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
        self.of(stream).sink(stream, context)
    }

    fn sink_by_shard(&self, stream: &str, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
        self.of(stream).sink_by_shard(stream, context)
    }

    fn describe(&self) -> String {
        self.by_count[0].describe()
    }
}

async fn sharded() -> std::result::Result<Setting, String> {
    let redis = Redis::shared().map_err(|missing| missing.to_string())?;
    let able = Able { shards: true, ..able() };
    let with = |shards: u64| {
        let url = format!("{}?shards={shards}", redis.url());
        Setting::new(&url, millstream_redis::components(), able.clone()).backend
    };
    let made = Arc::<Mutex<HashMap<String, u64>>>::default();
    let backend = Sharded { by_count: (1..=Sharded::SHARDS_MAX).map(with).collect(), made: made.clone() };
    let mut setting = Setting::of(backend, able);
    setting.make_stream = Arc::new(move |stream: String, shards| {
        made.lock().unwrap().insert(stream.clone(), shards);
        Box::pin(async move {
            (0..shards).for_each(|shard| empty(|words| redis.cli(words), &format!("{stream}:{shard}")));
        }) as Making
    });
    Ok(setting)
}

mod shards {
    millstream_testkit::conformance!(super::sharded());
}
