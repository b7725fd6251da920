//! The words of Millstream as types, and the contracts that everything else is built on.
//!
//! No async runtime, no I/O and no client library is used here: this crate only says what a batch, a source, a sink, a
//! store and an error are. `docs/decisions/` tells why they have these shapes.

mod error;
mod time;

pub use error::{Blame, Class, Error, ErrorKind, Facts, Place, Result};
pub use time::{Size, Span, Timestamp};
