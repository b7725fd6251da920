//! The lock on a pipeline's state directory: one runner at a time.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
    time::{Duration, Instant},
};

use millstream_core::{Error, ErrorKind, Result};

/// Name of the file that is locked. It stays when the lock is given up; what counts is the system's lock on it.
const FILE: &str = "lock";
/// How long to wait for a lock that this very process holds: a store that was dropped may still be finishing its last
/// write in the background.
pub(crate) const OWN_WAIT: Duration = Duration::from_secs(2);
/// How long to wait in any case: `state list` holds a lock for an instant to see whether somebody has it.
const PROBE_WAIT: Duration = Duration::from_millis(50);

/// Held until it is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of `dir`, or says who has it. May wait for 2 s: call it where blocking is allowed.
    pub(crate) fn take(dir: &Path) -> Result<Lock> {
        let path = dir.join(FILE);
        let cannot = |error| Error::io(format!("cannot lock {}", dir.display()), error);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(cannot)?;
        let patience = |file: &File| if holder(file) == Some(std::process::id()) { OWN_WAIT } else { PROBE_WAIT };
        if !wait_for(&file, patience).map_err(cannot)? {
            return Err(held(dir, holder(&file)));
        }
        let pid = format!("{}\n", std::process::id());
        let written =
            file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0))).and_then(|_| file.write_all(pid.as_bytes()));
        // The pid only helps people; a full disk must not keep a pipeline from starting to drain.
        if let Err(error) = written {
            tracing::debug!(path = %path.display(), %error, "cannot write the pid into the lock file");
        }
        Ok(Lock { _file: file })
    }

    /// Who holds the lock of `dir` right now: `None` if nobody, `Some(None)` if somebody without a name.
    pub(crate) fn held_by(dir: &Path) -> Option<Option<u32>> {
        let file = OpenOptions::new().read(true).write(true).open(dir.join(FILE)).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(holder(&file)),
            _ => None,
        }
    }
}

/// Locks a file, trying again for as long as `patience` says; `false` if somebody else has it. Blocks.
pub(crate) fn wait_for(file: &File, patience: impl Fn(&File) -> Duration) -> io::Result<bool> {
    let began = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(true),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if began.elapsed() > patience(file) => return Ok(false),
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn holder(mut file: &File) -> Option<u32> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn held(dir: &Path, holder: Option<u32>) -> Error {
    let who = match holder {
        Some(pid) if pid == std::process::id() => "this process".to_owned(),
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    };
    Error::new(ErrorKind::Locked, format!("cannot lock {}: {who} runs this pipeline", dir.display()))
        .hint("stop the other one, give this pipeline another `name`, or use another state directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_lock_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Lock::held_by(dir.path()), None);
        let lock = Lock::take(dir.path()).unwrap();
        assert_eq!(Lock::held_by(dir.path()), Some(Some(std::process::id())));
        let error = Lock::take(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Locked);
        assert!(error.message().contains("this process"), "{error:?}");
        drop(lock);
        assert_eq!(Lock::held_by(dir.path()), None);
        Lock::take(dir.path()).unwrap();
    }
}
