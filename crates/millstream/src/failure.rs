//! Errors of user code as records carry them.

use std::fmt;

use millstream_core::{Error, ErrorKind, Result};

/// What a user's closure may fail with: any error, `anyhow::Error`, or a text.
///
/// An [`Error`] keeps its kind; an [`std::io::Error`] gets the kind that follows from it, so that what can be tried again
/// is; anything else is [`ErrorKind::Data`].
#[diagnostic::on_unimplemented(
    message = "a step cannot fail with `{Self}`",
    note = "it can fail with `millstream::Error`, any `std::error::Error + Send + Sync`, `anyhow::Error`, `String` or `&str`"
)]
pub trait Failure {
    /// As an error of the pipeline.
    fn into_error(self) -> Error;
}

#[diagnostic::do_not_recommend]
impl<E: Into<Box<dyn std::error::Error + Send + Sync>>> Failure for E {
    fn into_error(self) -> Error {
        let cause = self.into();
        let cause = match cause.downcast::<Error>() {
            Ok(error) => return *error,
            Err(cause) => cause,
        };
        let text = cause.to_string();
        match cause.downcast::<std::io::Error>() {
            Ok(cause) => Error::io(text, *cause),
            Err(cause) => Error::new(ErrorKind::Data, text).caused_by(Cause(cause)),
        }
    }
}

/// The same for results.
pub(crate) fn outcome<T, E: Failure>(result: std::result::Result<T, E>) -> Result<T> {
    result.map_err(Failure::into_error)
}

struct Cause(Box<dyn std::error::Error + Send + Sync>);

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_user_code_keep_what_they_know() {
        let ours = outcome::<(), _>(Err(Error::new(ErrorKind::Throttled, "slow down"))).unwrap_err();
        assert_eq!(ours.kind(), ErrorKind::Throttled);
        let io = outcome::<(), _>(Err(std::io::Error::from(std::io::ErrorKind::TimedOut))).unwrap_err();
        assert_eq!(io.kind(), ErrorKind::Timeout);
        let foreign = outcome("x".parse::<u32>()).unwrap_err();
        assert_eq!((foreign.kind(), foreign.chain().as_str()), (ErrorKind::Data, "invalid digit found in string"));
        assert_eq!(outcome::<(), _>(Err("plain text")).unwrap_err().message(), "plain text");
    }
}
