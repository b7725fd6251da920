//! The one list of all connectors and operators.

use millstream_core::Registry;
use serde_json::Value;

/// The standard streams as one thing, which consumers and producers of a program share.
pub use millstream_std::{Reading, Stdio, StdioSinkOptions};

/// How the keys in the state of a kind of step are read, where they are not simply text.
pub fn key_reader(kind: &str) -> Option<fn(&[u8]) -> Value> {
    (kind == "aggregate").then_some(millstream_vrl::read_key)
}

/// Every component that this build knows.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    let all = [
        millstream_std::components(),
        millstream_file::components(),
        millstream_kafka::components(),
        millstream_redis::components(),
        millstream_vrl::components(),
    ];
    all.into_iter().flatten().for_each(|component| registry.add(component));
    registry
}
