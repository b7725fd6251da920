//! Other programs at the same work.

pub(crate) mod dataflow;
pub(crate) mod sea_file;
pub(crate) mod sea_stdio;
