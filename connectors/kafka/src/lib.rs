//! Connector `kafka`: Kafka and Redpanda, by librdkafka.
//!
//! - **Position**: for each partition the next offset; kept in our checkpoint, or with `group` in the group, with the pipeline
//!   and epoch beside it.
//! - **Ack**: a record counts as written when the brokers have it as `acks` asks (`flush`); a group's offsets are committed
//!   behind the epoch that they belong to, or in its transaction.
//! - **Ordering**: as in the partition; as given within a partition, also over retries; between partitions none.
//! - **A crash repeats** what was read or written since the checkpoint; nothing with `exactly_once`, where the checkpoint is
//!   written in the transaction of the records. A clean stop or rebalance repeats nothing.
//!
//! The README tells the rest: groups, rebalances, transactions, limits, what to set up.

pub mod admin;
mod backend;
mod client;
mod contact;
mod context;
mod error;
mod host;
mod murmur2;
mod native;
mod native_context;
mod options;
mod properties;
mod sink;
mod source;
mod token;

pub use millstream_core::OnMissing;
use millstream_core::{Component, Planner};
/// The client library, in the version that clients of [`Kafka::native`] are of.
pub use rdkafka;

pub use backend::Kafka;
pub use native_context::NativeContext;
pub use options::{
    Acks, Assignor, Compression, Isolation, KafkaAuth, KafkaBatch, KafkaMembership, KafkaSinkOptions,
    KafkaSourceOptions, KafkaTls, Mechanism, MembershipProtocol, PartitionBy, Properties, TokenFrom, TopicBy,
};

/// What this connector offers.
pub fn components() -> Vec<Component> {
    vec![
        Component {
            name: "kafka",
            summary: "Reads topics of Kafka or Redpanda.",
            schema: || schemars::schema_for!(KafkaSourceOptions),
            planner: Planner::Source(source::plan),
            schemes: &["kafka", "kafka+tls"],
            from_url: Some(options::from_url),
            example: "kafka: { url: \"kafka://localhost:9092/orders\" }",
        },
        Component {
            name: "kafka",
            summary: "Writes topics of Kafka or Redpanda.",
            schema: || schemars::schema_for!(KafkaSinkOptions),
            planner: Planner::Sink(sink::plan),
            schemes: &["kafka", "kafka+tls"],
            from_url: Some(options::from_url),
            example: "kafka: { url: \"kafka://localhost:9092/orders\" }",
        },
    ]
}
