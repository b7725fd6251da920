//! What `docs` say of `map`, `filter`, `split`, `route` and `aggregate`, sentence by sentence.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod aggregate;
mod chain;
mod expressions;
mod filter;
mod map;
mod route;
mod split;
mod support;
