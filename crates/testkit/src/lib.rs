//! Conformance suites, fakes, fault injection and crash tests.
//!
//! Fakes are real components: they keep the contracts of `millstream-core`, and can be made to fail, stall and reject.
//! With the feature `conformance` there is the suite that every streaming system must pass: see `conformance`.
//! With the feature `kills` there is a runner that lets pipelines die: see [`run_killed`].
//! With the feature `seeds` there is a runner of random cases against a model: see [`seeds`].
//! With the feature `servers` there are real servers too: see `servers`.

mod budget;
#[cfg(feature = "conformance")]
pub mod conformance;
mod count;
mod fuzz;
mod group;
mod host;
#[cfg(feature = "kills")]
mod kills;
mod member;
pub mod process;
#[cfg(feature = "seeds")]
mod seeds;
#[cfg(feature = "servers")]
pub mod servers;
mod sink;
mod source;
mod topic;

pub use budget::budget;
pub use count::CountValues;
pub use fuzz::{Dice, fuzz};
pub use group::FakeGroup;
pub use host::{FakeServer, Kept, Outcome};
#[cfg(feature = "kills")]
pub use kills::run_killed;
pub use process::silence_kills;
#[cfg(feature = "seeds")]
pub use seeds::{same_values, seeds};
pub use sink::FakeSink;
pub use source::FakeSource;
pub use topic::FakeTopic;
