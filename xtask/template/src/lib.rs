//! Connector `skeleton`: lines over TCP.
//!
//! - **Position**: nobody keeps it (`Owner::Nobody`); the runtime keeps what was read until its epoch has committed.
//! - **Ack**: a record counts as written when the operating system has taken it (`flush`).
//! - **Ordering**: as sent, as given.
//! - **A crash repeats** what was written since the checkpoint.

mod client;
mod error;
mod options;
mod sink;
mod source;

use millstream_core::{Component, Planner};

pub use options::{SkeletonSinkOptions, SkeletonSourceOptions};

/// What this connector offers.
pub fn components() -> Vec<Component> {
    vec![
        Component {
            name: "skeleton",
            summary: "Reads lines from a server.",
            schema: || schemars::schema_for!(SkeletonSourceOptions),
            planner: Planner::Source(source::plan),
            schemes: &["skeleton"],
            from_url: Some(options::from_url),
            example: "skeleton: { url: \"skeleton://localhost:7000\" }",
        },
        Component {
            name: "skeleton",
            summary: "Writes lines to a server.",
            schema: || schemars::schema_for!(SkeletonSinkOptions),
            planner: Planner::Sink(sink::plan),
            schemes: &["skeleton"],
            from_url: Some(options::from_url),
            example: "skeleton: { url: \"skeleton://localhost:7000\" }",
        },
    ]
}
