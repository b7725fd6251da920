//! JSON in and out, without losing a byte that nobody touched.
//!
//! A value is parsed once; its text stays beside it. What was not assigned is copied from that text, so numbers keep
//! their digits and objects their order, whatever the parsed form makes of them.

mod parse;
mod scan;
mod write;

pub(crate) use parse::{beyond_64_bits, from_digits, parse};
pub(crate) use scan::{find, items};
pub(crate) use write::{check, write_changed, write_value};
