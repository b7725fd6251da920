//! Keyed state and the checkpoint store: in memory and on disk
//!
//! An operator keeps its state in a [`KeyedTable`]: plain values in memory, found by key without serialising anything. At
//! each barrier it gives the keys that changed. A [`Store`](millstream_core::Store) makes those changes and the checkpoint
//! count together or not at all:
//!
//! ```text
//! KeyedTable ── changes ──► Store::write ──► Store::decide ──► it counts
//! KeyedTable ◄─ restore ─── Store::scan  ◄── Store::load  ◄── after a crash
//! ```
//!
//! | store | keeps | for |
//! |---|---|---|
//! | [`EmbeddedStore`] | a checkpoint log in `<state-dir>/<pipeline>/`, and fjall where there is keyed state | everything that must outlive the process |
//! | [`MemoryStore`] | a [`Memory`] that the process holds | pipelines that restart inside one process |
//!
//! [`DeadLetterLog`] is the sink of records that failed for good, [`read_dead_letters`] reads it, and [`inspect`] looks at
//! pipelines at rest. Every store passes the suite in `conformance`.

mod dead_letters;
mod embedded;
mod files;
mod id;
pub mod inspect;
mod lock;
mod log;
mod memory;
mod segment;
mod table;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;

pub use dead_letters::{DEAD_LETTER_CAPABILITIES, DeadLetterLog, encode_dead_letter, read_dead_letters};
pub use embedded::EmbeddedStore;
pub use memory::{Memory, MemoryStore};
pub use table::{Folds, Key, KeyedTable};
