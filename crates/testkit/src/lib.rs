//! Conformance suites, fakes, fault injection and crash tests.
//!
//! Fakes are real components: they keep the contracts of `millstream-core`, and can be made to fail, stall and reject.

mod count;
mod fuzz;
mod sink;
mod source;

pub use count::CountValues;
pub use fuzz::{Dice, fuzz};
pub use sink::FakeSink;
pub use source::FakeSource;
