//! One writer for a file: an advisory lock on `.NAME.lock` beside it.
//!
//! Not on the file itself, because that is renamed and replaced. The kernel frees the lock when its holder dies.

use std::{
    fs::{self, File, TryLockError},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use millstream_core::{Error, ErrorKind, Result};

use crate::{error::failed, published::beside};

/// A runner that was dropped inside this process may still be in its last write.
const TRIES: u32 = 20;
const TRY_EVERY: Duration = Duration::from_millis(10);

/// Held as long as it lives.
#[derive(Debug)]
pub(crate) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Locks the right to write `path`.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let lock = beside(path, "lock");
        let problem = |error| failed("lock", &lock, error);
        for attempt in 0..TRIES {
            if attempt > 0 {
                sleep(TRY_EVERY);
            }
            let file = File::options().create(true).append(true).open(&lock).map_err(problem)?;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(problem(error)),
                Ok(()) => {}
            }
            // The one before us takes the file away when it closes; a lock on a file without a name is none.
            let ours = file.metadata().map_err(problem)?.ino();
            if fs::metadata(&lock).is_ok_and(|metadata| metadata.ino() == ours) {
                return Ok(Lock { path: lock, _file: file });
            }
        }
        Err(Error::new(ErrorKind::Locked, format!("another pipeline is writing `{}`", path.display()))
            .hint("give each its own file, or stop the other one"))
    }

    /// Frees it and takes its file away.
    pub(crate) fn release(self) {
        // A lock file that stays behind does no harm.
        let _ = fs::remove_file(&self.path);
    }
}
