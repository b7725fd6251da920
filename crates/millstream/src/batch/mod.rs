//! Records gathered to batches for one handler call.

mod batch_of;
mod batching;
mod grouping;
mod pending;
mod repeat;
mod saved;
mod stream;
mod worker;

pub(crate) use batching::Splitter;

pub use batch_of::{BatchOf, Trigger};
pub use batching::Batching;
pub use stream::Batched;
pub use worker::BatchWorker;
