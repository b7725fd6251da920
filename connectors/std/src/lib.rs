//! Connector for standard streams, generated records and in-process channels.
//!
//! | component | what it is |
//! |---|---|
//! | `stdin` | source: standard input, verbatim lines or any codec |
//! | `stdout` | sink: standard output, lines or any codec |
//! | `stdio`, URL `stdio:` | source and sink: the stdio line protocol, see [`Stdio`] |
//!
//! # Guarantee
//!
//! - **Position**: standard input and channels have none (`Owner::Nobody`); generated records and values go on where they were.
//! - **Ack**: a record counts as written when the operating system has taken it, which `flush` waits for.
//! - **Ordering**: as read, within each stream and shard; the members of a group see their share in order.
//! - **A crash repeats** nothing of standard input by itself: the runtime gives again what it kept; output may be seen twice.

mod stdio;

use millstream_core::Component;

pub use stdio::{PrintedSequences, Reading, StdinOptions, Stdio, StdioSinkOptions, StdioSourceOptions, StdoutOptions};

/// All components of this connector.
pub fn components() -> Vec<Component> {
    vec![stdio::STDIN, stdio::STDOUT, stdio::STDIO_SOURCE, stdio::STDIO_SINK]
}
