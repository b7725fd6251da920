//! The protocol that Redis speaks (RESP, version 2), as far as we need it.
//!
//! A layer of our own and not the `redis` crate's, for the hot path: a reply there is a tree with an allocation for each
//! value, here a list of places in the buffer that was read, so that values go into a batch without being copied; and a
//! thousand `XADD`s are one buffer. `tests/it/speed.rs` measures both side by side.

mod command;
mod reply;
mod scan;

pub(crate) use command::{Commands, digits};
pub(crate) use reply::{Cursor, Item, Reply};
pub(crate) use scan::{Malformed, Scanner};
