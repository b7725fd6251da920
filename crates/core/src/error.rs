//! The one error type of the workspace, and the one table that says what each kind means.
//!
//! A message says what could not be done, in lower case; [`Error::hint`] says what to do; the cause stays in
//! [`std::error::Error::source`]. Errors are cheap to clone, because one cause can condemn many records.

use std::{fmt, sync::Arc};

/// The result of everything in Millstream that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Cause = Arc<dyn std::error::Error + Send + Sync + 'static>;

/// What could not be done, why, and what to do about it.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    place: Option<Place>,
    cause: Option<Cause>,
    /// The message is what the cause itself says.
    speaks_for_cause: bool,
}

/// Where in what the user wrote an error lies.
///
/// A component knows only the path of its own option. The layers around it put their part in front
/// ([`Error::within`]), and the pipeline file turns the whole path into line and column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Keys from the outermost to the innermost option; list positions are decimal numbers.
    pub path: Vec<String>,
    /// Byte range inside a text option, such as an expression.
    pub span: Option<(usize, usize)>,
    /// `file:line:column`, once it is known.
    pub location: Option<String>,
}

macro_rules! error_kinds {
    ($( $(#[$doc:meta])* $kind:ident = $code:literal, $class:ident, $blame:ident, $retry:literal, $exit:literal, $http:literal, $summary:literal; )*) => {
        /// Every kind of failure. [`ErrorKind::facts`] is the table of what follows from it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind { $( #[doc = $summary] $kind, )* }

        impl ErrorKind {
            /// All kinds, in the order of the table.
            pub const ALL: &'static [ErrorKind] = &[ $( ErrorKind::$kind, )* ];

            /// The row of the table.
            pub const fn facts(self) -> Facts {
                match self { $( ErrorKind::$kind => Facts {
                    code: $code, class: Class::$class, blame: Blame::$blame, retry: $retry, exit: $exit, http: $http, summary: $summary,
                }, )* }
            }
        }
    };
}

error_kinds! {
    // kind       code               class          blame     retry  exit http  summary
    Decode      = "E_DECODE",        Data,          External, false, 1,   422, "A value is not what its codec or schema says.";
    Data        = "E_DATA",          Data,          User,     false, 1,   422, "A step could not handle a record.";
    Panic       = "E_PANIC",         Data,          User,     false, 1,   500, "User code panicked on a record.";
    TooLarge    = "E_TOO_LARGE",     Rejected,      External, false, 1,   413, "A record is larger than a limit.";
    Rejected    = "E_REJECTED",      Rejected,      External, false, 1,   422, "A system refused a record.";
    Timeout     = "E_TIMEOUT",       Timeout,       External, true,  1,   504, "Something took longer than allowed.";
    Unavailable = "E_UNAVAILABLE",   Unavailable,   External, true,  1,   503, "A system cannot be reached, or is out of room, for now.";
    Throttled   = "E_THROTTLED",     Throttled,     External, true,  1,   429, "A system asks us to slow down.";
    Full        = "E_FULL",          Throttled,     User,     true,  1,   429, "A bounded buffer of ours is full.";
    Closed      = "E_CLOSED",        Configuration, User,     false, 1,   410, "The stream or the handle has been closed or has ended.";
    Option      = "E_OPTION",        Configuration, User,     false, 2,   400, "An option is missing, unknown or has a wrong value.";
    Syntax      = "E_SYNTAX",        Configuration, User,     false, 2,   400, "A pipeline file, expression or URL cannot be read.";
    Plan        = "E_PLAN",          Configuration, User,     false, 2,   400, "The pipeline as written cannot keep what it promises.";
    Unsupported = "E_UNSUPPORTED",   Configuration, User,     false, 2,   405, "The component cannot do what was asked of it.";
    NotFound    = "E_NOT_FOUND",     Configuration, User,     false, 1,   404, "Something that was named does not exist.";
    Exists      = "E_EXISTS",        Configuration, User,     false, 1,   409, "Something that must not exist does.";
    Permission  = "E_PERMISSION",    Permission,    User,     false, 1,   403, "Access was denied.";
    Locked      = "E_LOCKED",        Configuration, User,     false, 1,   409, "Another process owns it.";
    Fenced      = "E_FENCED",        Configuration, External, false, 1,   409, "A newer runner has taken over this pipeline.";
    StateMismatch = "E_STATE_MISMATCH", Configuration, External, false, 1, 409, "The stored state and the outside world do not fit together.";
    Corrupt     = "E_CORRUPT",       Data,          External, false, 1,   500, "Stored bytes are damaged.";
    Version     = "E_VERSION",       Configuration, User,     false, 1,   409, "Stored bytes were written by a newer version.";
    Interrupted = "E_INTERRUPTED",   Unavailable,   User,     false, 3,   503, "Work was stopped before it was done.";
    Bug         = "E_BUG",           Bug,           Bug,      false, 1,   500, "Millstream broke one of its own rules.";
}

/// One row of the table of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Stable code, for error rules and alerts.
    pub code: &'static str,
    /// What error rules match by `class`.
    pub class: Class,
    /// Who has to act.
    pub blame: Blame,
    /// Whether trying again can help.
    pub retry: bool,
    /// Exit code of a command that ends with it.
    pub exit: u8,
    /// Status of an HTTP answer that carries it.
    pub http: u16,
    /// One sentence.
    pub summary: &'static str,
}

/// The classes that error rules match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The record itself is at fault.
    Data,
    /// Something took longer than allowed.
    Timeout,
    /// A system cannot be reached for now.
    Unavailable,
    /// A system or buffer asks to slow down.
    Throttled,
    /// A system refused a record.
    Rejected,
    /// What the user wrote or set up does not fit.
    Configuration,
    /// Access was denied.
    Permission,
    /// Millstream is at fault.
    Bug,
}

