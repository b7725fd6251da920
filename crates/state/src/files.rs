//! Directories and files whose existence must be durable.

use std::{fs, path::Path};

use millstream_core::{Error, Result};

/// Creates `dir` and what lies above it.
pub(crate) fn create_dir(dir: &Path) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(|error| Error::io(format!("cannot create {}", dir.display()), error))?;
    // Only the last level can be new and matter: a state directory stands for long.
    dir.parent().map_or(Ok(()), sync_dir)
}

/// Makes the names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    if cfg!(windows) {
        // There directories cannot be opened as files, and renames are durable by the file system's log.
        return Ok(());
    }
    let synced = fs::File::open(dir).and_then(|file| file.sync_all());
    synced.map_err(|error| Error::io(format!("cannot sync the directory {}", dir.display()), error))
}

/// Renames, durably; `to` is replaced if it is there.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|error| Error::io(format!("cannot rename {} to its name", from.display()), error))?;
    to.parent().map_or(Ok(()), sync_dir)
}

/// Removes a directory with all that is in it, if it is there.
pub(crate) fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("cannot remove {}", dir.display()), error))
        }
        _ => Ok(()),
    }
}
