//! Connector for standard streams, generated records and in-process channels.
//!
//! | component | what it is |
//! |---|---|
//! | `stdin` | source: standard input, verbatim lines or any codec |
//! | `stdout` | sink: standard output, lines or any codec; `format` prints whole records |
//! | `stdio`, URL `stdio:` | source and sink: the stdio line protocol; from Rust [`Stdio`], with groups and loopback |
//! | `generate` | source: records made up, at a rate |
//! | `values` | source: records that stand in the pipeline file; from Rust [`values()`] |
//! | `drop`, URL `drop:` | sink: counts and forgets; from Rust [`Dropped`] |
//! | [`channel()`], [`receiver()`] | source and sink that are handles in a Rust program |
//! | [`collector()`] | source that a Rust program pushes values of a type of its own into |
//!
//! # Guarantee
//!
//! - **Position**: standard input and channels have none (`Owner::Nobody`); generated records and values go on where they were.
//! - **Ack**: a record counts as written when the operating system has taken it, which `flush` waits for.
//! - **Ordering**: as read, within each stream and shard; the members of a group see their share in order.
//! - **A crash repeats** nothing of standard input by itself: the runtime gives again what it kept; output may be seen twice.
//!
//! A reader that goes away (`| head`) is the error [`ErrorKind::Closed`](millstream_core::ErrorKind::Closed) of `write` or `flush`:
//! the command line ends quietly on it.

mod channel;
mod drop;
mod generate;
mod stdio;
mod values;

// For `channel/queue.rs`: a model checker has its own.
use std::sync as locks;

use millstream_core::Component;

pub use channel::{
    ChannelOptions, Collector, CollectorOptions, Pushed, Receipt, Receiver, Sender, channel, collector, receiver,
};
pub use drop::{DropOptions, Dropped};
pub use generate::GenerateOptions;
pub use stdio::{PrintedSequences, Reading, StdinOptions, Stdio, StdioSinkOptions, StdioSourceOptions, StdoutOptions};
pub use values::{ValuesOptions, values};

/// All components of this connector.
pub fn components() -> Vec<Component> {
    vec![
        stdio::STDIN,
        stdio::STDOUT,
        stdio::STDIO_SOURCE,
        stdio::STDIO_SINK,
        generate::GENERATE,
        values::VALUES,
        drop::DROP,
    ]
}