/// Who has to act on an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The person who wrote the pipeline.
    User,
    /// A system outside, or the data it sent.
    External,
    /// Us.
    Bug,
}

impl Error {
    /// An error of `kind`; `message` says what could not be done, in lower case.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Error(Box::new(Inner { kind, message, hint: None, place: None, cause: None, speaks_for_cause: false }))
    }

    /// An error of another type, or a text, as one of `kind`. What it says is the message, and its causes are the causes, so
    /// that nothing is told twice; the error itself can still be [found](Error::find). One of ours only changes its kind.
    ///
    /// ```
    /// # use millstream_core::{Error, ErrorKind, Result};
    /// fn port(text: &str) -> Result<u16> {
    ///     text.parse().map_err(|cause| Error::of(ErrorKind::Rejected, cause))
    /// }
    /// let error = port("http").unwrap_err();
    /// assert_eq!(error.chain(), "invalid digit found in string");
    /// assert!(error.find::<std::num::ParseIntError>().is_some());
    /// ```
    pub fn of(kind: ErrorKind, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        match error.into().downcast::<Error>() {
            Ok(ours) => ours.with_kind(kind),
            Err(cause) => {
                let mut error = Error::new(kind, cause.to_string());
                error.0.cause = Some(Arc::from(cause));
                error.0.speaks_for_cause = true;
                error
            }
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn caused_by(mut self, cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.0.cause = Some(Arc::new(cause));
        self.0.speaks_for_cause = false;
        self
    }

    /// The error `message`, caused by this one; kind, hint and place stay.
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Self {
        let (kind, hint, place) = (self.0.kind, self.0.hint.clone(), self.0.place.clone());
        let (message, cause) = (message.into(), Some(Arc::new(self) as Cause));
        Error(Box::new(Inner { kind, message, hint, place, cause, speaks_for_cause: false }))
    }

    /// Says that the error lies in the option `key` of what encloses it. Call from the inside out.
    #[must_use]
    pub fn within(mut self, key: impl Into<String>) -> Self {
        self.0.place.get_or_insert_default().path.insert(0, key.into());
        self
    }

    /// Says which bytes of a text option are at fault.
    #[must_use]
    pub fn span(mut self, start: usize, end: usize) -> Self {
        self.0.place.get_or_insert_default().span = Some((start, end));
        self
    }

    /// Says where in a file the error lies, as `file:line:column`.
    #[must_use]
    pub fn located(mut self, location: impl Into<String>) -> Self {
        self.0.place.get_or_insert_default().location = Some(location.into());
        self
    }

    /// The same error under another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// An I/O error: the kind follows from the cause.
    pub fn io(message: impl Into<String>, cause: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let (kind, hint) = match cause.kind() {
            Io::NotFound => (ErrorKind::NotFound, None),
            Io::PermissionDenied | Io::ReadOnlyFilesystem => {
                (ErrorKind::Permission, Some("check who owns it and its mode"))
            }
            Io::StorageFull | Io::QuotaExceeded => (ErrorKind::Unavailable, Some("free some space; it is tried again")),
            Io::IsADirectory | Io::NotADirectory | Io::InvalidInput => (ErrorKind::Option, None),
            Io::AlreadyExists => (ErrorKind::Exists, None),
            Io::TimedOut => (ErrorKind::Timeout, None),
            Io::InvalidData | Io::UnexpectedEof => (ErrorKind::Corrupt, None),
            _ => (ErrorKind::Unavailable, None),
        };
        let error = Error::new(kind, message).caused_by(cause);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }

    /// Its kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The row of the table for its kind.
    pub fn facts(&self) -> Facts {
        self.0.kind.facts()
    }

    /// What could not be done.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do about it.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Where it lies in what the user wrote.
    pub fn place(&self) -> Option<&Place> {
        self.0.place.as_ref()
    }

    /// The first error of type `E` among what it was made [of](Error::of) and its causes, also inside of I/O errors.
    pub fn find<E: std::error::Error + 'static>(&self) -> Option<&E> {
        let mut error = self.0.cause.as_deref().map(|cause| cause as Dyn<'_>);
        while let Some(at) = error {
            if let Some(found) = at.downcast_ref::<E>() {
                return Some(found);
            }
            error = beneath(at);
        }
        None
    }

    /// Its message and those of its causes, outermost first; without those that the one before says already.
    pub fn causes(&self) -> Vec<String> {
        let mut texts = vec![self.0.message.clone()];
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let text = error.to_string();
            if texts.last().is_none_or(|before| !before.ends_with(&text)) {
                texts.push(text);
            }
            cause = error.source();
        }
        texts
    }

    /// Message and causes, joined by colons: one line for logs and dead letters.
    pub fn chain(&self) -> String {
        self.causes().join(": ")
    }
}

