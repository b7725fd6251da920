//! Move and process streams of records.
//!
//! Two ways in:
//!
//! - a [`Pipeline`]: sources, steps and sinks that run until the sources end or you drain them, with checkpoints, retries,
//!   dead letters and exactly-once where the sinks can;
//! - [`connect`]: a [`Streamer`](client::Streamer) that reads and writes streams without a pipeline.
//!
//! ```no_run
//! use millstream::prelude::*;
//!
//! # async fn example() -> millstream::Result<()> {
//! let summary = Pipeline::new("errors")
//!     .source("file:app.log")
//!     .filter(|record| record.value().is_some_and(|line| line.starts_with(b"ERROR")))
//!     .sink("file:errors.log")
//!     .run()
//!     .await?;
//! println!("{} lines", summary.stages["file"].records_in);
//! # Ok(())
//! # }
//! ```

mod connect;
mod fold;
mod home;
mod pipeline;
mod steps;
#[cfg(test)]
mod tests;

pub use connect::connect;
pub use home::Home;
pub use millstream_bundle::{key_reader, registry};
pub use millstream_client as client;
pub use millstream_core as core;
pub use millstream_core::{Delivery, Error, ErrorKind, Record, RecordRef, Result, SeekTo, Size, Span, Timestamp};
pub use millstream_runtime as runtime;
pub use millstream_runtime::{Ended, Handle, Running, Status, Summary};
pub use millstream_state as state;
pub use pipeline::Pipeline;
pub use steps::{Emit, Value};

/// What most programs use.
pub mod prelude {
    pub use crate::{Delivery, Emit, Pipeline, Record, RecordRef, Result, Summary, Value};
}
