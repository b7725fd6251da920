//! The committed length of a file that a pipeline of ours writes, published beside it as `.NAME.committed`.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{glob::folder_of, identity::FileId};

/// How far the bytes of a file count. Whatever is behind may be cut by the writer's recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Published {
    /// The file.
    #[serde(flatten)]
    pub(crate) id: FileId,
    /// Bytes that count.
    pub(crate) length: u64,
    /// Readers stop there: the writer's pipeline runs with `exactly_once`.
    pub(crate) readers: bool,
}

/// The hidden name beside `path` with this ending.
pub(crate) fn beside(path: &Path, ending: &str) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    folder_of(path).join(format!(".{name}.{ending}"))
}

impl Published {
    /// What is published beside `path`, if anything is.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        // It is replaced as a whole, so it is whole or not ours.
        serde_json::from_slice(&fs::read(beside(path, "committed")).ok()?).ok()
    }

    /// Up to where the file `id` at `path` may be read.
    pub(crate) fn limit(path: &Path, id: FileId) -> u64 {
        let published = Published::read(path).filter(|published| published.readers && published.id == id);
        published.map_or(u64::MAX, |published| published.length)
    }

    /// Replaces what is published beside `path`, at once or not at all.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        replace(&beside(path, "committed"), &text)
    }

    /// Takes it away: all of the file counts.
    pub(crate) fn remove(path: &Path) -> io::Result<()> {
        match fs::remove_file(beside(path, "committed")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }
}

/// Replaces a small file, so that whoever looks sees the old bytes or the new ones.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&new, path)
}