type Dyn<'a> = &'a (dyn std::error::Error + 'static);

/// What lies behind an error, also where it speaks for its cause.
fn beneath(error: Dyn<'_>) -> Option<Dyn<'_>> {
    if let Some(ours) = error.downcast_ref::<Error>() {
        return ours.0.cause.as_deref().map(|cause| cause as Dyn<'_>);
    }
    let inside = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    inside.map(|inside| inside as Dyn<'_>).or_else(|| error.source())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.facts().code, self.chain())?;
        if let Some(place) = &self.0.place {
            write!(
                f,
                " (at {}{})",
                place.path.join("."),
                place.location.as_deref().map(|l| format!(", {l}")).unwrap_or_default()
            )?;
        }
        match &self.0.hint {
            Some(hint) => write!(f, "; hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let cause = self.0.cause.as_deref()?;
        if self.0.speaks_for_cause { cause.source() } else { Some(cause) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique() {
        let mut codes: Vec<_> = ErrorKind::ALL.iter().map(|kind| kind.facts().code).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
    }

    #[test]
    fn context_keeps_kind_hint_and_place() {
        let error = Error::new(ErrorKind::Option, "unknown option `pth`").hint("did you mean `path`?").within("pth");
        let error = error.context("cannot plan the sink").within("sink");
        assert_eq!(error.kind(), ErrorKind::Option);
        assert_eq!(error.hint_text(), Some("did you mean `path`?"));
        assert_eq!(error.place().unwrap().path, ["sink", "pth"]);
        assert_eq!(error.chain(), "cannot plan the sink: unknown option `pth`");
    }
    #[test]
    fn an_error_of_another_type_is_told_once_and_can_be_found() {
        #[derive(Debug)]
        struct Declined(std::io::Error);
        impl fmt::Display for Declined {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bank has declined")
            }
        }
        impl std::error::Error for Declined {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }

        assert_eq!(Error::of(ErrorKind::Data, "no card").causes(), ["no card"]);
        let declined = || Declined(std::io::Error::other(Error::new(ErrorKind::Throttled, "later")));
        let error = Error::of(ErrorKind::Rejected, declined());
        assert_eq!((error.kind(), error.causes()), (ErrorKind::Rejected, vec![error.message().into(), "later".into()]));
        let error = error.context("cannot charge");
        assert_eq!(error.chain(), "cannot charge: the bank has declined: later");
        assert!(error.find::<Declined>().is_some() && error.find::<fmt::Error>().is_none());
        let wrapped = Error::of(ErrorKind::Data, std::io::Error::other(declined()));
        assert!(wrapped.find::<Declined>().is_some());
        assert_eq!(wrapped.find::<Error>().map(Error::kind), Some(ErrorKind::Throttled));
    }
}
