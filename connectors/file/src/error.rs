//! Errors of the file system, with the path and what to do.

use std::{io, path::Path};

use millstream_core::Error;

/// `cannot {what} {path}`, with a hint that fits the cause.
pub(crate) fn failed(what: &str, path: &Path, cause: io::Error) -> Error {
    let kind = cause.kind();
    let error = Error::io(format!("cannot {what} `{}`", path.display()), cause);
    let hint = match kind {
        io::ErrorKind::NotFound => "check the path; a relative one is relative to the working directory",
        io::ErrorKind::PermissionDenied => "check the owner and mode of the file and of the folders above it",
        io::ErrorKind::IsADirectory => "name a file in it, or all of them with `*`",
        io::ErrorKind::NotADirectory => "a part of the path is a file where a folder is needed",
        _ => return error,
    };
    error.hint(hint)
}

/// Runs blocking work off the async threads; a panic in it is a bug of ours.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> millstream_core::Result<T> + Send + 'static,
) -> millstream_core::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(cause) => Err(stopped(cause)),
    }
}

/// The error for blocking work that did not come back.
pub(crate) fn stopped(cause: tokio::task::JoinError) -> Error {
    let kind = if cause.is_panic() { millstream_core::ErrorKind::Bug } else { millstream_core::ErrorKind::Interrupted };
    Error::new(kind, "work on a file was stopped").caused_by(cause)
}
