//! Steps that wait: for a future, a thread, an object of the user's. What they have taken is bounded and under way beside
//! each other; order and keys are kept as promised.

mod answer;
mod crew;
mod each;
mod held;
mod limits;
mod prepare;
mod slots;
mod span;
mod worker;

pub(crate) use crew::{Apart, Crew, Gathered, Set, has_key};
pub(crate) use each::{each, every};
pub(crate) use held::{Held, Row};
pub(crate) use limits::{Limits, count as limit_count, span as limit_span};
pub(crate) use prepare::prepare;
pub(crate) use slots::Slots;
pub(crate) use span::{InSpan, in_span};
pub(crate) use worker::working;

pub use answer::{Answer, Outcomes};
pub use prepare::Prepared;
pub use worker::Worker;
