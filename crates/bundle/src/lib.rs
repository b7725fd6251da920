//! The one list of all connectors and operators.

use millstream_core::Registry;

/// The standard streams as one thing, which consumers and producers of a program share.
pub use millstream_std::{Reading, Stdio, StdioSinkOptions};

/// Every component that this build knows.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    let all = [millstream_std::components(), millstream_file::components(), millstream_vrl::components()];
    all.into_iter().flatten().for_each(|component| registry.add(component));
    registry
}
