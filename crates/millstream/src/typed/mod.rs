//! Streams of values of a Rust type: their bodies, and the steps that handle them one by one.

mod answers;
mod body;
mod children;
mod convert;
mod data;
mod envelope;
mod fold;
mod rows;
mod source;
mod steps;
mod stream;

pub(crate) use body::{pack, typed, unpack, written_bytes};
pub(crate) use convert::{decode, split};
pub(crate) use rows::{View, view};
pub(crate) use source::Values;
pub(crate) use steps::map_with;

pub use body::Typed;
pub use data::{Data, ToBytes};
pub use envelope::RecordOf;
