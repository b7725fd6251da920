//! Where a reader of a file stands, kept beside the file: for consumers that have no checkpoint store.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use millstream_core::{Error, ErrorKind, Position, Result};

use crate::{
    error::failed,
    published::{beside, replace},
};

/// The position of one named reader of one file, as `.FILE.position.NAME` beside it.
///
/// ```no_run
/// use std::path::Path;
/// use millstream_core::{Resume, Source};
/// # async fn f(source: &mut dyn Source) -> millstream_core::Result<()> {
/// let saved = millstream_file::ss::saved_position(Path::new("clicks.ss"), "billing");
/// source.open(&Resume { position: saved.load()?, ..Resume::default() }).await?;
/// // ... when everything up to here has been dealt with:
/// saved.save(&source.position()?)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SavedPosition {
    path: PathBuf,
}

/// The place where the reader `name` of the file `path` keeps its position. Touches nothing yet.
pub fn saved_position(path: &Path, name: &str) -> SavedPosition {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let mut ending = String::from("position.");
    for byte in name.bytes() {
        match byte {
            byte if plain(byte) => ending.push(char::from(byte)),
            byte => ending.push_str(&format!("%{byte:02X}")),
        }
    }
    SavedPosition { path: beside(path, &ending) }
}

impl SavedPosition {
    /// What was saved, if anything was. Blocks shortly.
    ///
    /// # Errors
    /// `Corrupt` if it cannot be read as a position.
    pub fn load(&self) -> Result<Option<Position>> {
        let text = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| failed("read", &self.path, error))?,
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            Error::new(ErrorKind::Corrupt, format!("cannot read the position in `{}`", self.path.display()))
                .caused_by(error)
                .hint("delete the file to begin anew")
        })
    }

    /// Replaces what was saved, at once or not at all, and brings it to the disk. Blocks for a sync.
    ///
    /// # Errors
    /// Whatever writing met; what was saved before is then still there.
    pub fn save(&self, position: &Position) -> Result<()> {
        let text = serde_json::to_vec(position)
            .map_err(|error| Error::new(ErrorKind::Bug, "cannot write a position").caused_by(error))?;
        replace(&self.path, &text).map_err(|error| failed("write", &self.path, error))
    }

    /// Forgets it.
    ///
    /// # Errors
    /// Whatever deleting met.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result.map_err(|error| failed("delete", &self.path, error)),
        }
    }

    /// Where it is kept.
    pub fn path(&self) -> &Path {
        &self.path
    }
}
