//! Steps written as VRL expressions: `map`, `filter`, `split`, `route` and `aggregate`.
//!
//! ```yaml
//! steps:
//!   - map: ". = split(downcase(string!(.)), r'[^a-z]+')"
//!   - split: {}
//!   - filter: '. != ""'
//!   - aggregate: { key: ., fields: { count: count() }, emit: end }
//! ```
//!
//! `.` is the value as its codec gives it, `%key`, `%headers`, `%stream`, `%shard`, `%sequence` and `%time` are the record's
//! own, `%vars.NAME` is a variable of the pipeline. A program is compiled for what comes in, so a field of text is an error
//! of the plan, not of each record.
//!
//! ```text
//!   source ──► program ──► Program ──► Machine (reads)            filter, route, aggregate
//!              inspect     lenient     Map     (writes, target)   map
//!              diagnose                   │
//!                                         ▼
//!   bytes ──► value::Row ── json::parse ── Value ── changes ── json::write ──► bytes
//! ```
//!
//! Between these steps values stay parsed ([`Parsed`](millstream_core::Parsed)): a row is parsed when a step first looks
//! inside, and written when a sink wants bytes. Fields that nobody assigned keep their bytes and their order.
//!
//! What cannot be computed condemns exactly its record: text that is no JSON (`E_DECODE`), an expression that fails
//! (`E_DATA`, told in terms of the record: *`.total` is missing*), a panic in VRL (`E_PANIC`).

mod aggregate;
mod beside;
mod changes;
mod diagnose;
mod fault;
mod filter;
mod inspect;
mod json;
mod key;
mod lenient;
mod machine;
mod map;
mod metadata;
mod named;
mod needs;
mod program;
mod route;
mod split;
mod target;
mod value;

use millstream_core::Component;

/// A key of keyed state as JSON: what `aggregate` stores it under is no text.
pub fn read_key(bytes: &[u8]) -> serde_json::Value {
    let mut text = Vec::new();
    json::write_value(&mut text, &key::decode(bytes), None);
    serde_json::from_slice(&text).unwrap_or_default()
}

/// The components of this crate.
pub fn components() -> Vec<Component> {
    vec![map::COMPONENT, filter::COMPONENT, split::COMPONENT, route::COMPONENT, aggregate::COMPONENT]
}
