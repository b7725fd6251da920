//! Connector `file`: text files and globs, read once or followed; written by appending, replacing or rotating.
//!
//! - **Position**: for each file device, inode, a fingerprint of its first bytes, and the byte behind the last record;
//!   kept in our checkpoint. A file is shard 0 of a stream of its name; sequences count from 1, on across rotation.
//! - **Ack**: a record counts as delivered when it is in the file (`flush`), and is on the disk (synced) before the
//!   checkpoint names it.
//! - **Ordering**: as in the file; a rotated file is read before its successor; between files none.
//! - **A crash repeats** what was read since the checkpoint; the sink cuts what it wrote since then, so that nothing is
//!   twice in its file (`exactly_once`).
//!
//! The README tells the rest: rotation, truncation, names of temporary files, what foreign readers see.

mod error;
mod formats;
mod glob;
mod identity;
mod options;
mod published;
mod sink;
mod source;
pub mod ss;
mod url;
mod watch;

use millstream_core::{Component, Planner};

pub use options::{Existing, FileSinkOptions, FileSourceOptions, Multiline, Rotate};
pub use ss::StreamFile;

/// What this connector offers.
pub fn components() -> Vec<Component> {
    vec![
        Component {
            name: "file",
            summary: "Reads files, once or as they grow and rotate.",
            schema: ss::source_schema,
            planner: Planner::Source(ss::plan_source),
            schemes: &["file"],
            from_url: Some(ss::source_from_url),
            example: "file: { path: app.log, follow: true }",
        },
        Component {
            name: "file",
            summary: "Writes a file: appends to it, replaces it, or rotates.",
            schema: ss::sink_schema,
            planner: Planner::Sink(ss::plan_sink),
            schemes: &["file"],
            from_url: Some(ss::sink_from_url),
            example: "file: { path: out.ndjson }",
        },
    ]
}
