//! What users write.

mod group;
mod sink;
mod source;

use std::time::Duration;

use millstream_core::{Error, ErrorKind, Result, Secret, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use group::{Ack, GroupOptions};
pub use sink::{RedisSinkOptions, Sharder, SinkIds, Trim, Wait};
pub use source::{Batch, RedisSourceOptions, SourceIds};

/// One name, or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Names {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// User and password.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    /// A user of the server's access control list. By default the server's default user.
    pub user: Option<String>,
    /// The password.
    pub password: Secret<String>,
}

/// Certificates. All files are PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The authorities to trust, instead of those of the system.
    pub ca: Option<String>,
    /// Our certificate, with `key`.
    pub cert: Option<String>,
    /// The private key of `cert`.
    pub key: Option<String>,
    /// The name that the server's certificate must have, where it is not the node's.
    pub server_name: Option<String>,
}

/// Longer than any healthy network takes; short enough that every error is there within 10 s.
fn timeout() -> Span {
    Span(Duration::from_secs(5))
}

fn value_field() -> String {
    "msg".to_owned()
}

fn key_field() -> String {
    "_key".to_owned()
}

fn wrong<T>(key: &str, message: impl Into<String>, hint: &str) -> Result<T> {
    Err(Error::new(ErrorKind::Option, message).hint(hint).within(key))
}

fn check_fields(value: &str, key: &str) -> Result<()> {
    if value == key || value == NULL_FIELD || key == NULL_FIELD {
        return wrong("key_field", "value, key and tombstone need three fields", "give each a name of its own");
    }
    Ok(())
}

/// The field that says that a record has no value.
pub(crate) const NULL_FIELD: &str = "_null";
