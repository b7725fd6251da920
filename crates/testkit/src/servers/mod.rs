//! Real servers on free loopback ports, for tests.
//!
//! ```no_run
//! # use millstream_testkit::{servers::Redis, started};
//! #[test]
//! fn a_value_is_kept() {
//!     let redis = started!(Redis::shared());
//!     redis.cli(&["SET", "key", "value"]);
//! }
//! ```
//!
//! One that is shared lives as long as the test's process; one for faults is started by the test, and ends with it. None
//! outlives its process, whether that ends, panics or is killed: see `keeper.rs`. All functions block, and may be called
//! from `#[tokio::test]`: nothing of the test is needed to answer them.
//!
//! What is not installed is a [`Missing`], which [`started!`](crate::started) prints as `skipped: why`; a server that is there
//! and does not start fails the test, with what it has said.

#![allow(clippy::panic, reason = "a server that does not start fails the test that wants it")]

mod certificates;
mod kafka;
mod keeper;
mod missing;
mod port;
mod postgres;
mod proxy;
mod redis;
mod redis_cluster;

pub use certificates::Certificates;
pub use kafka::{Kafka, KafkaSetup, Listener, NewTopic, PLAIN_USER, SCRAM_USER};
pub use keeper::wait_until;
pub use missing::Missing;
pub use port::Port;
pub use postgres::Postgres;
pub use proxy::{Flow, Proxy};
pub use redis::{Redis, RedisSetup};
pub use redis_cluster::{RedisCluster, SlotMove};
