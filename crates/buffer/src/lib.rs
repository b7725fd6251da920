//! Buffers on disk: what a pipeline gives to a sink, kept until the sink has it.
//!
//! A [`Buffer`] is a log of whole records in one folder. The pipeline writes it through [`BufferSink`], a truncating sink;
//! a task of its own reads it through [`BufferSource`], a log whose position is in that task's checkpoint. So the pipeline's
//! epoch counts when its records are durable here, and a slow or dead sink holds up nobody else.
//!
//! ```text
//!   BufferSink ── blocks ──► 00…0000.seg  00…8412.seg  00…9120.seg ◄── blocks ── BufferSource ──► the sink
//!      prepare: sync, token = length              ▲                                 commit: delivered segments are deleted
//!      commit:  publish the length ───────────────┴─ control ─┴─ up to the published length, and no further
//! ```
//!
//! - **Position**: the offset of a block and the number of records before it; blocks are numbered by their place in the
//!   whole log, so offsets only grow.
//! - **Ack**: a record counts for the pipeline when its block is synced and its epoch is decided; it is deleted when the
//!   task's epoch that delivered it is decided.
//! - **Ordering**: as written.
//! - **A crash repeats** what the task had not committed; what the pipeline had not committed is cut.
//!
//! The bytes are those of [`format`](mod@format); all of a record is kept: value, key, headers, time, origin, index among its
//! source record's outputs, the original value, deliveries, form, and absent apart from empty.

mod block;
mod buffer;
mod control;
mod decode;
mod disk;
pub mod format;
pub mod inspect;
mod options;
mod reading;
mod repair;
mod segment;
mod sink;
mod source;
#[cfg(test)]
mod tests;
mod walk;

pub use buffer::{Buffer, BufferFigures};
pub use options::{BufferSpec, DISK_BYTES_MIN, WhenFull};
pub use repair::{Repaired, repair};
pub use sink::BufferSink;
pub use source::BufferSource;
