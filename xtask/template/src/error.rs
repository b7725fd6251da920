//! Errors of the system as ours: the kind decides whether it is tried again, and who has to act.

use std::io;

use millstream_core::{Error, ErrorKind};

/// `cannot {what} {address}`; what the network refuses is tried again.
pub(crate) fn failed(what: &str, address: &str, cause: io::Error) -> Error {
    let error = Error::io(format!("cannot {what} `{address}`"), cause).with_kind(ErrorKind::Unavailable);
    error.hint("check that the server runs and that it can be reached from here")
}

/// Something took longer than the option `timeout` allows.
pub(crate) fn too_slow(what: &str, address: &str) -> Error {
    Error::new(ErrorKind::Timeout, format!("cannot {what} `{address}` in time"))
        .hint("check the network, or allow more with `timeout`")
}

/// A call that the contract forbids: nothing is open.
pub(crate) fn not_open() -> Error {
    Error::new(ErrorKind::Bug, "the connection is used before it is open")
}
