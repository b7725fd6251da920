//! Errors of user code as records carry them.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
};

use millstream_core::{Error, ErrorKind, Result, panicked};

/// What a user's closure may fail with: any error, `anyhow::Error`, or a text.
///
/// What becomes of the record follows from the kind of the error:
///
/// - An [`Error`] has its kind, also where it is a cause of another error.
/// - An I/O error that another try may help (nobody listens, the connection broke, it took too long, the disk is full, it was
///   interrupted) is [`ErrorKind::Unavailable`], also where it is a cause; so it is tried again.
/// - Anything else is the record's fault: [`ErrorKind::Data`].
///
/// For errors of other types [`Pipeline::classify`](crate::Pipeline::classify) says what they are; [`Error::of`] does so at one
/// place, and `impl From<YourError> for millstream::Error` by it for a type of yours.
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
        match self.into().downcast::<Error>() {
            Ok(ours) => *ours,
            Err(foreign) => {
                let error = Error::of(ErrorKind::Data, foreign);
                let kind = unasked(&error);
                error.with_kind(kind)
            }
        }
    }
}

/// The same for results.
pub(crate) fn outcome<T, E: Failure>(result: std::result::Result<T, E>) -> Result<T> {
    result.map_err(Failure::into_error)
}

/// Calls user code outside of any record's catch.
pub(crate) fn contained<R>(call: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| Err(panicked(&*panic)))
}

/// The kind of an error of another type, where nobody has said what it is.
fn unasked(error: &Error) -> ErrorKind {
    if let Some(ours) = error.find::<Error>() {
        return ours.kind();
    }
    match error.find::<io::Error>() {
        Some(io) if is_transient(io.kind()) => ErrorKind::Unavailable,
        _ => ErrorKind::Data,
    }
}

/// Whether the same call may work later. `Other` is what people make of anything, so it may not.
fn is_transient(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{
        AddrInUse, AddrNotAvailable, BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, Deadlock,
        HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable, NotConnected, OutOfMemory, QuotaExceeded,
        ResourceBusy, StaleNetworkFileHandle, StorageFull, TimedOut, WouldBlock,
    };
    matches!(
        kind,
        AddrInUse
            | AddrNotAvailable
            | BrokenPipe
            | ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | Deadlock
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | NotConnected
            | OutOfMemory
            | QuotaExceeded
            | ResourceBusy
            | StaleNetworkFileHandle
            | StorageFull
            | TimedOut
            | WouldBlock
    )
}

/// Says of what kind an error is, if it knows the type.
type Classifier = Arc<dyn Fn(&Error) -> Option<ErrorKind> + Send + Sync>;

/// What a pipeline was told of errors of other types; shared by all its steps.
#[derive(Clone, Default)]
pub(crate) struct Classifiers(Arc<Mutex<Vec<Classifier>>>);

impl Classifiers {
    pub(crate) fn add<E, I>(&self, classify: impl Fn(&E) -> I + Send + Sync + 'static)
    where
        E: std::error::Error + 'static,
        I: Into<Option<ErrorKind>>,
    {
        let classifier: Classifier = Arc::new(move |error| error.find::<E>().and_then(|found| classify(found).into()));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(classifier);
    }

    /// All of them, as they are now.
    pub(crate) fn all(&self) -> Classes {
        Classes(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Classifiers of a step that runs.
pub(crate) struct Classes(Vec<Classifier>);

impl Classes {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives the error the kind of the first classifier that knows it. An error whose kind somebody chose keeps it.
    pub(crate) fn classify(&self, error: &mut Error) {
        let kind = match error.kind() {
            // What cannot be decoded was `Data` before.
            ErrorKind::Decode => ErrorKind::Data,
            kind => kind,
        };
        if kind != unasked(error) {
            return;
        }
        // A classifier that panics has nothing to say.
        let ask = |classify: &Classifier| catch_unwind(AssertUnwindSafe(|| classify(error))).ok().flatten();
        if let Some(kind) = self.0.iter().find_map(ask) {
            *error = error.clone().with_kind(kind);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    fn kind_of(failure: impl Failure) -> ErrorKind {
        failure.into_error().kind()
    }

    #[derive(Debug)]
    struct Failed(Box<dyn std::error::Error + Send + Sync>);

    impl fmt::Display for Failed {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("it has failed")
        }
    }

    impl std::error::Error for Failed {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&*self.0)
        }
    }

    #[test]
    fn what_another_try_can_help_is_unavailable_and_all_else_is_the_records_fault() {
        for transient in [io::ErrorKind::TimedOut, io::ErrorKind::ConnectionRefused, io::ErrorKind::StorageFull] {
            assert_eq!(kind_of(io::Error::from(transient)), ErrorKind::Unavailable);
            assert_eq!(kind_of(Failed(io::Error::from(transient).into())), ErrorKind::Unavailable);
        }
        for lasting in [io::ErrorKind::NotFound, io::ErrorKind::Other, io::ErrorKind::InvalidData] {
            assert_eq!(kind_of(io::Error::from(lasting)), ErrorKind::Data);
        }
        assert_eq!(kind_of("x".parse::<u32>().unwrap_err()), ErrorKind::Data);
    }

    #[test]
    fn an_error_of_ours_keeps_its_kind_also_as_a_cause() {
        let ours = || Error::new(ErrorKind::Throttled, "slow down");
        assert_eq!(kind_of(ours()), ErrorKind::Throttled);
        assert_eq!(kind_of(Failed(ours().into())), ErrorKind::Throttled);
        assert_eq!(kind_of(Box::<dyn std::error::Error + Send + Sync>::from(ours())), ErrorKind::Throttled);
    }

    #[test]
    fn nothing_is_told_twice() {
        let causes = |failure: &dyn Fn() -> Error| failure().causes();
        assert_eq!(causes(&|| "plain text".into_error()), ["plain text"]);
        assert_eq!(causes(&|| "x".parse::<u32>().unwrap_err().into_error()), ["invalid digit found in string"]);
        assert_eq!(causes(&|| Failed("no card".into()).into_error()), ["it has failed", "no card"]);
    }

    #[test]
    fn a_classifier_has_the_word_on_errors_whose_kind_nobody_chose() {
        let classifiers = Classifiers::default();
        classifiers.add(|error: &Failed| {
            assert_ne!(error.0.to_string(), "boom");
            None
        });
        classifiers.add(|error: &Failed| (error.0.to_string() == "busy").then_some(ErrorKind::Throttled));
        classifiers.add(|_: &Failed| ErrorKind::Rejected);
        let classified = |mut error: Error| {
            classifiers.all().classify(&mut error);
            error.kind()
        };
        assert_eq!(classified(Failed("busy".into()).into_error()), ErrorKind::Throttled);
        assert_eq!(classified(Failed("no card".into()).into_error()), ErrorKind::Rejected);
        assert_eq!(classified(Failed("busy".into()).into_error().context("cannot charge")), ErrorKind::Throttled);
        assert_eq!(classified(Error::of(ErrorKind::TooLarge, Failed("busy".into()))), ErrorKind::TooLarge);
        assert_eq!(classified("busy".into_error()), ErrorKind::Data);
        assert_eq!(classified(Failed("boom".into()).into_error()), ErrorKind::Rejected);
    }
}
