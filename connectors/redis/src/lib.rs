//! Connector `redis_stream`: Redis Streams, plain, in shards and in a cluster; by id, or as a member of a group.
//!
//! - **Position**: by id the newest entry of each shard, in our checkpoint; in a group Redis' pending list.
//! - **Ack**: a record counts as written when Redis has answered its `XADD`; a group's records are acknowledged (`XACK`)
//!   when their epoch counts.
//! - **Ordering**: as in the stream, within each shard; between the members of a group none. Written as given, within each
//!   shard.
//! - **A crash repeats** what was read since the checkpoint, in a group what was not acknowledged; and, where a connection
//!   broke, what was written without an answer.
//!
//! The README tells the rest: shards, claims, dead letters, clusters, what to set up.

pub mod admin;
mod backend;
mod client;
mod commands;
mod error;
mod exact;
mod id;
mod options;
mod replicas;
mod resp;
mod server;
mod sink;
mod source;

pub use millstream_core::OnMissing;
use millstream_core::{Component, Planner};

pub use backend::RedisStreams;
pub use commands::{Answer, Connection};
pub use options::{
    Ack, Auth, Batch, GroupOptions, Names, RedisSinkOptions, RedisSourceOptions, Sharder, SinkIds, SourceIds, Tls,
    Trim, Wait,
};

/// What this connector offers.
pub fn components() -> Vec<Component> {
    vec![
        Component {
            name: "redis_stream",
            summary: "Reads Redis streams, by id or as a member of a group.",
            schema: || schemars::schema_for!(RedisSourceOptions),
            planner: Planner::Source(source::plan),
            schemes: &["redis", "rediss"],
            from_url: Some(server::from_url),
            example: "redis_stream: { url: \"redis://localhost/orders\" }",
        },
        Component {
            name: "redis_stream",
            summary: "Writes Redis streams.",
            schema: || schemars::schema_for!(RedisSinkOptions),
            planner: Planner::Sink(sink::plan),
            schemes: &["redis", "rediss"],
            from_url: Some(server::from_url),
            example: "redis_stream: { url: \"redis://localhost/orders\" }",
        },
    ]
}

/// A text that no other process and no other call has made.
fn unique() -> String {
    use std::hash::{BuildHasher as _, RandomState};
    format!("{:016x}", RandomState::new().hash_one((std::process::id(), std::time::Instant::now())))
}
