//! What users write.

mod access;
mod property;
mod sink;
mod source;
mod url;

pub use access::{KafkaAuth, KafkaTls, Mechanism, TokenFrom};
pub use property::Properties;
pub use sink::{Acks, Compression, KafkaBatch, KafkaSinkOptions, PartitionBy, TopicBy};
pub use source::{Assignor, Isolation, KafkaMembership, KafkaSourceOptions, MembershipProtocol};

pub(crate) use url::{Address, from_url, is_topic};

use std::time::Duration;

use millstream_core::{Error, ErrorKind, Span};

/// Longer than any healthy network takes, short enough for a person to wait.
fn timeout() -> Span {
    Span(Duration::from_secs(8))
}

/// An option that has a wrong value.
pub(crate) fn wrong(option: &str, message: impl Into<String>, hint: &str) -> Error {
    Error::new(ErrorKind::Option, message).hint(hint).within(option)
}
