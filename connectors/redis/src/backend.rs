//! Redis Streams as a system of the client API, with its options as types.

use std::sync::Arc;

use millstream_core::{
    Backend, Error, ErrorKind, PlanContext, Result, Secret, SeekTo, SinkPlan, SourcePlan, parse_options,
};
use serde_json::{Value, json};

use crate::{
    commands::Connection,
    options::{Auth, GroupOptions, Names, RedisSinkOptions, RedisSourceOptions, Sharder},
    server::{Server, spelled_out},
    sink, source,
};

/// A Redis server or cluster, chosen by type.
///
/// ```
/// use millstream_redis::{RedisStreams, Trim};
///
/// # fn main() -> millstream_core::Result<()> {
/// let mut redis = RedisStreams::at("redis://localhost")?;
/// redis.sink.shards = Some(4);
/// redis.sink.trim = Some(Trim { count: Some(1_000_000), age: None });
/// // Streamer::of(redis)
/// # Ok(())
/// # }
/// ```
///
/// What is not wrapped here is done with commands ([`RedisStreams::connection`]).
#[derive(Clone, Debug)]
pub struct RedisStreams {
    /// How streams are read. Those that a consumer names take the place of `stream`; the group is that of each consumer, with
    /// what is said of `group` besides its name.
    pub source: RedisSourceOptions,
    /// How streams are written. The one that a producer names takes the place of `stream`.
    pub sink: RedisSinkOptions,
}

impl RedisStreams {
    /// The servers of a URL, `redis://[user:password@]host[,host...][/stream][?db=2]`, with all options as they are by default.
    ///
    /// # Errors
    /// It is no such URL.
    pub fn at(url: &str) -> Result<Self> {
        let written = spelled_out(&json!({ "url": url }))?;
        Ok(RedisStreams { source: parse_options(&written)?, sink: parse_options(&written)? })
    }

    /// A connection for any commands, reached as the source reaches its servers. It connects with its first command.
    ///
    /// # Errors
    /// Options that do not fit together.
    pub fn connection(&self) -> Result<Connection> {
        Ok(Connection::new(Arc::new(Server::of_source(&self.source)?)))
    }
}

/// Options as they stand in a file: secrets and all, and nothing where nothing was said.
fn written(options: serde_json::Result<Value>, url: &Secret<String>, auth: Option<&Auth>) -> Result<Value> {
    let mut options =
        options.map_err(|error| Error::new(ErrorKind::Bug, "options cannot be written down").caused_by(error))?;
    if let Some(options) = options.as_object_mut() {
        options.retain(|_, value| !value.is_null());
        options.insert("url".to_owned(), Value::String(url.expose().clone()));
    }
    if let (Some(place), Some(Auth { password, user: _ })) = (options.pointer_mut("/auth/password"), auth) {
        *place = Value::String(password.expose().clone());
    }
    Ok(options)
}

impl Backend for RedisStreams {
    fn source(&self, streams: &[&str], group: Option<&str>) -> Result<Box<dyn SourcePlan>> {
        let mut options = self.source.clone();
        if !streams.is_empty() {
            options.stream = Some(Names::Many(streams.iter().map(|&stream| stream.to_owned()).collect()));
        }
        options.group = match (options.group, group) {
            (Some(own), Some(group)) => Some(GroupOptions { name: group.to_owned(), ..own }),
            // What is said of groups is not meant for a consumer of none.
            (_, None) => None,
            (None, Some(group)) => Some(GroupOptions::named(group)),
        };
        let written = written(serde_json::to_value(&options), &options.url, options.auth.as_ref())?;
        source::plan(&written, &PlanContext::default())
    }

    fn sink(&self, stream: &str, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
        let mut options = self.sink.clone();
        if !stream.is_empty() {
            options.stream = Some(stream.to_owned());
        }
        let written = written(serde_json::to_value(&options), &options.url, options.auth.as_ref())?;
        sink::plan(&written, context)
    }

    fn sink_by_shard(&self, stream: &str, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
        let mut own = self.clone();
        own.sink.sharder = Some(Sharder::Origin);
        own.sink(stream, context)
    }

    fn start(&self) -> Option<SeekTo> {
        self.source.start.clone()
    }

    fn describe(&self) -> String {
        Server::of_source(&self.source).map_or_else(|_| "Redis".to_owned(), |server| server.to_string())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::Duration;

    use millstream_core::{Size, Span};

    use super::*;
    use crate::{SourceIds, Tls, Trim, Wait};

    #[test]
    fn options_by_type_come_out_as_they_went_in() {
        let mut redis = RedisStreams::at("rediss://me:geheim@h:1/k?db=2").unwrap();
        redis.source.ids = SourceIds::Nanoseconds;
        redis.source.start = Some(SeekTo::At(7));
        redis.source.batch.bytes = Size(3 << 20);
        redis.source.discover = Span(Duration::from_millis(1500));
        redis.source.tls = Some(Tls { server_name: Some("s".to_owned()), ..Tls::default() });
        redis.source.group = Some(GroupOptions { mkstream: true, ..GroupOptions::named("g") });
        redis.sink.trim = Some(Trim { count: None, age: Some(Span(Duration::from_secs(3600))) });
        redis.sink.wait = Some(Wait { replicas: 1, timeout: Span(Duration::from_secs(1)) });
        let source = written(serde_json::to_value(&redis.source), &redis.source.url, redis.source.auth.as_ref());
        let again: RedisSourceOptions = parse_options(&spelled_out(&source.unwrap()).unwrap()).unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), serde_json::to_value(&redis.source).unwrap());
        assert_eq!(again.auth.unwrap().password.expose(), "geheim");
        let sink = written(serde_json::to_value(&redis.sink), &redis.sink.url, redis.sink.auth.as_ref());
        let again: RedisSinkOptions = parse_options(&spelled_out(&sink.unwrap()).unwrap()).unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), serde_json::to_value(&redis.sink).unwrap());
        assert!(!format!("{redis:?} {}", redis.describe()).contains("geheim"));
    }

    #[test]
    fn consumers_and_producers_name_streams_and_groups() {
        let mut redis = RedisStreams::at("redis://h").unwrap();
        let plan = redis.source(&["a,b", "c"], Some("team")).unwrap();
        assert_eq!(plan.describe(), "reading a,b,c of redis://h:6379 in the group team");
        redis.source.group = Some(GroupOptions::named("other"));
        assert!(!redis.source(&["a"], None).unwrap().capabilities().groups);
        assert!(redis.sink("a", &PlanContext::default()).unwrap().describe().contains("writing to a of"));
        let error = redis.sink_by_shard("a", &PlanContext::default()).unwrap_err();
        assert!(error.to_string().contains("shards"), "{error}");
        redis.sink.shards = Some(2);
        redis.sink_by_shard("a", &PlanContext::default()).unwrap();
    }
}
