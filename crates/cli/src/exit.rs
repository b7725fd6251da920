//! Exit codes, and how a failure is shown.

use std::process::ExitCode;

use millstream::core::Error;
use millstream_config::Diagnostic;

use crate::talk::Talk;

/// How the program ends. The order is the one in which several ends are summed up: the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// All done.
    Done,
    /// Drained after a signal, but something was left undone.
    Undone,
    /// Bad usage, bad file, bad URL: nothing was started.
    Usage,
    /// A pipeline failed.
    Failed,
    /// Stopped at once, by a second signal.
    Killed,
}

impl Exit {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Undone => 3,
            Exit::Killed => 130,
        }
    }

    /// The end that an error means.
    pub(crate) fn of(error: &Error) -> Exit {
        match error.facts().exit {
            0 => Exit::Done,
            2 => Exit::Usage,
            3 => Exit::Undone,
            _ => Exit::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// What a command comes to.
pub(crate) type Outcome = Result<Exit, Failure>;

/// Why a command could not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Each is shown.
    Errors(Vec<Diagnostic>),
    /// The reader of standard output has gone away, as with `| head`: no failure.
    ReaderGone,
}

impl Failure {
    /// Shows it, and says how to exit.
    pub(crate) fn show(&self, talk: &Talk) -> Exit {
        let Failure::Errors(diagnostics) = self else { return Exit::Done };
        diagnostics.iter().for_each(|diagnostic| talk.error(diagnostic));
        diagnostics.iter().map(|diagnostic| Exit::of(diagnostic.error())).max().unwrap_or(Exit::Failed)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Errors(vec![error.into()])
    }
}

impl From<Vec<Error>> for Failure {
    fn from(errors: Vec<Error>) -> Self {
        Failure::Errors(errors.into_iter().map(Diagnostic::from).collect())
    }
}

impl From<Vec<Diagnostic>> for Failure {
    fn from(diagnostics: Vec<Diagnostic>) -> Self {
        Failure::Errors(diagnostics)
    }
}
