//! What is not on this machine, and so keeps a server from being started.

use std::{error::Error, fmt};

/// A program or file that a server needs and this machine does not have, in words for `skipped: `.
///
/// A server that is there and does not start is no such thing: it fails the test that wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(String);

impl Missing {
    /// Says what is missing.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Missing(what.into())
    }

    /// Whether a program can be started that a test uses beside the servers; `package` is Debian's.
    pub fn unless_installed(program: &str, package: &str) -> Result<(), Missing> {
        Missing::any(&[(program, package)])
    }

    /// Whether all of these programs can be started.
    pub(crate) fn any(programs: &[(&str, &str)]) -> Result<(), Missing> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders: Vec<_> = std::env::split_paths(&path).collect();
        let there = |program: &str| folders.iter().any(|folder| folder.join(program).is_file());
        match programs.iter().find(|(program, _)| !there(program)) {
            Some((program, package)) => Err(Missing(format!(
                "`{program}` is not installed (package {package}; `cargo xtask test` installs it)"
            ))),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Error for Missing {}

/// The server, or `skipped: why` and the end of the test. `CI=true cargo xtask test` fails over a skip.
///
/// ```no_run
/// # use millstream_testkit::{servers::Redis, started};
/// let redis = started!(Redis::shared());
/// ```
///
/// A test that returns something gives that as second argument: `started!(Redis::start(), Ok(()))`.
#[macro_export]
macro_rules! started {
    ($server:expr $(, $otherwise:expr)?) => {
        match $server {
            Ok(server) => server,
            Err(missing) => {
                let missing: $crate::servers::Missing = missing;
                println!("skipped: {missing}");
                return $($otherwise)?;
            }
        }
    };
}
