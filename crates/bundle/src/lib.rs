//! The one list of all connectors and operators.

use millstream_core::Registry;
use serde_json::Value;

/// The standard streams as one thing, which consumers and producers of a program share.
pub use millstream_std::{Reading, Stdio, StdioSinkOptions};

/// Systems by type: what a program needs that knows at compile time which one it uses. Each has options structs, a
/// [`Backend`](millstream_core::Backend), and where there is one its native client.
pub mod systems {
    pub use millstream_file as file;
    pub use millstream_kafka as kafka;
    pub use millstream_redis as redis;
    pub use millstream_std as stdio;
}

/// How the keys in the state of a kind of step are read, where they are not simply text.
pub fn key_reader(kind: &str) -> Option<fn(&[u8]) -> Value> {
    (kind == "aggregate").then_some(millstream_vrl::read_key)
}

/// What administrators ask of systems and do to them, by the connector that speaks to each.
pub mod admin {
    pub use millstream_kafka::admin as kafka;
    pub use millstream_redis::admin as redis;
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
